"""What doctor tells of a server of PostgreSQL: each check finds what it is for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from regmeta.db import Database, Server
from regmeta.maintain.doctor import server
from regmeta.maintain.doctor.check import Check
from regmeta.query.replication import ReplicaLag
from tests.support.pgbouncer import PROGRAM, pgbouncer
from tests.support.postgres import Postgres


@pytest.fixture
def name(postgres: Postgres) -> Iterator[str]:
    """A database that has the schema."""
    found = postgres.create()
    yield found
    postgres.drop(found)


@pytest.fixture
def database(postgres: Postgres, name: str) -> Iterator[Database]:
    with closing(Database(postgres.url(name))) as found:
        yield found


@pytest.fixture
def other(postgres: Postgres, name: str) -> Iterator[psycopg.Connection[Any]]:
    """A session of somebody else."""
    with psycopg.connect(
        f"host={postgres.socket_folder} user=postgres dbname={name} application_name=other"
    ) as connection:
        yield connection
        connection.rollback()


def told(checks: Iterator[Check]) -> tuple[str, str]:
    [check] = checks
    assert check.advice or check.level == "ok"
    return check.level, check.found


def by_hand(database: Database, statement: str) -> None:
    with database.transaction("test") as connection:
        connection.exec_driver_sql(statement)


def test_search_without_trigrams_is_a_problem(database: Database) -> None:
    assert told(server.check_extension(database))[0] == "ok"
    by_hand(database, "DROP EXTENSION pg_trgm CASCADE")
    assert told(server.check_extension(database)) == (
        "problem",
        "pg_trgm is not there: searches read all rows",
    )


def test_too_few_connections_for_a_pool_are_a_warning(database: Database) -> None:
    assert told(server.check_connections(database, 1))[0] == "ok"
    level, found = told(server.check_connections(database, 100_000))
    assert (level, "a process of ours opens 100000 at most" in found) == ("warning", True)


def test_server_that_never_vacuums_is_a_problem(database: Database) -> None:
    """That of the tests does not."""
    level, found = told(server.check_autovacuum(database))
    assert (level, found[:14]) == ("problem", "autovacuum off")


def test_table_that_is_left_out_of_vacuum_is_a_warning(database: Database) -> None:
    assert told(server.check_dead_rows(database)) == ("ok", "fewer than live ones")
    by_hand(database, "ALTER TABLE gc_tasks SET (autovacuum_enabled = off, fillfactor = 90)")
    assert told(server.check_dead_rows(database)) == ("warning", "autovacuum is switched off for gc_tasks")
    by_hand(database, "ALTER TABLE gc_tasks RESET (autovacuum_enabled)")
    assert told(server.check_dead_rows(database))[0] == "ok"


def test_queue_of_dead_rows_is_a_warning(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    by_hand(
        database,
        "INSERT INTO gc_tasks (kind, target_id, reason, created_at, not_before)"
        " SELECT 'blob', n, 'r', 1, 2 FROM generate_series(1, 60000) n",
    )
    by_hand(database, "DELETE FROM gc_tasks")
    by_hand(database, "SELECT pg_stat_force_next_flush()")
    assert told(server.check_dead_rows(database)) == ("warning", "gc_tasks has 60000")


def test_transaction_in_which_nothing_happens_is_named(
    database: Database, other: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert told(server.check_transactions(database)) == ("ok", "none")
    other.execute("SELECT * FROM tags")
    assert told(server.check_transactions(database)) == ("ok", "none")
    monkeypatch.setattr(server, "LONG_IDLE", timedelta(seconds=-1))
    level, found = told(server.check_transactions(database))
    assert level == "warning"
    assert f"process {other.info.backend_pid} of 'postgres' (other): idle in transaction" in found
    other.rollback()
    assert told(server.check_transactions(database)) == ("ok", "none")


def test_old_transaction_that_works_is_named(
    database: Database, other: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    other.execute("SELECT 1")
    monkeypatch.setattr(server, "LONG_TRANSACTION", timedelta(seconds=-1))
    assert told(server.check_transactions(database))[0] == "warning"


@pytest.mark.skipif(PROGRAM is None, reason="needs pgbouncer")
def test_pooler_that_the_settings_do_not_know_is_a_warning(
    database: Database, postgres: Postgres, name: str
) -> None:
    assert told(server.check_pooler(database, "none")) == ("ok", "none")
    assert told(server.check_pooler(database, "transaction")) == ("ok", "none")
    with (
        pgbouncer(postgres.socket_folder) as pooler,
        closing(Database(pooler.url(name), server=Server(pooled=True))) as pooled,
    ):
        assert told(server.check_pooler(pooled, "none"))[0] == "warning"
        assert told(server.check_pooler(pooled, "transaction"))[0] == "ok"


@pytest.mark.parametrize(
    ("lag", "level"),
    [
        (ReplicaLag(0, 0.0, is_receiving=True, is_paused=False), "ok"),
        (ReplicaLag(10**9, 59.0, is_receiving=True, is_paused=False), "ok"),
        (ReplicaLag(1, 61.0, is_receiving=True, is_paused=False), "warning"),
        (ReplicaLag(1, None, is_receiving=True, is_paused=False), "warning"),
        (ReplicaLag(0, 0.0, is_receiving=True, is_paused=True), "warning"),
        (ReplicaLag(0, 0.0, is_receiving=False, is_paused=False), "warning"),
    ],
)
def test_replica_that_is_far_behind_or_will_be_is_a_warning(lag: ReplicaLag, level: str) -> None:
    assert told(server.check_replica(lag))[0] == level
