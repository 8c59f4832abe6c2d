"""The queue of the collector, derived again from the rows: garbage without a task gets one.

Tasks are written by the transactions that make garbage possible, so there should be nothing to do. This is
for what a bug or another program left, and it must not trust the rows blindly: tables that were emptied make
everything look like garbage. So it first counts, and stops at an implausible share; what it queues is
looked at by the collector after the usual delay, and nothing is deleted here.

===================  ==================================================  =================================
step                 durable effect                                      a crash right after leaves
===================  ==================================================  =================================
count                none: pages of ids, each in a read of its own       --
queue                per repository, under its lock and after another    some tasks; a second run writes
                     look at the rows: tasks                             the others
===================  ==================================================  =================================
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import groupby
from typing import Any, Final
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import db
from regmeta.db import Database
from regmeta.ingest.plan import Lifetimes
from regmeta.ingest.reserve import chunks
from regmeta.ingest.retry import retried
from regmeta.ingest.statements import Change, queue_blobs, queue_manifests, queue_repository
from regmeta.maintain.collect.hold import check_may_delete
from regmeta.maintain.collect.older import check_not_older
from regmeta.maintain.collect.plausible import check_share
from regmeta.maintain.collect.reachable import (
    BLOB_IS_FORGOTTEN,
    MANIFEST_IS_FORGOTTEN,
    REPOSITORY_IS_FORGOTTEN,
)
from regmeta.maintain.collect.tasks import CHUNK_TASKS
from regmeta.maintain.progress import Progress
from regmeta.models import Blob, Manifest, Repository
from regmeta.store import BlobStore

PAGE_ROWS: Final = 2000
REASON: Final = "found without a task"

_Model = type[Manifest] | type[Blob] | type[Repository]

_ids: Final[Any] = sa.bindparam("ids", expanding=True)
# The repository whose lock orders what is written about them, and the id. Blobs are of no repository: one
# that is named meanwhile gets a task that finds it in use.
_FORGOTTEN: Final[dict[_Model, Any]] = {
    Repository: sa.select(Repository.id, Repository.id).where(REPOSITORY_IS_FORGOTTEN),
    Manifest: sa.select(Manifest.repository_id, Manifest.id).where(MANIFEST_IS_FORGOTTEN),
    Blob: sa.select(sa.literal(0), Blob.id).where(BLOB_IS_FORGOTTEN),
}
_LOCK: Final = sa.select(Repository.id).where(Repository.id == sa.bindparam("of")).with_for_update()


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What was looked at, and how much of it is garbage without a task."""

    manifests: int
    blobs: int
    repositories: int
    forgotten_manifests: int
    forgotten_blobs: int
    forgotten_repositories: int
    queued: int  # fewer if a row was put in use meanwhile; none in a dry run


def reconcile_queue(
    database: Database,
    store: BlobStore,
    actor: str,
    lifetimes: Lifetimes,
    progress: Progress,
    *,
    force: bool = False,
    dry_run: bool = False,
) -> Reconciled:
    """Queue what nothing keeps and no task will collect. Deletes nothing; safe beside writers and collectors.

    Raises:
        ImplausibleShare: more than a fifth of more than 1,000 manifests, or blobs, would be queued, and not
            *force*; nothing has happened.
        DatabaseIsOlder: the store knows later revisions than the rows; nothing has happened.
        IdentityMismatch, CollectionHeld: nothing may be collected now.
        Unavailable: the store or the database failed; what was queued before stays.
    """
    check_may_delete(database, store)
    check_not_older(database, store)
    counts: dict[Any, int] = {}
    found: dict[Any, list[tuple[int, int]]] = {}
    for model in (Repository, Manifest, Blob):
        name = model.__tablename__
        progress.began(name, _last_id(database, model))
        counts[model], found[model] = _look(database, model, progress)
        if not force:
            message = f"{name} of {database.location} would be queued as garbage; is anything wrong with it?"
            check_share(len(found[model]), counts[model], message)
    queued = 0
    if not dry_run:
        progress.began("queue", sum(map(len, found.values())))
        for model, pairs in found.items():
            for repository_id, ids in _by_repository(pairs):
                add = partial(_queue, database, actor, lifetimes.garbage, model, repository_id, ids)
                queued += retried(add)
                progress.advanced(len(ids))
    return Reconciled(
        counts[Manifest],
        counts[Blob],
        counts[Repository],
        len(found[Manifest]),
        len(found[Blob]),
        len(found[Repository]),
        queued,
    )


def _last_id(database: Database, model: _Model) -> int:
    with database.read() as connection:
        return connection.execute(sa.select(sa.func.max(model.id))).scalar() or 0


def _look(database: Database, model: _Model, progress: Progress) -> tuple[int, list[tuple[int, int]]]:
    """Return how many rows there are, and which of them are forgotten: repository and id.

    No statement looks at more than a page of rows.
    """
    page = (
        sa.select(model.id)
        .where(model.id > sa.bindparam("after"))
        .order_by(model.id)
        .limit(PAGE_ROWS)
        .subquery()
    )
    bounds = sa.select(sa.func.count(), sa.func.max(page.c.id))
    forgotten = _FORGOTTEN[model].where(model.id > sa.bindparam("after"), model.id <= sa.bindparam("last"))
    count, after = 0, 0
    found: list[tuple[int, int]] = []
    while True:
        with database.read() as connection:
            rows, last = connection.execute(bounds, {"after": after}).one()
            if not rows:
                return count, found
            parameters = {"after": after, "last": last, "now": db.clock(connection)}
            found += [(row[0], row[1]) for row in connection.execute(forgotten, parameters)]
        progress.advanced(last - after)
        count, after = count + rows, last


def _by_repository(pairs: Collection[tuple[int, int]]) -> Iterator[tuple[int, Sequence[int]]]:
    for repository_id, group in groupby(sorted(pairs), key=lambda pair: pair[0]):
        for ids in chunks([row_id for _, row_id in group], CHUNK_TASKS):
            yield repository_id, ids


def _queue(
    database: Database,
    actor: str,
    delay: timedelta,
    model: _Model,
    repository_id: int,
    ids: Sequence[int],
) -> int:
    """Queue what is forgotten still; returns how many that were."""
    with database.transaction("reconcile_queue") as connection:
        if repository_id:
            connection.execute(_LOCK, {"of": repository_id}).all()
        # A new statement, so that it sees what was committed until the lock was there.
        change = Change(db.stamp(connection), actor, uuid4())
        again = _FORGOTTEN[model].where(model.id.in_(_ids))
        still = [row[1] for row in connection.execute(again, {"ids": ids, "now": change.stamp.now})]
        _write(connection, change, delay, model, repository_id, still)
        return len(still)


def _write(
    connection: Connection,
    change: Change,
    delay: timedelta,
    model: _Model,
    repository_id: int,
    ids: Sequence[int],
) -> None:
    if model is Manifest:
        queue_manifests(connection, change, repository_id, ids, REASON, delay)
    elif model is Blob:
        queue_blobs(connection, change, dict.fromkeys(ids, change.stamp.now + delay), REASON)
    else:
        for row_id in ids:
            queue_repository(connection, change, row_id, change.stamp.now + delay)
