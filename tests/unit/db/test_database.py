"""Transactions, reads of one moment, and what drivers' errors become."""

from __future__ import annotations

import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from regmeta import db, errors
from regmeta.db import Database
from tests.support.registry import change, scalar
from tests.support.seed import repository
from tests.support.statements import counted

COUNT = sa.text("SELECT count(*) FROM repositories")


def add(connection: sa.Connection, number: int) -> None:
    from regmeta.models import Repository

    connection.execute(sa.insert(Repository), repository(number, f"r{number}"))


def test_transaction_is_committed_at_its_end(database: Database) -> None:
    with database.transaction("test") as connection:
        add(connection, 1)
        assert connection.execute(COUNT).scalar() == 1
    assert scalar(database, "SELECT count(*) FROM repositories") == 1


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), errors.LostReservation(frozenset())])
def test_transaction_that_raises_is_rolled_back(database: Database, error: BaseException) -> None:
    def run() -> None:
        with database.transaction("test") as connection:
            add(connection, 1)
            raise error

    with pytest.raises(type(error)):
        run()
    assert scalar(database, "SELECT count(*) FROM repositories") == 0


def test_what_is_written_in_a_read_is_dropped_or_refused(database: Database) -> None:
    refused = not database.is_sqlite
    try:
        with database.read() as connection:
            add(connection, 1)
    except errors.DatabaseUnavailable:
        assert refused
    assert scalar(database, "SELECT count(*) FROM repositories") == 0


def test_read_is_of_one_moment_and_waits_for_nobody(database: Database) -> None:
    with database.read() as reader:
        assert reader.execute(COUNT).scalar() == 0
        with database.transaction("test") as writer:
            add(writer, 1)
        assert reader.execute(COUNT).scalar() == 0
    assert scalar(database, "SELECT count(*) FROM repositories") == 1


@pytest.mark.parametrize("backend", ["postgresql"])
def test_writer_sees_what_was_committed_before_it_asks(database: Database) -> None:
    """READ COMMITTED: each statement sees what was committed before it began."""
    with database.transaction("test") as one:
        assert one.execute(COUNT).scalar() == 0
        change(database, "INSERT INTO repositories (name, created_at, updated_at) VALUES ('a', 1, 1)")
        assert one.execute(COUNT).scalar() == 1


def test_connection_goes_back_to_the_pool_as_it_came(database: Database) -> None:
    for _ in range(20):
        with database.read() as connection:
            connection.execute(COUNT)
        with database.transaction("test") as connection:
            connection.execute(sa.text("UPDATE repositories SET revision = revision"))


def test_writers_begin_with_the_lock_on_sqlite_and_reads_are_of_one_moment(database: Database) -> None:
    begun: list[str] = []

    @sa.event.listens_for(database.engine, "before_cursor_execute")
    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("BEGIN"):
            begun.append(statement)

    with database.transaction("test") as connection:
        connection.execute(COUNT)
    with database.read() as connection:
        connection.execute(COUNT)
    isolated = "BEGIN ISOLATION LEVEL"
    on_postgresql = [f"{isolated} READ COMMITTED", f"{isolated} REPEATABLE READ READ ONLY"]
    assert begun == (["BEGIN IMMEDIATE", "BEGIN"] if database.is_sqlite else on_postgresql)


def test_clock_goes_on_inside_a_transaction(database: Database) -> None:
    with database.transaction("test") as connection:
        one = db.clock(connection)
        threading.Event().wait(0.005)
        two = db.clock(connection)
        stamp = db.stamp(connection)
    assert one < two <= stamp.now
    assert abs(datetime.now(UTC) - one) < timedelta(minutes=1)
    assert (stamp.transaction_id is None) == database.is_sqlite


# --- errors -----------------------------------------------------------------------------------


