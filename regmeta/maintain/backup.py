"""A copy of the database, of one moment, while it is in use; and what a copy says of itself.

SQLite's online backup copies the pages in one read transaction: writers go on, since WAL readers stop nobody,
and no lock of ours is held. (``VACUUM INTO`` reads the same snapshot, and builds every index again.) Copying
in several steps would begin anew with each commit of another process, and never end on a busy registry.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote
from uuid import UUID

from regmeta.db import SCHEMA_HEAD, Database
from regmeta.errors import (
    IdentityMismatch,
    IntegrityError,
    InvalidSource,
    Refused,
    SchemaMismatch,
    StoreUnavailable,
)
from regmeta.maintain.file_check import damage_of
from regmeta.maintain.setup import Identity, read_identity
from regmeta.models import Base

_NO_DATABASE: Final = ("SQLITE_NOTADB",)
_DAMAGED: Final = ("SQLITE_CORRUPT",)


MAX_EPOCH: Final = 2**53  # each restore and rebuild counts one up


@dataclass(frozen=True, slots=True)
class Copy:
    """What a copy of a database says of itself."""

    schema: str
    identity: Identity


def copy_sqlite(database: Database, path: str) -> None:
    """Copy the database into the empty file at *path*. Safe beside any number of writers.

    The file is not flushed.

    Raises:
        DatabaseUnavailable: the database could not be read.
        IntegrityError: it is damaged.
        StoreUnavailable: the copy could not be written.
    """
    with database.read() as connection:
        source: Any = connection.connection.dbapi_connection
        try:
            # The target is thrown away if anything fails, and flushed by the caller if not.
            with closing(sqlite3.connect(path, isolation_level=None)) as target:
                target.execute("PRAGMA synchronous=OFF").close()
                source.backup(target, pages=-1)
        except sqlite3.Error as error:
            if (getattr(error, "sqlite_errorname", "") or "").startswith(_DAMAGED):
                raise IntegrityError(f"{database.location}: damaged: {error}") from error
            raise StoreUnavailable(f"{path}: {error}") from error


def own_copy(database: Database) -> Copy:
    """Return what a copy that is made now must say.

    Raises:
        SchemaMismatch: the database was never tied to a store.
    """
    with database.read() as connection:
        identity = read_identity(connection)
        if identity is None:
            raise SchemaMismatch(f"{database.location} was never tied to a store: run 'regmeta init'")
        return Copy(database.schema_revision(connection) or "", identity)


def read_sqlite_copy(path: str) -> Copy:
    """Check a closed copy as a whole, and return what it says of itself. Changes nothing, not even beside it.

    Raises:
        InvalidSource: it is not an SQLite database, or not one of a registry.
        IntegrityError: it is damaged.
    """
    with _opened(path) as connection:
        found = damage_of(lambda statement: connection.execute(statement).fetchall(), 5)
        if found:
            raise IntegrityError(f"{path}: damaged: {'; '.join(found)}")
        broken = connection.execute("PRAGMA foreign_key_check").fetchmany(5)
        if broken:
            names = ", ".join(f"{table} row {row} -> {target}" for table, row, target, _ in broken)
            raise IntegrityError(f"{path}: damaged: rows refer to what is not there: {names}")
        try:
            [(schema,)] = connection.execute("SELECT version_num FROM alembic_version").fetchall()
            [(store_id, database_id, epoch)] = connection.execute(
                "SELECT store_id, database_id, epoch FROM store_identity"
            ).fetchall()
            if not 1 <= int(epoch) <= MAX_EPOCH:
                raise ValueError(f"epoch {epoch}")
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            missing = sorted(Base.metadata.tables.keys() - tables)
            if str(schema) == SCHEMA_HEAD and missing:
                raise ValueError(f"it has no table {missing[0]}")
            return Copy(str(schema), Identity(UUID(store_id), UUID(database_id), int(epoch)))
        except (sqlite3.OperationalError, ValueError, TypeError, AttributeError) as error:
            raise InvalidSource(f"{path}: not a copy of a registry's database ({error})") from error


def check_restorable(copy: Copy, record: Identity, path: str, *, upgrade: str) -> None:
    """Refuse a copy that is of another registry, or that this release does not understand.

    *upgrade* is what to do about an older schema.

    Raises:
        SchemaMismatch, IdentityMismatch: it is not to be restored here.
    """
    if copy.identity.store_id != record.store_id:
        raise IdentityMismatch(
            f"{path} is of the store {copy.identity.store_id}; this store is {record.store_id}"
        )
    if copy.schema != SCHEMA_HEAD:
        older = copy.schema < SCHEMA_HEAD
        advice = upgrade if older else "restore it with the release that made it, or a newer one"
        raise SchemaMismatch(
            f"{path} is at schema revision {copy.schema}, this release needs {SCHEMA_HEAD}: {advice}"
        )


def compare(copy: Copy, expected: Copy, path: str) -> None:
    """Refuse a copy that does not say what its original says.

    Raises:
        Refused: the database was restored, rebuilt or upgraded meanwhile.
    """
    if copy != expected:
        raise Refused(
            f"{path}: the database changed its identity or schema while it was copied; run it again"
        )


@contextmanager
def _opened(path: str) -> Iterator[sqlite3.Connection]:
    """Open a file that nobody writes: without a lock, and without files beside it."""
    try:
        address = f"file:{quote(path, errors='surrogateescape')}?mode=ro&immutable=1"
        connection = sqlite3.connect(address, uri=True)
        with closing(connection):
            connection.execute("PRAGMA trusted_schema=OFF").close()
            yield connection
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "") or ""
        if name.startswith(_NO_DATABASE):
            raise InvalidSource(f"{path}: not an SQLite database") from error
        if name.startswith(_DAMAGED) or (isinstance(error, sqlite3.DatabaseError) and not name):
            raise IntegrityError(f"{path}: damaged: {error}") from error
        raise StoreUnavailable(f"{path}: {error}") from error
