"""What the collector cannot do costs only itself, is told, and is tried again, later and later."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from regmeta import db, failpoints
from regmeta.app import Writing, open_for_writing
from regmeta.db import Database
from regmeta.errors import DatabaseUnavailable
from regmeta.ingest.plan import Lifetimes
from regmeta.ingest.tags import remove_tag
from regmeta.maintain.collect import dead_objects
from regmeta.maintain.collect.again import Retried, retry_now
from regmeta.maintain.collect.hold import CollectionPaused
from regmeta.maintain.collect.run import collect
from regmeta.maintain.verify.findings import Kind as FindingKind
from regmeta.maintain.verify.machinery import check_machinery
from regmeta.models.base import UtcTime
from regmeta.models.machinery import DEAD_AFTER
from regmeta.query.collection import collection_status
from regmeta.settings import Settings
from tests.builders import Json, LayoutBuilder, digest_of
from tests.support.fault_store import Fault, FaultStore, Kind, Plan
from tests.support.registry import (
    AT_ONCE,
    change,
    commit_one,
    counts,
    keys_in,
    objects,
    rows,
    scalar,
)

KEEPING_TOMBSTONES = replace(AT_ONCE, max_upload=timedelta(hours=1))
Open = Callable[..., Writing]


@pytest.fixture
def opened(settings: Settings) -> Iterator[Open]:
    """Open the registry once more, as another process would."""
    with ExitStack() as stack:
        yield lambda lifetimes=AT_ONCE: stack.enter_context(open_for_writing(settings, lifetimes=lifetimes))


def dead_images(writing: Writing, builder: LayoutBuilder, layout: Path, count: int = 3) -> list[Json]:
    """Commit images with layers of their own, and take their tags away."""
    images = [builder.image([b"layer %d" % number]) for number in range(count)]
    for number, image in enumerate(images):
        commit_one(writing, builder, image, layout / str(number), tag=f"v{number}")
    for number in range(count):
        remove_tag(writing.writer, "app", f"v{number}")
    return images


@contextmanager
def pinned(database: Database, table: str, digest: bytes) -> Iterator[None]:
    """Refer to a row from a table that regmeta knows nothing of, as another program's might."""
    change(database, f"CREATE TABLE pins (id BIGINT NOT NULL REFERENCES {table} (id))")
    change(database, f"INSERT INTO pins SELECT id FROM {table} WHERE digest = :of", of=digest)
    assert scalar(database, "SELECT count(*) FROM pins") == 1
    yield
    change(database, "DROP TABLE pins")


def due_in(database: Database, table: str, column: str = "not_before") -> list[timedelta]:
    """Return how long each row waits that has failed."""
    moment = sa.column(column, UtcTime())
    found = sa.select(moment).select_from(sa.table(table)).where(sa.column("attempts") > 0)
    with database.read() as connection:
        now = db.clock(connection)
        return [value - now for value in connection.execute(found).scalars()]


def let_backed_off_be_due(database: Database) -> None:
    change(database, "UPDATE gc_tasks SET not_before = 0 WHERE attempts > 0")
    change(database, "UPDATE tombstones SET not_before = 0 WHERE attempts > 0 AND deleted_at IS NULL")
    change(database, "UPDATE tombstones SET drop_after = 0 WHERE attempts > 0 AND deleted_at IS NOT NULL")


@contextmanager
def points_seen() -> Iterator[list[str]]:
    seen: list[str] = []
    with failpoints.armed(seen.append):
        yield seen


# --- rows that are refused --------------------------------------------------------------------


