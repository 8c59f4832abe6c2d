"""Whether anything may be deleted now at all."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import sqlalchemy as sa

from regmeta import db
from regmeta.db import Database
from regmeta.errors import Refused, StoreUnavailable
from regmeta.maintain.setup import check_identity
from regmeta.models import StoreIdentity
from regmeta.store import BlobStore

_STATE: Final = sa.select(StoreIdentity.hold_reason, StoreIdentity.paused_until, StoreIdentity.pause_reason)


class CollectionHeld(Refused):
    """Nothing is collected until the registry was verified."""


class CollectionPaused(StoreUnavailable):
    """Nothing is collected for some time, since the store gave errors; no collector asks it meanwhile."""

    def __init__(self, location: str, until: datetime, reason: str | None) -> None:
        super().__init__(
            f"{location}: collection is paused until {until:%Y-%m-%d %H:%M:%SZ} ({reason});"
            " 'regmeta gc retry' ends the pause"
        )
        self.until = until


def check_not_held(database: Database) -> None:
    """Refuse to collect while there is a hold or a pause. One look at one row.

    There is a hold after a restore or a rebuild, until the registry was verified; and a pause, of all
    collectors, after the store gave many errors.

    Raises:
        CollectionHeld: says why, and what lifts the hold.
        CollectionPaused: says until when, and why.
    """
    with database.read() as connection:
        row = connection.execute(_STATE).first()
        now = db.clock(connection)
    if row is None:
        return
    if row.hold_reason is not None:
        raise CollectionHeld(f"{database.location}: collection is on hold: {row.hold_reason}")
    if row.paused_until is not None and row.paused_until > now:
        raise CollectionPaused(database.location, row.paused_until, row.pause_reason)


def check_may_delete(database: Database, store: BlobStore) -> None:
    """Refuse to delete objects of a store that is not this database's, or while there is a hold or a pause.

    Asked before each batch: another database may have taken the store over meanwhile (design, Identity).

    Raises:
        IdentityMismatch: the store belongs to another database.
        CollectionHeld, CollectionPaused: see :func:`check_not_held`.
        StoreUnavailable: the store's record cannot be read.
    """
    check_identity(database, store)
    check_not_held(database)
