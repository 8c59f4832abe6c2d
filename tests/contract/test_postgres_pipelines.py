"""What is not waited for is not lost: errors of statements that nobody waits for come out translated."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from regmeta import db, errors
from regmeta.db import Database
from regmeta.failpoints import armed
from regmeta.models import Repository
from tests.support.postgres import Postgres
from tests.support.registry import scalar

NOW = datetime.now(UTC)
Work = Callable[[sa.Connection], None]
COUNT = sa.select(sa.func.count()).select_from(Repository)


@pytest.fixture
def backend() -> str:
    """PostgreSQL only."""
    return "postgresql"


REPOSITORY = sa.insert(Repository).values(
    id=sa.bindparam("number"), name=sa.bindparam("called"), created_at=db.CLOCK.scalar_subquery(),
    updated_at=db.CLOCK.scalar_subquery(), state=sa.bindparam("is"),
)  # fmt: skip


def insert(connection: sa.Connection, number: int, state: str = "active") -> None:
    connection.execute(REPOSITORY, {"number": number, "called": f"r{number}", "is": state})


def attempt(database: Database, work: Work, *, quiet: bool = True) -> None:
    with database.transaction("test", quiet=quiet) as connection:
        work(connection)


def test_error_that_nobody_waited_for_comes_out_of_the_commit(database: Database) -> None:
    reached: list[str] = []

    def work(connection: sa.Connection) -> None:
        insert(connection, 1)
        insert(connection, 2, "nonsense")
        reached.append("behind it")
        insert(connection, 3)  # the earliest that reads the answer; as a rule COMMIT does

    with pytest.raises(errors.ConstraintViolated, match="ck_repositories_state"):
        attempt(database, work)
    assert reached == ["behind it"]
    assert scalar(database, "SELECT count(*) FROM repositories") == 0


def test_error_that_nobody_waited_for_comes_out_of_the_next_answer(database: Database) -> None:
    reached: list[str] = []

    def work(connection: sa.Connection) -> None:
        insert(connection, 2, "nonsense")
        reached.append("before")
        connection.execute(COUNT)
        reached.append("behind")

    with pytest.raises(errors.ConstraintViolated, match="ck_repositories_state"):
        attempt(database, work)
    assert reached == ["before"]
    assert scalar(database, "SELECT count(*) FROM repositories") == 0


def test_connection_works_after_an_error_in_a_pipeline(database: Database) -> None:
    for number in range(3):
        with pytest.raises(errors.ConstraintViolated), database.transaction("test", quiet=True) as connection:
            insert(connection, number, "nonsense")
        with database.transaction("test", quiet=True) as connection:
            insert(connection, number)
            assert connection.execute(COUNT).scalar_one() == number + 1
    assert database.engine.pool.checkedin() == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("state", ["active", "nonsense"])
def test_error_of_the_callers_rolls_back_what_was_not_waited_for(database: Database, state: str) -> None:
    def work(connection: sa.Connection) -> None:
        insert(connection, 1, state)
        raise KeyError

    with pytest.raises(KeyError):
        attempt(database, work)
    assert scalar(database, "SELECT count(*) FROM repositories") == 0


def test_commit_of_a_transaction_whose_error_was_swallowed_is_an_error(database: Database) -> None:
    """PostgreSQL answers such a COMMIT with ROLLBACK, and says no more."""

    def work(connection: sa.Connection) -> None:
        insert(connection, 1)
        with pytest.raises(sa.exc.IntegrityError):
            insert(connection, 2, "nonsense")

    with pytest.raises(errors.DatabaseUnavailable, match="COMMIT was answered by ROLLBACK"):
        attempt(database, work, quiet=False)
    assert scalar(database, "SELECT count(*) FROM repositories") == 0


def test_statements_sent_together_see_what_those_before_them_did(database: Database) -> None:
    with database.transaction("test", quiet=True) as connection:
        asked = (COUNT, None)
        first, made, second, clock = db.together(
            connection,
            asked,
            (REPOSITORY.returning(Repository.id), {"number": 7, "called": "r7", "is": "active"}),
            asked,
            (db.CLOCK, None),
        )
        assert (first.scalar_one(), made.scalar_one(), second.scalar_one()) == (0, 7, 1)
        assert clock.scalar_one() <= db.clock(connection)


def test_first_error_of_statements_sent_together_comes_out(database: Database) -> None:
    returning = REPOSITORY.returning(Repository.id)
    with pytest.raises(errors.ConstraintViolated), database.transaction("test") as connection:
        db.together(
            connection,
            (returning, {"number": 1, "called": "r1", "is": "nonsense"}),
            (sa.text("SELECT * FROM nowhere"), None),
        )


def test_refused_row_in_a_savepoint_costs_the_savepoint(database: Database) -> None:
    with database.transaction("test", quiet=True) as connection:
        insert(connection, 1)
        with pytest.raises(errors.ConstraintViolated), db.savepoint(connection):
            insert(connection, 2, "nonsense")
        insert(connection, 3)
    assert scalar(database, "SELECT count(*) FROM repositories") == 2


def test_refused_rows_that_return_something_cost_the_savepoint(database: Database) -> None:
    rows = [
        {"name": f"r{number}", "created_at": NOW, "updated_at": NOW, "state": state}
        for number, state in enumerate(("active", "nonsense", "active"))
    ]
    with database.transaction("test") as connection:
        insert(connection, 1)
        with pytest.raises(errors.ConstraintViolated), db.savepoint(connection):
            connection.execute(sa.insert(Repository).returning(Repository.id), rows)
        insert(connection, 3)
    assert scalar(database, "SELECT count(*) FROM repositories") == 2


def test_wait_for_a_lock_that_nobody_waits_for_is_contention(postgres: Postgres, database: Database) -> None:
    url = database.url.render_as_string(hide_password=False)
    other = Database(url, server=db.Server(lock_timeout_s=0.05))
    update = sa.update(Repository).values(revision=5)
    with database.transaction("test") as connection:
        insert(connection, 1)
    with database.transaction("test") as holder:
        holder.execute(update)
        with pytest.raises(errors.Contention), other.transaction("test", quiet=True) as connection:
            connection.execute(update)
    other.close()


def test_what_was_sent_has_been_done_where_a_failpoint_waits(database: Database) -> None:
    seen: list[int] = []

    def look(point: str) -> None:
        if point == "test.committing":
            seen.append(scalar(database, "SELECT count(*) FROM pg_locks WHERE locktype = 'transactionid'"))

    with armed(look), database.transaction("test", quiet=True) as connection:
        insert(connection, 1)
    assert seen[0] >= 1


def test_cut_before_an_answer_is_connection_lost(database: Database) -> None:
    def work(connection: sa.Connection) -> None:
        process = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
        with database.engine.connect() as other:
            other.execute(sa.text("SELECT pg_terminate_backend(:of, 5000)"), {"of": process})
        insert(connection, 1)

    with pytest.raises(errors.ConnectionLost):
        attempt(database, work)
    assert scalar(database, "SELECT count(*) FROM repositories") == 0


@pytest.fixture
def idle(database: Database) -> Database:
    """A database with some connections that lie in the pool."""
    ready = threading.Barrier(3)

    def use() -> None:
        with database.read() as connection:
            connection.execute(COUNT)
            ready.wait(10)

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert database.engine.pool.checkedin() == 3  # type: ignore[attr-defined]
    return database


def test_connections_that_the_server_ended_while_they_lay_idle_are_not_noticed(
    idle: Database, postgres: Postgres
) -> None:
    with closing(Database(postgres.url("postgres"))) as admin, admin.engine.connect() as other:
        other.execute(
            sa.text("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = :of"),
            {"of": idle.url.database},
        )
    with idle.read() as connection:
        assert connection.execute(COUNT).scalar_one() == 0
    with idle.transaction("test", quiet=True) as connection:
        insert(connection, 1)
    assert scalar(idle, "SELECT count(*) FROM repositories") == 1


def test_rows_are_counted_where_each_statement_is_waited_for(database: Database) -> None:
    with database.transaction("test") as connection:
        insert(connection, 1)
        insert(connection, 2)
        assert connection.execute(sa.update(Repository).values(revision=3)).rowcount == 2


def test_read_of_many_rows_by_a_cursor_of_the_server_leaves_the_pipeline(database: Database) -> None:
    with database.read() as connection:
        options = {"yield_per": 10}
        found = connection.execute(
            sa.text("SELECT * FROM generate_series(1, 95)"), execution_options=options
        ).scalars()
        assert sum(found) == 95 * 96 // 2
        assert connection.execute(COUNT).scalar_one() == 0


def test_plans_are_kept_by_writers_and_not_by_reads(database: Database) -> None:
    kept = sa.text("SELECT count(*) FROM pg_prepared_statements")
    for _ in range(8):
        with database.read() as connection:
            connection.execute(COUNT)
    with database.transaction("test") as connection:
        assert connection.execute(kept).scalar_one() == 0
    for number in range(8):
        with database.transaction("test", quiet=True) as connection:
            insert(connection, number)
        with database.read() as connection:  # what a read ends with does not make it forget
            connection.execute(COUNT)
    with database.transaction("test") as connection:
        assert connection.execute(kept).scalar_one() >= 1


@pytest.mark.timeout(30)
def test_statement_that_is_larger_than_what_a_socket_takes_is_answered(database: Database) -> None:
    """The driver leaves the rest of it unsent, and waits for the answer."""
    length = sa.func.length(sa.bindparam("content", type_=sa.LargeBinary))
    content = bytes(4 * 1024 * 1024)
    with database.transaction("test", quiet=True) as connection:
        one, two = db.together(
            connection, (sa.select(length), {"content": content}), (sa.select(sa.literal(1)), None)
        )
        assert (one.scalar(), two.scalar()) == (len(content), 1)
        assert connection.execute(sa.select(length), {"content": content}).scalar() == len(content)
    with database.read() as connection:
        assert connection.execute(sa.select(length), {"content": content}).scalar() == len(content)
