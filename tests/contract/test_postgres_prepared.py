"""Statements that the server was to prepare behind one that failed: it skipped them, and the driver knows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress

import pytest
import sqlalchemy as sa

from regmeta import db, errors
from regmeta.db import Database, Server
from regmeta.models import Repository
from regmeta.postgresql import PREPARE_AFTER
from tests.support.registry import scalar

SLOW = "SELECT pg_sleep(0.3)"
UNANSWERED = {"regmeta_unanswered": True}
INSERT = sa.insert(Repository).values(
    id=sa.bindparam("number"), name=sa.bindparam("called"), state=sa.bindparam("is"),
    created_at=db.CLOCK.scalar_subquery(), updated_at=db.CLOCK.scalar_subquery(),
)  # fmt: skip
COUNT_UP = sa.update(Repository).values(revision=Repository.revision + 1)


@pytest.fixture
def backend() -> str:
    """PostgreSQL only."""
    return "postgresql"


@pytest.fixture
def lone(database_url: str) -> Iterator[Database]:
    """A database with one connection, that has rolled back before anything was prepared on it."""
    with closing(Database(database_url, server=Server(pool_size=1, pool_overflow=0))) as found:
        with suppress(KeyError), found.transaction("test", quiet=True) as connection:
            with suppress(ZeroDivisionError), db.savepoint(connection):
                raise ZeroDivisionError
            connection.execute(COUNT_UP)
            raise KeyError
        for _ in range(PREPARE_AFTER - 1):  # once more than this
            with found.transaction("test", quiet=True) as connection:
                connection.execute(COUNT_UP)
        yield found


def fail(connection: sa.Connection) -> None:
    """Send what is refused, and behind it, before that is known, what is to be prepared this time."""
    connection.exec_driver_sql(SLOW, execution_options=UNANSWERED)
    connection.execute(INSERT, {"number": 1, "called": "bad", "is": "nonsense"})
    connection.execute(COUNT_UP)
    db.clock(connection)


def test_connection_works_when_a_statement_was_not_prepared_because_of_an_error(lone: Database) -> None:
    with pytest.raises(errors.ConstraintViolated), lone.transaction("test", quiet=True) as connection:
        fail(connection)
    for _ in range(2 * PREPARE_AFTER):
        with lone.transaction("test", quiet=True) as connection:
            connection.execute(COUNT_UP)


def test_transaction_goes_on_when_a_statement_was_not_prepared_in_a_savepoint(lone: Database) -> None:
    with lone.transaction("test", quiet=True) as connection:
        connection.execute(INSERT, {"number": 2, "called": "good", "is": "active"})
        with pytest.raises(errors.ConstraintViolated), db.savepoint(connection):
            fail(connection)
        connection.execute(COUNT_UP)
    assert scalar(lone, "SELECT revision FROM repositories") == 1