def test_refused_row_is_a_constraint_that_was_violated(database: Database) -> None:
    with database.transaction("test") as connection:
        add(connection, 1)
    statement = "INSERT INTO repositories (id, name, created_at, updated_at) VALUES (2, 'r1', 1, 1)"
    with pytest.raises(errors.ConstraintViolated, match=r"uq_repositories_name|repositories\.name"):
        change(database, statement)


def test_mistake_is_unavailable_and_names_the_database(database: Database) -> None:
    with pytest.raises(errors.DatabaseUnavailable, match="nowhere") as caught, database.read() as connection:
        connection.execute(sa.text("SELECT * FROM nowhere"))
    assert database.location in str(caught.value)
    assert caught.value.exit_code == 5


def test_password_is_in_no_message() -> None:
    with closing(Database("postgresql://me:secret@127.0.0.1:1/x")) as database:
        assert "secret" not in database.location
        with pytest.raises(errors.DatabaseUnavailable) as caught, database.read():
            pass
        assert "secret" not in str(caught.value)


def test_lock_that_is_not_let_go_is_contention(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    with database.transaction("test") as connection:
        add(connection, 1)
    other = Database(database.url.render_as_string(hide_password=False))
    with closing(other), database.transaction("test") as holder:
        holder.execute(sa.text("UPDATE repositories SET revision = 1"))
        with pytest.raises(errors.Contention) as caught, short(other) as connection:
            connection.execute(sa.text("UPDATE repositories SET revision = 2"))
        assert caught.value.exit_code == 6
    assert scalar(database, "SELECT revision FROM repositories") == 1


@contextmanager
def short(database: Database) -> Iterator[sa.Connection]:
    """A transaction that waits for a moment only."""
    if database.is_sqlite:

        @sa.event.listens_for(database.engine, "connect")
        def impatient(connection: sqlite3.Connection, _record: object) -> None:
            connection.execute("PRAGMA busy_timeout = 10").close()

    with database.transaction("test") as connection:
        if not database.is_sqlite:
            connection.execute(sa.text("SET LOCAL lock_timeout = 10"))
        yield connection


@pytest.mark.parametrize("backend", ["postgresql"])
def test_deadlock_is_contention(database: Database) -> None:
    with database.transaction("test") as connection:
        add(connection, 1)
        add(connection, 2)
    first = threading.Event()
    found: list[errors.Error] = []
    update = sa.text("UPDATE repositories SET revision = revision + 1 WHERE id = :of")

    def other() -> None:
        try:
            with database.transaction("test") as connection:
                connection.execute(update, {"of": 2})
                first.set()
                connection.execute(update, {"of": 1})
        except errors.Error as error:
            found.append(error)

    thread = threading.Thread(target=other)
    try:
        with database.transaction("test") as connection:
            connection.execute(update, {"of": 1})
            thread.start()
            first.wait()
            connection.execute(update, {"of": 2})
    except errors.Error as error:
        found.append(error)
    thread.join()
    assert [type(error) for error in found] == [errors.Contention]


@pytest.mark.parametrize("backend", ["postgresql"])
def test_waits_are_bounded_on_postgresql(database: Database) -> None:
    with database.read() as connection:
        for name, bound_s in (("lock_timeout", 10), ("statement_timeout", 60)):
            value = connection.execute(
                sa.text(f"SELECT setting FROM pg_settings WHERE name = '{name}'")
            ).scalar()
            assert 0 < int(str(value)) <= bound_s * 1000


@pytest.mark.parametrize("backend", ["postgresql"])
def test_broken_connection_is_connection_lost_and_the_next_one_works(database: Database) -> None:
    def run() -> None:
        with database.transaction("test") as connection:
            process = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
            with database.engine.connect() as other:
                other.execute(sa.text("SELECT pg_terminate_backend(:of, 5000)"), {"of": process})
            connection.execute(COUNT)

    with pytest.raises(errors.ConnectionLost):
        run()
    assert scalar(database, "SELECT count(*) FROM repositories") == 0


# --- SQLite -----------------------------------------------------------------------------------


def test_file_lock_covers_begin_to_commit_checkpoints_and_close(
    sqlite_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below SQLite 3.51.3 a checkpoint beside a commit can damage the database."""
    path = tmp_path / "x.db"
    path.write_bytes(sqlite_template.read_bytes())
    told: list[str] = []

    @contextmanager
    def lock() -> Iterator[None]:
        told.append("lock")
        yield
        told.append("free")

    monkeypatch.setattr(db, "WAL_RESET_FIXED_IN", (99, 0, 0))
    database = Database(f"sqlite:///{path}", file_lock=lock)
    with database.transaction("test") as connection:
        connection.execute(COUNT)
        told.append("in")
    with database.read() as connection:
        connection.execute(COUNT)
        told.append("read")
    with database.schema_connection():
        told.append("schema")
    database.close()
    assert told == ["lock", "in", "free", "read", "lock", "schema", "free", "lock", "free"]
    monkeypatch.setattr(db, "WAL_RESET_FIXED_IN", (0, 0, 0))
    told.clear()
    newer = Database(f"sqlite:///{path}", file_lock=lock)
    with newer.transaction("test"):
        pass
    newer.close()
    assert told == []


def test_old_sqlite_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db, "OLDEST_SQLITE", (99, 0, 0))
    with pytest.raises(errors.DatabaseUnavailable, match="too old"):
        Database("sqlite:////tmp/x.db")


def test_other_databases_are_refused() -> None:
    with pytest.raises(errors.UsageError) as caught:
        Database("mysql://localhost/x")
    assert caught.value.exit_code == 2


def test_file_that_is_not_a_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"not a database at all" * 100)
    with (
        closing(Database(f"sqlite:///{tmp_path / 'x.db'}")) as database,
        pytest.raises(errors.DatabaseUnavailable),
        database.transaction("test") as connection,
    ):
        connection.execute(COUNT)


def test_schema_check_is_few_statements(database: Database) -> None:
    with counted(database.engine) as found:
        database.check_schema()
    assert len(found) <= 3, str(found)


def test_text_that_is_no_url_is_a_usage_error_that_does_not_repeat_it() -> None:
    with pytest.raises(errors.UsageError, match="not a URL") as caught:
        Database("secret-and-no-url")
    assert "secret" not in str(caught.value)


def test_missing_driver_is_a_usage_error_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(errors.UsageError, match=r"regmeta\[postgres\]"):
        Database("postgresql://localhost/x")


def test_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(b"not a database, but longer than the header of one " * 10)
    with (
        closing(Database(f"sqlite:///{path}")) as database,
        pytest.raises(errors.DatabaseUnavailable, match="not a database"),
        database.read() as connection,
    ):
        connection.execute(COUNT)


# --- savepoints -------------------------------------------------------------------------------


def add_in_a_part(connection: sa.Connection, *numbers: int) -> None:
    with db.savepoint(connection):
        for number in numbers:
            add(connection, number)


def test_part_that_is_refused_is_undone_and_the_rest_stands(database: Database) -> None:
    with database.transaction("test") as connection:
        add(connection, 1)
        with pytest.raises(errors.ConstraintViolated):
            add_in_a_part(connection, 2, 1)
        add_in_a_part(connection, 3)
    assert scalar(database, "SELECT count(*) FROM repositories WHERE id IN (1, 3)") == 2
    assert scalar(database, "SELECT count(*) FROM repositories") == 2


@pytest.mark.parametrize("backend", ["sqlite"])
def test_full_disk_inside_a_part_says_so_and_ends_the_transaction(database: Database) -> None:
    def fill() -> None:
        with database.transaction("test") as connection:
            add(connection, 1)
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
            add_in_a_part(connection, *range(2, 10_000))

    with pytest.raises(errors.DatabaseUnavailable, match="full"):
        fill()
    assert scalar(database, "SELECT count(*) FROM repositories") == 0
