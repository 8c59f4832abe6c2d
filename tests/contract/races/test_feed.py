"""The feed beside writers: nothing skipped, nothing twice, each repository's changes in order."""

from __future__ import annotations

import random
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import db
from regmeta.app import Writing
from regmeta.db import Database
from regmeta.ingest.tags import set_tag
from regmeta.models import Event, Repository
from regmeta.query import feed
from regmeta.query.feed_events import Event as FeedEvent
from tests.builders import Json, LayoutBuilder, digest_of
from tests.support.aside import WAIT_S, Freeze, Opened
from tests.support.registry import commit_one, scalar

REPOSITORIES = ("app", "lib")
WRITERS = 8
COMMITS = 12


@pytest.fixture
def images(one: Writing, builder: LayoutBuilder, layout: Path) -> list[Json]:
    """Two images in each of two repositories."""
    made = [builder.image(), builder.image()]
    for repository in REPOSITORIES:
        for tag, image in zip(("v1", "v2"), made, strict=True):
            commit_one(one, builder, image, layout, repository, tag)
    return made


def told(page: feed.EventPage) -> list[str]:
    return [f"{event.repository}:{event.tag}" for event in page.items]


@pytest.mark.parametrize("late", REPOSITORIES)
def test_event_of_a_transaction_that_commits_after_a_later_one_is_not_skipped(
    one: Writing, other: Writing, images: list[Json], opened: Opened, aside: Freeze, late: str
) -> None:
    """Its id is lower than one that was read before it could be seen."""
    reader = opened().database
    start = feed.newest_cursor(reader)
    [early] = set(REPOSITORIES) - {late}
    first = aside(lambda: set_tag(one.writer, late, "late", digest_of(images[0])), "tags.committing")
    second = aside(lambda: set_tag(other.writer, early, "early", digest_of(images[0])), None)
    if reader.is_sqlite:
        second.assert_waits(reader)
    else:
        second.assert_ends()
    before = feed.events(reader, after=start)
    assert told(before) == ([] if reader.is_sqlite else [f"{early}:early"])
    assert feed.events(reader, after=before.cursor).items == ()
    first.go_on()
    second.go_on()
    after = feed.events(reader, after=before.cursor)
    assert told(after) == [f"{late}:late", f"{early}:early"][: 2 - len(before.items)]
    assert feed.events(reader, after=after.cursor).items == ()
    whole = feed.events(reader, after=start)
    assert told(whole) == [f"{late}:late", f"{early}:early"]  # who comes later has them by id


def test_transaction_that_dies_holds_up_nobody(
    one: Writing, other: Writing, images: list[Json], opened: Opened, aside: Freeze
) -> None:
    reader = opened().database
    start = feed.newest_cursor(reader)
    first = aside(lambda: set_tag(one.writer, "app", "dead", digest_of(images[0])), "tags.committing")
    during = feed.events(reader, after=start)
    assert during.is_caught_up
    first.die()
    set_tag(other.writer, "app", "alive", digest_of(images[0]))
    page = feed.events(reader, after=during.cursor)
    assert told(page) == ["app:alive"]
    assert feed.events(reader, after=page.cursor).items == ()


