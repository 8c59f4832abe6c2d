"""``db copy``: all rows go to another database and are the same there; the one that was is retired."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from regmeta import app
from regmeta.app import Writing, database_copy
from regmeta.db import Database
from regmeta.errors import DatabaseMoved, Refused
from regmeta.ingest.favorites import set_favorite
from regmeta.ingest.tags import remove_tag, set_tag
from regmeta.maintain.feed import prune_events
from regmeta.maintain.progress import NoProgress
from regmeta.maintain.search import check_search
from regmeta.maintain.setup import read_identity
from regmeta.query.feed import events, newest_cursor
from regmeta.query.feed_cursors import CursorRefused
from regmeta.settings import Settings
from tests.builders import AMD64, ARM64, LayoutBuilder, digest_of
from tests.support import ddl
from tests.support.consistency import assert_consistent
from tests.support.database_copies import at, copy
from tests.support.logical_dump import logical_dump
from tests.support.postgres import Postgres
from tests.support.registry import change, commit_one, open_parts, rows, scalar
from tests.support.registry import dump as all_rows

pytestmark = pytest.mark.inconsistent  # the database of ``settings`` is retired: the new one is checked


@pytest.fixture(params=["to sqlite", "to postgresql"])
def target_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where nothing is yet: a file that is to be made, or a database without a table."""
    if request.param == "to sqlite":
        yield f"sqlite:///{tmp_path / 'new' / 'regmeta.db'}"
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    name = postgres.create(migrated=False)
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture
def filled(writing: Writing, builder: LayoutBuilder, layout: Path, settings: Settings) -> Settings:
    """A registry with something of everything, and some of it deleted again."""
    layers = [builder.layer(b"base"), builder.layer(b"app")]
    image = builder.image(layers, builder.config(layers, Labels={"team": "ä: 100%"}), {"note": "b"}, AMD64)
    other = builder.image(platform=ARM64)
    index = builder.index([image, other])
    commit_one(writing, builder, index, layout, tag="v1")
    commit_one(writing, builder, other, layout, "other", tag="V2")
    set_tag(writing.writer, "app", "v1", digest_of(image))
    remove_tag(writing.writer, "other", "V2")
    set_favorite(writing.database, "ann", "star", "app")
    change(writing.database, "DELETE FROM gc_tasks")  # ids that were given out
    return settings