def test_manifest_that_the_database_refuses_to_delete_costs_only_itself(
    opened: Open, builder: LayoutBuilder, layout: Path
) -> None:
    writing = opened()
    digest = digest_of(dead_images(writing, builder, layout)[1])
    with pinned(writing.database, "manifests", digest.to_bytes()):
        report = collect(writing.writer, writing.store)
        assert (report.manifests, report.blobs, report.objects.deleted) == (2, 6, 6)
        [failure] = report.failures
        assert failure.startswith(f"app@{digest}: ")
        assert "foreign key" in failure.lower()
        [(attempts, error)] = rows(writing.database, "SELECT attempts, last_error FROM gc_tasks")
        assert attempts == 1
        assert "foreign key" in error.lower()
        [wait] = due_in(writing.database, "gc_tasks")
        assert timedelta() < wait <= timedelta(minutes=1)
        # All of it is still there.
        assert scalar(writing.database, "SELECT count(*) FROM manifest_blobs") == 2
        assert len(objects(writing.store)) == 3
        # Nothing is due, and nothing is tried.
        again = collect(writing.writer, writing.store)
        assert (again.tasks, again.failures) == (0, [])
    assert retry_now(writing.database) == Retried(1, 0, ended_pause=False)
    assert collect(writing.writer, writing.store).manifests == 1
    assert set(counts(writing.database, "gc_tasks", "blobs", "tombstones").values()) == {0}


def test_blob_that_the_database_refuses_to_delete_costs_only_itself(
    opened: Open, builder: LayoutBuilder, layout: Path
) -> None:
    leasing, writing = opened(replace(AT_ONCE, lease=timedelta(hours=1))), opened()
    [image] = dead_images(leasing, builder, layout, 1)
    change(writing.database, "UPDATE manifests SET lease_until = 0")
    change(writing.database, "UPDATE gc_tasks SET not_before = 0")
    assert collect(leasing.writer, leasing.store).manifests == 1
    change(writing.database, "UPDATE blobs SET lease_until = 0")
    change(writing.database, "UPDATE gc_tasks SET not_before = 0")
    digest = digest_of(image)
    with pinned(writing.database, "blobs", digest.to_bytes()):
        report = collect(writing.writer, writing.store)
        assert report.blobs == 2
        [failure] = report.failures
        assert failure.startswith(f"{digest}: ")
        assert rows(writing.database, "SELECT attempts FROM gc_tasks") == [(1,)]
    retry_now(writing.database)
    assert collect(writing.writer, writing.store).blobs == 1


def test_back_off_is_written_after_the_batch_and_does_not_take_it_back(
    opened: Open, builder: LayoutBuilder, layout: Path
) -> None:
    writing = opened()
    digest = digest_of(dead_images(writing, builder, layout)[0])

    def fail(name: str) -> None:
        seen.append(name)
        if name == "tasks_failed.committing":
            raise DatabaseUnavailable("the database has just gone")

    seen: list[str] = []
    with pinned(writing.database, "manifests", digest.to_bytes()):
        with failpoints.armed(fail), pytest.raises(DatabaseUnavailable, match="just gone"):
            collect(writing.writer, writing.store)
        assert seen.index("collect.committed") < seen.index("tasks_failed.committing")
        assert counts(writing.database, "manifests") == {"manifests": 1}
        assert rows(writing.database, "SELECT attempts FROM gc_tasks") == [(0,)]
        assert collect(writing.writer, writing.store).failures != []
    retry_now(writing.database)
    collect(writing.writer, writing.store)


