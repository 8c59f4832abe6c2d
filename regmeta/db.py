"""The engine, transactions and the check of the schema.

``Database.transaction()`` is the one place that commits and rolls back. What goes on between the first
row lock and the commit is SQL only: no file and no network (design, section 3).

SQLite runs in WAL mode with ``synchronous=FULL``; each writing transaction is ``BEGIN IMMEDIATE``. Releases
below 3.51.3 can damage the database when one connection checkpoints while another commits, so there one
file lock covers BEGIN to COMMIT, checkpoints and close. PostgreSQL runs at READ COMMITTED with bounded
waits; reads are REPEATABLE READ, so that what one call answers is of one moment. Statements go out without
waiting for each other where nobody reads the answer (``regmeta.postgresql``).
"""

from __future__ import annotations

import logging
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, cast
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import Session

from regmeta import errors, metrics, tracing
from regmeta.failpoints import is_armed, reach
from regmeta.models.base import DatabaseClock, UtcTime

SCHEMA_HEAD: Final = "0006"
"""The revision that this release works with; a test holds it against ``migrations/``."""
COPYING: Final = "copying"
"""What stands for a revision in a database that ``regmeta db copy`` is filling."""
RETIRED: Final = "retired"
"""What stands for a revision in a database whose rows ``regmeta db copy`` has moved to another one."""
MOVED_STATE: Final = "RM001"
"""PostgreSQL's code for what the triggers of a database that is moved refuse with."""

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

CLOCK: Final = sa.select(sa.type_coerce(DatabaseClock(), UtcTime()))
"""The database's clock, for who asks for it together with something else."""
_STAMP: Final = sa.select(
    sa.type_coerce(DatabaseClock(), UtcTime()),
    sa.cast(sa.cast(sa.func.pg_current_xact_id(), sa.Text), sa.BigInteger),
)
_VERSION: Final = sa.text("SELECT version_num FROM alembic_version")
_MOVED_TO: Final = sa.text("SELECT location FROM moved_to")

_ALL_ANSWERED: Final = sa.select(sa.literal(1))
_LATER: Final = {"regmeta_later": True}
_LIMITS: Final = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")

FileLock = Callable[[], AbstractContextManager[None]]
Asked = tuple[Any, Any]
"""A statement and its parameters: a mapping, a list of them, or None."""


@dataclass(frozen=True, slots=True)
class Server:
    """How a PostgreSQL is used. Nothing of it matters on SQLite.

    *pooled*: a pooler stands before it that gives each transaction whichever connection is free (PgBouncer in
    transaction mode). Then nothing is left on a session: no start-up options, no prepared statements.
    """

    pool_size: int = 5  # connections that are kept open, of one process
    pool_overflow: int = 10  # and so many more while all are at work
    lock_timeout_s: float = LOCK_TIMEOUT_S
    statement_timeout_s: float = STATEMENT_TIMEOUT_S
    idle_timeout_s: float = STATEMENT_TIMEOUT_S  # of a transaction in which nothing happens
    pooled: bool = False

    @property
    def limits(self) -> Mapping[str, str]:
        """The names and values of the server's parameters that bound what is waited for."""
        bounds = (self.lock_timeout_s, self.statement_timeout_s, self.idle_timeout_s)
        return dict(zip(_LIMITS, (f"{round(bound * 1000)}ms" for bound in bounds), strict=True))


