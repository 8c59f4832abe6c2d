"""Emptying a repository that was deleted longer ago than can be undone: in pieces, each a transaction.

===========  =======================================================  ==========================
step         durable effect                                           a crash right after leaves
===========  =======================================================  ==========================
begin        the repository is *purging*: pushes are refused          the task: the next run of
                                                                      the collector goes on
each piece   some manifests are gone that no index lists, with their  the same
             edges and blobs; then some links to blobs; then some
             ended tags; then some pulls, favourites and samples of
             room: a new repository of this name has none of them
the last     locks of tags are gone, and the task; the repository is  --
             *deleted*, with nothing in it, and a push revives it
===========  =======================================================  ==========================

Roots go first: a child has a lower id than its index as a rule, and could not go before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import db
from regmeta.ingest.retry import retried
from regmeta.ingest.statements import (
    Change,
    queue_repository,
    queue_snapshot,
    record_events,
    set_repository_state,
)
from regmeta.ingest.unit_of_work import Writer
from regmeta.maintain.collect.blobs import delete_blobs
from regmeta.maintain.collect.manifests import delete_manifests
from regmeta.models import (
    Favorite,
    GcTask,
    IndexMember,
    Manifest,
    PullStatistic,
    Repository,
    RepositoryBlob,
    Tag,
    TagLock,
    UsageSample,
)
from regmeta.models.base import UtcTime
from regmeta.oci.digest import Digest

CHUNK_MANIFESTS: Final = 200  # of one transaction: the lock is held for as long as they take
CHUNK_LINKS: Final = 1000
CHUNK_TAGS: Final = 2000
CHUNK_STATISTICS: Final = 2000

_of: Final[Any] = sa.bindparam("of")
_ids: Final[Any] = sa.bindparam("ids", expanding=True)
_LOCK: Final = sa.select(Repository.id).where(Repository.id == _of).with_for_update(skip_locked=True)
_REPOSITORY: Final = sa.select(Repository.name, Repository.state, Repository.deleted_at).where(
    Repository.id == _of
)
_IS_ROOT: Final = sa.and_(
    Manifest.repository_id == _of, ~sa.exists().where(IndexMember.child_id == Manifest.id)
)
# In the order of an index, so that the first ones are found without a look at all.
_ROOTS: Final = (
    sa.select(Manifest.id, Manifest.digest)
    .where(_IS_ROOT, Manifest.lease_until <= sa.bindparam("now", type_=UtcTime()))
    .order_by(Manifest.digest)
    .limit(sa.bindparam("at_most"))
)
_LEASED_UNTIL: Final = sa.select(sa.func.min(Manifest.lease_until, type_=UtcTime())).where(_IS_ROOT)
_LINKS: Final = (
    sa.select(RepositoryBlob.blob_id)
    .where(RepositoryBlob.repository_id == _of)
    .order_by(RepositoryBlob.blob_id)
    .limit(CHUNK_LINKS)
)
_UNLINK: Final = sa.delete(RepositoryBlob).where(
    RepositoryBlob.repository_id == _of, RepositoryBlob.blob_id.in_(_ids)
)
_ENDED_TAGS: Final = sa.select(Tag.id).where(Tag.repository_id == _of).limit(CHUNK_TAGS)
_FORGET_TAGS: Final = sa.delete(Tag).where(Tag.id.in_(_ENDED_TAGS)).returning(Tag.id)
_DONE: Final = sa.delete(GcTask).where(GcTask.kind == sa.bindparam("of_kind"), GcTask.target_id.in_(_ids))
_ALL_DONE: Final = sa.delete(GcTask).where(GcTask.repository_id == _of)
_UNLOCK_TAGS: Final = sa.delete(TagLock).where(TagLock.repository_id == _of)


def _some(model: Any, *keys: Any) -> Any:
    """Return the statement that deletes some rows, locked in the order of what is their key in a repository.

    Pulls are written in that order too.
    """
    chosen = sa.select(*keys).where(model.repository_id == _of).order_by(*keys).limit(sa.bindparam("at_most"))
    return sa.delete(model).where(model.repository_id == _of, sa.tuple_(*keys).in_(chosen.with_for_update()))


_FORGET_STATISTICS: Final = (
    _some(PullStatistic, PullStatistic.digest, PullStatistic.tag, PullStatistic.day),
    _some(Favorite, Favorite.kind, Favorite.user_name),
    _some(UsageSample, UsageSample.day),
)


@dataclass(slots=True)
class PurgeReport:
    """What one run removed; where it *is_empty*, to the end."""

    repository: str
    is_due: bool = True  # it is not when it was revived, or its window is not over
    manifests: int = 0
    blobs: int = 0
    is_empty: bool = False


@dataclass(frozen=True, slots=True)
class _Step:
    manifests: int = 0
    blobs: int = 0
    is_last: bool = False
    is_empty: bool = False


def purge(
    writer: Writer,
    repository_id: int,
    *,
    chunk_manifests: int = CHUNK_MANIFESTS,
    may_go_on: Callable[[], bool] = lambda: True,
) -> PurgeReport | None:
    """Remove all that a deleted repository held, if its history window is over. None if another is at it.

    Until it is over nothing happens and the task is put off, as for what is leased. One that was revived is
    left, and its task is done. *may_go_on* is asked between pieces. Safe beside writers and other collectors;
    may be stopped at any point: the next run goes on.

    Raises:
        Unavailable, Locked: the database did not do it; the next run does the rest.
    """
    report = retried(partial(_begin, writer, repository_id))
    if report is None or not report.is_due:
        return report
    try:
        while may_go_on():
            step = retried(partial(_step, writer, repository_id, chunk_manifests))
            report.manifests += step.manifests
            report.blobs += step.blobs
            report.is_empty = step.is_empty
            if step.is_last:
                break
    finally:
        writer.snapshots.flush_quietly(repository_id, now=True)
    return report


def _begin(writer: Writer, repository_id: int) -> PurgeReport | None:
    with writer.database.transaction("purge_begins") as connection:
        row, change = _locked(connection, writer, repository_id)
        if row is None:
            return None
        if row.state == "active" or (row.state == "deleted" and row.deleted_at is None):
            connection.execute(_DONE, {"of_kind": "repository", "ids": [repository_id]})
            return PurgeReport(row.name, is_due=False)
        until = row.deleted_at + writer.lifetimes.history if row.deleted_at else change.stamp.now
        if row.state == "deleted" and until > change.stamp.now:
            queue_repository(connection, change, repository_id, until)
            return PurgeReport(row.name, is_due=False)
        if row.state == "deleted":
            set_repository_state(connection, repository_id, "purging", row.deleted_at)
            queue_snapshot(connection, repository_id)
        return PurgeReport(row.name)


def _step(writer: Writer, repository_id: int, chunk_manifests: int) -> _Step:
    """Do the next piece, decided from what is there."""
    with writer.database.transaction("purge") as connection:
        row, change = _locked(connection, writer, repository_id)
        if row is None or row.state != "purging":
            return _Step(is_last=True)
        of = {"of": repository_id}
        found: Any = connection.execute(_ROOTS, {**of, "now": change.stamp.now, "at_most": chunk_manifests})
        dead: dict[int, Digest] = dict(found.all())
        if dead:
            blobs = delete_manifests(connection, change, repository_id, dead, writer.lifetimes)
            connection.execute(_DONE, {"of_kind": "manifest", "ids": list(dead)})
            return _Step(len(dead), blobs)
        leased_until: datetime | None = connection.execute(_LEASED_UNTIL, of).scalar()
        if leased_until is not None:
            queue_repository(connection, change, repository_id, leased_until)
            return _Step(is_last=True)
        links = connection.execute(_LINKS, of).scalars().all()
        if links:
            connection.execute(_UNLINK, {**of, "ids": links})
            return _Step(blobs=delete_blobs(connection, change, links, writer.lifetimes))
        if len(connection.execute(_FORGET_TAGS, of).all()) == CHUNK_TAGS:
            return _Step()
        for forget in _FORGET_STATISTICS:
            some: Any = connection.execute(forget, {**of, "at_most": CHUNK_STATISTICS})
            if some.rowcount >= CHUNK_STATISTICS:
                return _Step()
        connection.execute(_UNLOCK_TAGS, of)
        connection.execute(_ALL_DONE, of)
        set_repository_state(connection, repository_id, "deleted", None)
        queue_snapshot(connection, repository_id)
        record_events(connection, [change.event("repository.purged", repository_id)])
        return _Step(is_last=True, is_empty=True)


def _locked(connection: Connection, writer: Writer, repository_id: int) -> tuple[Any, Change]:
    """Lock a repository and read it afterwards; without a row if another transaction has its lock."""
    locked = connection.execute(_LOCK, {"of": repository_id}).first()
    change = Change(db.stamp(connection), writer.actor, uuid4())
    if locked is None:
        return None, change
    return connection.execute(_REPOSITORY, {"of": repository_id}).one(), change
