"""The objects of tombstones: deleted when they are due, and once more before they are forgotten.

A process that was frozen may still write a key whose object has been deleted already. So a tombstone stands
until no upload can be that old, and its key is deleted once more then; what appears later still is found by
the sweep.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import sqlalchemy as sa

from regmeta import db
from regmeta.db import Database
from regmeta.errors import StoreUnavailable
from regmeta.ingest.plan import Lifetimes
from regmeta.ingest.retry import retried
from regmeta.maintain.collect.hold import check_may_delete
from regmeta.models import Tombstone
from regmeta.store import BlobStore

CHUNK_OBJECTS: Final = 500
MANY_FAILURES: Final = 20

_log = logging.getLogger(__name__)

_SOME: Final = (
    sa.select(Tombstone.id, Tombstone.key, Tombstone.size_bytes)
    .where(Tombstone.id > sa.bindparam("after"))
    .order_by(Tombstone.id)
    .limit(CHUNK_OBJECTS)
)
_DUE: Final = _SOME.where(Tombstone.deleted_at.is_(None), Tombstone.not_before <= sa.bindparam("now"))
_OVER: Final = _SOME.where(Tombstone.deleted_at.is_not(None), Tombstone.drop_after <= sa.bindparam("now"))
_ids: Final[Any] = sa.bindparam("ids", expanding=True)
_DELETED: Final = (
    sa.update(Tombstone)
    .where(Tombstone.id.in_(_ids), Tombstone.deleted_at.is_(None))
    .values(deleted_at=sa.bindparam("now"), drop_after=sa.bindparam("until"), last_error=None)
)
_FAILED: Final = (
    sa.update(Tombstone)
    .where(Tombstone.id.in_(_ids))
    .values(attempts=Tombstone.attempts + 1, last_error=sa.bindparam("error"))
)
_DROP: Final = sa.delete(Tombstone).where(Tombstone.id.in_(_ids))


@dataclass(slots=True)
class DeadObjects:
    """What became of dead objects."""

    deleted: int = 0
    size_bytes: int = 0  # of those whose size is known
    forgotten: int = 0


def delete_dead_objects(database: Database, store: BlobStore, lifetimes: Lifetimes) -> DeadObjects:
    """Delete the objects of tombstones that are due, and drop tombstones that are over.

    Safe beside anything: a key with a tombstone is named by no row and never will be (I5).

    Raises:
        IdentityMismatch, CollectionHeld: nothing may be deleted now.
        StoreUnavailable: the store did not delete; noted in the rows, and tried again by the next run.
    """
    report = DeadObjects()
    failed: list[str] = []
    for rows in _chunks(database, _DUE):
        gone = _delete(database, store, rows, failed)
        retried(partial(_note_deleted, database, gone, lifetimes))
        report.deleted += len(gone)
        report.size_bytes += sum(row.size_bytes or 0 for row in gone)
    for rows in _chunks(database, _OVER):
        gone = _delete(database, store, rows, failed)
        retried(partial(_drop, database, gone))
        report.forgotten += len(gone)
    if failed:
        raise StoreUnavailable(f"{len(failed)} dead objects could not be deleted, first: {failed[0]}")
    return report


def _chunks(database: Database, statement: Any) -> Iterator[Sequence[Any]]:
    """Give tombstones in pieces; one that stays as it is comes once."""
    after = 0
    while True:
        with database.read() as connection:
            rows = connection.execute(statement, {"now": db.clock(connection), "after": after}).all()
        if not rows:
            return
        yield rows
        after = rows[-1].id


def _delete(database: Database, store: BlobStore, rows: Sequence[Any], failed: list[str]) -> Sequence[Any]:
    """Delete the objects of some tombstones; returns those that are gone, and adds to *failed*.

    One that cannot be deleted keeps no other from going; many in a row are a store that is away.
    """
    check_may_delete(database, store)
    try:
        store.delete([row.key for row in rows])
        return rows
    except StoreUnavailable as error:
        _log.info("deleting one by one: %s", error)
    gone: list[Any] = []
    in_a_row = 0
    for row in rows:
        try:
            store.delete([row.key])
        except StoreUnavailable as error:
            retried(partial(_note_failed, database, row, str(error)))
            failed.append(str(error))
            in_a_row += 1
            if in_a_row >= MANY_FAILURES:
                raise
        else:
            gone.append(row)
            in_a_row = 0
    return gone


def _note_deleted(database: Database, rows: Sequence[Any], lifetimes: Lifetimes) -> None:
    with database.transaction("objects_deleted") as connection:
        now = db.clock(connection)
        parameters = {"ids": [row.id for row in rows], "now": now, "until": now + lifetimes.max_upload}
        connection.execute(_DELETED, parameters)


def _note_failed(database: Database, row: Any, error: str) -> None:
    with database.transaction("objects_not_deleted") as connection:
        connection.execute(_FAILED, {"ids": [row.id], "error": error})


def _drop(database: Database, rows: Sequence[Any]) -> None:
    with database.transaction("tombstones_dropped") as connection:
        connection.execute(_DROP, {"ids": [row.id for row in rows]})