def test_task_that_fails_ten_times_is_a_dead_letter_until_it_is_asked_for(
    opened: Open, builder: LayoutBuilder, layout: Path
) -> None:
    writing = opened()
    digest = digest_of(dead_images(writing, builder, layout, 1)[0])
    with pinned(writing.database, "manifests", digest.to_bytes()):
        for attempt in range(1, DEAD_AFTER + 1):
            report = collect(writing.writer, writing.store)
            assert rows(writing.database, "SELECT attempts FROM gc_tasks") == [(attempt,)]
            assert report.dead_letters == (attempt == DEAD_AFTER)
            let_backed_off_be_due(writing.database)
        report = collect(writing.writer, writing.store)
        assert (report.tasks, report.failures, report.dead_letters) == (0, [], 1)
        found = collection_status(writing.database)
        assert not found.is_healthy
        [failure] = found.failures
        assert (failure.kind, failure.target, failure.attempts, failure.next_try_at) == (
            "manifest",
            f"app@{digest}",
            DEAD_AFTER,
            None,
        )
        assert "foreign key" in str(failure.last_error).lower()
        [queue] = [queue for queue in found.queues if queue.kind == "manifest"]
        assert (queue.queued, queue.due, queue.overdue, queue.dead_letters) == (1, 0, 0, 1)
    assert retry_now(writing.database).tasks == 1
    assert collect(writing.writer, writing.store).manifests == 1
    assert collection_status(writing.database).is_healthy


def test_task_that_was_put_off_after_a_failure_counts_anew(
    opened: Open, builder: LayoutBuilder, layout: Path
) -> None:
    writing = opened(replace(AT_ONCE, history=timedelta(hours=1)))
    dead_images(writing, builder, layout, 1)
    change(writing.database, "UPDATE gc_tasks SET attempts = 9, last_error = 'once', not_before = 0")
    assert collect(writing.writer, writing.store).manifests == 0
    assert rows(writing.database, "SELECT attempts, last_error FROM gc_tasks") == [(0, None)]


# --- objects that stay ------------------------------------------------------------------------


def test_object_that_cannot_be_deleted_keeps_no_other_from_going(
    opened: Open, builder: LayoutBuilder, layout: Path
) -> None:
    writing = opened()
    dead_images(writing, builder, layout, 1)
    plan = Plan(Fault("delete", Kind.RAISE), Fault("delete", Kind.RAISE, number=3))
    report = collect(writing.writer, FaultStore(writing.store, plan)).objects
    assert (report.deleted, len(report.failures), len(objects(writing.store))) == (2, 1, 1)
    left = [(size,) for size in objects(writing.store).values()]
    assert rows(writing.database, "SELECT size_bytes FROM tombstones") == left
    [wait] = due_in(writing.database, "tombstones")
    assert timedelta() < wait <= timedelta(minutes=1)
    assert collect(writing.writer, writing.store).objects.deleted == 0
    found = collection_status(writing.database)
    assert (found.tombstones.failed, [(found.tombstones.failed_bytes,)]) == (1, left)
    assert found.reclaimable_bytes == left[0][0]
    assert [failure.kind for failure in found.failures] == ["object"]
    assert retry_now(writing.database) == Retried(0, 1, ended_pause=False)
    assert collect(writing.writer, writing.store).objects.deleted == 1
    assert objects(writing.store) == {}


class LyingStore(FaultStore):
    """Says that it has deleted an object, and has not."""

    kept: str | None = None

    def delete(self, keys: Any) -> None:
        super().delete([key for key in keys if key != self.kept])


def test_bytes_that_are_there_still_are_not_counted_and_verify_tells_of_them(
    opened: Open, builder: LayoutBuilder, layout: Path
) -> None:
    writing = opened(KEEPING_TOMBSTONES)
    dead_images(writing, builder, layout, 1)
    before = objects(writing.store)
    store = LyingStore(writing.store, Plan())
    store.kept = min(before)
    report = collect(writing.writer, store).objects
    assert objects(writing.store) == {store.kept: before[store.kept]}
    assert report.deleted == len(before) - 1
    assert report.size_bytes == sum(before.values()) - before[store.kept]
    [failure] = report.failures
    assert f"{store.kept} was deleted without an error, and is still there" in failure
    found = list(check_machinery(writing.database, writing.store, writing.writer.host))
    assert [(finding.kind, finding.subject) for finding in found] == [
        (FindingKind.TOMBSTONE_STUCK, store.kept)
    ]
    retry_now(writing.database)
    assert collect(writing.writer, writing.store).objects.size_bytes == before[store.kept]


