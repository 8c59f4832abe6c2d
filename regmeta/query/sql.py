"""One SQL statement of a person, read-only: the views (``models.views``) and whatever else may be read.

On SQLite an authoriser lets nothing but SELECT through, no ATTACH and no PRAGMA that changes anything. On
PostgreSQL the statement is a cursor of a READ ONLY transaction. What a superuser of PostgreSQL may do
there beside reading tables (files, programs) is not held back: people get a role that may only SELECT
(docs/sql.md).
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from datetime import time as time_of_day
from decimal import Decimal
from math import isfinite
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.db import Database
from regmeta.errors import ConnectionLost, Contention, UsageError
from regmeta.models import VIEWS

TIMEOUT_S: Final = 60.0
MAX_TIMEOUT_S: Final = 86_400.0
ROWS: Final = 1000
MAX_ROWS: Final = 10_000_000

_MAX_VALUE_BYTES: Final = 16 * 2**20  # [bytes] one call that makes a value cannot be interrupted
_TELLING: Final = re.compile(r"(explain|show|table|values)\b", re.IGNORECASE)  # no cursor takes some of these
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

    Others read and write meanwhile; what is answered is of one moment. No more rows than are asked for leave
    the database.

    Raises:
        UsageError: the database refuses it, it would change something, or it takes longer than *timeout_s*.
        ConnectionLost: the server has gone.
        Contention: the server gave the statement up for another; it may be asked again.
    """
    text = statement.strip().rstrip(";").strip()
    if not text:
        raise UsageError("no statement")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise UsageError("the statement is not UTF-8")
    if not 1 <= limit <= MAX_ROWS:
        raise UsageError(f"limit {limit}: ask for 1 to {MAX_ROWS} rows")
    if not timeout_s > 0:
        raise UsageError(f"a time-out of {timeout_s} s: give more than 0")
    timeout_s = min(timeout_s, MAX_TIMEOUT_S)
    with database.read(plain=True) as connection:
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

    length = driver.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE_BYTES)
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
        driver.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, length)


def _on_postgresql(connection: Connection, driver: Any, text: str, limit: int, timeout_s: float) -> Answer:
    import psycopg

    # What a statement leaves on the session, an advisory lock for one, goes with it.
    connection.detach()
    connection.execute(sa.text(f"SET LOCAL statement_timeout = {int(timeout_s * 1000)}"))
    driver.prepare_threshold = 0  # with None the driver prepares nothing, whatever it is asked for
    try:
        with driver.cursor() as cursor:
            # A prepared statement is one statement: nothing behind a semicolon leaves the transaction. A
            # cursor takes what reads only, and gives no more rows than are fetched.
            if _TELLING.match(text):
                cursor.execute(text, prepare=True)
            else:
                cursor.execute(f"DECLARE regmeta_sql NO SCROLL CURSOR FOR {text}", prepare=True)
                cursor.execute(f"FETCH {limit + 1} FROM regmeta_sql")
            return _answer(cursor, limit)
    except psycopg.errors.QueryCanceled:
        raise UsageError(f"the statement took longer than {timeout_s:g} s") from None
    except psycopg.errors.ReadOnlySqlTransaction:
        raise UsageError("the statement would do more than read: only SELECT is let through") from None
    except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected) as error:
        # A standby ends reads that stand in the way of what it replays: not the statement's fault.
        raise Contention(str(error).splitlines()[0]) from error
    except psycopg.Error as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        if driver.closed:
            raise ConnectionLost(said) from error
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
    """Return a value as JSON and CSV have it too: numbers, text, times in UTC."""
    if isinstance(value, (bytes, memoryview)):
        return bytes(value).hex()
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC)
    if isinstance(value, Decimal):
        is_whole = value.is_finite() and value == value.to_integral_value()
        return int(value) if is_whole else _plain(float(value))
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (str, int, float, datetime)):
        return value
    return value.isoformat() if isinstance(value, (date, time_of_day)) else str(value)
