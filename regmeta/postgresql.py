"""How PostgreSQL is spoken to: few round trips. Loaded only where rows are on PostgreSQL.

Waiting for answers is most of what a transaction costs when the server is another machine. So a transaction
is a *pipeline* (libpq's pipeline mode): what is said goes out at once, and is waited for only where somebody
reads the answer. BEGIN goes out together with the first statement and COMMIT with the last. The server runs
the statements one after the other, as they were sent, each with a snapshot of its own: the order of locks,
and what a statement sees, are the same as without a pipeline.

Where one statement fails the server skips all that was sent behind it, the COMMIT too. So an answer that is
not waited for can be late, but never lost: its error comes out of the next wait, at the latest out of COMMIT.
"""

from __future__ import annotations

import select
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import psycopg
import sqlalchemy as sa
from psycopg.pq import ConnStatus, PipelineStatus, TransactionStatus
from sqlalchemy import event
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg, PGExecutionContext_psycopg
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.engine.interfaces import ExecuteStyle

from regmeta import tracing

PREPARE_AFTER: Final = 5  # times that a connection says the same before the server keeps the plan

_COMMIT: Final = "COMMIT"
_AT_BEGIN: Final = "begin"

# Execution options.
UNANSWERED: Final = "regmeta_unanswered"  # nobody reads what this one statement answers
QUIET: Final = "regmeta_quiet"  # what changes rows and returns none is not waited for
LATER: Final = "regmeta_later"  # the answer is read after those of others


class PipelinedConnection(psycopg.Connection[Any]):
    """A connection that is in pipeline mode from the begin of a transaction to its end.

    It is in autocommit mode for its driver, which would wait for the answer to a BEGIN of its own: who uses
    it says BEGIN.
    """

    _scope: Any = None  # of the pipeline that is open
    _pipeline_now: psycopg.Pipeline | None = None
    # Where nothing was written they are the same, but after a ROLLBACK the driver forgets what it prepared.
    _undo: str = "ROLLBACK"
    used_s: float = 0.0  # by the monotonic clock, when it was last answered

    @property
    def is_pipelined(self) -> bool:
        """Whether answers are waited for only when they are asked for."""
        return self._pipeline_now is not None

    def enter(self, *, reads: bool) -> None:
        """Begin to send without waiting, for a transaction that *reads* and can do nothing else, or any."""
        self._undo = "COMMIT" if reads else "ROLLBACK"
        if self._scope is None and not self.closed:  # what is closed says so when it is used
            scope = self.pipeline()
            self._pipeline_now = scope.__enter__()
            self._scope = scope

    def wait(self, *arguments: Any, **options: Any) -> Any:
        """Wait as the driver does, and until all that was said has left.

        The driver stops sending when it has said its last word, though not all of it may have fit into the
        socket. Then it waits for an answer to what the server has not heard to its end: for ever.
        """
        found = super().wait(*arguments, **options)
        pipeline = self._pipeline_now
        while pipeline is not None and self.pgconn.status == ConnStatus.OK and self.pgconn.flush():
            # What the server says meanwhile is taken in, or it would wait as well.
            super().wait(pipeline._communicate_gen())
        return found

    def wait_for_answers(self) -> None:
        """Wait until all that was sent is answered.

        Raises:
            psycopg.Error: that of the first statement that failed.
        """
        if self._pipeline_now is not None:
            try:
                self._pipeline_now.sync()
            except psycopg.Error as error:
                self.settle()
                raise _first_of(error) from None

    def settle(self) -> None:
        """After an error, get what is outstanding out of the way; all of it failed with that."""
        if self._pipeline_now is not None:
            with suppress(psycopg.Error):
                self._pipeline_now.sync()
            # What it was to prepare behind the error the server has skipped, and the driver does not notice.
            self._prepared.clear()

    def leave(self) -> None:
        """Do the same, and wait for each answer from now on."""
        scope, self._scope, self._pipeline_now = self._scope, None, None
        if scope is not None:
            scope.__exit__(None, None, None)

    def commit(self) -> None:
        """Commit; where answers are outstanding, theirs and that of COMMIT come in one round trip.

        Raises:
            psycopg.Error: a statement or the COMMIT failed.
        """
        if self._scope is None:
            super().commit()
        else:
            try:
                with self.cursor() as cursor:
                    # Not prepared, so that it can be recognised by who looks at what is sent.
                    cursor.execute(_COMMIT, prepare=False)
                    self.leave()
                    done = cursor.statusmessage
            except psycopg.Error as error:
                # An error of a statement before: the COMMIT was skipped, and the transaction is still open.
                self._roll_back_at_any_price()
                raise _first_of(error) from None
            if done != "COMMIT":
                # What PostgreSQL answers where an error before it was swallowed: nothing was committed.
                raise psycopg.errors.InFailedSqlTransaction(f"COMMIT was answered by {done}")
        self.used_s = time.monotonic()

    def rollback(self) -> None:
        """Roll back; what is outstanding fails with it. A connection that cannot do that is closed."""
        if self._scope is not None:
            try:
                with self.cursor() as cursor:
                    cursor.execute(self._undo, prepare=False)
                self.leave()
            except psycopg.Error:
                # An error that nobody has waited for: the ROLLBACK was skipped with the rest.
                self._leave_at_any_price()
        super().rollback()
        self.used_s = time.monotonic()

    def _leave_at_any_price(self) -> None:
        with suppress(psycopg.Error):
            self.leave()
        if self.pgconn.status != ConnStatus.BAD and self.pgconn.pipeline_status != PipelineStatus.OFF:
            self.close()

    def _roll_back_at_any_price(self) -> None:
        self._leave_at_any_price()
        try:
            super().rollback()
        except psycopg.Error:
            self.close()

    def is_silent(self) -> bool:
        """Whether nothing has come since the last answer; a server that ends says so or hangs up."""
        if self.closed or self.pgconn.transaction_status != TransactionStatus.IDLE:
            return False
        waiting = select.poll()
        waiting.register(self.pgconn.socket, select.POLLIN)
        return not waiting.poll(0)


