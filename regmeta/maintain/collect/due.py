"""What waits for a collector: which tasks are due, when the next one is, and what waits for a person."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import sqlalchemy as sa

from regmeta import db
from regmeta.db import Database
from regmeta.maintain.collect.tasks import IS_DUE
from regmeta.models import GcTask, StoreIdentity, Tombstone
from regmeta.models.base import UtcTime
from regmeta.models.machinery import DEAD_AFTER

_DUE: Final = sa.select(sa.func.count()).select_from(GcTask).where(IS_DUE)
_OF_MANIFESTS: Final = (
    sa.select(GcTask.repository_id)
    .where(GcTask.kind == "manifest", IS_DUE, GcTask.repository_id.is_not(None))
    .distinct()
    .order_by(GcTask.repository_id)
)
_OF_REPOSITORIES: Final = (
    sa.select(GcTask.id, GcTask.target_id).where(GcTask.kind == "repository", IS_DUE).order_by(GcTask.id)
)
_TIMES: Final = tuple(
    sa.select(sa.func.min(column, type_=UtcTime())).where(*conditions)
    for column, conditions in (
        (GcTask.not_before, (GcTask.attempts < DEAD_AFTER,)),
        (Tombstone.not_before, (Tombstone.attempts < DEAD_AFTER, Tombstone.deleted_at.is_(None))),
        (Tombstone.drop_after, (Tombstone.attempts < DEAD_AFTER, Tombstone.deleted_at.is_not(None))),
    )
)
_PAUSED_UNTIL: Final = sa.select(StoreIdentity.paused_until)
_DEAD: Final = sa.select(
    *(
        sa.select(sa.func.count()).select_from(model).where(model.attempts >= DEAD_AFTER).scalar_subquery()
        for model in (GcTask, Tombstone)
    )
)


def count_due(database: Database) -> int:
    """Return how many tasks are due now."""
    with database.read() as connection:
        return connection.execute(_DUE, {"now": db.clock(connection)}).scalar_one()


def repositories_with_manifests(database: Database) -> list[int]:
    """Return the repositories of due tasks for manifests."""
    with database.read() as connection:
        found: Any = connection.execute(_OF_MANIFESTS, {"now": db.clock(connection)}).scalars()
        return list(found)


def repositories_to_purge(database: Database) -> dict[int, int]:
    """Return the due tasks for whole repositories: task ids by repository id."""
    with database.read() as connection:
        found: Any = connection.execute(_OF_REPOSITORIES, {"now": db.clock(connection)})
        return {target: task for task, target in found}


def until_next(database: Database) -> timedelta | None:
    """Return how long nothing will be due, by the database's clock; None if there is nothing to wait for."""
    with database.read() as connection:
        now = db.clock(connection)
        times = [time for query in _TIMES if (time := connection.execute(query).scalar()) is not None]
        paused_until = connection.execute(_PAUSED_UNTIL).scalar()
    if not times:
        return None
    return max(timedelta(), min(times) - now, *([] if paused_until is None else [paused_until - now]))


def count_dead_letters(database: Database) -> int:
    """Return how many tasks and tombstones have failed too often, and wait for ``regmeta gc retry``."""
    with database.read() as connection:
        return sum(connection.execute(_DEAD).one())
