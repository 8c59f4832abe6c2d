"""How often PostgreSQL is waited for: budgets of round trips, which do not grow with what is pushed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from regmeta.app import Writing, open_for_writing
from regmeta.ingest.tags import remove_tag, set_tag
from regmeta.maintain.setup import make_identity
from regmeta.sources.open import open_source
from tests.builders import LayoutBuilder, digest_of, make_layout
from tests.support.postgres import Postgres
from tests.support.registry import (
    commit_one,
    import_layout,
    open_parts,
    request,
    requests,
    settings_of,
    source_of,
    still_registry,
)
from tests.support.round_trips import CountingProxy, counting_proxy

# Look whether it is here (2), reserve (2), commit (5), snapshot (2), layout (2), outbox (1); a repository
# that is new is one more, and so are tags that are new where they are several.
PUSH = 14
NEW = 1


@pytest.fixture
def backend() -> str:
    """PostgreSQL only."""
    return "postgresql"


@pytest.fixture
def proxy(postgres: Postgres) -> Iterator[CountingProxy]:
    """What the registry's connections go through."""
    with counting_proxy(postgres.socket_folder) as found:
        yield found


@pytest.fixture
def writing(postgres: Postgres, proxy: CountingProxy, registry_home: Path) -> Iterator[Writing]:
    """A registry that is reached through the proxy, with one connection open already."""
    name = postgres.create()
    settings = settings_of(registry_home, f"postgresql://postgres@/{name}?host={proxy.folder}")
    database, store = open_parts(settings)
    make_identity(database, store)
    store.close()
    database.close()
    with open_for_writing(settings) as found:
        yield found
    postgres.drop(name)


def push(writing: Writing, proxy: CountingProxy, path: Path, seed: int, tag: str = "v1") -> int:
    """Push an image of three layers; returns the round trips."""
    builder = LayoutBuilder()
    image = builder.image([builder.layer(f"{seed}-{number}".encode()) for number in range(3)])
    with source_of(builder, path / f"{seed}") as source, closing(still_registry(writing)) as registry:
        before = proxy.trips
        (outcome,) = registry.import_images([request(source, image, "app", tag)])
        assert outcome.status == "imported"
        return proxy.trips - before


def test_push_of_an_image_is_few_round_trips(writing: Writing, proxy: CountingProxy, layout: Path) -> None:
    assert push(writing, proxy, layout, 1) <= PUSH + NEW
    assert push(writing, proxy, layout, 2) <= PUSH  # the tag is moved
    assert push(writing, proxy, layout, 3, "v2") <= PUSH  # it is a new one


@pytest.mark.parametrize("images", [10, 60])
def test_push_of_a_batch_is_as_many_round_trips_as_of_one(
    writing: Writing, proxy: CountingProxy, tmp_path: Path, images: int
) -> None:
    push(writing, proxy, tmp_path, 1)
    make_layout(tmp_path / "many", images, seed=2)
    with (
        closing(open_source(str(tmp_path / "many"))) as source,
        closing(still_registry(writing)) as registry,
    ):
        wanted = requests(source)
        before = proxy.trips
        assert {outcome.status for outcome in registry.import_images(wanted)} == {"imported"}
    # A long answer comes in pieces, which the proxy can take for several.
    assert proxy.trips - before <= PUSH + NEW + 3


def test_push_of_what_is_here_is_two_round_trips(
    writing: Writing, proxy: CountingProxy, layout: Path
) -> None:
    make_layout(layout, 5)
    import_layout(writing, layout)
    with closing(open_source(str(layout))) as source, closing(still_registry(writing)) as registry:
        wanted = requests(source)
        before = proxy.trips
        assert {outcome.status for outcome in registry.import_images(wanted)} == {"skipped"}
    assert proxy.trips - before <= 2


def test_tag_is_moved_in_few_round_trips(
    writing: Writing, proxy: CountingProxy, builder: LayoutBuilder, layout: Path
) -> None:
    one, other = builder.image([builder.layer(b"one")]), builder.image([builder.layer(b"other")])
    commit_one(writing, builder, one, layout, tag="v1")
    commit_one(writing, builder, other, layout, tag="v2")
    # lock, ingest, manifest, tag, the rest with COMMIT; snapshot (2), outbox (1)
    before = proxy.trips
    set_tag(writing.writer, "app", "v1", digest_of(other))
    assert proxy.trips - before <= 8
    before = proxy.trips
    remove_tag(writing.writer, "app", "v1")
    assert proxy.trips - before <= 8


def test_transactions_and_reads_begin_without_a_round_trip_of_their_own(
    writing: Writing, proxy: CountingProxy
) -> None:
    database = writing.database
    before = proxy.trips
    with database.read() as connection:
        connection.exec_driver_sql("SELECT 1")
    assert proxy.trips - before == 2
    before = proxy.trips
    with database.transaction("test", quiet=True) as connection:
        for _ in range(10):
            connection.exec_driver_sql("SELECT 1", execution_options={"regmeta_unanswered": True})
    assert proxy.trips - before == 1
