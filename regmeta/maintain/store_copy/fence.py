"""The end of a move, in the rows: no new key of a writer's, then another store.

Locks: the row of ``store_identity`` first, then a table. What waits for the table of intents is each commit
that deletes some and each reservation, for as long as that transaction takes.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import db
from regmeta.db import Database
from regmeta.errors import IdentityMismatch, Refused
from regmeta.ingest.inserting import many
from regmeta.ingest.plan import Lifetimes
from regmeta.ingest.reserve import bury, chunks
from regmeta.ingest.retry import retried
from regmeta.ingest.store_moves import Mark, mark_of
from regmeta.maintain.setup import Identity
from regmeta.maintain.store_copy.snapshots import Versions
from regmeta.models import Intent, LayoutOutbox, Repository, StoreIdentity
from regmeta.store import BlobStore

_LOCK: Final = sa.select(
    StoreIdentity.store_id, StoreIdentity.database_id, StoreIdentity.epoch
).with_for_update()
_HOLD: Final = sa.select(StoreIdentity.hold_reason)
_REPOSITORIES: Final = (
    sa.select(Repository.id, Repository.name, Repository.revision)
    .where(Repository.revision > 0)
    .order_by(Repository.id)
)
_UNQUEUE: Final = sa.delete(LayoutOutbox).where(
    LayoutOutbox.repository_id.in_(sa.bindparam("ids", expanding=True))
)
_LIFT: Final = (
    sa.update(StoreIdentity)
    .where(StoreIdentity.hold_reason == sa.bindparam("text"))
    .values(hold_reason=None)
    .returning(StoreIdentity.id)
)


def check_no_hold(database: Database) -> None:
    """Refuse to move what nobody has verified yet.

    Raises:
        Refused: collection is on hold, for another reason than a move.
    """
    with database.read() as connection:
        hold = connection.execute(_HOLD).scalar()
    _require_no_hold(database, hold)


def fence(database: Database, before: Identity, mark: Mark, lifetimes: Lifetimes) -> int:
    """Take all intents back, and let no new key of a writer's into rows while the mark stands.

    What was committed before is seen by who reads rows afterwards. A mark of another run is replaced: that
    run cannot switch any more. Returns how many intents there were.

    Raises:
        IdentityMismatch, Refused: the rows are of another store, or on hold.
        Contention: writers did not end in time.
    """
    return retried(lambda: _fence(database, before, mark, lifetimes))


def lift(database: Database, mark: Mark) -> bool:
    """Let writers go on; tells whether the mark stood."""
    return retried(lambda: _lift(database, mark))


def lift_any(database: Database) -> Mark | None:
    """Give up whatever move is at its end; return it, None if there is none."""
    with database.read() as connection:
        mark = mark_of(connection.execute(_HOLD).scalar())
    return mark if mark is not None and lift(database, mark) else None


def lift_dead(database: Database, store: BlobStore, host: str, ended: Collection[UUID]) -> None:
    """Let writers go on if the process that moves has ended: *ended* have, or it was here and is not.

    Of a process of another host nobody knows; a second run, or ``--abandon``, is for that. One that was
    only frozen finds its mark gone, and does not switch.
    """
    with database.read() as connection:
        mark = mark_of(connection.execute(_HOLD).scalar())
    if mark is None:
        return
    if mark.owner in ended or (mark.host == host and not store.staging_exists(mark.owner)):
        lift(database, mark)


def switch(
    database: Database, before: Identity, after: Identity, mark: Mark, there: Versions, *, all_behind: bool
) -> None:
    """Let the rows be of the new store, and put what is behind there into the outbox. The move's one effect.

    *there* are the snapshots in the new store; with *all_behind* each repository is written anew.

    Raises:
        Refused: the mark was lifted or replaced meanwhile; nothing has happened.
    """
    retried(lambda: _switch(database, before, after, mark, there, all_behind))


def _fence(database: Database, before: Identity, mark: Mark, lifetimes: Lifetimes) -> int:
    with database.transaction("store_move_fenced") as connection:
        _locked(connection, database, before)
        _lock_table(connection, Intent)
        taken = connection.execute(sa.delete(Intent).returning(Intent.key)).scalars().all()
        bury(connection, taken, "moved", db.clock(connection), lifetimes.tombstone)
        connection.execute(sa.update(StoreIdentity).values(hold_reason=mark.text))
        return len(taken)


def _lift(database: Database, mark: Mark) -> bool:
    with database.transaction("store_move_lifted") as connection:
        return connection.execute(_LIFT, {"text": mark.text}).first() is not None


def _switch(
    database: Database, before: Identity, after: Identity, mark: Mark, there: Versions, all_behind: bool
) -> None:
    with database.transaction("store_move_switched") as connection:
        if _row(connection) == after:
            return  # an earlier try, whose answer was lost
        hold = _locked(connection, database, before)
        if hold != mark.text:
            raise Refused(f"{database.location}: the move was given up meanwhile: run it again")
        # Who clears a row of the outbox is before this, and seen below, or after it, and clears none.
        _lock_table(connection, LayoutOutbox)
        _queue_behind(connection, before.epoch, {} if all_behind else there)
        connection.execute(
            sa.update(StoreIdentity).values(
                store_id=after.store_id, hold_reason=None, paused_until=None, pause_reason=None, pauses=0
            )
        )


def _queue_behind(connection: Connection, epoch: int, there: Versions) -> None:
    now = db.clock(connection)
    behind = [
        {"repository_id": row.id, "revision": row.revision, "queued_at": now}
        for row in connection.execute(_REPOSITORIES)
        if there.get(row.name) != (epoch, row.revision)
    ]
    for some in chunks(behind):
        connection.execute(_UNQUEUE, {"ids": [row["repository_id"] for row in some]})
        connection.execute(*many(connection, LayoutOutbox, some))


def _locked(connection: Connection, database: Database, before: Identity) -> str | None:
    """Lock the row of the identity, which must be what it was; return the hold."""
    if _row(connection) != before:
        raise IdentityMismatch(f"{database.location}: its identity has changed meanwhile; nothing was moved")
    hold: str | None = connection.execute(_HOLD).scalar()
    _require_no_hold(database, hold)
    return hold


def _row(connection: Connection) -> Identity | None:
    row = connection.execute(_LOCK).one_or_none()
    return None if row is None else Identity(*row)


def _require_no_hold(database: Database, hold: str | None) -> None:
    if hold is not None and mark_of(hold) is None:
        raise Refused(f"{database.location}: nothing is moved while collection is on hold: {hold}")


def _lock_table(connection: Connection, model: Any) -> None:
    # On SQLite the transaction itself is that lock.
    if connection.dialect.name != "sqlite":
        connection.execute(sa.text(f"LOCK TABLE {model.__tablename__} IN EXCLUSIVE MODE"))
