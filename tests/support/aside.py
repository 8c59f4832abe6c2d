"""Something that goes on in a thread of its own and stands still at a point, while others go on.

Each thread has a registry that it opened for itself, as another process would: its own connections, its own
staging. Where it stands still inside a transaction, others wait for it: on SQLite for the file, on PostgreSQL
for rows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final, Literal

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import errors, failpoints
from regmeta.app import Writing, open_for_writing
from regmeta.db import Database
from regmeta.ingest import local_registry
from regmeta.maintain.collect import dead_objects, hold
from regmeta.maintain.collect.run import CollectReport, collect
from regmeta.maintain.collect.sweep import sweep
from regmeta.settings import Settings
from regmeta.store import filesystem
from tests.crash.harness.children import InlineExecutor
from tests.support.registry import AT_ONCE, keys_in, objects

HOUR: Final = timedelta(hours=1)
SWEPT: Final = replace(AT_ONCE, max_upload=-HOUR)  # files have the store's clock
WAIT_S: Final = 60.0  # a thread that is not there by then never comes
END_S: Final = 30.0  # the same of one that nobody holds up
LOOK_S: Final = 0.15  # for so long it is looked at whether a thread gets on
_WAITING: Final = sa.text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


class Died(BaseException):
    """The process that stood still has come to its end there."""


class Aside:
    """Something that goes on in a thread of its own, and may stand still at a point."""

    def __init__(self, body: Callable[[], Any], freeze_at: str | None = None) -> None:
        self._freeze_at = freeze_at
        self._dies = False
        self._arrived, self._let_go = threading.Event(), threading.Event()
        self._result: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(body,), daemon=True)

    def start(self) -> None:
        """Go on until it stands still, if it is to."""
        self._thread.start()
        if self._freeze_at is not None:
            assert self._arrived.wait(WAIT_S)
            assert self._thread.is_alive(), f"it never came to {self._freeze_at}: {self._error!r}"

    def reach(self, point: str) -> None:
        """Stand still, the first time that it is the point for that."""
        if threading.current_thread() is self._thread and point == self._freeze_at:
            self._freeze_at = None
            self._arrived.set()
            assert self._let_go.wait(WAIT_S)
            if self._dies:
                raise Died(point)

    def assert_waits(self, database: Database) -> None:
        """Check that it does not get on: on PostgreSQL it waits for a lock by now, on SQLite for the file."""
        until_s = time.monotonic() + WAIT_S
        while not database.is_sqlite and not _anybody_waits(database):
            assert self._thread.is_alive(), f"it did not wait: {self._error!r}"
            assert time.monotonic() < until_s, "it neither waits for a lock nor ends"
            time.sleep(0.005)
        if database.is_sqlite:
            self._thread.join(LOOK_S)
        assert self._thread.is_alive(), f"it did not wait: {self._error!r}"

    def rest(self, database: Database) -> None:
        """Return when it has come to its end, or waits for a lock (on SQLite: probably does)."""
        until_s = time.monotonic() + WAIT_S
        self._thread.join(LOOK_S)
        while not database.is_sqlite and self._thread.is_alive() and not _anybody_waits(database):
            assert time.monotonic() < until_s, "it neither waits for a lock nor ends"
            time.sleep(0.005)

    def assert_ends(self) -> None:
        """Check that it comes to its end while others stand still."""
        self._thread.join(END_S)
        assert not self._thread.is_alive(), "it waits"

    def go_on(self) -> Any:
        """Let it continue to its end; returns or raises what it does."""
        self._let_go.set()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error
        return self._result

    def told(self) -> Any:
        """Let it continue to its end; returns what it does, or the error that it was refused with."""
        try:
            return self.go_on()
        except errors.Error as error:
            return error

    def die(self) -> None:
        """Let it end where it stands still, as by an error that nobody catches."""
        self._dies = True
        with pytest.raises(Died):
            self.go_on()

    def _run(self, body: Callable[[], Any]) -> None:
        try:
            self._result = body()
        except BaseException as error:  # noqa: BLE001 - raised by ``go_on``
            self._error = error
        self._arrived.set()


def _anybody_waits(database: Database) -> bool:
    with database.read() as connection:
        return bool(connection.execute(_WAITING).scalar())


Freeze = Callable[[Callable[[], Any], str | None], Aside]
Opened = Callable[..., Writing]
Waits = Literal["always", "on SQLite", "never", "perhaps"]


@pytest.fixture
def aside(monkeypatch: pytest.MonkeyPatch) -> Iterator[Freeze]:
    """Run something in a thread that stands still at a point, or at none.

    Points are those of the package, and ``<name>.begin`` before each transaction.
    """
    begin = Database.transaction

    @contextmanager
    def transaction(self: Database, name: str, **options: bool) -> Iterator[Connection]:
        failpoints.reach(f"{name}.begin")
        with begin(self, name, **options) as connection:
            yield connection

    monkeypatch.setattr(Database, "transaction", transaction)
    for module in (local_registry, filesystem):  # points are reached in the thread that is to stand still
        monkeypatch.setattr(module, "Threads", InlineExecutor)
    started: list[Aside] = []

    def start(body: Callable[[], Any], freeze_at: str | None) -> Aside:
        found = Aside(body, freeze_at)
        started.append(found)
        found.start()
        return found

    def handler(point: str) -> None:
        for each in list(started):
            each.reach(point)

    with failpoints.armed(handler):
        yield start
        for each in started:
            each._let_go.set()
            each._thread.join(WAIT_S)


@pytest.fixture
def opened(settings: Settings, aside: Freeze) -> Iterator[Opened]:
    """Open the registry once more, as another process would."""
    with ExitStack() as stack:
        yield lambda lifetimes=AT_ONCE: stack.enter_context(open_for_writing(settings, lifetimes=lifetimes))


@pytest.fixture
def points_of_deletion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make points of what is no durable step: the record is read again, an object is deleted."""
    check, delete = hold.check_may_delete, filesystem.FilesystemStore.delete

    def checked(*arguments: Any) -> None:
        failpoints.reach("test.tombstones_read")
        check(*arguments)

    def deleted(*arguments: Any) -> None:
        failpoints.reach("test.record_read")
        delete(*arguments)

    monkeypatch.setattr(dead_objects, "check_may_delete", checked)
    monkeypatch.setattr(filesystem.FilesystemStore, "delete", deleted)


