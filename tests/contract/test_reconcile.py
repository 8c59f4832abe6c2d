"""Garbage that no task would collect is queued, and nothing else is; an implausible share of it is not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import db
from regmeta.app import Writing, open_for_writing
from regmeta.errors import IdentityMismatch
from regmeta.ingest.plan import Lifetimes
from regmeta.ingest.tags import remove_tag, set_tag
from regmeta.maintain.collect.hold import CollectionHeld
from regmeta.maintain.collect.plausible import ImplausibleShare
from regmeta.maintain.collect.reconcile import Reconciled, reconcile_queue
from regmeta.maintain.collect.run import collect
from regmeta.maintain.collect.terms import FOREVER, Terms
from regmeta.maintain.progress import NoProgress
from regmeta.maintain.verify.findings import Kind
from regmeta.models import GcTask
from regmeta.settings import Settings
from tests.builders import Json, LayoutBuilder, digest_of
from tests.support.registry import NOW, change, commit_one, counts, dump, objects, rows, scalar
from tests.support.verified import verified

DAY = timedelta(days=1)
LIFETIMES = Lifetimes(lease=NOW, garbage=timedelta(hours=1), tombstone=NOW, history=NOW, max_upload=NOW)


@pytest.fixture
def registry(settings: Settings) -> Iterator[Writing]:
    """A registry in which nothing is leased."""
    with open_for_writing(settings, lifetimes=LIFETIMES) as found:
        yield found


def reconciled(of: Writing, progress: Any = None, **options: bool) -> Reconciled:
    return reconcile_queue(
        of.database, of.store, "tester", of.writer.lifetimes, progress or NoProgress(), **options
    )


def forgotten(of: Writing, builder: LayoutBuilder, layout: Path, images: int = 1) -> list[Json]:
    """Make images that nothing keeps and that no task is about."""
    made = [builder.image() for _ in range(images)]
    for number, image in enumerate(made):
        commit_one(of, builder, image, layout / f"forgotten{number}", "app", f"gone{number}")
        remove_tag(of.writer, "app", f"gone{number}")
    change(of.database, "DELETE FROM gc_tasks")
    return made


def lost_blob(of: Writing, builder: LayoutBuilder, layout: Path) -> None:
    """Make blobs that no manifest names, as if their tasks had been lost."""
    commit_one(of, builder, builder.image(), layout / "lost", "lost")
    change(
        of.database, "UPDATE blobs SET lease_until = 4000000000000000 WHERE id = (SELECT max(id) FROM blobs)"
    )
    remove_tag(of.writer, "lost", "v1")
    change(of.database, "UPDATE gc_tasks SET not_before = 1")
    collect(of.writer, of.store)
    change(of.database, "UPDATE blobs SET lease_until = 1")
    change(of.database, "DELETE FROM gc_tasks")


def collected(of: Writing) -> int:
    change(of.database, "UPDATE gc_tasks SET not_before = 1")
    return collect(of.writer, of.store).manifests


@pytest.mark.parametrize("page_rows", [2, 2000])
def test_garbage_without_a_task_is_queued_and_collected(
    registry: Writing, builder: LayoutBuilder, layout: Path, monkeypatch: pytest.MonkeyPatch, page_rows: int
) -> None:
    monkeypatch.setattr("regmeta.maintain.collect.reconcile.PAGE_ROWS", page_rows)
    commit_one(registry, builder, builder.index([builder.image()]), layout / "kept")
    lost_blob(registry, builder, layout)
    forgotten(registry, builder, layout, 3)
    nested = builder.index([builder.image()])
    commit_one(registry, builder, nested, layout / "nested", "other")
    remove_tag(registry.writer, "other", "v1")
    change(registry.database, "DELETE FROM gc_tasks")
    before = scalar(registry.database, "SELECT count(*) FROM manifests")
    found = reconciled(registry)
    assert (found.manifests, found.forgotten_manifests, found.forgotten_blobs) == (before, 4, 1)
    assert found.queued == 5
    assert reconciled(registry).queued == 0, "what has a task is not queued again"
    assert collect(registry.writer, registry.store).tasks == 0, "not at once"
    assert collected(registry) == 5
    assert counts(registry.database, "manifests", "blobs", "gc_tasks") == {
        "manifests": 2,
        "blobs": 5,
        "gc_tasks": 0,
    }
    assert len(objects(registry.store)) == 5


def test_what_anything_keeps_is_not_queued(registry: Writing, builder: LayoutBuilder, layout: Path) -> None:
    image = builder.image()
    commit_one(registry, builder, builder.index([image]), layout / "1")
    referrer = builder.artifact(b"signature", "application/vnd.example.sig", image)
    commit_one(registry, builder, referrer, layout / "2", tag=None)
    leased = builder.image()
    commit_one(registry, builder, leased, layout / "3", tag=None)
    change(
        registry.database,
        "UPDATE manifests SET lease_until = 4000000000000000 WHERE digest = :of",
        of=digest_of(leased).to_bytes(),
    )
    change(registry.database, "DELETE FROM gc_tasks")
    found = reconciled(registry)
    assert (found.manifests, found.queued) == (4, 0)
    change(registry.database, "UPDATE manifests SET lease_until = 1")
    assert reconciled(registry).queued == 1


def test_reconcile_finds_what_verify_finds(registry: Writing, builder: LayoutBuilder, layout: Path) -> None:
    forgotten(registry, builder, layout, 2)
    lost_blob(registry, builder, layout)
    change(registry.database, "DELETE FROM gc_tasks")

    def missing() -> int:
        found = verified(registry.database, registry.store).findings
        return sum(finding.kind is Kind.TASK_MISSING for finding in found)

    found = reconciled(registry, dry_run=True)
    assert found.queued == 0
    assert missing() == found.forgotten_manifests + found.forgotten_blobs == 3
    reconciled(registry)
    assert missing() == 0


def test_referrer_that_a_policy_keeps_is_neither_found_nor_collected_nor_queued_again(
    registry: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    keeping = Terms(registry.writer.lifetimes, keeps_referrers=lambda name: name == "app")
    for name in ("app", "other"):
        image = builder.image()
        commit_one(registry, builder, image, layout / name / "1", name)
        referrer = builder.artifact(b"signature", "application/vnd.example.sig", image)
        commit_one(registry, builder, referrer, layout / name / "2", name, tag=None)
        remove_tag(registry.writer, name, "v1")
    change(registry.database, "UPDATE gc_tasks SET not_before = 1")
    assert collect(registry.writer, registry.store, keeping).manifests == 3
    assert rows(
        registry.database,
        "SELECT r.name, m.kind FROM manifests m JOIN repositories r ON r.id = m.repository_id",
    ) == [("app", "image")]
    assert reconciled(registry).forgotten_manifests == 0
    assert verified(registry.database, registry.store).findings == []
    assert scalar(registry.database, "SELECT count(*) FROM gc_tasks WHERE kind = 'manifest'") == 1
    assert collect(registry.writer, registry.store, keeping).tasks == 0, "put off by a day"
    # The policy is another one the day after.
    assert collected(registry) == 1


def test_deleted_referrer_is_kept_by_no_policy(
    registry: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    keeping = Terms(registry.writer.lifetimes, keeps_referrers=lambda _: True)
    gone = builder.image()
    referrer = builder.artifact(b"signature", "application/vnd.example.sig", gone)
    commit_one(registry, builder, referrer, layout, tag=None)
    change(registry.database, "UPDATE gc_tasks SET not_before = 1")
    assert collect(registry.writer, registry.store, keeping).manifests == 0
    change(registry.database, "UPDATE manifests SET deleted_at = 1")
    change(registry.database, "UPDATE gc_tasks SET not_before = 1")
    assert collect(registry.writer, registry.store, keeping).manifests == 1


def test_untagged_manifest_that_a_policy_keeps_stays_for_as_long_as_it_says(
    registry: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    for_ever, for_an_hour, kept_by_none = (builder.image() for _ in range(3))
    for number, image in enumerate((for_ever, for_an_hour, kept_by_none)):
        commit_one(registry, builder, image, layout / str(number), tag=None)
    ids = {
        bytes(digest): number
        for number, digest in rows(registry.database, "SELECT id, digest FROM manifests")
    }
    first, second, third = (
        ids[digest_of(image).to_bytes()] for image in (for_ever, for_an_hour, kept_by_none)
    )
    asked: list[tuple[str, set[int]]] = []

    def untagged(
        _: Connection, repository_id: int, name: str, manifest_ids: Collection[int], now: datetime
    ) -> Mapping[int, datetime]:
        asked.append((name, set(manifest_ids)))
        return {first: FOREVER, second: now + timedelta(hours=1)}

    change(registry.database, "UPDATE gc_tasks SET not_before = 1")
    keeping = Terms(registry.writer.lifetimes, untagged=untagged)
    assert collect(registry.writer, registry.store, keeping).manifests == 1
    assert asked == [("app", {first, second, third})], "once for all of them"
    with registry.database.read() as connection:
        now = db.clock(connection)
        found = connection.execute(
            sa.select(GcTask.target_id, GcTask.not_before).where(GcTask.kind == "manifest")
        )
        waits = {target: until - now for target, until in found}
    assert waits.keys() == {first, second}
    assert timedelta(hours=23) < waits[first] <= DAY
    assert timedelta(minutes=50) < waits[second] <= timedelta(hours=1)
    assert reconciled(registry).forgotten_manifests == 0
    assert verified(registry.database, registry.store).findings == []


def test_repository_that_no_task_would_empty_is_queued(
    registry: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    commit_one(registry, builder, builder.image(), layout)
    remove_tag(registry.writer, "app", "v1")
    change(
        registry.database,
        "UPDATE repositories SET state = 'deleted', deleted_at = 1, revision = revision + 1",
    )
    change(registry.database, "INSERT INTO layout_outbox SELECT id, revision, updated_at FROM repositories")
    found = reconciled(registry)
    assert (found.forgotten_repositories, found.queued) == (1, 1)
    assert rows(registry.database, "SELECT repository_id FROM gc_tasks WHERE kind = 'repository'") == rows(
        registry.database, "SELECT id FROM repositories"
    )


# --- it stops by itself -----------------------------------------------------------------------


def test_implausible_share_of_garbage_is_not_queued(
    registry: Writing, builder: LayoutBuilder, layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regmeta.maintain.collect.plausible.FEW", 3)
    for number in range(3):
        commit_one(registry, builder, builder.image(), layout / str(number), tag=f"v{number}")
    forgotten(registry, builder, layout, 1)
    for options in ({}, {"dry_run": True}):
        with pytest.raises(ImplausibleShare, match=r"1 of 4 manifests of .* would be queued"):
            reconciled(registry, **options)
    assert counts(registry.database, "gc_tasks")["gc_tasks"] == 0
    assert reconciled(registry, force=True).queued == 1


@pytest.mark.inconsistent  # here and below: garbage is left without a task on purpose
def test_implausible_share_of_blobs_is_not_queued(
    registry: Writing, builder: LayoutBuilder, layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost_blob(registry, builder, layout)
    monkeypatch.setattr("regmeta.maintain.collect.plausible.FEW", 0)
    with pytest.raises(ImplausibleShare, match="1 of 1 blobs"):
        reconciled(registry)
    assert counts(registry.database, "gc_tasks")["gc_tasks"] == 0


def test_explicit_deletes_are_never_called_implausible(
    registry: Writing, builder: LayoutBuilder, layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regmeta.maintain.collect.plausible.FEW", 0)
    commit_one(registry, builder, builder.image(), layout)
    remove_tag(registry.writer, "app", "v1")
    assert reconciled(registry).queued == 0
    assert collected(registry) == 1


@pytest.mark.inconsistent
def test_dry_run_writes_nothing(registry: Writing, builder: LayoutBuilder, layout: Path) -> None:
    forgotten(registry, builder, layout)
    before = dump(registry.database)
    assert reconciled(registry, dry_run=True).forgotten_manifests == 1
    assert dump(registry.database) == before


@pytest.mark.inconsistent
def test_nothing_is_queued_on_hold_or_for_a_store_of_another_database(
    registry: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    forgotten(registry, builder, layout)
    change(registry.database, "UPDATE store_identity SET hold_reason = 'restored'")
    with pytest.raises(CollectionHeld, match="restored"):
        reconciled(registry)
    change(registry.database, "UPDATE store_identity SET hold_reason = NULL, epoch = 2")
    with pytest.raises(IdentityMismatch):
        reconciled(registry)
    change(registry.database, "UPDATE store_identity SET epoch = 1")
    assert counts(registry.database, "gc_tasks")["gc_tasks"] == 0


# --- beside writers ---------------------------------------------------------------------------


class Meanwhile:
    """Does something after the rows were counted and before anything is queued."""

    def __init__(self, what: Callable[[], object]) -> None:
        self._what = what

    def began(self, what: str, total: int | None) -> None:
        if what == "queue":
            self._what()

    def advanced(self, steps: int) -> None: ...


def test_manifest_that_is_tagged_meanwhile_is_not_queued(
    registry: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    [image] = forgotten(registry, builder, layout)
    tagged = Meanwhile(lambda: set_tag(registry.writer, "app", "again", digest_of(image)))
    found = reconciled(registry, tagged)
    assert (found.forgotten_manifests, found.queued) == (1, 0)
    assert counts(registry.database, "gc_tasks")["gc_tasks"] == 0


def test_task_that_is_written_meanwhile_stays_as_it_is(
    registry: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    [image] = forgotten(registry, builder, layout)

    def tag_and_untag() -> None:
        set_tag(registry.writer, "app", "again", digest_of(image))
        remove_tag(registry.writer, "app", "again")

    assert reconciled(registry, Meanwhile(tag_and_untag)).queued == 0
    assert rows(registry.database, "SELECT reason FROM gc_tasks") == [("untagged",)]
