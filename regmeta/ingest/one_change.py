"""One transaction that changes one repository: its lock, its one effect, and its snapshot afterwards."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from uuid import uuid4

from sqlalchemy.engine import Connection

from regmeta.ingest.plan import CommitResult
from regmeta.ingest.retry import retried
from regmeta.ingest.statements import (
    AlreadyCommitted,
    Change,
    LockedRepository,
    lock_repository_at,
    one_effect,
    record_result,
)
from regmeta.ingest.unit_of_work import Writer
from regmeta.oci import names
from regmeta.oci.digest import Digest

Work = Callable[[Connection, LockedRepository, Change], CommitResult]


def change_repository(
    writer: Writer,
    repository: str,
    what: str,
    begin: Callable[[], AbstractContextManager[Connection]],
    work: Work,
    *,
    objects: Collection[Digest] | None = (),
) -> CommitResult:
    """Run *work* in the transaction that *begin* opens, under the repository's lock, until it took effect.

    *what* is what the ``ingests`` row says of it. *work* is told of the repository as it is under the lock,
    and may run several times; a try that was committed, but could not be known to be, answers as it did then.
    *objects* are the blobs to be shown in the repository's layout in addition, None for all that it may read.

    Raises:
        InvalidName: *repository* is no name.
        NotFound: there is no such repository.
        RepositoryNotActive: it is being purged.
        Unavailable, Locked: the database did not take it, after all tries.
    """
    names.repository_name(repository)
    change_id = uuid4()

    def once() -> CommitResult:
        try:
            with begin() as connection:
                of, stamp = lock_repository_at(connection, repository)
                change = Change(stamp, writer.actor, change_id)
                one_effect(connection, change, what)
                result = work(connection, of, change)
                record_result(connection, change, result)
                return result
        except AlreadyCommitted as earlier:
            return earlier.result

    result = retried(once)
    for repository_id, _ in result.repositories:
        writer.snapshots.flush_quietly(repository_id, objects, now=objects is None)
    return result
