"""How the database is set up, as a connection of ours sees it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import db
from regmeta.db import Database
from regmeta.maintain.doctor.check import Check, ok, problem, warning
from regmeta.maintain.file_check import damage_of
from regmeta.models import Base

CLOCK_TOLERANCE: Final = timedelta(seconds=60)
OLDEST_POSTGRESQL: Final = 140000

_PRAGMAS: Final[Mapping[str, tuple[object, str]]] = {
    "synchronous": (2, "FULL"),
    "foreign_keys": (1, "ON"),
    "trusted_schema": (0, "OFF"),
    "mmap_size": (0, "0"),
}
_SETTINGS: Final = sa.text("SELECT name, setting FROM pg_settings WHERE name IN :names").bindparams(
    sa.bindparam("names", expanding=True)
)
_DURABLE: Final[Mapping[str, str]] = {
    "fsync": "a power cut can destroy the whole database",
    "full_page_writes": "a power cut can leave torn pages",
    "synchronous_commit": "commits that were acknowledged can be lost",
}
_LIMITS: Final = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
_COLLATIONS: Final = sa.text(
    "SELECT table_name, column_name, collation_name FROM information_schema.columns"
    " WHERE table_schema = current_schema()"
)


def check_engine(database: Database) -> Iterator[Check]:
    """Look at a connection of ours."""
    with database.read() as connection:
        if database.is_sqlite:
            yield from _pragmas(connection)
        else:
            yield from _server(connection)
            yield from _collations(connection, database)


def check_clock(database: Database, host_clock: datetime) -> Iterator[Check]:
    """Compare the database's clock with the host's."""
    with database.read() as connection:
        skew = abs(db.clock(connection) - host_clock)
    found = f"host and database differ by {skew.total_seconds():.0f} s"
    if skew > CLOCK_TOLERANCE:
        yield warning("clock", found, "let NTP set the clocks of both hosts; leases and expiry go by them")
    else:
        yield ok("clock", found)


def check_pages(database: Database) -> Iterator[Check]:
    """Let SQLite look through its file; it takes as long as reading it does."""
    with database.read() as connection:
        found = damage_of(lambda statement: connection.exec_driver_sql(statement).fetchall(), 5, quick=True)
    if not found:
        yield ok("pages", "quick_check found nothing")
    else:
        yield problem("pages", "; ".join(found), "put a copy in place: 'regmeta restore COPY --yes'")


def _pragmas(connection: Connection) -> Iterator[Check]:
    def value(name: str) -> object:
        return connection.exec_driver_sql(f"PRAGMA {name}").scalar()

    mode = value("journal_mode")
    if mode == "wal":
        yield ok("journal_mode", "wal")
    else:
        yield problem("journal_mode", str(mode), "run 'PRAGMA journal_mode=WAL' with the sqlite3 program")
    wrong = [
        f"{name} is {value(name)}, not {text}" for name, (at, text) in _PRAGMAS.items() if value(name) != at
    ]
    busy_ms = int(str(value("busy_timeout") or 0))
    if busy_ms < 10_000:
        wrong.append(f"busy_timeout is {busy_ms} ms, not 10000 or more")
    if wrong:
        yield problem("pragmas", "; ".join(wrong), "this SQLite ignores settings: use another build of it")
    else:
        yield ok("pragmas", f"synchronous FULL, foreign_keys ON, busy_timeout {busy_ms} ms, mmap off")


def _server(connection: Connection) -> Iterator[Check]:
    names = [*_DURABLE, *_LIMITS, "server_version", "server_version_num", "server_encoding"]
    found: dict[str, str] = {row.name: row.setting for row in connection.execute(_SETTINGS, {"names": names})}
    if int(found["server_version_num"]) < OLDEST_POSTGRESQL:
        yield warning("postgresql", found["server_version"], "use PostgreSQL 14 or newer")
    else:
        yield ok("postgresql", f"PostgreSQL {found['server_version']}")
    for name, harm in _DURABLE.items():
        if found[name] == "off":
            yield problem(name, f"off: {harm}", f"set {name} = on in postgresql.conf and reload")
        else:
            yield ok(name, found[name])
    unlimited = [name for name in _LIMITS if found[name] == "0"]
    if unlimited:
        advice = "let connections keep their 'options': a pooler between may drop them"
        yield warning("time-outs", f"none in force for {', '.join(unlimited)}", advice)
    else:
        yield ok("time-outs", ", ".join(f"{name} {found[name]} ms" for name in _LIMITS))
    if found["server_encoding"] == "UTF8":
        yield ok("encoding", "UTF8")
    else:
        advice = "load a copy into a database made with ENCODING 'UTF8'"
        yield problem("encoding", found["server_encoding"], advice)
    if connection.execute(sa.text("SELECT pg_is_in_recovery()")).scalar():
        yield problem("role", "a standby: it takes no writes", "name the primary in 'database'")
    else:
        yield ok("role", "primary")


def _collations(connection: Connection, database: Database) -> Iterator[Check]:
    dialect = database.engine.dialect
    named = {
        (table.name, column.name)
        for table in Base.metadata.tables.values()
        for column in table.columns
        if getattr(column.type.dialect_impl(dialect), "collation", None) == "C"
    }
    wrong = sorted(
        f"{table}.{column} ({collation or 'default'})"
        for table, column, collation in connection.execute(_COLLATIONS)
        if (table, column) in named and collation != "C"
    )
    if wrong:
        advice = 'names must sort byte by byte: ALTER COLUMN … TYPE … COLLATE "C", then REINDEX'
        yield problem("collation", ", ".join(wrong), advice)
    else:
        yield ok("collation", "names sort byte by byte")
