"""Stars and bookmarks: on, off, and whose they are."""

from __future__ import annotations

import threading
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from regmeta import db, errors
from regmeta.app import Writing, open_for_writing
from regmeta.ingest.favorites import set_favorite, toggle_favorite
from regmeta.ingest.pulls import Pull, record_pulls
from regmeta.maintain.collect import purge as purging
from regmeta.maintain.delete.repository import delete_repository
from regmeta.maintain.delete.undelete import undelete_repository
from regmeta.maintain.progress import NoProgress
from regmeta.maintain.usage import record_usage
from regmeta.oci.names import Reference
from regmeta.query.statistics import pulls as statistics
from regmeta.query.statistics.favorites import favorite_counts, favorites
from regmeta.query.statistics.usage import sampled_usage
from regmeta.query.visibility import UnderPrefixes
from regmeta.settings import Settings
from tests.builders import LayoutBuilder, digest_of
from tests.support.registry import AT_ONCE, commit_one, counts, rows, scalar


@pytest.fixture
def filled(writing: Writing, builder: LayoutBuilder, layout: Path) -> Writing:
    """Four repositories."""
    image = builder.image()
    for name in ("b", "a", "team/x", "team/y"):
        commit_one(writing, builder, image, layout, name)
    return writing


def test_star_that_is_set_twice_changes_something_once(filled: Writing) -> None:
    database = filled.database
    assert set_favorite(database, "ann", "star", "a").has_changed
    again = set_favorite(database, "ann", "star", "a")
    assert (again.is_on, again.has_changed) == (True, False)
    set_favorite(database, "bob", "star", "a")
    set_favorite(database, "bob", "bookmark", "a")
    found = favorite_counts(database, "a", user="ann")
    assert (found.stars, found.bookmarks, found.is_starred, found.is_bookmarked) == (2, 1, True, False)
    assert set_favorite(database, "ann", "star", "a", on=False).has_changed
    assert not set_favorite(database, "ann", "star", "a", on=False).has_changed
    assert favorite_counts(database, "a").stars == 1


def test_toggle_turns_it_round_each_time(filled: Writing) -> None:
    states = [toggle_favorite(filled.database, "ann", "bookmark", "a").is_on for _ in range(3)]
    assert states == [True, False, True]
    assert favorite_counts(filled.database, "a", user="ann").is_bookmarked


def test_list_comes_in_pages_by_repository(filled: Writing) -> None:
    for name in ("team/y", "b", "a"):
        set_favorite(filled.database, "ann", "star", name)
    set_favorite(filled.database, "ann", "bookmark", "b")
    set_favorite(filled.database, "bob", "star", "team/x")
    found, cursor = [], None
    while True:
        page = favorites(filled.database, "ann", after=cursor, limit=1)
        found += [(item.repository, item.kind) for item in page.items]
        cursor = page.next
        if cursor is None:
            break
    assert found == [("a", "star"), ("b", "bookmark"), ("b", "star"), ("team/y", "star")]
    only = favorites(filled.database, "ann", "bookmark")
    assert [item.repository for item in only.items] == ["b"]
    page = favorites(filled.database, "ann", limit=1)
    with pytest.raises(errors.UsageError, match="another list"):
        favorites(filled.database, "bob", after=page.next)


def test_deleted_repository_is_hidden_and_comes_back(filled: Writing) -> None:
    database = filled.database
    set_favorite(database, "ann", "star", "a")
    delete_repository(filled.writer, "a")
    assert favorites(database, "ann").items == ()
    for ask in (lambda: favorite_counts(database, "a"), lambda: set_favorite(database, "ann", "star", "a")):
        with pytest.raises(errors.NotFound):
            ask()
    undelete_repository(filled.writer, "a")
    assert [item.repository for item in favorites(database, "ann").items] == ["a"]


def test_what_is_not_visible_is_as_what_does_not_exist(filled: Writing) -> None:
    database, visible = filled.database, UnderPrefixes(["team"])
    for name in ("a", "team/x"):
        set_favorite(database, "ann", "star", name)
    assert [item.repository for item in favorites(database, "ann", visible=visible).items] == ["team/x"]
    with pytest.raises(errors.NotFound, match="a: no such repository"):
        favorite_counts(database, "a", visible=visible)
    with pytest.raises(errors.NotFound, match="a: no such repository"):
        toggle_favorite(database, "ann", "star", "a", visible=visible)
    with pytest.raises(errors.NotFound, match="nobody: no such repository"):
        set_favorite(database, "ann", "star", "nobody")


@pytest.mark.parametrize("user", ["", " ann", "ann ", "a\nb", "a\x1b[31m", "x" * 256])
def test_name_that_is_no_users_is_a_usage_error(filled: Writing, user: str) -> None:
    for ask in (
        lambda: set_favorite(filled.database, user, "star", "a"),
        lambda: favorites(filled.database, user),
        lambda: favorite_counts(filled.database, "a", user=user),
    ):
        with pytest.raises(errors.UsageError, match="user"):
            ask()


def test_users_who_star_at_once_are_all_counted(filled: Writing) -> None:
    start, raised = threading.Barrier(8), list[BaseException]()

    def star(number: int) -> None:
        start.wait()
        try:
            set_favorite(filled.database, f"user {number % 4}", "star", "a")
        except BaseException as error:  # noqa: BLE001 - told
            raised.append(error)

    threads = [threading.Thread(target=star, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert raised == []
    assert favorite_counts(filled.database, "a").stars == 4
    assert scalar(filled.database, "SELECT count(*) FROM favorites") == 4


def test_new_repository_of_a_purged_name_begins_without_statistics(
    settings: Settings, builder: LayoutBuilder, layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They go in pieces, and those of others stay."""
    monkeypatch.setattr(purging, "CHUNK_STATISTICS", 2)
    with open_for_writing(settings, lifetimes=AT_ONCE) as impatient:
        database, image = impatient.database, builder.image()
        with database.read() as connection:
            now = db.clock(connection)
        for name in ("app", "other"):
            commit_one(impatient, builder, image, layout, name)
            for user in ("ann", "bob", "cid"):
                set_favorite(database, user, "star", name)
                set_favorite(database, user, "bookmark", name)
            pulls = [Pull(name, digest_of(image), "v1", now - timedelta(days=day)) for day in range(5)]
            record_pulls(database, pulls)
        record_usage(database, NoProgress())
        delete_repository(impatient.writer, "app")
        steps = list[dict[str, int]]()
        tables = ("favorites", "pull_stats", "usage_samples")

        def may_go_on() -> bool:
            steps.append(dict(counts(database, *tables)))
            return True

        report = purging.purge(impatient.writer, 1, may_go_on=may_go_on)
        assert report is not None
        assert report.is_empty
        for table in tables:
            taken = [before[table] - after[table] for before, after in pairwise(steps)]
            assert max(taken) <= 2, (table, taken)
            assert rows(database, f"SELECT DISTINCT repository_id FROM {table}") == [(2,)]
        assert counts(database, *tables) == {"favorites": 6, "pull_stats": 5, "usage_samples": 1}
        commit_one(impatient, builder, image, layout / "2", "app")
        assert rows(database, "SELECT id FROM repositories WHERE name = 'app'") == [(1,)]
        found = favorite_counts(database, "app", user="ann")
        assert (found.stars, found.bookmarks, found.is_starred) == (0, 0, False)
        assert statistics.pulls(database, Reference.parse("app")).last_pulled_at is None
        assert [each.repository for each in favorites(database, "ann", "star").items] == ["other"]
        assert [each.name for each in sampled_usage(database).items] == ["other"]
