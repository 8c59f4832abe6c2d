"""Rows out of a database, in the order of their primary keys: plain values, or what PostgreSQL sends."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.db import is_pipelined
from regmeta.errors import ConnectionLost, DatabaseUnavailable, Error, IntegrityError
from regmeta.maintain.database_copy.shapes import Shape

CHUNK: Final = 10_000
"""[rows] that are looked at together, on both sides: digests are made of chunks."""

Row = tuple[Any, ...]

_NO_TIMEOUTS: Final = (
    "SET LOCAL statement_timeout = 0",
    "SET LOCAL idle_in_transaction_session_timeout = 0",
)


def count(connection: Connection, shape: Shape) -> int:
    """Return how many rows a table has."""
    return int(connection.execute(sa.text(f"SELECT count(*) FROM {shape.name}")).scalar_one())  # noqa: S608


def without_timeouts(connection: Connection) -> None:
    """Let statements of this transaction take as long as they do."""
    if connection.dialect.name == "postgresql":
        for statement in _NO_TIMEOUTS:
            connection.execute(sa.text(statement))


def rows(
    connection: Connection, shape: Shape, location: str, *, as_it_goes: bool
) -> Generator[list[Row], None, None]:
    """Give the rows of a table in chunks of :data:`CHUNK`, as they are or *as_it_goes* into another database.

    All chunks but the last one are full.

    Values are as SQLite holds them: integers, text, bytes, None; JSON as its text, UUIDs as hex digits.

    Raises:
        IntegrityError, DatabaseUnavailable: they cannot be read.
    """
    if connection.dialect.name == "sqlite":
        return _sqlite_rows(connection, shape, location, as_it_goes)
    return _postgresql_rows(connection, shape, location, as_it_goes)


def binary(
    connection: Connection, shape: Shape, location: str, *, as_it_goes: bool
) -> Generator[Any, None, None]:
    """Give a table of PostgreSQL as it sends it: one stream of bytes, cut anywhere."""
    with driver_errors(location, shape), _copy_out(connection, shape, as_it_goes) as copy:
        yield from copy


def driver(connection: Connection) -> Any:
    """Return the driver's own connection; a transaction must have begun on it."""
    found: Any = connection.connection.driver_connection
    if is_pipelined(connection):
        found.leave()  # COPY answers while it is sent
    return found


@contextmanager
def driver_errors(location: str, shape: Shape) -> Iterator[None]:
    """Turn what the drivers raise into errors that name the table; SQLAlchemy does not see it."""
    where = f"{location}: table {shape.name}"
    try:
        yield
    except Error:
        raise
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "") or ""
        if name.startswith("SQLITE_CORRUPT") or "decode" in str(error):
            raise IntegrityError(f"{where}: damaged: {error}") from error
        raise DatabaseUnavailable(f"{where}: {error}") from error
    except (ValueError, TypeError, OverflowError, ArithmeticError, AttributeError) as error:
        raise IntegrityError(f"{where}: a row holds what its column cannot: {error}") from error
    except Exception as error:
        raise _of_psycopg(error, where) from error


def _of_psycopg(error: Exception, where: str) -> Exception:
    """Return ours for what psycopg raised, and anything else as it is; the driver may not be installed."""
    if not type(error).__module__.startswith("psycopg"):
        return error
    state = getattr(error, "sqlstate", None) or ""
    if state.startswith(("22", "23")) or (not state and type(error).__name__ == "DataError"):
        return IntegrityError(f"{where}: a row holds what its column cannot: {str(error).strip()}")
    if not state or state.startswith(("08", "57P")):
        return ConnectionLost(f"{where}: {str(error).strip()}")
    return DatabaseUnavailable(f"{where}: {str(error).strip()}")


def _sqlite_rows(
    connection: Connection, shape: Shape, location: str, as_it_goes: bool
) -> Generator[list[Row], None, None]:
    with driver_errors(location, shape):
        cursor = driver(connection).execute(shape.select("sqlite", as_it_goes=as_it_goes))
        try:
            while chunk := cursor.fetchmany(CHUNK):
                yield chunk
        finally:
            cursor.close()


def _postgresql_rows(
    connection: Connection, shape: Shape, location: str, as_it_goes: bool
) -> Generator[list[Row], None, None]:
    with driver_errors(location, shape), _copy_out(connection, shape, as_it_goes) as copy:
        copy.set_types(shape.wire)
        found = iter(copy.rows())
        while chunk := list(islice(found, CHUNK)):
            yield with_digits(chunk, shape) if shape.uuids else chunk


@contextmanager
def _copy_out(connection: Connection, shape: Shape, as_it_goes: bool) -> Iterator[Any]:
    read = shape.select("postgresql", as_it_goes=as_it_goes)
    statement = f"COPY ({read}) TO STDOUT (FORMAT BINARY)"
    with driver(connection).cursor() as cursor, cursor.copy(statement) as copy:
        yield copy


def with_digits(chunk: list[Row], shape: Shape) -> list[Row]:
    """Return rows whose UUIDs are hex digits instead of bytes."""
    return [
        tuple(
            value.hex() if number in shape.uuids and value is not None else value
            for number, value in enumerate(row)
        )
        for row in chunk
    ]


def with_bytes(chunk: list[Row], shape: Shape) -> list[Row]:
    """Return rows whose UUIDs are bytes instead of hex digits."""
    return [
        tuple(
            bytes.fromhex(value) if number in shape.uuids and value is not None else value
            for number, value in enumerate(row)
        )
        for row in chunk
    ]
