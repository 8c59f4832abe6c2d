"""The feed of changes: each event once, in order, from where a consumer was; and refusals."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from regmeta import db, errors
from regmeta.app import Writing
from regmeta.db import Database
from regmeta.ingest.tags import remove_tag, set_tag
from regmeta.maintain.delete.repository import delete_repository
from regmeta.maintain.feed import forget_transactions, prune_events
from regmeta.models import Event, StoreIdentity
from regmeta.query import feed
from regmeta.query.feed_cursors import CursorRefused, decode
from regmeta.query.visibility import UnderPrefixes
from tests.builders import LayoutBuilder, digest_of
from tests.support.clock import let_pass
from tests.support.registry import change, commit_one, rows, scalar

DAY = timedelta(days=1)


@pytest.fixture
def ids(writing: Writing, builder: LayoutBuilder, layout: Path) -> dict[str, int]:
    """Three repositories, of which the feed says nothing yet."""
    image = builder.image()
    for name in ("team/a", "team/b", "z"):
        commit_one(writing, builder, image, layout, name)
    change(writing.database, "DELETE FROM events")
    return {
        str(name): int(number) for name, number in rows(writing.database, "SELECT name, id FROM repositories")
    }


def read_quietly(database: Database, after: str | None = None, limit: int = 100) -> str:
    """Return the cursor of a page that was read while no transaction was at work on the server."""
    for _ in range(2000):
        cursor = feed.events(database, after=after, limit=limit).cursor
        position = decode(cursor)
        if not any(moment and moment.running for moment in (position.seen, position.until)):
            return cursor
        time.sleep(0.005)
    raise AssertionError("there is always somebody at work")


def happen(writing: Writing, repository_id: int, *kinds: str, transaction_id: int | None = None) -> None:
    """Commit events, of a transaction of their own as a rule."""
    with writing.database.transaction("test") as connection:
        stamp = db.stamp(connection)
        connection.execute(
            sa.insert(Event),
            [
                {
                    "transaction_id": stamp.transaction_id if transaction_id is None else transaction_id,
                    "occurred_at": stamp.now,
                    "kind": kind,
                    "repository_id": repository_id,
                    "actor": "tester",
                }
                for kind in kinds
            ],
        )


def kinds_of(page: feed.EventPage) -> list[str]:
    return [event.kind for event in page.items]


def test_events_of_real_changes_say_what_was_before(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    images = [builder.image(), builder.image()]
    commit_one(writing, builder, images[0], layout)
    commit_one(writing, builder, images[1], layout, tag=None)
    begun = feed.newest_cursor(writing.database)
    set_tag(writing.writer, "app", "v1", digest_of(images[1]))
    remove_tag(writing.writer, "app", "v1")
    page = feed.events(writing.database, after=begun)
    assert [(e.kind, e.repository, e.tag, e.digest, e.previous, e.actor) for e in page.items] == [
        ("tag.moved", "app", "v1", digest_of(images[1]), digest_of(images[0]), "tester"),
        ("tag.removed", "app", "v1", None, digest_of(images[1]), "tester"),
    ]
    assert page.is_caught_up
    whole = feed.events(writing.database)
    assert whole.items[-2:] == page.items
    assert {"manifest.pushed", "tag.created"} <= set(kinds_of(whole))


def test_pages_of_any_size_give_each_event_once_in_order(writing: Writing, ids: dict[str, int]) -> None:
    for number in range(7):
        happen(writing, ids["team/a" if number % 2 else "team/b"], f"a{number}", f"b{number}")
    every = [f"{letter}{number}" for number in range(7) for letter in "ab"]
    for limit in (1, 2, 3, 14, 15):
        found, cursor = list[str](), None
        for _ in range(20):
            page = feed.events(writing.database, after=cursor, limit=limit)
            found += kinds_of(page)
            cursor = page.cursor
            if page.is_caught_up:
                break
        assert found == every


def test_cursor_of_an_empty_page_goes_on_with_what_comes(writing: Writing, ids: dict[str, int]) -> None:
    empty = feed.events(writing.database)
    assert (empty.items, empty.is_caught_up) == ((), True)
    again = feed.events(writing.database, after=empty.cursor)
    assert (again.items, again.is_caught_up) == ((), True)
    happen(writing, ids["z"], "first")
    first = feed.events(writing.database, after=again.cursor)
    assert kinds_of(first) == ["first"]
    assert kinds_of(feed.events(writing.database, after=empty.cursor)) == ["first"]  # at least once
    assert feed.events(writing.database, after=first.cursor).items == ()


def test_what_comes_while_pages_are_read_comes_after_them(writing: Writing, ids: dict[str, int]) -> None:
    happen(writing, ids["z"], "a", "b", "c")
    page = feed.events(writing.database, limit=2)
    happen(writing, ids["z"], "d")
    rest = feed.events(writing.database, after=page.cursor, limit=2)
    assert kinds_of(rest) == ["c", "d"]
    assert feed.events(writing.database, after=rest.cursor).items == ()


def test_filters_leave_events_out_and_the_cursor_passes_them(
    writing: Writing, ids: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    happen(writing, ids["team/a"], "push", "pull", "push")
    happen(writing, ids["team/b"], "push")
    database = writing.database
    assert kinds_of(feed.events(database, kinds=["pull"])) == ["pull"]
    of_b = feed.events(database, repository="team/b")
    assert kinds_of(of_b) == ["push"]
    assert feed.events(database, after=of_b.cursor).items == ()
    nothing = feed.events(database, kinds=["other"])
    assert (nothing.items, nothing.is_caught_up) == ((), True)
    assert feed.events(database, after=nothing.cursor).items == ()


def test_page_of_a_filter_looks_at_a_bounded_number_of_events(
    writing: Writing, ids: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    happen(writing, ids["z"], *["dull"] * 9, "rare", "dull")
    monkeypatch.setattr(feed, "_CEILING", feed._CEILING.offset(3))  # four events a page
    found, cursor, pages = list[str](), None, 0
    while True:
        page = feed.events(writing.database, after=cursor, kinds=["rare"])
        pages, cursor = pages + 1, page.cursor
        found += kinds_of(page)
        if page.is_caught_up:
            break
    assert (found, pages) == (["rare"], 3)


def test_who_sees_some_repositories_gets_their_events_only(writing: Writing, ids: dict[str, int]) -> None:
    happen(writing, ids["team/a"], "ours")
    happen(writing, ids["z"], "theirs")
    visible = UnderPrefixes(["team"])
    page = feed.events(writing.database, visible=visible)
    assert kinds_of(page) == ["ours"]
    with pytest.raises(errors.NotFound) as hidden:
        feed.events(writing.database, repository="z", visible=visible)
    with pytest.raises(errors.NotFound) as missing:
        feed.events(writing.database, repository="y", visible=visible)
    assert str(hidden.value) == str(missing.value).replace("y:", "z:")


def test_events_of_a_deleted_repository_stay(writing: Writing, ids: dict[str, int]) -> None:
    happen(writing, ids["z"], "push")
    delete_repository(writing.writer, "z")
    assert kinds_of(feed.events(writing.database, repository="z")) == ["push", "repository.deleted"]


@pytest.mark.inconsistent
def test_damaged_row_is_shown_and_stops_nobody(writing: Writing, ids: dict[str, int]) -> None:
    happen(writing, ids["z"], "a", "b")
    bad = b"\xffbad"
    change(
        writing.database,
        "UPDATE events SET digest = :bad, occurred_at = 9000000000000000000 WHERE kind = 'a'",
        bad=bad,
    )
    first, second = feed.events(writing.database).items
    assert (first.kind, first.at, first.digest, first.is_damaged) == ("a", None, None, True)
    assert (second.kind, second.is_damaged) == ("b", False)


# --- cursors that cannot be followed ----------------------------------------------------------


@pytest.mark.parametrize(
    "cursor", ["", "x", "é", "AAAA", "W10", "e30", "bnVsbA", "WzEsMSwxLDEsMSwxLDFd", "A" * 70_000]
)
def test_text_that_is_no_cursor_is_a_usage_error(writing: Writing, cursor: str) -> None:
    with pytest.raises(errors.UsageError, match="no cursor of the feed"):
        feed.events(writing.database, after=cursor)


@pytest.mark.inconsistent
@pytest.mark.parametrize("field", ["epoch", "database_id"])
def test_cursor_of_another_life_is_refused(writing: Writing, ids: dict[str, int], field: str) -> None:
    happen(writing, ids["z"], "a")
    cursor = feed.events(writing.database).cursor
    with writing.database.transaction("test") as connection:
        values = {"epoch": StoreIdentity.epoch + 1, "database_id": StoreIdentity.store_id}
        connection.execute(sa.update(StoreIdentity).values({field: values[field]}))
    with pytest.raises(CursorRefused, match=r"another life of this registry.*--from beginning") as refused:
        feed.events(writing.database, after=cursor)
    assert refused.value.exit_code == 6


def test_cursor_that_is_ahead_of_the_feed_is_refused(writing: Writing, ids: dict[str, int]) -> None:
    """The rows are an older copy, put back by hand."""
    happen(writing, ids["z"], "a", "b")
    position = decode(feed.events(writing.database).cursor)
    change(writing.database, "DELETE FROM events WHERE kind = 'b'")
    with pytest.raises(CursorRefused, match="ahead of the feed"):
        feed.events(writing.database, after=position.encoded())


# --- deleting old events ----------------------------------------------------------------------


def test_pruning_deletes_what_is_older_and_nothing_else(writing: Writing, ids: dict[str, int]) -> None:
    happen(writing, ids["z"], "a", "b", "c")
    let_pass(writing.database, 10 * DAY)
    happen(writing, ids["z"], "d")
    assert prune_events(writing.database, 11 * DAY).events == 0
    assert prune_events(writing.database, 9 * DAY, batch=2).events == 3
    assert kinds_of(feed.events(writing.database)) == ["d"]
    assert prune_events(writing.database, 9 * DAY).events == 0


def test_consumer_who_had_not_read_what_was_pruned_is_refused(writing: Writing, ids: dict[str, int]) -> None:
    database = writing.database
    start = feed.newest_cursor(database)
    happen(writing, ids["z"], "a", "b", "c")
    of_a = feed.events(database, limit=1).cursor
    of_all = read_quietly(database, limit=3)
    let_pass(database, 10 * DAY)
    happen(writing, ids["z"], "d")
    prune_events(database, DAY)
    for cursor in (start, of_a):
        with pytest.raises(CursorRefused, match="were deleted since"):
            feed.events(database, after=cursor)
    assert kinds_of(feed.events(database, after=of_all)) == ["d"]
    assert kinds_of(feed.events(database, limit=1)) == ["d"]


def test_consumer_who_was_caught_up_goes_on_over_a_pruning(writing: Writing, ids: dict[str, int]) -> None:
    database = writing.database
    happen(writing, ids["z"], "a", "b")
    cursor = read_quietly(database)
    let_pass(database, 10 * DAY)
    prune_events(database, DAY)
    assert feed.events(database, after=cursor).items == ()
    happen(writing, ids["z"], "c")
    assert kinds_of(feed.events(database, after=cursor)) == ["c"]
    let_pass(database, 10 * DAY)
    prune_events(database, DAY)
    with pytest.raises(CursorRefused, match="were deleted since"):
        feed.events(database, after=cursor)


def test_pruning_stops_at_the_first_event_that_is_newer(writing: Writing, ids: dict[str, int]) -> None:
    """Else there would be a gap that no cursor tells."""
    happen(writing, ids["z"], "old", "new", "old")
    newer = scalar(writing.database, "SELECT max(id) FROM events WHERE kind = 'new'")
    let_pass(writing.database, 10 * DAY)
    change(
        writing.database,
        "UPDATE events SET occurred_at = occurred_at + :by WHERE id = :of",
        of=newer,
        by=10 * 86_400_000_000,
    )
    assert prune_events(writing.database, DAY).events == 1
    assert kinds_of(feed.events(writing.database)) == ["new", "old"]


def test_pruning_needs_a_length_of_time(writing: Writing) -> None:
    with pytest.raises(errors.UsageError):
        prune_events(writing.database, -DAY)
    with pytest.raises(errors.UsageError):
        prune_events(writing.database, timedelta.max)


# --- rows of another server -------------------------------------------------------------------


def test_rows_of_a_server_that_was_further_are_refused_until_a_restore_made_them_ours(
    writing: Writing, ids: dict[str, int]
) -> None:
    """A dump keeps the numbers of transactions; the server that it is loaded into counts from its own."""
    happen(writing, ids["z"], "old 1", transaction_id=10**12)
    happen(writing, ids["z"], "old 2", transaction_id=10**12 - 5)
    happen(writing, ids["z"], "new 1")
    if not writing.database.is_sqlite:
        with pytest.raises(errors.Refused, match="regmeta restore"):
            feed.events(writing.database)
        with pytest.raises(errors.Refused, match="regmeta restore"):
            feed.newest_cursor(writing.database)
    with writing.database.transaction("test") as connection:
        forget_transactions(connection)
    page = feed.events(writing.database)
    assert kinds_of(page) == ["old 1", "old 2", "new 1"]
    happen(writing, ids["z"], "new 2")
    assert kinds_of(feed.events(writing.database, after=page.cursor)) == ["new 2"]
    assert kinds_of(feed.events(writing.database, limit=4)) == ["old 1", "old 2", "new 1", "new 2"]
