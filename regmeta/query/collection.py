"""How collection gets on: what waits, what is late, what fails, what it would free. Looks at rows only."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import db
from regmeta.db import Database
from regmeta.errors import InvalidDigest
from regmeta.models import (
    Blob,
    GcTask,
    IndexMember,
    Manifest,
    ManifestBlob,
    Repository,
    StoreIdentity,
    Tombstone,
)
from regmeta.models.base import UtcTime
from regmeta.models.machinery import DEAD_AFTER
from regmeta.oci.digest import Digest

LATE: Final = timedelta(hours=24)  # a collector should have run by then
SHOWN: Final = 100  # failures, the oldest first: they tell what is wrong
KINDS: Final = ("repository", "manifest", "blob")

IS_NOT_NAMED: Final = sa.and_(
    ~sa.exists().where(ManifestBlob.blob_id == Blob.id),
    ~sa.exists().where(IndexMember.blob_id == Blob.id),
    ~sa.exists().where(Manifest.blob_id == Blob.id),
)
"""Of a blob: no manifest holds it, no index lists it, and it is no manifest's own bytes."""

_ids: Final[Any] = sa.bindparam("ids", expanding=True)
_IS_DEAD: Final = GcTask.attempts >= DEAD_AFTER
_QUEUES: Final = sa.select(
    GcTask.kind,
    sa.func.count(),
    *(
        sa.func.count(
            sa.case((sa.and_(GcTask.not_before <= sa.bindparam(of, type_=UtcTime()), ~_IS_DEAD), 1))
        )
        for of in ("now", "late")
    ),
    sa.func.min(sa.case((~_IS_DEAD, GcTask.not_before)), type_=UtcTime()),
    sa.func.count(sa.case((_IS_DEAD, 1))),
).group_by(GcTask.kind)
_IS_WAITING: Final = Tombstone.deleted_at.is_(None)
_NEXT: Final = sa.case((_IS_WAITING, Tombstone.not_before), else_=Tombstone.drop_after)
_TOMBSTONES: Final = sa.select(
    _IS_WAITING,
    sa.func.count(),
    sa.func.coalesce(sa.func.sum(Tombstone.size_bytes), 0),
    sa.func.count(sa.case((Tombstone.attempts > 0, 1))),
    sa.func.coalesce(sa.func.sum(sa.case((Tombstone.attempts > 0, Tombstone.size_bytes))), 0),
    *(
        sa.func.count(
            sa.case((sa.and_(sa.bindparam(of, type_=UtcTime()) >= _NEXT, Tombstone.attempts < DEAD_AFTER), 1))
        )
        for of in ("now", "late")
    ),
    sa.func.min(sa.case((Tombstone.attempts < DEAD_AFTER, _NEXT)), type_=UtcTime()),
    sa.func.count(sa.case((Tombstone.attempts >= DEAD_AFTER, 1))),
).group_by(_IS_WAITING)
# By the queue and not by all blobs: the cost follows the garbage.
_UNNAMED_BYTES: Final = (
    sa.select(sa.func.coalesce(sa.func.sum(Blob.size_bytes), 0))
    .join(GcTask, sa.and_(GcTask.kind == "blob", GcTask.target_id == Blob.id))
    .where(IS_NOT_NAMED)
)
_FAILED_TASKS: Final = (
    sa.select(GcTask.id, GcTask.kind, GcTask.reason, GcTask.attempts, GcTask.last_error, GcTask.not_before)
    .where(GcTask.attempts > 0)
    .order_by(GcTask.attempts.desc(), GcTask.id)
    .limit(SHOWN)
)
_FAILED_TOMBSTONES: Final = (
    sa.select(
        Tombstone.key, Tombstone.reason, Tombstone.attempts, Tombstone.last_error, _NEXT.label("not_before")
    )
    .where(Tombstone.attempts > 0)
    .order_by(Tombstone.attempts.desc(), Tombstone.id)
    .limit(SHOWN)
)
_TARGETS: Final = (
    sa.select(
        GcTask.id,
        GcTask.kind,
        GcTask.target_id,
        Repository.name.label("repository"),
        # As bytes: what failed may have failed since this cannot be read.
        sa.type_coerce(sa.func.coalesce(Manifest.digest, Blob.digest), sa.LargeBinary).label("digest"),
    )
    .outerjoin(Manifest, sa.and_(GcTask.kind == "manifest", Manifest.id == GcTask.target_id))
    .outerjoin(Blob, sa.and_(GcTask.kind == "blob", Blob.id == GcTask.target_id))
    .outerjoin(
        Repository,
        Repository.id == sa.case((GcTask.kind == "repository", GcTask.target_id), else_=GcTask.repository_id),
    )
    .where(GcTask.id.in_(_ids))
)
_STATE: Final = sa.select(
    StoreIdentity.hold_reason, StoreIdentity.paused_until, StoreIdentity.pause_reason, StoreIdentity.pauses
)


