"""Whether a run that another process began gets on: seen by rows that it changes while it works."""

from __future__ import annotations

from typing import Final, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from regmeta.db import Database
from regmeta.models import Intent, SyncItem

_mine: Final = Intent.owner == sa.bindparam("owner")
_STATE: Final = sa.select(
    sa.select(sa.func.count()).where(SyncItem.run_id == sa.bindparam("run")).scalar_subquery(),
    sa.select(sa.func.count()).where(_mine).scalar_subquery(),
    sa.select(sa.func.coalesce(sa.func.max(Intent.id), 0)).where(_mine).scalar_subquery(),
    sa.select(sa.func.coalesce(sa.func.sum(Intent.received_bytes), 0)).where(_mine).scalar_subquery(),
)


class RunState(NamedTuple):
    """What a run has come to. Of no use but to be compared with a later one."""

    items: int  # images whose outcome it noted
    intents: int
    newest_intent: int
    received_bytes: int


def run_state(database: Database, run_id: int, owner: UUID) -> RunState:
    """Return what a run of the process *owner* has come to by now."""
    with database.read() as connection:
        return RunState(*map(int, connection.execute(_STATE, {"run": run_id, "owner": owner}).one()))
