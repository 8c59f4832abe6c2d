"""Making a registry, and checking that its database and its store belong together.

====================  ===============================================  ==================================
step of ``init``      a crash right after leaves                       a second ``init``
====================  ===============================================  ==================================
schema                an empty schema                                  goes on
identity row          a row, and a store that says nothing             writes the store's record from it
store record          a registry                                       finds it and changes nothing
====================  ===============================================  ==================================
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import db
from regmeta.db import Database
from regmeta.errors import IdentityMismatch, SchemaMismatch, StoreUnavailable
from regmeta.models import StoreIdentity
from regmeta.store import BlobStore

RECORD: Final = "store.json"
FORMAT: Final = 1
MOVED_FORMAT: Final = 2  # of the record that ``regmeta store copy`` leaves in the store of before


class StoreMoved(IdentityMismatch):
    """All objects of this store are in another one now, which is the registry's."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Which store, described by which database, since which restore or rebuild."""

    store_id: UUID
    database_id: UUID
    epoch: int
    filled_from: UUID | None = field(default=None, compare=False)
    """In a store's record: objects are still being copied from that store (``maintain.store_copy``)."""

    def to_record(self) -> bytes:
        """Return the document that the store keeps."""
        document: dict[str, object] = {
            "format": FORMAT,
            "store_id": str(self.store_id),
            "database_id": str(self.database_id),
            "epoch": self.epoch,
        }
        if self.filled_from is not None:
            document["filled_from"] = str(self.filled_from)
        return json.dumps(document, indent=1).encode() + b"\n"

    @classmethod
    def from_record(cls, content: bytes, where: str) -> Identity:
        """Read the document that the store keeps.

        Raises:
            IdentityMismatch: it is not one that this release understands.
        """
        try:
            document = json.loads(content)
            if document["format"] == MOVED_FORMAT and "moved_to" in document:
                raise StoreMoved(
                    f"{where}: the objects of this store were moved to {document['moved_to']}:"
                    " set REGMETA_STORE, or 'store' in the settings' file"
                )
            if document["format"] != FORMAT:
                raise IdentityMismatch(f"{where}: format {document['format']} is not known here")
            filled_from = document.get("filled_from")
            return cls(
                UUID(document["store_id"]),
                UUID(document["database_id"]),
                document["epoch"],
                None if filled_from is None else UUID(filled_from),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise IdentityMismatch(f"{where}: not a store's record ({error})") from error


def make_identity(database: Database, store: BlobStore) -> Identity:
    """Tie a database and a store together; finds it done, or does the rest, when run again.

    Raises:
        IdentityMismatch: one of them belongs to another already.
    """
    record = read_record(store)
    with database.transaction("identity") as connection:
        identity = read_identity(connection)
        if identity is None:
            if record is not None:
                raise IdentityMismatch(
                    f"{store.location} belongs to the database {record.database_id},"
                    f" not to the new one at {database.location}"
                )
            identity = Identity(uuid4(), uuid4(), 1)
            _insert_row(connection, identity)
    if record is None:
        store.create()
        staging = store.open_staging()
        try:
            staging.write_record(RECORD, identity.to_record(), exclusive=True)
        except StoreUnavailable:
            # Another process does the same at the same time, or it really cannot be written.
            if read_record(store) is None:
                raise
        finally:
            staging.close()
        record = read_record(store)
    if record is not None:
        _compare(identity, record, database, store)
    return identity


def is_tied(database: Database) -> bool:
    """Tell whether a database has a schema and belongs to a store."""
    with database.read() as connection:
        return database.schema_revision(connection) is not None and read_identity(connection) is not None


def check_identity(database: Database, store: BlobStore) -> Identity:
    """Refuse a store that is not this database's.

    Raises:
        IdentityMismatch: they do not belong together, or were never tied.
    """
    with database.read() as connection:
        identity = read_identity(connection)
    if identity is None:
        raise SchemaMismatch(f"{database.location} was never tied to a store: run 'regmeta init'")
    record = read_record(store)
    if record is None:
        raise IdentityMismatch(
            f"{store.location} holds no {RECORD}: it is not the store of {database.location},"
            " or is not mounted"
        )
    _compare(identity, record, database, store)
    return identity


def _compare(identity: Identity, record: Identity, database: Database, store: BlobStore) -> None:
    if identity.store_id != record.store_id and record.filled_from == identity.store_id:
        raise IdentityMismatch(
            f"{store.location} is being filled by 'regmeta store copy', which has not ended: run it again,"
            " with the store that it copies from in the settings"
        )
    if identity.store_id != record.store_id:
        raise IdentityMismatch(
            f"{store.location} is the store {record.store_id}, {database.location} describes the store"
            f" {identity.store_id}: where 'regmeta store copy' has moved the objects, set REGMETA_STORE"
        )
    if identity != record:
        raise IdentityMismatch(
            f"{store.location} belongs to the database {record.database_id} (epoch {record.epoch}),"
            f" {database.location} is {identity.database_id} (epoch {identity.epoch})"
        )


def check_filled(store: BlobStore, record: Identity) -> None:
    """Refuse a store that says that not all objects may be in it yet, to who relies on it alone.

    Raises:
        IdentityMismatch: says so.
    """
    if record.filled_from is not None:
        raise IdentityMismatch(
            f"{store.location} was being filled from the store {record.filled_from} by 'regmeta store copy':"
            " run that again, or use that store"
        )


def read_record(store: BlobStore) -> Identity | None:
    """Return what the store says of itself, None if it says nothing.

    Raises:
        IdentityMismatch: it is not understood.
    """
    content = store.read_record(RECORD)
    return None if content is None else Identity.from_record(content, f"{store.location}/{RECORD}")


def read_identity(connection: Connection) -> Identity | None:
    """Return which store a database says that it describes, None if it says nothing."""
    row = connection.execute(
        sa.select(StoreIdentity.store_id, StoreIdentity.database_id, StoreIdentity.epoch)
    ).first()
    return None if row is None else Identity(*row)


def _insert_row(connection: Connection, identity: Identity) -> None:
    connection.execute(
        sa.insert(StoreIdentity),
        {
            "id": 1,
            "store_id": identity.store_id,
            "database_id": identity.database_id,
            "epoch": identity.epoch,
            "created_at": db.clock(connection),
        },
    )
