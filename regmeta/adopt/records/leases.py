"""The end of an adoption's leases: some rows a transaction, so that nobody waits for long.

A lease that ends later than a usual one is an adoption's. Shortened to a usual one it still protects who is
at work just now; so it does no harm to blobs that another adoption has brought as well: manifests hold them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Final

import sqlalchemy as sa

from regmeta import db
from regmeta.db import Database
from regmeta.ingest.retry import retried
from regmeta.models import AdoptionRepository, Blob, GcTask, Manifest, Repository

AT_ONCE: Final = 1000

_REPOSITORIES: Final = (
    sa.select(Repository.id)
    .join(AdoptionRepository, AdoptionRepository.destination == Repository.name)
    .where(AdoptionRepository.adoption_id == sa.bindparam("adoption"))
    .order_by(Repository.id)
)
# Rows of a repository change behind its lock only. No revision: no snapshot says any of this.
_LOCK: Final = (
    sa.select(Repository.id).where(Repository.id == sa.bindparam("of")).with_for_update(key_share=True)
)


def _ending(model: type[Any], column: Any, *conditions: Any) -> tuple[Any, Any]:
    """Return the statements that find the next rows, and that shorten them."""
    find = (
        sa.select(model.id)
        .where(column > sa.bindparam("until"), model.id > sa.bindparam("after_id"), *conditions)
        .order_by(model.id)
        .limit(AT_ONCE)
        .with_for_update(key_share=True)  # locked in the order of all who lock several
    )
    end = (
        sa.update(model)
        .where(model.id.in_(sa.bindparam("ids", expanding=True)), column > sa.bindparam("until"))
        .values({column: sa.bindparam("until")})
    )
    return find, end


_MANIFESTS: Final = _ending(Manifest, Manifest.lease_until, Manifest.repository_id == sa.bindparam("of"))
_TASKS: Final = _ending(GcTask, GcTask.not_before, GcTask.repository_id == sa.bindparam("of"))
_BLOBS: Final = _ending(Blob, Blob.lease_until)
# A collector that finds a blob leased looks again when the lease ends: so as it was then.
_BLOB_TASKS: Final = _ending(GcTask, GcTask.not_before, GcTask.repository_id.is_(None))


def end(database: Database, adoption_id: int, lease: timedelta, advanced: Callable[[int], None]) -> None:
    """Let everything that an adoption brought be leased for no longer than *lease* from now.

    *advanced* is told how many rows were changed. Stopped, it is run again.

    Raises:
        Unavailable, Locked: what was told is done.
    """
    with database.read() as connection:
        repositories = connection.execute(_REPOSITORIES, {"adoption": adoption_id}).scalars().all()
    for repository_id in repositories:
        for statements in (_MANIFESTS, _TASKS):
            for number in _shorten(database, statements, lease, {"of": repository_id}):
                advanced(number)
    for statements in (_BLOBS, _BLOB_TASKS):
        for number in _shorten(database, statements, lease, {}):
            advanced(number)


def _shorten(
    database: Database, statements: tuple[Any, Any], lease: timedelta, parameters: dict[str, Any]
) -> Iterator[int]:
    find, shorten = statements
    after = 0
    while True:

        def work(after: int = after) -> list[int]:
            with database.transaction("adoption_leases") as connection:
                until = db.clock(connection) + lease
                if "of" in parameters:
                    connection.execute(_LOCK, parameters)
                given = {**parameters, "until": until, "after_id": after}
                ids = list(connection.execute(find, given).scalars())
                if ids:
                    connection.execute(shorten, {"ids": ids, "until": until})
                return ids

        ids = retried(work)
        if not ids:
            return
        yield len(ids)
        after = ids[-1]
