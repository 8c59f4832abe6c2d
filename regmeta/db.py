"""The engine, transactions and the check of the schema.

``Database.transaction()`` is the one place that commits and rolls back. What goes on between the first
row lock and the commit is SQL only: no file and no network (design, section 3).

SQLite runs in WAL mode with ``synchronous=FULL``; each writing transaction is ``BEGIN IMMEDIATE``. Releases
below 3.51.3 can damage the database when one connection checkpoints while another commits, so there one
file lock covers BEGIN to COMMIT, checkpoints and close. PostgreSQL runs at READ COMMITTED with bounded
waits; reads are REPEATABLE READ, so that what one call answers is of one moment.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, cast
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import Session

from regmeta import errors
from regmeta.failpoints import reach
from regmeta.models.base import DatabaseClock, UtcTime

SCHEMA_HEAD: Final = "0005"
"""The revision that this release works with; a test holds it against ``migrations/``."""

_log = logging.getLogger(__name__)

BUSY_TIMEOUT_S: Final = 30
LOCK_TIMEOUT_S: Final = 10
STATEMENT_TIMEOUT_S: Final = 60
PRAGMAS: Final = (
    f"busy_timeout={BUSY_TIMEOUT_S * 1000}",
    "foreign_keys=ON",
    "synchronous=FULL",
    "mmap_size=0",
    "cache_size=-32768",  # [KiB] of pages, at most: a search of a large registry touches some thousand
    "trusted_schema=OFF",
)
WAL_RESET_FIXED_IN: Final = (3, 51, 3)
OLDEST_SQLITE: Final = (3, 40, 0)

_CLOCK: Final = sa.select(sa.type_coerce(DatabaseClock(), UtcTime()))
_STAMP: Final = sa.select(
    sa.type_coerce(DatabaseClock(), UtcTime()),
    sa.cast(sa.cast(sa.func.pg_current_xact_id(), sa.Text), sa.BigInteger),
)
_VERSION: Final = sa.text("SELECT version_num FROM alembic_version")

FileLock = Callable[[], AbstractContextManager[None]]


class Database:
    """One database and its pool of connections. Safe to use from several threads."""

    def __init__(self, url: str, *, file_lock: FileLock | None = None) -> None:
        """Prepare to connect; nothing is opened yet.

        *file_lock* makes a lock that other processes on this database respect; used on SQLite only.

        Raises:
            UsageError: *url* is not of a database that regmeta works with, or its driver is not installed.
        """
        try:
            self.url = sa.make_url(url)
        except sa.exc.ArgumentError as error:
            # The text may hold a password, so it is not repeated.
            raise errors.UsageError(
                "database: not a URL; write sqlite:////path or postgresql://user@host/name"
            ) from error
        self._serialise: FileLock = nullcontext
        if self.url.get_backend_name() == "sqlite":
            if sqlite3.sqlite_version_info < WAL_RESET_FIXED_IN and file_lock is not None:
                self._serialise = file_lock
            self.engine = _sqlite_engine(self.url.database or "")
        else:
            self.engine = _postgresql_engine(self.url)

    @property
    def is_sqlite(self) -> bool:
        """Whether rows live in an SQLite file."""
        return self.engine.dialect.name == "sqlite"

    @property
    def location(self) -> str:
        """What messages call it: no password."""
        return self.url.render_as_string(hide_password=True)

    @contextmanager
    def transaction(self, name: str) -> Iterator[Connection]:
        """Run one writing transaction: committed when the block ends, rolled back when it raises.

        *name* is that of the step, in failpoints and messages.

        Raises:
            Contention: given up for another transaction, or waited too long; nothing has happened.
            ConnectionLost: nothing is known of the commit.
            ConstraintViolated: a row was refused; nothing has happened.
            DatabaseUnavailable: anything else the database says; nothing has happened.
        """
        with self._serialise(), _translated(self.location):
            connection = self.engine.connect().execution_options(
                regmeta_begin="BEGIN IMMEDIATE", regmeta_location=self.location
            )
            with connection:
                try:
                    yield connection
                except BaseException:
                    # A broken connection cannot roll back, and need not.
                    if not connection.invalidated:
                        connection.rollback()
                    raise
                reach(f"{name}.committing")
                connection.commit()
                reach(f"{name}.committed")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Read in one transaction, of one moment; it waits for no writer and no writer waits for it."""
        with _translated(self.location), self.engine.connect() as connection:
            if not self.is_sqlite:
                connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            yield connection

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Read models through the ORM, of one moment. For analysis; what is written to it is dropped."""
        with self.read() as connection, Session(connection) as session:
            yield session

    def check_schema(self) -> None:
        """Refuse a database that this release does not understand; looks at one row.

        Raises:
            SchemaMismatch: the schema is older or newer than this release, or there is none.
        """
        with self.read() as connection:
            found = self.schema_revision(connection)
        if found is None:
            raise errors.SchemaMismatch(f"{self.location} holds no regmeta schema: 'regmeta init' makes one")
        if found != SCHEMA_HEAD:
            raise errors.SchemaMismatch(
                f"{self.location} is at schema revision {found}, this release needs {SCHEMA_HEAD}:"
                " see 'regmeta db current' and 'regmeta db upgrade'"
            )

    def schema_revision(self, connection: Connection) -> str | None:
        """Return the revision of the schema, None where there is no schema at all."""
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        return cast("str | None", connection.execute(_VERSION).scalar())

    def use_write_ahead_log(self) -> None:
        """Put a new SQLite file in WAL mode; it stays in it."""
        with self.schema_connection() as connection:
            driver_connection: Any = connection.connection.dbapi_connection
            mode = driver_connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        if mode != "wal":
            raise errors.DatabaseUnavailable(f"{self.location}: no WAL mode on this file system ({mode})")

    @contextmanager
    def schema_connection(self) -> Iterator[Connection]:
        """Lend a connection for changing the schema: foreign keys are off on SQLite, nothing is begun."""
        with self._serialise(), _translated(self.location):
            connection = self.engine.connect().execution_options(regmeta_begin="BEGIN IMMEDIATE")
            with connection:
                _set_foreign_keys(connection, "OFF")
                try:
                    yield connection
                finally:
                    _set_foreign_keys(connection, "ON")

    def close(self) -> None:
        """Close the pool. On SQLite the last connection to leave checkpoints, so it takes the file lock."""
        try:
            with self._serialise():
                self.engine.dispose()
        except errors.Error as error:
            # Another process stands still inside its commit, or the disk is read-only. What was asked
            # for is done; the connections end with this process.
            _log.warning("the database was not closed: %s", error)


def _set_foreign_keys(connection: Connection, value: str) -> None:
    if connection.dialect.name == "sqlite" and not connection.invalidated:
        driver_connection: Any = connection.connection.dbapi_connection
        driver_connection.execute(f"PRAGMA foreign_keys={value}")


@contextmanager
def savepoint(connection: Connection) -> Iterator[None]:
    """Run part of a transaction; when it raises, this part is undone and the rest stands.

    Raises:
        Error: what :meth:`Database.transaction` does. After anything but a refused row the transaction
            itself should be given up.
    """
    location = connection.get_execution_options()["regmeta_location"]
    failure: BaseException | None = None
    with _translated(location):
        try:
            with connection.begin_nested():
                try:
                    yield
                except BaseException as error:
                    failure = error
                    raise
        except sa.exc.DBAPIError as error:
            if failure is None or failure is error:
                raise
            # Where the disk is full SQLite gives the whole transaction up; that is what went wrong.
            reason = getattr(failure, "orig", failure)
            raise errors.DatabaseUnavailable(f"{location}: {reason}") from failure


@dataclass(frozen=True, slots=True)
class Stamp:
    """When something happened, by the database's clock, and in which PostgreSQL transaction."""

    now: datetime
    transaction_id: int | None


