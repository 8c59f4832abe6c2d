"""Claiming tasks, and what becomes of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.ingest.reserve import chunks
from regmeta.models import GcTask

CHUNK_TASKS: Final = 200  # of one transaction: the lock is held for as long as they take

_CLAIM: Final = (
    sa.select(GcTask.id, GcTask.target_id)
    .where(GcTask.kind == sa.bindparam("of_kind"), GcTask.not_before <= sa.bindparam("now"))
    .order_by(GcTask.id)
    .limit(CHUNK_TASKS)
    # One that another transaction is just putting off is not claimed: it is not due any more.
    .with_for_update(skip_locked=True)
)
_DONE: Final = sa.delete(GcTask).where(GcTask.id.in_(sa.bindparam("ids", expanding=True)))
_PUT_OFF: Final = (
    sa.update(GcTask).where(GcTask.id == sa.bindparam("of")).values(not_before=sa.bindparam("until"))
)


def claim_manifests(connection: Connection, repository_id: int, now: datetime) -> dict[int, int]:
    """Lock due tasks of one repository; returns task ids by manifest id."""
    claim = _CLAIM.where(GcTask.repository_id == repository_id)
    rows: Any = connection.execute(claim, {"of_kind": "manifest", "now": now})
    return {target: task for task, target in rows}


def claim_blobs(connection: Connection, now: datetime) -> dict[int, int]:
    """Lock due tasks for blobs; returns task ids by blob id."""
    rows: Any = connection.execute(_CLAIM, {"of_kind": "blob", "now": now})
    return {target: task for task, target in rows}


def settle(connection: Connection, done: Collection[int], put_off: Mapping[int, datetime]) -> None:
    """Remove tasks that are done, and put others off until the time that each has."""
    for some in chunks(sorted(done)):
        connection.execute(_DONE, {"ids": some})
    if put_off:
        connection.execute(_PUT_OFF, [{"of": task, "until": until} for task, until in put_off.items()])


def of_targets(tasks: Mapping[int, int], targets: Iterable[int]) -> list[int]:
    """Return the tasks of some targets."""
    return [tasks[target] for target in targets]