@dataclass(frozen=True, slots=True)
class Queue:
    """What waits of one kind: tasks (*repository*, *manifest*, *blob*), or *object*: tombstones."""

    kind: str
    queued: int
    due: int
    overdue: int  # for more than 24 hours
    oldest_due_at: datetime | None  # None if nothing is due
    dead_letters: int  # failed ten times: not tried again until ``regmeta gc retry``


@dataclass(frozen=True, slots=True)
class Tombstones:
    """Objects that are dead."""

    waiting: int
    waiting_bytes: int
    deleted: int  # and not forgotten yet, since a frozen process may still write them
    failed: int  # of both; tried again
    failed_bytes: int


@dataclass(frozen=True, slots=True)
class Failure:
    """What was tried in vain."""

    kind: str
    target: str
    reason: str  # that it is to be collected
    attempts: int
    last_error: str | None
    next_try_at: datetime | None  # None for a dead letter


@dataclass(frozen=True, slots=True)
class CollectionStatus:
    """How collection gets on."""

    is_healthy: bool  # nothing is overdue or waits for a person; how much is queued does not matter
    queues: tuple[Queue, ...]
    tombstones: Tombstones
    reclaimable_bytes: int  # dead objects that are not deleted yet, and queued blobs that no manifest names
    hold: str | None
    paused_until: datetime | None
    pause_reason: str | None
    pauses: int  # without a success since
    failures: tuple[Failure, ...]  # the worst first, at most 100 of tasks and of objects


def collection_status(database: Database) -> CollectionStatus:
    """Return how collection gets on, of one moment."""
    with database.read() as connection:
        now = db.clock(connection)
        times = {"now": now, "late": now - LATE}
        found: Any = connection.execute(_QUEUES, times)
        queues = {row[0]: _queue(now, *row) for row in found}
        tombstones: dict[bool, Any] = {bool(row[0]): row for row in connection.execute(_TOMBSTONES, times)}
        unnamed_bytes = int(connection.execute(_UNNAMED_BYTES).scalar_one())
        state = connection.execute(_STATE).first()
        failures = _failures(connection)
    paused_until: datetime | None = state and state.paused_until
    nothing = (None, 0, 0, 0, 0, 0, 0, None, 0)
    waiting, deleted = tombstones.get(True, nothing), tombstones.get(False, nothing)
    oldest = [time for time in (waiting[7], deleted[7]) if time is not None]
    of_objects = _queue(
        now,
        "object",
        waiting[1] + deleted[1],
        waiting[5] + deleted[5],
        waiting[6] + deleted[6],
        min(oldest, default=None),
        waiting[8] + deleted[8],
    )
    shown = (*(queues.get(kind, Queue(kind, 0, 0, 0, None, 0)) for kind in KINDS), of_objects)
    return CollectionStatus(
        is_healthy=not any(queue.overdue or queue.dead_letters for queue in shown),
        queues=shown,
        tombstones=Tombstones(
            waiting[1], int(waiting[2]), deleted[1], waiting[3] + deleted[3], int(waiting[4] + deleted[4])
        ),
        reclaimable_bytes=int(waiting[2]) + unnamed_bytes,
        hold=state and state.hold_reason,
        paused_until=paused_until if paused_until is not None and paused_until > now else None,
        pause_reason=state and state.pause_reason,
        pauses=state.pauses if state else 0,
        failures=failures,
    )


def targets_of(connection: Connection, task_ids: Collection[int]) -> Mapping[int, str]:
    """Return what tasks (by id) are about: ``repository@digest`` where that is known."""
    found: dict[int, str] = {}
    for row in connection.execute(_TARGETS, {"ids": list(task_ids)}):
        digest = _readable(row.digest)
        if row.kind == "repository" and row.repository is not None:
            found[row.id] = row.repository
        elif digest is not None:
            found[row.id] = f"{row.repository}@{digest}" if row.repository is not None else digest
        elif row.digest is not None:
            place = f"{row.repository}, " if row.repository is not None else ""
            found[row.id] = f"{place}{row.kind} {row.target_id}"
        else:
            found[row.id] = f"{row.kind} {row.target_id}, which is gone"
    return found


def _readable(stored: bytes | None) -> str | None:
    try:
        return None if stored is None else str(Digest.from_bytes(stored))
    except InvalidDigest:
        return None


def _queue(
    now: datetime, kind: str, queued: int, due: int, overdue: int, oldest_at: datetime | None, dead: int
) -> Queue:
    is_due = oldest_at is not None and oldest_at <= now
    return Queue(kind, queued, due, overdue, oldest_at if is_due else None, dead)


def _failures(connection: Connection) -> tuple[Failure, ...]:
    tasks: Any = connection.execute(_FAILED_TASKS).all()
    names = targets_of(connection, [row.id for row in tasks]) if tasks else {}
    objects: Any = connection.execute(_FAILED_TOMBSTONES)
    found = [
        *((row.kind, names[row.id], row) for row in tasks),
        *(("object", row.key, row) for row in objects),
    ]
    return tuple(
        Failure(
            kind,
            target,
            row.reason,
            row.attempts,
            row.last_error,
            None if row.attempts >= DEAD_AFTER else row.not_before,
        )
        for kind, target, row in found
    )