def stamp(connection: Connection) -> Stamp:
    """Return the clock and the transaction's id; ask after the lock that orders what is stamped."""
    if connection.dialect.name == "sqlite":
        return Stamp(clock(connection), None)
    now, transaction_id = connection.execute(_STAMP).one()
    return Stamp(now, transaction_id)


def clock(connection: Connection) -> datetime:
    """Return the database's clock now, by a statement of its own: never the transaction's start."""
    return connection.execute(_CLOCK).scalar_one()


def _sqlite_engine(path: str) -> Engine:
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise errors.DatabaseUnavailable(
            f"SQLite {sqlite3.sqlite_version} is too old: 3.40 or newer is needed"
        )
    address = f"file:{quote(path, errors='surrogateescape')}?mode=rw"

    def connect() -> sqlite3.Connection:
        # Without isolation_level=None the driver begins and commits behind our back.
        connection = sqlite3.connect(
            address, uri=True, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT_S
        )
        try:
            for pragma in PRAGMAS:
                connection.execute(f"PRAGMA {pragma}").close()
        except BaseException:  # not a database, or not readable
            connection.close()
            raise
        return connection

    engine = sa.create_engine("sqlite://", creator=connect, poolclass=sa.QueuePool)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("regmeta_begin", "BEGIN"))

    return engine


def _postgresql_engine(url: sa.URL) -> Engine:
    if url.get_backend_name() != "postgresql":
        raise errors.UsageError(f"database {url.render_as_string()}: use sqlite:/// or postgresql://")
    options = (
        f"-c lock_timeout={LOCK_TIMEOUT_S}s -c statement_timeout={STATEMENT_TIMEOUT_S}s"
        f" -c idle_in_transaction_session_timeout={STATEMENT_TIMEOUT_S}s"
    )
    try:
        return sa.create_engine(
            url.set(drivername="postgresql+psycopg"),
            connect_args={"options": options, "connect_timeout": LOCK_TIMEOUT_S},
            isolation_level="READ COMMITTED",
            # A connection that was cut while it lay idle must not fail the read that comes next.
            pool_pre_ping=True,
        )
    except ImportError as error:
        raise errors.UsageError(
            f"PostgreSQL's driver is missing ({error}): pip install 'regmeta[postgres]'"
        ) from error


@contextmanager
def _translated(location: str) -> Iterator[None]:
    """Turn the drivers' errors into ours, in this one place."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        raise _translation(error, location) from error
    except sqlite3.Error as error:  # a connection that could not be opened
        raise errors.DatabaseUnavailable(f"{location}: {error}") from error


def _translation(error: sa.exc.DBAPIError, location: str) -> errors.Error:
    original: Any = error.orig
    text = f"{location}: {str(original).strip()}"
    name = getattr(original, "sqlite_errorname", None) or ""
    state = getattr(original, "sqlstate", None) or ""
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) or state in _CONTENTION:
        return errors.Contention(text)
    if isinstance(error, sa.exc.IntegrityError):
        return errors.ConstraintViolated(text)
    # psycopg gives no state where no server answered: it is away, or starting again.
    unanswered = isinstance(error, sa.exc.OperationalError) and not name and not state
    if error.connection_invalidated or unanswered or state.startswith(("08", "57P")):
        return errors.ConnectionLost(text)
    return errors.DatabaseUnavailable(text)


# serialization failure, deadlock, lock not available, statement time-out
_CONTENTION: Final = frozenset({"40001", "40P01", "55P03", "57014"})
