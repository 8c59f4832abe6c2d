"""The objects of tombstones: deleted when they are due, and once more before they are forgotten.

A process that was frozen may still write a key whose object has been deleted already. So a tombstone stands
until no upload can be that old, and its key is deleted once more then; what appears later still is found by
the sweep.

A store that answers "done" is not believed: each key is looked at again, and only what is gone is counted.
Nor is one in which neither dead nor live objects are: what is not mounted has not gone.
No transaction is open while the store is asked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import sqlalchemy as sa

from regmeta import db, metrics
from regmeta.db import Database
from regmeta.errors import StoreUnavailable
from regmeta.ingest.plan import Lifetimes
from regmeta.ingest.retry import retried
from regmeta.maintain.collect.backoff import back_off, in_short
from regmeta.maintain.collect.hold import check_may_delete
from regmeta.maintain.collect.pause import pause, pausing, resume
from regmeta.models import Blob, Tombstone
from regmeta.models.machinery import DEAD_AFTER
from regmeta.store import BlobStore, ObjectInfo

CHUNK_OBJECTS: Final = 500
MANY_FAILURES: Final = 20  # in a row: the store is away

_log = logging.getLogger(__name__)

IS_DUE: Final = sa.and_(
    Tombstone.deleted_at.is_(None),
    Tombstone.not_before <= sa.bindparam("now"),
    Tombstone.attempts < DEAD_AFTER,
)
"""Of a tombstone: its object is to be deleted now."""
_SOME: Final = (
    sa.select(Tombstone.id, Tombstone.key)
    .where(Tombstone.id > sa.bindparam("after"))
    .order_by(Tombstone.id)
    .limit(CHUNK_OBJECTS)
)
_DUE: Final = _SOME.where(IS_DUE)
_OVER: Final = _SOME.where(
    Tombstone.deleted_at.is_not(None),
    Tombstone.drop_after <= sa.bindparam("now"),
    Tombstone.attempts < DEAD_AFTER,
)
_ids: Final[Any] = sa.bindparam("ids", expanding=True)


def _free(*conditions: Any) -> Any:
    """Choose tombstones that no other collector is just noting: it may stand still in the middle of that."""
    found = sa.select(Tombstone.id).where(Tombstone.id.in_(_ids), *conditions)
    return found.order_by(Tombstone.id).with_for_update(skip_locked=True)


# Each collector counts what it was the one to note: two that deleted the same object count it once.
_DELETED: Final = (
    sa.update(Tombstone)
    .where(Tombstone.id.in_(_free(Tombstone.deleted_at.is_(None))))
    .values(deleted_at=sa.bindparam("now"), drop_after=sa.bindparam("until"), attempts=0, last_error=None)
    .returning(Tombstone.size_bytes)
)
_DROP: Final = (
    sa.delete(Tombstone)
    .where(Tombstone.id.in_(_free(Tombstone.deleted_at.is_not(None))))
    .returning(Tombstone.id)
)
_LOCK: Final = (
    sa.select(
        Tombstone.id, Tombstone.attempts, Tombstone.deleted_at, Tombstone.not_before, Tombstone.drop_after
    )
    .where(Tombstone.id.in_(_ids))
    .order_by(Tombstone.id)
    .with_for_update()
)
_FAILED: Final = (
    sa.update(Tombstone)
    .where(Tombstone.id == sa.bindparam("of"))
    .values(
        attempts=sa.bindparam("so_often"),
        last_error=sa.bindparam("error"),
        not_before=sa.bindparam("first"),
        drop_after=sa.bindparam("second"),
    )
)


SOME_LIVE: Final = 10
_SOME_LIVE: Final = sa.select(Blob.key).where(Blob.state == "live").order_by(Blob.id).limit(SOME_LIVE)


@dataclass(slots=True)
class DeadObjects:
    """What became of dead objects."""

    deleted: int = 0  # confirmed: the store was asked again
    size_bytes: int = 0  # of those whose size is known
    forgotten: int = 0
    failures: list[str] = field(default_factory=list)  # objects that are there still, and why


def delete_dead_objects(
    database: Database,
    store: BlobStore,
    lifetimes: Lifetimes,
    *,
    is_stopped: Callable[[], bool] = lambda: False,
    advanced: Callable[[int], None] = lambda _: None,
) -> DeadObjects:
    """Delete the objects of tombstones that are due, and drop tombstones that are over.

    Safe beside anything: a key with a tombstone is named by no row and never will be (I5). One object that
    cannot be deleted keeps no other from going; it is noted, reported, and tried again later. *is_stopped*
    is asked between batches; *advanced* is told how many objects were worked on.

    Raises:
        IdentityMismatch, CollectionHeld: nothing may be deleted now.
        CollectionPaused: the store gave many errors in a row, now or a short time ago. What was deleted is.
    """
    report = DeadObjects()
    deletion = _Deletion(database, store, report)
    for statement in (_DUE, _OVER):
        for rows in _chunks(database, statement):
            if is_stopped():
                return report
            gone, errors = deletion.delete(rows)
            if gone and statement is _DUE:
                sizes = retried(partial(_note_deleted, database, gone, lifetimes))
                report.deleted += len(sizes)
                report.size_bytes += sum(size or 0 for size in sizes)
                metrics.DELETED_OBJECTS.add(len(sizes))
                metrics.DELETED_BYTES.add(sum(size or 0 for size in sizes))
            elif gone:
                report.forgotten += retried(partial(_drop, database, gone))
            deletion.note(gone, errors)
            advanced(len(rows))
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


class _Deletion:
    """Deletes objects, and counts how often in a row the store did not do it."""

    def __init__(self, database: Database, store: BlobStore, report: DeadObjects) -> None:
        self._database = database
        self._store = store
        self._report = report
        self._in_a_row = 0

    def delete(self, rows: Sequence[Any]) -> tuple[list[int], dict[int, str]]:
        """Delete the objects of some tombstones; returns the ids of those that are gone, and why not.

        After many failures in a row the rest is in neither.
        """
        with pausing(self._database):
            check_may_delete(self._database, self._store)
            self._check_mounted([row.key for row in rows])
        keys = [row.key for row in rows]
        try:
            self._store.delete(keys)
            answers = self._store.look(keys)
        except StoreUnavailable as error:
            _log.info("deleting one by one: %s", error)
            answers = {}
        gone: list[int] = []
        errors: dict[int, str] = {}
        for row in rows:
            why_not = self._why_not(row.key, answers)
            if why_not is None:
                gone.append(row.id)
                self._in_a_row = 0
                continue
            errors[row.id] = why_not
            self._in_a_row += 1
            if self._in_a_row >= MANY_FAILURES:
                break
        return gone, errors

    def _check_mounted(self, dead: Sequence[str]) -> None:
        """Refuse to take objects for gone where live ones are not to be found either (I8).

        Raises:
            StoreUnavailable: not one of them is there.
        """
        with self._database.read() as connection:
            live = connection.execute(_SOME_LIVE).scalars().all()
        if not live or any(map(self._may_be_there, live)) or any(map(self._may_be_there, dead)):
            return
        raise StoreUnavailable(
            f"{self._store.location}: not one of {len(live)} live objects is there, such as {live[0]}:"
            " is all of it mounted?"
        )

    def _may_be_there(self, key: str) -> bool:
        try:
            return self._store.stat(key) is not None
        except StoreUnavailable as error:
            _log.debug("it may be there: %s", error)
            return True

    def _why_not(self, key: str, answers: Mapping[str, ObjectInfo | StoreUnavailable | None]) -> str | None:
        """Say why an object is not gone, None if it is; one that has no answer is deleted now."""
        if key not in answers:
            try:
                self._store.delete([key])
            except StoreUnavailable as error:
                return str(error)
            answers = self._store.look([key])
        answer = answers[key]
        if isinstance(answer, StoreUnavailable):
            return str(answer)
        if answer is not None:
            return f"{self._store.location}: {key} was deleted without an error, and is still there"
        return None

    def note(self, gone: Collection[int], errors: Mapping[int, str]) -> None:
        """Write down what failed, in a transaction of its own, and whether the store is to be left alone.

        Raises:
            CollectionPaused: it is.
        """
        if errors:
            metrics.COLLECTION_FAILURES.add(len(errors), "object")
            retried(partial(_note_failed, self._database, errors))
            self._report.failures += errors.values()
        elif gone:
            resume(self._database)
        if self._in_a_row >= MANY_FAILURES:
            *_, last = errors.values()
            raise pause(self._database, f"{self._in_a_row} errors in a row, last: {last}")


def _note_deleted(database: Database, ids: Sequence[int], lifetimes: Lifetimes) -> Sequence[int | None]:
    with database.transaction("objects_deleted") as connection:
        now = db.clock(connection)
        parameters = {"ids": ids, "now": now, "until": now + lifetimes.max_upload}
        return connection.execute(_DELETED, parameters).scalars().all()


def _note_failed(database: Database, errors: Mapping[int, str]) -> None:
    with database.transaction("objects_not_deleted") as connection:
        now = db.clock(connection)
        noted = []
        for row in connection.execute(_LOCK, {"ids": list(errors)}):
            until = now + back_off(row.attempts + 1)
            is_first = row.deleted_at is None
            if (row.not_before if is_first else row.drop_after) <= now:  # not noted by another just now
                noted.append(
                    {
                        "of": row.id,
                        "so_often": row.attempts + 1,
                        "error": in_short(errors[row.id]),
                        "first": until if is_first else row.not_before,
                        "second": row.drop_after if is_first else until,
                    }
                )
        if noted:
            connection.execute(_FAILED, noted)


def _drop(database: Database, ids: Sequence[int]) -> int:
    with database.transaction("tombstones_dropped") as connection:
        return len(connection.execute(_DROP, {"ids": ids}).all())
