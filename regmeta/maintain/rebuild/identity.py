"""Whose database it is before, while and after its rows are made again.

=====================  ==================================  ==============================================
state                  row of ``store_identity``           the store's record
=====================  ==================================  ==============================================
unfinished             a new database, the next epoch,     still names the lost database: nobody can open
                       hold: :data:`UNFINISHED`            the new one
rows complete          the same, hold: :data:`HOLD`        the same
switched               the same                            names the new database
=====================  ==================================  ==============================================
"""

from __future__ import annotations

from typing import Final
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import db
from regmeta.db import Database
from regmeta.errors import IdentityMismatch, Refused
from regmeta.ingest.adopt import lock_adoption
from regmeta.ingest.retry import retried
from regmeta.maintain.setup import RECORD, Identity, check_filled, read_identity, read_record
from regmeta.models import Blob, Intent, Repository, StoreIdentity, Tombstone
from regmeta.store import BlobStore, Staging

UNFINISHED: Final = "being rebuilt from the store: run 'regmeta rebuild --lost-database' again"
HOLD: Final = "rebuilt from the store: nothing is collected until 'regmeta verify --mark' has found it whole"


def tie(database: Database, store: BlobStore, greatest_epoch: int) -> Identity:
    """Tie a database to the store's next epoch, or find that an earlier run did.

    Raises:
        IdentityMismatch: the store says nothing of itself, or the database is another registry's.
        Refused: the database is in use, so it is not lost; or it has rows that no rebuild made.
    """
    record = read_record(store)
    if record is None:
        raise IdentityMismatch(f"{store.location} holds no {RECORD}: it is no store, or is not mounted")
    check_filled(store, record)
    new = Identity(record.store_id, uuid4(), max(record.epoch, greatest_epoch) + 1)
    # Another run may begin at the same moment; then this one goes on with its row.
    found, hold = retried(lambda: _found_or_made(database, new))
    _require_ours(found, record, hold, greatest_epoch, database, store)
    return found


def is_unfinished(database: Database) -> bool:
    """Tell whether rows are still to come."""
    with database.read() as connection:
        return connection.execute(sa.select(StoreIdentity.hold_reason)).scalar() == UNFINISHED


def stays_unfinished(connection: Connection) -> bool:
    """Tell the same, and keep it so until the transaction ends."""
    return lock_adoption(connection) == UNFINISHED


def complete(database: Database) -> None:
    """Say in the rows that all of them are there."""
    with database.transaction("rebuild_complete") as connection:
        if stays_unfinished(connection):
            connection.execute(sa.update(StoreIdentity).values(hold_reason=HOLD))


def switch(store: BlobStore, staging: Staging, identity: Identity) -> None:
    """Let the store name the new database: from here on it can be opened, and no other."""
    record = read_record(store)
    if record == identity:
        return
    if record is None or record.store_id != identity.store_id or record.epoch >= identity.epoch:
        raise IdentityMismatch(f"{store.location}: its {RECORD} has changed meanwhile; nothing was switched")
    staging.write_record(RECORD, identity.to_record())


def _found_or_made(database: Database, new: Identity) -> tuple[Identity, str | None]:
    with database.transaction("rebuild_identity") as connection:
        found = read_identity(connection)
        if found is not None:
            return found, lock_adoption(connection)
        _require_empty(connection, database)
        connection.execute(
            sa.insert(StoreIdentity),
            {
                "id": 1,
                "store_id": new.store_id,
                "database_id": new.database_id,
                "epoch": new.epoch,
                "created_at": db.clock(connection),
                "hold_reason": UNFINISHED,
            },
        )
        return new, UNFINISHED


def _require_empty(connection: Connection, database: Database) -> None:
    for model in (Repository, Blob, Intent, Tombstone):
        if connection.execute(sa.select(model.id).limit(1)).first() is not None:
            raise Refused(
                f"{database.location} has rows already: it is not an empty database to rebuild into"
            )


def _require_ours(
    found: Identity,
    record: Identity,
    hold: str | None,
    greatest_epoch: int,
    database: Database,
    store: BlobStore,
) -> None:
    if found.store_id != record.store_id:
        raise IdentityMismatch(f"{database.location} is of another store than {store.location}")
    if hold not in (UNFINISHED, HOLD) or (found == record and hold != HOLD):
        raise Refused(
            f"{database.location} is there, so it is not lost:"
            " 'regmeta rebuild' without --lost-database puts back what its rows lack"
        )
    if found != record and found.epoch <= max(record.epoch, greatest_epoch):
        raise IdentityMismatch(
            f"{database.location} is an unfinished rebuild of epoch {found.epoch}, and {store.location} has"
            f" gone on since (epoch {max(record.epoch, greatest_epoch)}): remove that database first"
        )