def test_object_of_which_it_is_not_known_whether_it_went_is_not_counted(
    opened: Open, builder: LayoutBuilder, layout: Path
) -> None:
    writing = opened(KEEPING_TOMBSTONES)
    dead_images(writing, builder, layout, 1)
    report = collect(
        writing.writer, FaultStore(writing.store, Plan(Fault("stat", Kind.RAISE, number=2)))
    ).objects
    assert (report.deleted, len(report.failures), objects(writing.store)) == (2, 1, {})
    retry_now(writing.database)
    assert collect(writing.writer, writing.store).objects.deleted == 1


def test_object_that_cannot_be_deleted_once_more_puts_off_when_it_is_forgotten(
    opened: Open, builder: LayoutBuilder, layout: Path
) -> None:
    writing = opened(KEEPING_TOMBSTONES)
    dead_images(writing, builder, layout, 1)
    assert collect(writing.writer, writing.store).objects.deleted == 3
    change(writing.database, "UPDATE tombstones SET drop_after = 0")
    before = rows(writing.database, "SELECT id, not_before, deleted_at FROM tombstones ORDER BY id")
    plan = Plan(Fault("delete", Kind.RAISE), Fault("delete", Kind.RAISE, number=2))
    report = collect(writing.writer, FaultStore(writing.store, plan)).objects
    assert (report.forgotten, len(report.failures)) == (2, 1)
    [left] = rows(writing.database, "SELECT id, not_before, deleted_at FROM tombstones")
    assert left in before
    [wait] = due_in(writing.database, "tombstones", "drop_after")
    assert timedelta() < wait <= timedelta(minutes=1)
    assert retry_now(writing.database).objects == 1
    assert collect(writing.writer, writing.store).objects.forgotten == 1


def test_dead_letter_of_an_object_is_not_tried_until_it_is_asked_for(
    opened: Open, builder: LayoutBuilder, layout: Path
) -> None:
    writing = opened()
    dead_images(writing, builder, layout, 1)
    for _ in range(DEAD_AFTER):
        broken = FaultStore(writing.store, Plan(Fault("delete", Kind.RAISE, for_good=True)))
        assert len(collect(writing.writer, broken).objects.failures) == 3
        let_backed_off_be_due(writing.database)
    report = collect(writing.writer, writing.store)
    assert (report.objects.deleted, report.dead_letters) == (0, 3)
    [queue] = [queue for queue in collection_status(writing.database).queues if queue.kind == "object"]
    assert (queue.queued, queue.due, queue.dead_letters) == (3, 0, 3)
    assert retry_now(writing.database).objects == 3
    assert collect(writing.writer, writing.store).objects.deleted == 3


def test_two_collectors_count_an_object_once(opened: Open, builder: LayoutBuilder, layout: Path) -> None:
    """The other one does all of it while this one is about to delete."""
    writing, other = opened(KEEPING_TOMBSTONES), opened(KEEPING_TOMBSTONES)
    dead_images(writing, builder, layout, 2)
    size_bytes = sum(objects(writing.store).values())
    reports = []
    overtake = Fault(
        "delete", Kind.DELAY, first=lambda: reports.append(collect(other.writer, other.store).objects)
    )
    reports.append(collect(writing.writer, FaultStore(writing.store, Plan(overtake))).objects)
    assert sorted(report.deleted for report in reports) == [0, 6]
    assert sum(report.size_bytes for report in reports) == size_bytes