class _Open:
    """Transactions that are open at once, on PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self.stack = ExitStack()
        self._database = database

    def begin(self) -> tuple[ExitStack, Connection]:
        """Begin a transaction that has its number at once; it commits when its stack is closed."""
        stack = self.stack.enter_context(ExitStack())
        connection = stack.enter_context(self._database.transaction("test"))
        connection.execute(sa.select(sa.func.pg_current_xact_id()))
        return stack, connection


@pytest.fixture
def overlapping(one: Writing) -> Iterator[_Open]:
    found = _Open(one.database)
    yield found
    found.stack.close()


def tell(connection: Connection, kind: str) -> None:
    """Change *app*, under its lock."""
    connection.execute(
        sa.update(Repository).where(Repository.name == "app").values(updated_at=Repository.updated_at)
    )
    number = connection.execute(sa.select(Repository.id).where(Repository.name == "app")).scalar_one()
    stamp = db.stamp(connection)
    values = {"occurred_at": stamp.now, "transaction_id": stamp.transaction_id}
    connection.execute(sa.insert(Event).values(kind=kind, repository_id=number, actor="tester", **values))


@pytest.mark.usefixtures("images")
def test_changes_of_a_repository_come_in_the_order_of_its_lock_not_of_transaction_numbers(
    one: Writing, overlapping: _Open, opened: Opened
) -> None:
    """A transaction has its number before it waits for the lock; another one is at work all the while."""
    reader = opened().database
    if reader.is_sqlite:
        pytest.skip("there is one writer at a time, and no numbers")
    start = feed.newest_cursor(reader)
    of_second, second = overlapping.begin()
    of_idle, idle = overlapping.begin()
    of_first, first = overlapping.begin()
    tell(first, "first")
    of_first.close()
    tell(second, "second")
    of_second.close()
    page = feed.events(reader, after=start)
    with idle.begin_nested():  # a savepoint has a number of its own, the event that of its transaction
        tell(idle, "third")
    assert feed.events(reader, after=page.cursor).items == ()
    of_idle.close()
    rest = feed.events(reader, after=page.cursor)
    assert [event.kind for event in (*page.items, *rest.items)] == ["first", "second", "third"]


@pytest.mark.usefixtures("images")
def test_low_id_of_a_transaction_that_was_at_work_for_long_comes_when_it_commits(
    one: Writing, overlapping: _Open, opened: Opened
) -> None:
    """Many batches lie between its event's id and its commit."""
    reader = opened().database
    if reader.is_sqlite:
        pytest.skip("there is one writer at a time")
    cursor = feed.newest_cursor(reader)
    of_slow, slow = overlapping.begin()
    number = scalar(reader, "SELECT id FROM repositories WHERE name = 'lib'")
    stamp = db.stamp(slow)
    values = {"occurred_at": stamp.now, "transaction_id": stamp.transaction_id}
    slow.execute(sa.insert(Event).values(kind="slow", repository_id=number, actor="tester", **values))
    found = []
    for turn in range(4):
        of_quick, quick = overlapping.begin()
        tell(quick, f"quick {turn}")
        of_quick.close()
        page = feed.events(reader, after=cursor, limit=1)
        found += [event.kind for event in page.items]
        cursor = page.cursor
    of_slow.close()
    for _ in range(4):
        page = feed.events(reader, after=cursor, limit=1)
        found += [event.kind for event in page.items]
        cursor = page.cursor
    assert sorted(found) == ["quick 0", "quick 1", "quick 2", "quick 3", "slow"]
    assert page.is_caught_up


@pytest.mark.usefixtures("images")
def test_low_id_of_the_newest_transaction_comes_when_it_commits(
    one: Writing, overlapping: _Open, opened: Opened
) -> None:
    """A snapshot does not list it among those at work: it ends behind the last transaction that has ended."""
    reader = opened().database
    if reader.is_sqlite:
        pytest.skip("there is one writer at a time")
    cursor = feed.newest_cursor(reader)
    number = scalar(reader, "SELECT id FROM repositories WHERE name = 'lib'")
    of_first, first = overlapping.begin()
    of_newest, newest = overlapping.begin()
    stamp = db.stamp(newest)
    values = {"occurred_at": stamp.now, "transaction_id": stamp.transaction_id}
    newest.execute(sa.insert(Event).values(kind="newest", repository_id=number, actor="tester", **values))
    tell(first, "first")
    of_first.close()
    page = feed.events(reader, after=cursor)
    assert [event.kind for event in page.items] == ["first"]
    of_newest.close()
    rest = feed.events(reader, after=page.cursor)
    assert [event.kind for event in rest.items] == ["newest"]


def test_follower_of_many_writers_sees_every_event_once_and_each_repository_in_order(
    images: list[Json], opened: Opened
) -> None:
    reader = opened().database
    cursor = feed.newest_cursor(reader)
    start = cursor
    writers = [opened() for _ in range(WRITERS)]
    barrier, raised = threading.Barrier(WRITERS), list[BaseException]()

    def write(writing: Writing, seed: int) -> None:
        drawn = random.Random(seed)
        barrier.wait(WAIT_S)
        try:
            for number in range(COMMITS):
                set_tag(
                    writing.writer,
                    drawn.choice(REPOSITORIES),
                    f"w{seed}-{number}",
                    digest_of(drawn.choice(images)),
                )
        except BaseException as error:  # noqa: BLE001 - told
            raised.append(error)

    threads = [threading.Thread(target=write, args=[each, seed]) for seed, each in enumerate(writers)]
    for thread in threads:
        thread.start()
    drawn = random.Random(WRITERS)
    found: list[FeedEvent] = []
    while True:
        is_over = not any(thread.is_alive() for thread in threads)
        page = feed.events(reader, after=cursor, limit=drawn.choice((1, 3, 50)))
        found += page.items
        cursor = page.cursor
        if is_over and page.is_caught_up:
            break
    assert raised == []
    wanted = {f"w{seed}-{number}" for seed in range(WRITERS) for number in range(COMMITS)}
    assert sorted(str(event.tag) for event in found) == sorted(wanted)
    ids = defaultdict(list)
    for event in found:
        ids[event.repository].append(event.id)
    # Ids are given out under the repository's lock.
    assert all(numbers == sorted(numbers) for numbers in ids.values())
    again = feed.events(reader, after=start, limit=WRITERS * COMMITS + 1)
    assert {event.id for event in again.items} == {event.id for event in found}