@pytest.fixture
def race(aside: Freeze, opened: Opened) -> Callable[..., tuple[Any, Any]]:
    """Run one thing up to a point, then start another and see whether it waits; then let the first one end.

    Returns what each of them returned, or the error of the package that it raised. What *waits* only on
    SQLite, where the file is locked, comes to its end on PostgreSQL before the first one goes on.
    """
    looking = opened()

    def run(
        first: Callable[[], Any], at: str, second: Callable[[], Any], *, waits: Waits = "always"
    ) -> tuple[Any, Any]:
        one = aside(first, at)
        other = aside(second, None)
        if waits == "always" or (waits == "on SQLite" and looking.database.is_sqlite):
            other.assert_waits(looking.database)
        elif waits == "perhaps":
            other.rest(looking.database)
        else:
            other.assert_ends()
        return one.told(), other.told()

    return run


def run_collect(writing: Writing) -> CollectReport:
    """Collect what is due."""
    return collect(writing.writer, writing.store)


def assert_only_live_objects(writing: Writing) -> None:
    """Let everything that nobody needs go, and look whether anything that somebody needs went with it."""
    collect(writing.writer, writing.store)
    sweep(writing.database, writing.store, SWEPT)
    collect(writing.writer, writing.store)
    collect(writing.writer, writing.store)
    assert set(objects(writing.store)) == keys_in(writing.database, "blobs")