def test_no_transaction_is_open_while_the_store_is_asked(
    opened: Open, builder: LayoutBuilder, layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing = opened()
    dead_images(writing, builder, layout, 1)
    transaction, read = Database.transaction, Database.read
    is_open = 0

    def counted(begin: Any) -> Any:
        @contextmanager
        def counting(*arguments: Any, **options: Any) -> Iterator[Any]:
            nonlocal is_open
            with begin(*arguments, **options) as connection:
                is_open += 1
                try:
                    yield connection
                finally:
                    is_open -= 1

        return counting

    monkeypatch.setattr(Database, "transaction", counted(transaction))
    monkeypatch.setattr(Database, "read", counted(read))
    asked = []

    class Watching(FaultStore):
        def delete(self, keys: Any) -> None:
            asked.append(("delete", is_open))
            super().delete(keys)

        def stat(self, key: str) -> Any:
            asked.append(("stat", is_open))
            return super().stat(key)

        def read_record(self, name: str) -> bytes | None:
            asked.append(("read_record", is_open))
            return super().read_record(name)

    store = Watching(writing.store, Plan(Fault("delete", Kind.RAISE), Fault("delete", Kind.RAISE, number=3)))
    assert collect(writing.writer, store).objects.deleted == 2
    assert set(asked) == {("delete", 0), ("stat", 0), ("read_record", 0)}
    retry_now(writing.database)
    collect(writing.writer, writing.store)


# --- a store that is away ---------------------------------------------------------------------


@pytest.fixture
def few_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three failures in a row are many."""
    monkeypatch.setattr(dead_objects, "MANY_FAILURES", 3)


def pauses(database: Database) -> tuple[int, bool, bool]:
    """Return how many pauses there were, whether there is an end of one, and whether a reason."""
    [(count, until, reason)] = rows(database, "SELECT pauses, paused_until, pause_reason FROM store_identity")
    return count, until is not None, reason is not None


@pytest.mark.usefixtures("few_failures")
def test_store_that_gives_errors_only_is_left_alone_by_all_collectors(
    opened: Open, builder: LayoutBuilder, layout: Path
) -> None:
    writing, other = opened(), opened()
    dead_images(writing, builder, layout, 2)
    tombs = "SELECT count(*) FROM tombstones WHERE attempts = "
    broken = Plan(Fault("delete", Kind.RAISE, for_good=True))
    with pytest.raises(CollectionPaused, match=r"3 errors in a row, last: .*as planned"):
        collect(writing.writer, FaultStore(writing.store, broken))
    assert pauses(writing.database) == (1, True, True)
    # What was not asked any more is due still, and nothing is lost.
    assert (scalar(writing.database, f"{tombs} 1"), scalar(writing.database, f"{tombs} 0")) == (3, 3)
    untouched = Plan()
    with pytest.raises(CollectionPaused, match="paused until"):
        collect(other.writer, FaultStore(other.store, untouched))
    assert len(objects(writing.store)) == 6
    assert untouched._counts["delete"] == 0
    found = collection_status(writing.database)
    assert found.paused_until is not None
    assert "errors in a row" in str(found.pause_reason)
    # The pause is over, and the store is still away.
    change(writing.database, "UPDATE store_identity SET paused_until = 0")
    with pytest.raises(CollectionPaused):
        collect(other.writer, FaultStore(other.store, Plan(Fault("delete", Kind.RAISE, for_good=True))))
    assert pauses(writing.database) == (2, True, True)
    assert retry_now(writing.database) == Retried(0, 6, ended_pause=True)
    assert collect(other.writer, other.store).objects.deleted == 6
    assert pauses(writing.database) == (0, False, False)


@pytest.mark.parametrize("number", [1, 2], ids=["at the start", "before the objects"])
def test_store_that_cannot_be_asked_who_it_is_is_left_alone(
    opened: Open, builder: LayoutBuilder, layout: Path, number: int
) -> None:
    writing = opened()
    dead_images(writing, builder, layout, 1)
    plan = Plan(Fault("read_record", Kind.RAISE, number=number))
    with pytest.raises(CollectionPaused, match="read_record"):
        collect(writing.writer, FaultStore(writing.store, plan))
    assert plan._counts["delete"] == 0
    assert len(objects(writing.store)) == 3
    assert counts(writing.database, "manifests") == {"manifests": 2 - number}
    assert retry_now(writing.database).ended_pause
    assert collect(writing.writer, writing.store).objects.deleted == 3


def test_pause_stops_a_collection_between_two_batches(
    opened: Open, builder: LayoutBuilder, layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_objects, "CHUNK_OBJECTS", 2)
    monkeypatch.setattr(dead_objects, "_DUE", dead_objects._DUE.limit(2))
    writing, other = opened(), opened()
    dead_images(writing, builder, layout, 1)
    pause = Fault(
        "delete",
        Kind.DELAY,
        first=lambda: change(
            other.database, "UPDATE store_identity SET pauses = 1, paused_until = 9000000000000000"
        ),
    )
    with pytest.raises(CollectionPaused):
        collect(writing.writer, FaultStore(writing.store, Plan(pause)))
    assert len(objects(writing.store)) == 1
    # What succeeds during another's pause does not end it.
    assert pauses(writing.database)[:2] == (1, True)
    retry_now(writing.database)
    assert collect(writing.writer, writing.store).objects.deleted == 1


def test_successful_batch_writes_nothing_about_pauses_when_there_was_none(
    opened: Open, builder: LayoutBuilder, layout: Path
) -> None:
    writing = opened()
    dead_images(writing, builder, layout, 1)
    with points_seen() as seen:
        assert collect(writing.writer, writing.store).objects.deleted == 3
    assert "objects_deleted.committed" in seen
    assert "collection_resumed.committed" not in seen


# --- several at once --------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["postgresql"])
def test_repository_that_a_writer_was_at_is_tried_again_at_the_end(
    opened: Open, builder: LayoutBuilder, layout: Path
) -> None:
    """SQLite waits for the writer instead."""
    writing, other = opened(), opened()
    dead_images(writing, builder, layout, 1)
    with other.database.engine.connect() as busy:
        busy.execute(sa.text("SELECT id FROM repositories WHERE name = 'app' FOR UPDATE"))

        def let_go(name: str) -> None:
            if name == "collect_blobs.committed":
                busy.rollback()

        with failpoints.armed(let_go):
            report = collect(writing.writer, writing.store)
    assert (report.manifests, report.blobs, report.objects.deleted) == (1, 3, 3)


def test_collection_that_is_stopped_leaves_the_rest_for_the_next(
    opened: Open, builder: LayoutBuilder, layout: Path
) -> None:
    writing = opened()
    dead_images(writing, builder, layout, 1)
    asked = 0

    def after_the_first_batch() -> bool:
        nonlocal asked
        asked += 1
        return asked > 1

    report = collect(writing.writer, writing.store, is_stopped=after_the_first_batch)
    assert (report.manifests, report.objects.deleted, len(objects(writing.store))) == (1, 0, 3)
    assert collect(writing.writer, writing.store).objects.deleted == 3


@pytest.mark.parametrize("hours", [-1, 1])
def test_clock_of_the_host_does_not_make_anything_older(
    opened: Open, builder: LayoutBuilder, layout: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    patient = opened(Lifetimes())
    dead_images(patient, builder, layout, 1)
    change(patient.database, "UPDATE gc_tasks SET not_before = 0")
    now = time.time
    monkeypatch.setattr("time.time", lambda: now() + hours * 3600)
    report = collect(patient.writer, patient.store)
    assert (report.manifests, report.tasks) == (0, 1)
    # The tombstones of another collector, which stand for half an hour yet.
    eager = opened(replace(AT_ONCE, tombstone=timedelta(minutes=30)))
    change(patient.database, "UPDATE manifests SET lease_until = 0")
    change(patient.database, "UPDATE blobs SET lease_until = 0")
    change(patient.database, "UPDATE gc_tasks SET not_before = 0")
    assert collect(eager.writer, eager.store).blobs == 3
    assert collect(patient.writer, patient.store).objects.deleted == 0
    assert len(objects(patient.store)) == 3 == len(keys_in(patient.database, "tombstones"))