def plain(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows as values that are the same on both databases, but for what a copy changes."""
    found = all_rows(database)
    del found["store_identity"]
    found["events"] = [(row[0], None, *row[2:]) for row in found["events"]]
    return {table: sorted((tuple(map(_plain, row)) for row in of), key=repr) for table, of in found.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, (bytes, memoryview)):
        return bytes(value)
    if type(value).__name__ == "UUID":
        return value.hex
    if isinstance(value, str) and value.startswith("{"):
        return msgspec.json.decode(value)
    return value


@pytest.mark.slow
def test_all_rows_are_the_same_in_the_new_database(filled: Settings, target_url: str) -> None:
    with app.open_database(filled) as database:
        before, said = plain(database), logical_dump(database)
        hold = rows(database, "SELECT store_id, epoch, created_at FROM store_identity")
    done = copy(filled, target_url)
    assert done.rows == sum(map(len, before.values()))
    with app.open_database(at(filled, target_url)) as database:
        assert plain(database) == before
        assert logical_dump(database) == said
        found = rows(database, "SELECT store_id, epoch, created_at FROM store_identity")
        assert [tuple(map(_plain, row)) for row in found] == [tuple(map(_plain, row)) for row in hold]
        with database.read() as connection:
            assert read_identity(connection) == done.identity


def test_new_database_is_whole(filled: Settings, target_url: str) -> None:
    copy(filled, target_url)
    moved = at(filled, target_url)
    database, store = open_parts(moved)
    with closing(database), closing(store):
        assert_consistent(database, store)
        assert list(check_search(database, NoProgress())) == []


def test_new_database_has_the_schema_of_any_other(
    filled: Settings, target_url: str, tmp_path: Path, postgres: Postgres
) -> None:
    copy(filled, target_url)
    fresh = f"sqlite:///{tmp_path / 'fresh' / 'regmeta.db'}"
    name = ""
    if not target_url.startswith("sqlite"):
        name = postgres.create()
        fresh = postgres.url(name)
    else:
        home = tmp_path / "fresh"
        app.initialise(Settings(home=str(home), database=fresh, store=str(home / "store"), actor="tester"))
    with closing(Database(fresh)) as expected, closing(Database(target_url)) as database:
        assert ddl.differences(ddl.schema_of(expected), ddl.schema_of(database)) == []
        database.check_schema()
    if name:
        postgres.drop(name)


def test_ids_that_were_given_out_are_not_given_out_again(filled: Settings, target_url: str) -> None:
    with app.open_database(filled) as database:
        greatest = scalar(database, "SELECT max(id) FROM tags")
        change(database, "DELETE FROM events")
    copy(filled, target_url)
    with closing(Database(target_url)) as database:
        change(
            database,
            "INSERT INTO gc_tasks (kind, target_id, reason, created_at, not_before)"
            " VALUES ('blob', 99, 'test', 1, 1)",
        )
        change(
            database,
            "INSERT INTO events (occurred_at, kind, repository_id, actor) SELECT 1, 'x', min(id), 'x'"
            " FROM repositories",
        )
        assert scalar(database, "SELECT max(id) FROM gc_tasks") > 1
        assert scalar(database, "SELECT max(id) FROM events") > greatest


def test_feed_goes_on_from_its_beginning_and_refuses_cursors_of_the_old_database(
    filled: Settings, target_url: str
) -> None:
    with app.open_database(filled) as database:
        cursor = newest_cursor(database)
        before = [event.id for event in events(database, limit=100).items]
    copy(filled, target_url)
    with app.open_for_writing(at(filled, target_url)) as writing:
        database = writing.database
        assert [event.id for event in events(database, limit=100).items] == before
        with pytest.raises(CursorRefused, match="another life"):
            events(database, after=cursor)
        newest = newest_cursor(database)
        remove_tag(writing.writer, "app", "v1")
        page = events(database, after=newest)
        assert [event.kind for event in page.items] == ["tag.removed"]
        assert min(event.id for event in page.items) > max(before)
        assert prune_events(database, older=timedelta()).events == len(before) + 1


def test_old_database_opens_for_nobody_and_names_the_new_one(filled: Settings, target_url: str) -> None:
    copy(filled, target_url)
    new = Database(target_url).location
    for opened in (app.open_for_reading, app.open_for_writing):
        with pytest.raises(DatabaseMoved, match="was retired") as raised, opened(filled):
            pass
        assert new in str(raised.value)
    again = copy(filled, target_url)  # what is done is done
    assert again.tables == ()
    with pytest.raises(Refused, match="was retired already"):
        database_copy.abandon(filled)


def test_who_had_the_old_database_open_changes_nothing_and_sees_nothing(
    filled: Settings, target_url: str, writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    """*writing* opened it before."""
    copy(filled, target_url)
    with app.open_database(at(filled, target_url)) as database:
        before = plain(database)
    image = builder.image()
    with pytest.raises(Refused):
        commit_one(writing, builder, image, layout, "late", tag="late")
    with pytest.raises(Refused, match="retired"):
        remove_tag(writing.writer, "app", "v1")
    with pytest.raises(Refused, match="retired"):
        rows(writing.database, "SELECT name FROM repositories")
    with app.open_database(at(filled, target_url)) as database:
        assert plain(database) == before


def test_registry_comes_back_by_a_second_copy(
    filled: Settings, target_url: str, tmp_path: Path, builder: LayoutBuilder, layout: Path
) -> None:
    with app.open_database(filled) as database:
        before = logical_dump(database)
    copy(filled, target_url)
    back = f"sqlite:///{tmp_path / 'back.db'}"
    copy(at(filled, target_url), back)
    with app.open_for_writing(at(filled, back)) as writing:
        assert logical_dump(writing.database) == before
        commit_one(writing, builder, builder.image(), layout, "late", tag="late")
    shutil.rmtree(tmp_path / "new", ignore_errors=True)
