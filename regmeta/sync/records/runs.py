"""Runs: each begins, ends once, and is forgotten when many have followed."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa

from regmeta import db
from regmeta.db import Database
from regmeta.ingest.reserve import chunks
from regmeta.ingest.retry import retried
from regmeta.models import SyncItem, SyncRun
from regmeta.models.base import UtcTime
from regmeta.sync.records.values import Cause, LastRun, RunCounts, RunOutcome, short

RUNS_KEPT: Final = 1_000

_BEGIN: Final = sa.insert(SyncRun).returning(SyncRun.id)
_RUNNING: Final = sa.select(SyncRun.id, SyncRun.host, SyncRun.owner).where(SyncRun.ended_at.is_(None))
_INTERRUPT: Final = (
    sa.update(SyncRun)
    .where(SyncRun.id.in_(sa.bindparam("ids", expanding=True)), SyncRun.ended_at.is_(None))
    .values(ended_at=sa.bindparam("now", type_=UtcTime()), outcome="interrupted")
)
_LAST_RUN: Final[Any] = (
    sa.select(
        SyncRun.id,
        SyncRun.cause,
        SyncRun.host,
        SyncRun.owner,
        SyncRun.started_at,
        SyncRun.ended_at,
        SyncRun.outcome,
    )
    .order_by(SyncRun.id.desc())
    .limit(1)
)


def begin_run(
    database: Database,
    policy: str,
    cause: Cause,
    *,
    actor: str,
    host: str,
    owner: UUID,
    has_ended: Callable[[str, UUID], bool] | None = None,
) -> int:
    """Note that a run of *policy* begins; returns its id.

    *has_ended* tells of a process (its host, its staging folder) whether it has certainly gone; runs of the
    policy that such a process left are noted as interrupted. It is asked outside of any transaction.
    """
    gone = [] if has_ended is None else _left_behind(database, policy, has_ended)

    def begin() -> int:
        with database.transaction("sync_begins") as connection:
            now = db.clock(connection)
            for some in chunks(gone):
                connection.execute(_INTERRUPT, {"ids": some, "now": now})
            values = {
                "policy": policy,
                "cause": cause,
                "actor": actor,
                "host": host,
                "owner": owner,
                "started_at": now,
            }
            return int(connection.execute(_BEGIN, values).scalar_one())

    return retried(begin)


def finish_run(
    database: Database, run_id: int, outcome: RunOutcome, counts: RunCounts, *, error: str | None = None
) -> None:
    """Note how a run ended. *error* is why it as a whole went wrong. A second call changes nothing."""

    def finish() -> None:
        with database.transaction("sync_ends") as connection:
            values = {
                "outcome": outcome,
                "error": short(error),
                "ended_at": db.clock(connection),
                **{name: getattr(counts, name) for name in RunCounts.__slots__},
            }
            ended = sa.update(SyncRun).where(SyncRun.id == run_id, SyncRun.ended_at.is_(None))
            connection.execute(ended.values(values))

    retried(finish)


def last_run(database: Database, policy: str, causes: Collection[Cause] = ()) -> LastRun | None:
    """Return the newest run of a policy, of one of *causes* if there are some; None if there was none."""
    statement = _LAST_RUN.where(SyncRun.policy == policy)
    if causes:
        statement = statement.where(SyncRun.cause.in_(causes))
    with database.read() as connection:
        row = connection.execute(statement).first()
        return None if row is None else LastRun(*row)


def prune_runs(database: Database, keep: int = RUNS_KEPT) -> int:
    """Forget runs that have ended but the newest *keep*, and but the newest of each policy and cause.

    What is remembered of images stays. Returns how many runs went.
    """

    def prune() -> int:
        with database.transaction("sync_runs_pruned") as connection:
            newest = sa.select(SyncRun.id).order_by(SyncRun.id.desc()).limit(1).offset(max(keep, 1) - 1)
            oldest_kept = connection.execute(newest).scalar()
            if oldest_kept is None:
                return 0
            last = sa.select(sa.func.max(SyncRun.id)).group_by(SyncRun.policy, SyncRun.cause)
            old = sa.select(SyncRun.id).where(
                SyncRun.id < oldest_kept, SyncRun.ended_at.is_not(None), SyncRun.id.not_in(last)
            )
            ids = connection.execute(old).scalars().all()
            for some in chunks(ids):
                connection.execute(sa.update(SyncItem).where(SyncItem.run_id.in_(some)).values(run_id=None))
                connection.execute(sa.delete(SyncRun).where(SyncRun.id.in_(some)))
            return len(ids)

    return retried(prune)


def _left_behind(database: Database, policy: str, has_ended: Callable[[str, UUID], bool]) -> list[int]:
    with database.read() as connection:
        running = connection.execute(_RUNNING.where(SyncRun.policy == policy)).all()
    return [run_id for run_id, host, owner in running if has_ended(host, owner)]
