"""How long work has been waiting: the ages of the queues, by the database's clock. One statement.

The oldest of each queue is found through an index; what is counted costs as much as waits. So a probe that
runs every few seconds asks for ages alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa

from regmeta.db import Database
from regmeta.errors import ConnectionLost, DatabaseUnavailable
from regmeta.models import (
    DatabaseClock,
    Event,
    GcTask,
    Ingest,
    Intent,
    LayoutOutbox,
    StoreIdentity,
    Tombstone,
)
from regmeta.models.machinery import DEAD_AFTER
from regmeta.query.stored import raw_time

WAITING: Final = ("tasks", "objects", "forgetting", "snapshots", "abandoned")
"""The queues that somebody should be working off, so that their age says whether anybody does."""

_ASKED: Final = (*WAITING, "reserved")
_ASKED_BRIEFLY: Final = tuple(name for name in WAITING if name != "forgetting")
_NOW: Final = sa.type_coerce(DatabaseClock(), sa.BigInteger())
_VERSION: Final = sa.text("SELECT version_num FROM alembic_version").columns(version_num=sa.String())
_IS_TO_GO: Final = (Tombstone.deleted_at.is_(None), Tombstone.attempts < DEAD_AFTER)
_IS_GONE: Final = (Tombstone.deleted_at.is_not(None), Tombstone.attempts < DEAD_AFTER)


@dataclass(frozen=True, slots=True)
class QueueAge:
    """One queue: what is due in it, and for how long the oldest of that has been.

    *tasks* of the collector, *objects* that are dead, *forgetting* of tombstones that are over, *snapshots*
    that are behind, *abandoned* keys of processes that have ended, *reserved* keys of those at work.
    """

    name: str
    age_s: float | None  # [s] None where nothing is due
    due: int | None  # None where it was not counted
    queued: int | None
    dead_letters: int | None  # given up until ``regmeta gc retry``


@dataclass(frozen=True, slots=True)
class Replica:
    """How far a standby is behind."""

    lag_s: float | None  # [s] None where nothing was replayed yet


@dataclass(frozen=True, slots=True)
class Queues:
    """What a database says of its queues, and whose it is."""

    schema: str
    store_id: UUID | None  # None where it belongs to no store yet
    database_id: UUID | None
    epoch: int | None
    is_held: bool
    is_paused: bool
    replica: Replica | None  # None on a primary
    last_commit_age_s: float | None
    last_event_id: int | None
    queues: tuple[QueueAge, ...]

    def late(self, after_s: float) -> tuple[QueueAge, ...]:
        """Return the queues whose oldest has been due for longer than *after_s* seconds."""
        return tuple(each for each in self.queues if each.name in WAITING and (each.age_s or 0) > after_s)


def queues(database: Database, *, counts: bool = True) -> Queues:
    """Return how old the queues are, of one moment, and with *counts* how long.

    Without, two are left out as well, whose oldest no index has first: *forgetting* and *reserved*.

    Raises:
        SchemaMismatch: there is no schema; see :meth:`regmeta.db.Database.check_schema`.
        Unavailable: the database does not answer.
    """
    try:
        with database.read() as connection:
            row: Any = connection.execute(_statement(counts, database.is_sqlite)).one()
    except ConnectionLost:
        raise
    except DatabaseUnavailable:
        database.check_schema()  # tables that are not there, or others
        raise
    now = row.now
    found = tuple(
        QueueAge(
            name,
            _age_s(now, getattr(row, f"{name}_oldest", None)),
            _count(row, f"{name}_due"),
            _count(row, f"{name}_queued"),
            _count(row, f"{name}_dead"),
        )
        for name in (_ASKED if counts else _ASKED_BRIEFLY)
    )
    standby = not database.is_sqlite and row.is_standby
    paused_s = _age_s(now, row.paused_until, future=True)
    return Queues(
        schema=row.schema,
        store_id=row.store_id,
        database_id=row.database_id,
        epoch=row.epoch,
        is_held=bool(row.is_held),
        is_paused=paused_s is not None and paused_s < 0,
        replica=Replica(None if row.lag_s is None else max(0.0, float(row.lag_s))) if standby else None,
        last_commit_age_s=_age_s(now, row.last_commit),
        last_event_id=row.last_event_id,
        queues=found,
    )


@lru_cache
def _statement(counts: bool, is_sqlite: bool) -> Any:
    # A subquery, so that the clock is read once and an index can be followed.
    now = sa.select(_NOW).scalar_subquery()
    columns: list[Any] = [
        _NOW.label("now"),
        _VERSION.scalar_subquery().label("schema"),
        *(
            sa.select(column).scalar_subquery().label(name)
            for name, column in (
                ("store_id", StoreIdentity.store_id),
                ("database_id", StoreIdentity.database_id),
                ("epoch", StoreIdentity.epoch),
                ("is_held", sa.case((StoreIdentity.hold_reason.is_not(None), 1), else_=0)),
                ("paused_until", raw_time(StoreIdentity.paused_until)),
            )
        ),
        _first(Ingest.committed_at, newest=True).label("last_commit"),
        sa.select(sa.func.max(Event.id)).scalar_subquery().label("last_event_id"),
        _first(GcTask.not_before, GcTask.attempts < DEAD_AFTER).label("tasks_oldest"),
        _first(Tombstone.not_before, *_IS_TO_GO).label("objects_oldest"),
        _first(LayoutOutbox.queued_at).label("snapshots_oldest"),
        _first(Intent.expires_at).label("abandoned_oldest"),
    ]
    if not is_sqlite:
        columns += [sa.func.pg_is_in_recovery().label("is_standby"), _LAG.label("lag_s")]
    if counts:
        columns += [
            # No index has these in order.
            _first(Tombstone.drop_after, *_IS_GONE).label("forgetting_oldest"),
            _first(Intent.created_at).label("reserved_oldest"),
            _many(GcTask, _at(GcTask.not_before) <= now, GcTask.attempts < DEAD_AFTER).label("tasks_due"),
            _many(GcTask).label("tasks_queued"),
            _many(GcTask, GcTask.attempts >= DEAD_AFTER).label("tasks_dead"),
            _many(Tombstone, _at(Tombstone.not_before) <= now, *_IS_TO_GO).label("objects_due"),
            _many(Tombstone, Tombstone.deleted_at.is_(None)).label("objects_queued"),
            _many(Tombstone, Tombstone.attempts >= DEAD_AFTER).label("objects_dead"),
            _many(Tombstone, _at(Tombstone.drop_after) <= now, *_IS_GONE).label("forgetting_due"),
            _many(Tombstone, Tombstone.deleted_at.is_not(None)).label("forgetting_queued"),
            _many(LayoutOutbox).label("snapshots_due"),
            _many(LayoutOutbox).label("snapshots_queued"),
            _many(Intent, _at(Intent.expires_at) < now).label("abandoned_due"),
            _many(Intent).label("reserved_queued"),
        ]
    return sa.select(*columns)


# Nothing to replay is no lag, however long ago the last change was.
_LAG: Final = sa.case(
    (sa.func.pg_last_wal_receive_lsn() == sa.func.pg_last_wal_replay_lsn(), 0.0),
    else_=sa.cast(
        sa.func.extract("epoch", sa.func.clock_timestamp() - sa.func.pg_last_xact_replay_timestamp()),
        sa.Float,
    ),
)


def _at(column: Any) -> Any:
    return sa.type_coerce(column, sa.BigInteger())


def _first(column: Any, *conditions: Any, newest: bool = False) -> Any:
    """Return the first of a column that an index has in order."""
    order = column.desc() if newest else column.asc()
    return sa.select(raw_time(column)).where(*conditions).order_by(order).limit(1).scalar_subquery()


def _many(model: Any, *conditions: Any) -> Any:
    return sa.select(sa.func.count()).select_from(model).where(*conditions).scalar_subquery()


def _count(row: Any, name: str) -> int | None:
    found: int | None = getattr(row, name, None)
    return found


def _age_s(now: int, at: Any, *, future: bool = False) -> float | None:
    """Return how long ago a time was [s]; None where there is none, or it is still to come."""
    if not isinstance(at, int):  # SQLite keeps whatever another program writes
        return None
    age_s = (now - at) / 1_000_000
    return age_s if future or age_s >= 0 else None