class Database:
    """One database and its pool of connections. Safe to use from several threads."""

    def __init__(self, url: str, *, file_lock: FileLock | None = None, server: Server | None = None) -> None:
        """Prepare to connect; nothing is opened yet.

        *file_lock* makes a lock that other processes on this database respect; used on SQLite only. *server*
        is used on PostgreSQL only.

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
            self.engine = _postgresql_engine(self.url, server or Server())

    @property
    def is_sqlite(self) -> bool:
        """Whether rows live in an SQLite file."""
        return self.engine.dialect.name == "sqlite"

    @property
    def location(self) -> str:
        """What messages call it: no password."""
        return self.url.render_as_string(hide_password=True)

    @contextmanager
    def transaction(self, name: str, *, quiet: bool = False) -> Iterator[Connection]:
        """Run one writing transaction: committed when the block ends, rolled back when it raises.

        *name* is that of the step, in failpoints and messages. In a *quiet* one PostgreSQL is not waited for
        after a statement that changes rows and returns none: an error of it comes out of a later statement,
        or of the commit, and its ``rowcount`` is not known.

        Raises:
            Contention: given up for another transaction, or waited too long; nothing has happened.
            ConnectionLost: nothing is known of the commit.
            ConstraintViolated: a row was refused; nothing has happened.
            DatabaseUnavailable: anything else the database says; nothing has happened.
        """
        with (
            tracing.span(f"transaction {name}"),
            metrics.timed_transaction(name),
            self._serialise(),
            _translated(self.location),
        ):
            connection = self.engine.connect().execution_options(
                regmeta_begin="BEGIN IMMEDIATE", regmeta_location=self.location, regmeta_quiet=quiet
            )
            with connection:
                try:
                    yield connection
                    if quiet and is_armed():
                        # Who stands still at the point below has done everything but commit.
                        connection.execute(_ALL_ANSWERED)
                except BaseException:
                    # A broken connection cannot roll back, and need not.
                    if not connection.invalidated:
                        connection.rollback()
                    raise
                reach(f"{name}.committing")
                with metrics.timed(metrics.COMMIT_SECONDS):
                    _commit(connection)
                reach(f"{name}.committed")

    @contextmanager
    def read(self, *, plain: bool = False) -> Iterator[Connection]:
        """Read in one transaction, of one moment; it waits for no writer and no writer waits for it.

        A *plain* one is for who speaks to the driver of PostgreSQL directly: with COPY, or a cursor of it.
        """
        with _translated(self.location), self.engine.connect() as connection:
            if not self.is_sqlite:
                how = "plain read" if plain else "read"
                connection.execution_options(regmeta_begin=how)
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
        if found == RETIRED:
            raise errors.DatabaseMoved(
                f"{self.location} was retired by 'regmeta db copy': its rows are in {self._moved_to()}; let"
                " REGMETA_DATABASE, or 'database' in the settings' file, name that one"
            )
        if found == COPYING:
            raise errors.DatabaseMoved(
                f"{self.location} is being filled by 'regmeta db copy': run that again to finish it"
            )
        if found != SCHEMA_HEAD:
            raise errors.SchemaMismatch(
                f"{self.location} is at schema revision {found}, this release needs {SCHEMA_HEAD}:"
                " see 'regmeta db current' and 'regmeta db upgrade'"
            )

    def _moved_to(self) -> str:
        with self.read() as connection:
            return str(connection.execute(_MOVED_TO).scalar())

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
        """Lend a connection for changing the schema; nothing is begun.

        On SQLite foreign keys are off, on PostgreSQL a statement may take its time: an index of a large table
        does. Locks are waited for as usual.
        """
        with self._serialise(), _translated(self.location):
            begin = {"regmeta_begin": "BEGIN IMMEDIATE"} if self.is_sqlite else {}
            connection = self.engine.connect().execution_options(**begin)
            with connection:
                _say_to_driver(connection, "PRAGMA foreign_keys=OFF", "SET statement_timeout = 0")
                try:
                    yield connection
                finally:
                    if connection.in_transaction() and not connection.invalidated:
                        connection.rollback()  # of what was not committed; else nothing more could be said
                    _say_to_driver(connection, "PRAGMA foreign_keys=ON", "RESET statement_timeout")

    def close(self) -> None:
        """Close the pool. On SQLite the last connection to leave checkpoints, so it takes the file lock."""
        try:
            with self._serialise():
                self.engine.dispose()
        except errors.Error as error:
            # Another process stands still inside its commit, or the disk is read-only. What was asked
            # for is done; the connections end with this process.
            _log.warning("the database was not closed: %s", error)


def _commit(connection: Connection) -> None:
    try:
        connection.commit()
    except BaseException as error:
        if not isinstance(error, Exception):
            # Interrupted just before it was said. SQLAlchemy takes the transaction for ended, and would give
            # the connection back as it is: whoever got it next would commit this as well.
            connection.invalidate()
        raise


def _say_to_driver(connection: Connection, on_sqlite: str, on_postgresql: str) -> None:
    if not connection.invalidated:
        driver_connection: Any = connection.connection.dbapi_connection
        driver_connection.execute(on_sqlite if connection.dialect.name == "sqlite" else on_postgresql)


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
                    if is_pipelined(connection) and connection.get_execution_options().get("regmeta_quiet"):
                        connection.execute(_ALL_ANSWERED)  # what fails, fails in here
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
    return stamped(connection.execute(*ask_stamp(connection)))


def ask_stamp(connection: Connection) -> Asked:
    """Return what to ask for a stamp together with something else, behind the lock; see :func:`stamped`."""
    return (CLOCK if connection.dialect.name == "sqlite" else _STAMP), None


def stamped(result: sa.CursorResult[Any]) -> Stamp:
    """Return the stamp that :func:`ask_stamp` asked for."""
    row: Sequence[Any] = result.one()
    return Stamp(row[0], row[1] if len(row) > 1 else None)


def clock(connection: Connection) -> datetime:
    """Return the database's clock now, by a statement of its own: never the transaction's start."""
    return connection.execute(CLOCK).scalar_one()


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
        how = connection.get_execution_options().get("regmeta_begin", "BEGIN")
        if how == "BEGIN":
            connection.exec_driver_sql(how)
            return
        with metrics.timed(metrics.LOCK_WAIT_SECONDS, "begin"):
            connection.exec_driver_sql(how)

    return engine


def _postgresql_engine(url: sa.URL, server: Server) -> Engine:
    if url.get_backend_name() != "postgresql":
        raise errors.UsageError(f"database {url.render_as_string()}: use sqlite:/// or postgresql://")
    try:
        from regmeta.postgresql import make_engine

        return make_engine(
            url,
            pool_size=server.pool_size,
            pool_overflow=server.pool_overflow,
            limits=server.limits,
            pooled=server.pooled,
            connect_timeout_s=LOCK_TIMEOUT_S,
        )
    except ImportError as error:
        raise errors.UsageError(
            f"PostgreSQL's driver is missing ({error}): pip install 'regmeta[postgres]'"
        ) from error


def is_pipelined(connection: Connection) -> bool:
    """Whether statements go out without waiting for each other; never on SQLite."""
    if connection.dialect.name == "sqlite":
        return False
    if not connection.in_transaction():
        connection.begin()  # which decides it; nothing is waited for
    driver: Any = connection.connection.dbapi_connection
    return bool(driver.is_pipelined)


def together(connection: Connection, *asked: Asked) -> list[sa.CursorResult[Any]]:
    """Run statements in their order, in one round trip on PostgreSQL; return their results in that order.

    Each sees what those before it have done. One with a list of parameters that returns rows must be the
    last.

    Raises:
        Error: what the first of them that failed raises; those behind it were not run.
    """
    if not asked or not is_pipelined(connection):
        return [connection.execute(statement, parameters) for statement, parameters in asked]
    later: list[Any] = [
        connection.execute(statement, parameters, execution_options=_LATER)
        for statement, parameters in asked[:-1]
    ]
    statement, parameters = asked[-1]
    last = connection.execute(statement, parameters)
    return [*(one.result() for one in later), last]


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
    if name == "SQLITE_CONSTRAINT_TRIGGER" or state == MOVED_STATE:
        return errors.DatabaseMoved(text.splitlines()[0])
    if _NO_REPOSITORIES.search(text):
        return errors.DatabaseMoved(
            f"{location} has no repositories any more: it was retired by 'regmeta db copy', and the settings"
            " name it still"
        )
    if isinstance(error, sa.exc.IntegrityError):
        return errors.ConstraintViolated(text)
    if state in _NOT_PERMITTED:
        return errors.NotPermitted(f"{text.splitlines()[0]} ({_NOT_PERMITTED[state]})")
    # psycopg gives no state where no server answered: it is away, or starting again.
    unanswered = isinstance(error, sa.exc.OperationalError) and not name and not state
    if error.connection_invalidated or unanswered or state.startswith(("08", "57P")):
        return errors.ConnectionLost(text)
    return errors.DatabaseUnavailable(text)


# What who has a retired database open is told: on SQLite, on PostgreSQL.
_NO_REPOSITORIES: Final = re.compile(
    r"no such table: (main\.)?repositories\b|relation \"(\w+\.)?repositories\" does not exist"
)

# serialization failure, deadlock, lock not available, statement time-out
_CONTENTION: Final = frozenset({"40001", "40P01", "55P03", "57014"})

# insufficient privilege, transaction that may not write
_NOT_PERMITTED: Final = {
    "42501": "this role may not do that: see 'regmeta db roles'",
    "25006": "this role may only read, or the server is a standby",
}
