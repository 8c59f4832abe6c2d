"""What has failed is due now: asked for by a person who has put right what was wrong."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import sqlalchemy as sa

from regmeta import db
from regmeta.db import Database
from regmeta.ingest.retry import retried
from regmeta.models import GcTask, StoreIdentity, Tombstone
from regmeta.models.base import UtcTime

_now: Final[Any] = sa.bindparam("now", type_=UtcTime())
_TASKS: Final = (
    sa.update(GcTask).where(GcTask.attempts > 0).values(attempts=0, not_before=_now).returning(GcTask.id)
)
_IS_FIRST: Final = Tombstone.deleted_at.is_(None)
_TOMBSTONES: Final = (
    sa.update(Tombstone)
    .where(Tombstone.attempts > 0)
    .values(
        attempts=0,
        not_before=sa.case((_IS_FIRST, _now), else_=Tombstone.not_before),
        drop_after=sa.case((_IS_FIRST, Tombstone.drop_after), else_=_now),
    )
    .returning(Tombstone.id)
)
# How many pauses there were is kept: if the store is still away, the next one is no shorter.
_END_PAUSE: Final = (
    sa.update(StoreIdentity)
    .where(StoreIdentity.paused_until > _now)
    .values(paused_until=_now)
    .returning(StoreIdentity.id)
)


@dataclass(frozen=True, slots=True)
class Retried:
    """What is due now."""

    tasks: int
    objects: int
    ended_pause: bool


def retry_now(database: Database) -> Retried:
    """End a pause, and make all tasks and tombstones that have failed due now, dead letters as well.

    Their attempts are counted anew; the last error stays until they succeed. Safe beside collectors.

    Raises:
        Unavailable, Locked: nothing has changed.
    """
    return retried(partial(_retry, database))


def _retry(database: Database) -> Retried:
    with database.transaction("collection_retried") as connection:
        now = db.clock(connection)
        return Retried(
            len(connection.execute(_TASKS, {"now": now}).all()),
            len(connection.execute(_TOMBSTONES, {"now": now}).all()),
            connection.execute(_END_PAUSE, {"now": now}).first() is not None,
        )
