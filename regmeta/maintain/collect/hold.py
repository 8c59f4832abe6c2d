"""Whether anything may be deleted now at all."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from regmeta.db import Database
from regmeta.errors import Refused
from regmeta.maintain.setup import check_identity
from regmeta.models import StoreIdentity
from regmeta.store import BlobStore

_HOLD: Final = sa.select(StoreIdentity.hold_reason)


class CollectionHeld(Refused):
    """Nothing is collected until the registry was verified."""


def check_not_held(database: Database) -> None:
    """Refuse to collect after a restore or a rebuild, until the registry was verified.

    Raises:
        CollectionHeld: says why, and what lifts the hold.
    """
    with database.read() as connection:
        reason = connection.execute(_HOLD).scalar()
    if reason is not None:
        raise CollectionHeld(f"{database.location}: collection is on hold: {reason}")


def check_may_delete(database: Database, store: BlobStore) -> None:
    """Refuse to delete objects of a store that is not this database's, or while there is a hold.

    Asked before each batch: another database may have taken the store over meanwhile (design, Identity).

    Raises:
        IdentityMismatch: the store belongs to another database.
        CollectionHeld: see :func:`check_not_held`.
        StoreUnavailable: the store's record cannot be read.
    """
    check_identity(database, store)
    check_not_held(database)