def _first_of(error: psycopg.Error) -> psycopg.Error:
    """Return the error because of which the server skipped what was sent behind."""
    found = error
    while isinstance(found, psycopg.errors.PipelineAborted) and isinstance(found.__context__, psycopg.Error):
        found = found.__context__
    return found


class Later:
    """An answer that has been asked for; it can be read when that of a later statement has come."""

    def __init__(self, context: PipelinedContext) -> None:
        self._context = context

    def result(self) -> sa.CursorResult[Any]:
        """Return what ``Connection.execute`` would have."""
        result: sa.CursorResult[Any] = self._context.answered()
        return result


class PipelinedContext(PGExecutionContext_psycopg):
    """Waits for the answer to a statement where it has to."""

    def _setup_result_proxy(self) -> Any:
        connection = self.cursor.connection
        if isinstance(connection, PipelinedConnection) and connection.is_pipelined:
            if self.execution_options.get(LATER):
                return Later(self)
            if self._is_read():
                connection.wait_for_answers()
        return self.answered()

    def answered(self) -> Any:
        """Return the result, whose answer is here or of no interest."""
        return super()._setup_result_proxy()  # type: ignore[no-untyped-call]

    def pre_exec(self) -> None:
        """Leave the pipeline for good for a cursor of the server's: that works outside only."""
        if self._is_server_side:
            connection: Any = self._dbapi_connection.dbapi_connection
            connection.leave()
        super().pre_exec()  # type: ignore[no-untyped-call]

    def _is_read(self) -> bool:
        if self.execute_style is ExecuteStyle.INSERTMANYVALUES:
            return False  # read already
        compiled: Any = self.compiled
        if compiled is None:
            return not self.execution_options.get(UNANSWERED)
        changes_only = self.is_crud and not compiled.effective_returning
        return not (changes_only and self.execution_options.get(QUIET))


