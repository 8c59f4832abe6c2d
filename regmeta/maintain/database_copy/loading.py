"""Rows into a database, and read again from it, with a digest of both.

What is compared is what the target gives back. On PostgreSQL a digest is of the binary stream of COPY, which
is the same for the same rows in the same order, whether it is sent or received. On SQLite it is of chunks of
plain values.
"""

from __future__ import annotations

import hashlib
import marshal
from collections.abc import Callable, Generator, Iterator
from types import NoneType
from typing import Any, Final, Protocol

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection

from regmeta.db import Database
from regmeta.maintain.database_copy import streams
from regmeta.maintain.database_copy.shapes import Shape
from regmeta.maintain.database_copy.streams import Row

IN_ONE_TRANSACTION: Final = 20  # [chunks] on SQLite, so that its log stays small
_CACHE_KIB: Final = 262_144
_FORMAT: Final = 2  # of marshal: one without references, so that equal rows are equal bytes

_INT4: Final = 2**31
_TYPES: Final = {
    "int8": {int, NoneType},
    "int4": {int, NoneType},
    "text": {str, NoneType},
    "bytea": {bytes, NoneType},
}

Advanced = Callable[[int], None]


class Load(Protocol):
    """One table on its way."""

    rows: int

    @property
    def digest(self) -> str:
        """Return that of what was sent so far."""

    def some(self, connection: Connection) -> bool:
        """Send what belongs in one transaction; tells whether there is more."""

    def close(self) -> None:
        """Stop reading."""


def tune(database: Database) -> None:
    """Make connections of a database those of one that is thrown away if anything goes wrong.

    On SQLite commits are not flushed, and foreign keys are checked at the end. The last step flushes all of
    them: it goes through another :class:`Database`.
    """
    if not database.is_sqlite:
        return

    @event.listens_for(database.engine, "connect")
    def connected(connection: Any, _: Any) -> None:
        for pragma in ("synchronous=NORMAL", "foreign_keys=OFF", f"cache_size=-{_CACHE_KIB}"):
            connection.execute(f"PRAGMA {pragma}").close()


def load(source: Connection, location: str, target: Database, shape: Shape, advanced: Advanced) -> Load:
    """Begin to bring a table over. *location* is that of the source."""
    if target.is_sqlite:
        return _IntoSqlite(
            streams.rows(source, shape, location, as_it_goes=True), target.location, shape, advanced
        )
    if source.dialect.name == "sqlite":
        chunks = streams.rows(source, shape, location, as_it_goes=True)
        return _IntoPostgresql(
            target.location, shape, chunks, lambda copy: _write_rows(copy, chunks, shape, advanced)
        )
    stream = streams.binary(source, shape, location, as_it_goes=True)
    return _IntoPostgresql(target.location, shape, stream, lambda copy: _pass_on(copy, stream))


def read_again(connection: Connection, location: str, shape: Shape) -> str:
    """Return the digest of what a table of the target gives back."""
    found = hashlib.blake2b(digest_size=32)
    if connection.dialect.name == "sqlite":
        for chunk in streams.rows(connection, shape, location, as_it_goes=False):
            found.update(marshal.dumps(chunk, _FORMAT))
    else:
        for data in streams.binary(connection, shape, location, as_it_goes=False):
            found.update(data)
    return found.hexdigest()


class _IntoSqlite:
    def __init__(
        self, chunks: Generator[list[Row], None, None], location: str, shape: Shape, advanced: Advanced
    ) -> None:
        self.rows = 0
        self._chunks, self._location, self._shape, self._advanced = chunks, location, shape, advanced
        self._hash = hashlib.blake2b(digest_size=32)
        places = ", ".join("?" * len(shape.columns))
        self._insert = f"INSERT INTO {shape.name} ({', '.join(shape.columns)}) VALUES ({places})"  # noqa: S608

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def close(self) -> None:
        self._chunks.close()

    def some(self, connection: Connection) -> bool:
        for _ in range(IN_ONE_TRANSACTION):
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            self._hash.update(marshal.dumps(chunk, _FORMAT))
            with streams.driver_errors(self._location, self._shape):
                streams.driver(connection).executemany(self._insert, chunk).close()
            self.rows += len(chunk)
            self._advanced(len(chunk))
        return True


class _IntoPostgresql:
    def __init__(
        self, location: str, shape: Shape, stream: Generator[Any, None, None], send: Callable[[Any], int]
    ) -> None:
        self.rows = 0
        self._location, self._shape, self._stream, self._send = location, shape, stream, send
        self._hash = hashlib.blake2b(digest_size=32)

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def close(self) -> None:
        self._stream.close()

    def some(self, connection: Connection) -> bool:
        shape = self._shape
        statement = f"COPY {shape.name} ({', '.join(shape.columns)}) FROM STDIN (FORMAT BINARY)"
        with (
            streams.driver_errors(self._location, shape),
            streams.driver(connection).cursor() as cursor,
        ):
            with cursor.copy(statement, writer=_hashing_writer(cursor, self._hash)) as copy:
                copy.set_types(shape.wire)
                sent = self._send(copy)
            self.rows = max(sent, cursor.rowcount)
        return False


def _hashing_writer(cursor: Any, found: Any) -> Any:
    """Return what sends the stream and notes its digest; psycopg may not be installed elsewhere."""
    from psycopg.copy import LibpqWriter

    class Hashing(LibpqWriter):
        def write(self, data: Any) -> None:
            found.update(data)
            super().write(data)

    return Hashing(cursor)


def _write_rows(copy: Any, chunks: Iterator[list[Row]], shape: Shape, advanced: Advanced) -> int:
    sent = 0
    write = copy.write_row
    for chunk in chunks:
        rows = streams.with_bytes(chunk, shape) if shape.uuids else chunk
        _check(rows, shape)
        for row in rows:
            write(row)
        sent += len(chunk)
        advanced(len(chunk))
    return sent


def _check(rows: list[Row], shape: Shape) -> None:
    """Refuse values of another type than the column: SQLite keeps any, and drivers cut what is too large."""
    for name, wire, values in zip(shape.columns, shape.wire, zip(*rows, strict=True), strict=True):
        others = set(map(type, values)) - _TYPES[wire]
        if others:
            raise TypeError(f"{name} is {', '.join(sorted(other.__name__ for other in others))}")
        if wire == "int4":
            numbers = [value for value in values if value is not None]
            if numbers and (min(numbers) < -_INT4 or max(numbers) >= _INT4):
                raise OverflowError(f"{name} is out of range")


def _pass_on(copy: Any, stream: Iterator[Any]) -> int:
    for data in stream:
        copy.write(data)
    return 0


def empty(connection: Connection, shape: Shape) -> None:
    """Delete what an interrupted run has left of a table; nothing refers to it yet."""
    connection.execute(sa.text(f"DELETE FROM {shape.name}"))  # noqa: S608
