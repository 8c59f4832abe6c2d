"""The databases that tests share one after the other: each test finds its own as if it was new."""

from __future__ import annotations

from contextlib import closing

import psycopg
import pytest
import sqlalchemy as sa

from regmeta.db import Database
from regmeta.models import Repository
from tests.support.postgres import Postgres
from tests.support.registry import counts, dump, scalar
from tests.support.seed import repository


def put_in(database: Database) -> int:
    """Make a repository; return its number."""
    row = {name: value for name, value in repository(0, "app").items() if name != "id"}
    statement = sa.insert(Repository).values(row).returning(Repository.id)
    with database.transaction("test") as connection:
        return int(connection.execute(statement).scalar_one())


def test_database_that_was_used_comes_back_empty_and_counts_from_one(postgres: Postgres) -> None:
    name = postgres.lend()
    with closing(Database(postgres.url(name))) as database:
        before = dump(database)
        first = put_in(database)
    postgres.give_back(name)
    assert postgres.lend() == name
    with closing(Database(postgres.url(name))) as database:
        assert dump(database) == before
        assert put_in(database) == first
    postgres.give_back(name)


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE tags ADD COLUMN more text",
        "ALTER TABLE tags DISABLE TRIGGER ALL",
        "DROP INDEX ix_repositories_trigrams",
        "CREATE TABLE more (id int)",
        "GRANT SELECT ON tags TO PUBLIC",
        "ANALYZE alembic_version",
        "UPDATE alembic_version SET version_num = '9999'",
        "DELETE FROM alembic_version",
        "DROP TABLE alembic_version",
    ],
)
def test_database_whose_schema_was_changed_is_not_lent_again(postgres: Postgres, change: str) -> None:
    name = postgres.lend()
    with closing(Database(postgres.url(name))) as database, database.transaction("test") as connection:
        connection.exec_driver_sql(change)
    postgres.give_back(name)
    other = postgres.lend()
    assert other != name
    with closing(Database(postgres.url(other))) as database:
        assert counts(database, "alembic_version") == {"alembic_version": 1}
    postgres.give_back(other)
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(f"host={postgres.socket_folder} user=postgres dbname={name}")


def test_who_is_still_connected_is_cut_off(postgres: Postgres) -> None:
    name = postgres.lend()
    with closing(Database(postgres.url(name))) as database:
        with database.read() as connection:
            backend = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        postgres.give_back(name)
    assert postgres.lend() == name
    with closing(Database(postgres.url(name))) as database:
        assert scalar(database, "SELECT count(*) FROM pg_stat_activity WHERE pid = :of", of=backend) == 0
    postgres.give_back(name)
