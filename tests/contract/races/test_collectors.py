"""Collectors beside each other: each task once, and nothing held by one that has died."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from regmeta.app import Writing
from regmeta.ingest.tags import remove_tag, set_tag
from regmeta.maintain.collect import tasks
from regmeta.maintain.collect.again import retry_now
from regmeta.maintain.collect.reconcile import reconcile_queue
from regmeta.maintain.collect.run import CollectReport
from regmeta.maintain.delete.repository import delete_repository
from regmeta.maintain.progress import NoProgress
from tests.builders import Json, LayoutBuilder, digest_of
from tests.support import consistency
from tests.support.aside import HOUR, WAIT_S, Freeze, Opened, assert_only_live_objects, run_collect
from tests.support.registry import ACTOR, AT_ONCE, change, commit_one, counts, keys_in, objects, scalar, tags

Race = Callable[..., tuple[Any, Any]]


def untagged(writing: Writing, builder: LayoutBuilder, layout: Path, number: int, name: str = "app") -> Json:
    image = builder.image()
    commit_one(writing, builder, image, layout / str(number), name, f"v{number}")
    remove_tag(writing.writer, name, f"v{number}")
    return image


def due_blobs(opened: Opened, builder: LayoutBuilder, layout: Path) -> None:
    """Leave blobs without a manifest, and a task for each that is due."""
    patient = opened(replace(AT_ONCE, lease=24 * HOUR))
    untagged(patient, builder, layout, 1)
    change(patient.database, "UPDATE manifests SET lease_until = 0")
    change(patient.database, "UPDATE gc_tasks SET not_before = 0")
    assert run_collect(patient).manifests == 1
    change(patient.database, "UPDATE blobs SET lease_until = 0")
    change(patient.database, "UPDATE gc_tasks SET not_before = 0")
    assert counts(patient.database, "blobs", "gc_tasks") == {"blobs": 4, "gc_tasks": 4}


def removed(writing: Writing) -> int:
    return int(scalar(writing.database, "SELECT count(*) FROM events WHERE kind = 'manifest.removed'"))


def test_tasks_for_blobs_are_done_by_one_of_two_collectors(
    opened: Opened, race: Race, builder: LayoutBuilder, layout: Path
) -> None:
    """T14: the other one passes over what is claimed, or waits and finds it done (SQLite)."""
    one, other = opened(), opened()
    due_blobs(opened, builder, layout)
    first, second = race(
        lambda: run_collect(one), "collect_blobs.committing", lambda: run_collect(other), waits="on SQLite"
    )
    assert (first.blobs, second.blobs) == (4, 0)
    assert first.failures == second.failures == []
    assert_only_live_objects(one)
    assert objects(one.store) == {}


@pytest.mark.parametrize("how", ["tags removed", "repository deleted"])
def test_layer_of_two_images_that_two_collectors_take_at_once_goes_with_the_later_one(
    opened: Opened, race: Race, builder: LayoutBuilder, layout: Path, how: str
) -> None:
    """T44: neither sees that the other takes its image of the layer too; one must come back to it."""
    one, other = opened(), opened()
    shared = builder.layer()
    for name in ("app", "lib"):
        image = builder.image([shared, builder.layer()])
        commit_one(one, builder, image, layout / name, name)
        if how == "repository deleted" and name == "lib":
            delete_repository(one.writer, name)
        else:
            remove_tag(one.writer, name, "v1")
    at = "collect.committing" if how == "tags removed" else "purge.committing"
    race(lambda: run_collect(one), at, lambda: run_collect(other), waits="perhaps")
    assert consistency.findings(one.database, one.store) == []
    assert_only_live_objects(one)
    assert objects(one.store) == {}


@pytest.mark.parametrize("at", ["collect.committing", "collect_blobs.committing"])
def test_claim_of_a_collector_that_dies_ends_with_it(
    opened: Opened, aside: Freeze, builder: LayoutBuilder, layout: Path, at: str
) -> None:
    """T14: a claim is the lock of its transaction, so there is none to be taken over."""
    one, other = opened(), opened()
    if at == "collect.committing":
        untagged(one, builder, layout, 1)
    else:
        due_blobs(opened, builder, layout)
    first = aside(lambda: run_collect(one), at)
    first.die()
    assert run_collect(other).blobs == 4
    assert_only_live_objects(other)
    assert counts(other.database, "blobs", "gc_tasks") == {"blobs": 0, "gc_tasks": 0}


def test_four_collectors_at_once_do_each_task_once(
    opened: Opened, builder: LayoutBuilder, layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T14: images of three repositories that share a layer, claimed two at a time."""
    monkeypatch.setattr(tasks, "_CLAIM", tasks._CLAIM.limit(2))
    collectors = [opened() for _ in range(4)]
    shared = builder.layer()
    for number in range(18):
        image = builder.image([shared, builder.layer()])
        name = f"app{number % 3}"
        commit_one(collectors[0], builder, image, layout / str(number), name, f"v{number}")
        remove_tag(collectors[0].writer, name, f"v{number}")
    barrier, reports, failed = threading.Barrier(4), list[CollectReport](), list[BaseException]()

    def run(writing: Writing) -> None:
        barrier.wait(WAIT_S)
        try:
            reports.append(run_collect(writing))
        except BaseException as error:  # noqa: BLE001 - told below
            failed.append(error)

    threads = [threading.Thread(target=run, args=[each]) for each in collectors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert failed == []
    assert [failure for report in reports for failure in report.failures] == []
    reports.append(run_collect(collectors[0]))  # what all of them were at when they looked
    assert sum(report.manifests for report in reports) == removed(collectors[0]) == 18
    assert sum(report.blobs for report in reports) == 18 * 3 + 1
    assert sum(report.objects.deleted for report in reports) == 18 * 3 + 1
    assert_only_live_objects(collectors[0])
    assert objects(collectors[0].store) == {}


# --- what a person does beside a collector ----------------------------------------------------


@pytest.mark.parametrize("order", ["collected first", "asked first"])
def test_tasks_that_are_asked_for_while_they_are_worked_on_are_done_once(
    opened: Opened, race: Race, builder: LayoutBuilder, layout: Path, order: str
) -> None:
    """``gc retry`` makes what has failed due at once, also what a collector has just claimed."""
    one, other = opened(), opened()
    untagged(one, builder, layout, 1)
    change(one.database, "UPDATE gc_tasks SET attempts = 1, last_error = 'once'")
    collect, ask = lambda: run_collect(one), lambda: retry_now(other.database)
    if order == "collected first":
        report, asked = race(collect, "collect.committing", ask)
        assert asked.tasks == 0
    else:
        asked, report = race(ask, "collection_retried.committing", collect, waits="on SQLite")
        assert asked.tasks == 1
        if report.manifests == 0:  # it was passed over
            report = run_collect(one)
    assert (report.manifests, removed(one)) == (1, 1)
    assert_only_live_objects(one)


@pytest.mark.parametrize("order", ["reconciled first", "collected first", "tagged first"])
def test_queue_that_is_derived_again_beside_others_is_about_garbage_only(
    opened: Opened, race: Race, builder: LayoutBuilder, layout: Path, order: str
) -> None:
    one, other = opened(), opened()
    image, second = (untagged(one, builder, layout, number) for number in (1, 2))
    change(one.database, "DELETE FROM gc_tasks WHERE target_id = (SELECT min(id) FROM manifests)")
    reconcile = lambda: reconcile_queue(one.database, one.store, ACTOR, AT_ONCE, NoProgress())  # noqa: E731
    collect = lambda: run_collect(other)  # noqa: E731
    if order == "reconciled first":
        found, _ = race(reconcile, "reconcile_queue.committing", collect, waits="on SQLite")
        assert found.queued == 1
    elif order == "collected first":
        report, found = race(collect, "collect.committing", reconcile)
        assert (report.manifests >= 1, found.queued) == (True, 1)
    else:
        tag = lambda: set_tag(other.writer, "app", "again", digest_of(image))  # noqa: E731
        found, _ = race(reconcile, "reconcile_queue.begin", tag, waits="never")
        assert (found.forgotten_manifests, found.queued) == (1, 0)
    run_collect(other)
    assert tags(one.database) == ({"again": digest_of(image)} if order == "tagged first" else {})
    assert_only_live_objects(one)
    assert len(keys_in(one.database, "blobs")) == (4 if order == "tagged first" else 0)
    assert second != image
