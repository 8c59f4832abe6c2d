"""Behind a pooler that gives each transaction another connection (PgBouncer in transaction mode)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from regmeta.app import open_for_writing
from regmeta.db import Database
from regmeta.ingest.tags import remove_tag, set_tag
from regmeta.maintain.setup import make_identity
from regmeta.settings import PostgreSql, Settings
from regmeta.settings.postgresql import server_of
from tests.builders import LayoutBuilder, digest_of
from tests.support.consistency import assert_consistent
from tests.support.pgbouncer import PROGRAM, Pooler, pgbouncer
from tests.support.postgres import Postgres
from tests.support.registry import import_layout, open_parts, scalar, settings_of

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no pgbouncer")

WRITERS = 4
IMAGES = 3  # of each writer


@pytest.fixture
def pooler(postgres: Postgres) -> Iterator[Pooler]:
    """It has two connections to the server, for all who come."""
    with pgbouncer(postgres.socket_folder) as found:
        yield found


@pytest.fixture
def pooled(pooler: Pooler, postgres: Postgres, registry_home: Path) -> Iterator[Settings]:
    """A new registry behind the pooler; when the test is over, its database and its store must agree."""
    name = postgres.create()
    settings = settings_of(
        registry_home, pooler.url(name), postgresql=PostgreSql(pooler="transaction", lock_timeout="5s")
    )
    with closing(open_parts(settings)[0]) as database, closing(open_parts(settings)[1]) as store:
        make_identity(database, store)
    yield settings
    with closing(open_parts(settings)[0]) as database, closing(open_parts(settings)[1]) as store:
        assert_consistent(database, store)
    postgres.drop(name)


def write(settings: Settings, folder: Path, number: int) -> None:
    """Push images, all writers into one repository and to one tag, move tags, remove some."""
    builder = LayoutBuilder(seed=number)
    images = [builder.image([builder.layer(f"{number}-{i}".encode())]) for i in range(IMAGES)]
    for i, image in enumerate(images):
        builder.tag(image, f"w{number}-{i}")
    builder.write(folder / f"{number}")
    with open_for_writing(settings) as writing:
        for outcome in import_layout(writing, folder / f"{number}"):
            assert outcome.status == "imported", outcome
        for image in images:
            set_tag(writing.writer, "app", "latest", digest_of(image))
        remove_tag(writing.writer, "app", f"w{number}-0")


def test_four_writers_push_and_tag_behind_a_pooler(pooled: Settings, tmp_path: Path) -> None:
    with ThreadPoolExecutor(WRITERS) as threads:
        for done in [threads.submit(write, pooled, tmp_path, number) for number in range(WRITERS)]:
            done.result()
    with closing(open_parts(pooled)[0]) as database:
        assert scalar(database, "SELECT count(*) FROM manifests") == WRITERS * IMAGES
        live = "SELECT count(*) FROM tags WHERE ended_at IS NULL"
        assert scalar(database, live) == WRITERS * (IMAGES - 1) + 1
        assert scalar(database, "SELECT count(*) FROM tags WHERE name = 'latest'") == WRITERS * IMAGES
        assert scalar(database, f"{live} AND name = 'latest'") == 1


def test_waits_are_bounded_in_each_transaction_and_nothing_is_left_on_the_session(pooled: Settings) -> None:
    bounds = sa.text("SELECT current_setting('lock_timeout'), current_setting('statement_timeout')")
    with closing(open_parts(pooled)[0]) as database:
        for _ in range(10):  # more often than it takes to be prepared
            with database.read() as connection:
                assert connection.execute(bounds).one() == ("5s", "1min")
            with database.transaction("test", quiet=True) as connection:
                assert connection.execute(bounds).one() == ("5s", "1min")
                prepared = sa.text("SELECT count(*) FROM pg_prepared_statements")
                assert connection.execute(prepared).scalar_one() == 0
        with database.engine.connect() as connection, connection.begin():
            connection.execute(sa.text("COMMIT"))
            assert connection.execute(bounds).one() == ("0", "0")


def test_connection_that_the_pooler_changed_under_an_idle_writer_is_not_noticed(
    pooled: Settings, pooler: Pooler
) -> None:
    with closing(Database(pooled.database, server=server_of(pooled.postgresql))) as database:
        assert scalar(database, "SELECT count(*) FROM manifests") == 0
        pooler.reconnect(str(database.url.database))
        assert scalar(database, "SELECT count(*) FROM manifests") == 0
