"""Claiming tasks, and what becomes of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from functools import partial
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import db
from regmeta.db import Database
from regmeta.errors import Error, Locked, Unavailable
from regmeta.ingest.reserve import chunks
from regmeta.ingest.retry import retried
from regmeta.maintain.collect.backoff import back_off, in_short
from regmeta.models import GcTask
from regmeta.models.machinery import DEAD_AFTER

CHUNK_TASKS: Final = 200  # of one transaction: the lock is held for as long as they take

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

IS_DUE: Final = sa.and_(GcTask.not_before <= sa.bindparam("now"), GcTask.attempts < DEAD_AFTER)
_ids: Final[Any] = sa.bindparam("ids", expanding=True)
_CLAIM: Final = (
    sa.select(GcTask.id, GcTask.target_id)
    .where(GcTask.kind == sa.bindparam("of_kind"), IS_DUE)
    .order_by(GcTask.id)
    .limit(CHUNK_TASKS)
    # One that another transaction is just putting off is not claimed: it is not due any more.
    .with_for_update(skip_locked=True)
)
_DONE: Final = sa.delete(GcTask).where(GcTask.id.in_(_ids))
_PUT_OFF: Final = (
    sa.update(GcTask)
    .where(GcTask.id == sa.bindparam("of"))
    .values(not_before=sa.bindparam("until"), attempts=0, last_error=None)
)
# One that is not due any more was put off by another collector, or asked for again, meanwhile.
_FAILED: Final = (
    sa.select(GcTask.id, GcTask.attempts)
    .where(GcTask.id.in_(_ids), GcTask.not_before <= sa.bindparam("now"))
    .order_by(GcTask.id)
    .with_for_update()
)
_NOTE: Final = (
    sa.update(GcTask)
    .where(GcTask.id == sa.bindparam("of"))
    .values(
        not_before=sa.bindparam("until"), attempts=sa.bindparam("so_often"), last_error=sa.bindparam("error")
    )
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


def apart(
    connection: Connection, claimed: Mapping[int, int], work: Callable[[Mapping[int, int]], _T]
) -> tuple[list[_T], dict[int, str]]:
    """Work on all claimed tasks at once; where that is refused, on each alone.

    A row that cannot be deleted, or read, so costs a savepoint and not what else was claimed. Whatever
    *work* decides it must read itself: it is run again.

    Returns what *work* did, and why tasks failed by their ids.

    Raises:
        Unavailable, Locked: this is not about one row; the transaction is to be given up.
    """
    if not claimed:
        return [], {}
    try:
        with db.savepoint(connection):
            return [work(claimed)], {}
    except (Unavailable, Locked):
        raise
    except Error as error:
        _log.info("one by one: %s", error)
    done: list[_T] = []
    failed: dict[int, str] = {}
    for target, task in claimed.items():
        try:
            with db.savepoint(connection):
                done.append(work({target: task}))
        except (Unavailable, Locked):
            raise
        except Error as error:
            failed[task] = str(error)
    return done, failed


def settle(connection: Connection, done: Collection[int], put_off: Mapping[int, datetime]) -> None:
    """Remove tasks that are done, and put others off until the time that each has."""
    for some in chunks(sorted(done)):
        connection.execute(_DONE, {"ids": some})
    if put_off:
        connection.execute(_PUT_OFF, [{"of": task, "until": until} for task, until in put_off.items()])


def note_failed(database: Database, failed: Mapping[int, str]) -> None:
    """Say in a transaction of its own that tasks (by id) failed and why; they are tried again later.

    After ten attempts they are not tried again until ``regmeta gc retry``.
    """
    if failed:
        retried(partial(_note_failed, database, failed))


def _note_failed(database: Database, failed: Mapping[int, str]) -> None:
    with database.transaction("tasks_failed") as connection:
        now = db.clock(connection)
        found: list[Any] = []
        for some in chunks(sorted(failed)):
            found += connection.execute(_FAILED, {"ids": some, "now": now})
        if found:
            connection.execute(
                _NOTE,
                [
                    {
                        "of": task,
                        "so_often": attempts + 1,
                        "until": now + back_off(attempts + 1),
                        "error": in_short(failed[task]),
                    }
                    for task, attempts in found
                ],
            )


def of_targets(tasks: Mapping[int, int], targets: Iterable[int]) -> list[int]:
    """Return the tasks of some targets."""
    return [tasks[target] for target in targets]