class Dialect(PGDialect_psycopg):
    """SQLAlchemy's own, with connections of ours."""

    supports_statement_cache = True
    execution_ctx_cls = PipelinedContext
    trusted_for_s: float = 30.0  # [s] so long a connection may lie idle before it is asked whether it works

    def connect(self, *arguments: Any, **named: Any) -> Any:
        """Open a connection."""
        return PipelinedConnection.connect(*arguments, **named)

    def do_ping(self, dbapi_connection: Any) -> bool:
        """Find out whether a connection from the pool works; asks the server only where there is doubt.

        A server that was stopped, or ended this connection, has closed its side: that is seen without a
        round trip. One whose machine has gone says nothing, so after a while the connection is tried.
        """
        idle_s = time.monotonic() - dbapi_connection.used_s
        if idle_s < self.trusted_for_s and dbapi_connection.is_silent():
            return True
        found = super().do_ping(dbapi_connection)  # type: ignore[no-untyped-call]
        dbapi_connection.used_s = time.monotonic()
        return bool(found)


_BEGIN: Final = "BEGIN ISOLATION LEVEL READ COMMITTED"
_BEGIN_READ: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


def make_engine(
    url: sa.URL,
    *,
    pool_size: int,
    pool_overflow: int,
    limits: Mapping[str, str],
    pooled: bool,
    connect_timeout_s: int,
) -> sa.Engine:
    """Return the engine of a server, or of a pooler (*pooled*) before it; see ``regmeta.db.Server``.

    *limits* are parameters of the server that bound what is waited for.
    """
    sa.dialects.registry.register("postgresql.regmeta", __name__, "Dialect")
    prepare_after = None if pooled else PREPARE_AFTER
    engine = sa.create_engine(
        url.set(drivername="postgresql+regmeta"),
        connect_args={
            **_connect_arguments(url, {} if pooled else limits, connect_timeout_s),
            "prepare_threshold": prepare_after,
        },
        # BEGIN is ours to say, as on SQLite.
        isolation_level="AUTOCOMMIT",
        use_native_hstore=False,  # asked for on each new connection otherwise
        pool_size=pool_size,
        max_overflow=pool_overflow,
        # A connection that was cut while it lay idle must not fail what comes next. As a rule it costs no
        # round trip, see Dialect.do_ping.
        pool_pre_ping=True,
    )
    # Behind a pooler they are said in each transaction.
    bounds = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in limits.items())
    unanswered = {UNANSWERED: True}

    @event.listens_for(engine, _AT_BEGIN)
    def begin(connection: sa.Connection) -> None:
        how = connection.get_execution_options().get("regmeta_begin")
        driver: Any = connection.connection.dbapi_connection
        reads = how in ("read", "plain read")
        if how in ("read", "BEGIN IMMEDIATE"):
            driver.enter(reads=reads)
        # A plan that is kept is made for any values: what searches is better off with one for its own.
        driver.prepare_threshold = None if reads else prepare_after
        connection.exec_driver_sql(_BEGIN_READ if reads else _BEGIN, execution_options=unanswered)
        if pooled:
            connection.exec_driver_sql(f"SELECT {bounds}", execution_options=unanswered)

    @event.listens_for(engine, "do_connect")
    def name_session(dialect: Any, record: Any, arguments: Any, named: dict[str, Any]) -> None:
        named.setdefault("application_name", tracing.application_name())

    @event.listens_for(engine, "handle_error")
    def settle(failure: ExceptionContext) -> None:
        # Else what comes next, a ROLLBACK TO SAVEPOINT for one, would be skipped as well.
        connection = failure.connection
        if connection is not None and not connection.closed and not connection.invalidated:
            driver: Any = connection.connection.dbapi_connection
            driver.settle()

    return engine


def _connect_arguments(url: sa.URL, limits: Mapping[str, str], connect_timeout_s: int) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "connect_timeout": connect_timeout_s,
        # A machine that has gone without a word is found out after a minute, not after two hours.
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
    }
    for name in arguments.keys() & url.query.keys():
        del arguments[name]
    if limits:
        given = url.query.get("options", "")
        ours = " ".join(f"-c {name}={value}" for name, value in limits.items())
        arguments["options"] = f"{given if isinstance(given, str) else ' '.join(given)} {ours}".strip()
    return arguments
