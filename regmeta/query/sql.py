"""One SQL statement of a person, read-only: the views (``models.views``) and whatever else may be read.

On SQLite an authoriser lets nothing but SELECT through, no ATTACH and no PRAGMA that changes anything. On
PostgreSQL the statement is the only one of a READ ONLY transaction. What a superuser of PostgreSQL may do
there beside reading tables (files, programs) is not held back: people get a role that may only SELECT
(docs/sql.md).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.db import Database
from regmeta.errors import UsageError
from regmeta.models import VIEWS

TIMEOUT_S: Final = 60.0
ROWS: Final = 1000

_CHECK_EVERY: Final = 10_000  # instructions of SQLite's virtual machine
_READING: Final = frozenset(
    {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
)
_TELLING_PRAGMAS: Final = frozenset({"table_info", "table_xinfo", "table_list", "index_list", "index_info"})


@dataclass(frozen=True, slots=True)
class Answer:
    """What a statement gave; ``is_cut`` if there are more rows."""

    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]
    is_cut: bool


@dataclass(frozen=True, slots=True)
class ViewColumn:
    """One column of a view."""

    view: str
    column: str
    type: str


def run(database: Database, statement: str, *, limit: int = ROWS, timeout_s: float = TIMEOUT_S) -> Answer:
    """Run one statement that reads, and return its rows; bytes come as hexadecimal text.

    Others read and write meanwhile; what is answered is of one moment.

    Raises:
        UsageError: the database refuses it, it would change something, or it takes longer than *timeout_s*.
    """
    text = statement.strip().rstrip(";").strip()
    if not text:
        raise UsageError("no statement")
    with database.read() as connection:
        driver: Any = connection.connection.dbapi_connection
        if database.is_sqlite:
            connection.execute(sa.select(1))  # begins the transaction, which the authoriser would refuse
            with _reading_only(driver, timeout_s):
                return _answer(driver.execute(text), limit)
        return _on_postgresql(connection, driver, text, limit, timeout_s)


def views(database: Database) -> list[ViewColumn]:
    """Return the columns of the views, in their order."""
    with database.read() as connection:
        inspector = sa.inspect(connection)
        return [
            ViewColumn(view, column["name"], _type(column["type"]))
            for view in VIEWS
            for column in inspector.get_columns(view)
        ]


@contextmanager
def _reading_only(driver: sqlite3.Connection, timeout_s: float) -> Iterator[None]:
    until = time.monotonic() + timeout_s

    def may(action: int, argument: str | None, value: str | None, *_: str | None) -> int:
        if action in _READING or (action == sqlite3.SQLITE_PRAGMA and argument in _TELLING_PRAGMAS):
            return sqlite3.SQLITE_OK
        return sqlite3.SQLITE_DENY

    driver.set_authorizer(may)
    driver.set_progress_handler(lambda: time.monotonic() > until, _CHECK_EVERY)
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorname", None) == "SQLITE_INTERRUPT":
            raise UsageError(f"the statement took longer than {timeout_s:g} s") from None
        if getattr(error, "sqlite_errorname", None) == "SQLITE_AUTH":
            raise UsageError("the statement would do more than read: only SELECT is let through") from None
        raise UsageError(f"the database refuses the statement: {error}") from None
    except sqlite3.Warning as error:  # more than one statement
        raise UsageError(f"the database refuses the statement: {error}") from None
    finally:
        driver.set_progress_handler(None, 0)
        driver.set_authorizer(None)


def _on_postgresql(connection: Connection, driver: Any, text: str, limit: int, timeout_s: float) -> Answer:
    import psycopg

    connection.execute(sa.text(f"SET LOCAL statement_timeout = {int(timeout_s * 1000)}"))
    try:
        # A prepared statement is one statement: nothing behind a semicolon leaves the transaction.
        with driver.cursor() as cursor:
            cursor.execute(text, prepare=True)
            return _answer(cursor, limit)
    except psycopg.errors.QueryCanceled:
        raise UsageError(f"the statement took longer than {timeout_s:g} s") from None
    except psycopg.errors.ReadOnlySqlTransaction:
        raise UsageError("the statement would do more than read: only SELECT is let through") from None
    except (psycopg.ProgrammingError, psycopg.DataError, psycopg.NotSupportedError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"the database refuses the statement: {said}") from None


def _answer(cursor: Any, limit: int) -> Answer:
    if not cursor.description:  # PostgreSQL knows a SELECT of nothing
        raise UsageError("the statement gives no rows: only SELECT is let through")
    columns = tuple(column[0] for column in cursor.description)
    found: Sequence[Sequence[object]] = cursor.fetchmany(limit + 1)
    rows = tuple(tuple(map(_plain, row)) for row in found[:limit])
    return Answer(columns, rows, len(found) > limit)


def _type(of: Any) -> str:
    # SQLite knows no type of what is computed: those are texts here.
    return "text" if isinstance(of, sa.types.NullType) else str(of).lower()


def _plain(value: object) -> object:
    if isinstance(value, (bytes, memoryview)):
        return bytes(value).hex()
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    return value
