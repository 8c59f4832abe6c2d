"""A thread stands still at one step while others go on, and then continues: nothing is lost.

Each thread has a registry that it opened for itself, as another process would. Where a frozen thread is
inside a transaction, others wait for it: on SQLite for the file, on PostgreSQL for rows.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from regmeta.app import Writing, backups
from regmeta.errors import IdentityMismatch, Locked, LostReservation, NotFound
from regmeta.ingest.plan import Lifetimes
from regmeta.ingest.tags import remove_tag, set_tag
from regmeta.maintain.collect.run import collect
from regmeta.maintain.collect.sweep import sweep
from regmeta.maintain.rebuild.identity import switch
from regmeta.maintain.rebuild.listing import list_snapshots
from regmeta.maintain.recover import recover
from regmeta.maintain.setup import check_identity
from regmeta.settings import Settings
from tests.builders import Json, LayoutBuilder, digest_of
from tests.support.aside import SWEPT, Freeze, Opened, assert_only_live_objects, run_collect
from tests.support.registry import (
    change,
    commit_one,
    counts,
    import_all,
    ingest_of,
    keys_in,
    objects,
    request,
    scalar,
    source_of,
    tags,
)


def snapshots(writing: Writing) -> list[tuple[int, int]]:
    """Return the versions of the snapshots that lie there, newest first."""
    return list_snapshots(writing.store).versions["app"]


def revision(writing: Writing) -> int:
    return int(scalar(writing.database, "SELECT revision FROM repositories WHERE name = 'app'"))


# --- snapshots out of order -------------------------------------------------------------------


@pytest.mark.parametrize("freeze_at", ["stage.created", "record.flushed"])
def test_snapshot_that_was_overtaken_does_not_hide_the_newer_one(
    opened: Opened, aside: Freeze, builder: LayoutBuilder, layout: Path, freeze_at: str
) -> None:
    slow, quick = opened(), opened()
    image = builder.image()
    commit_one(quick, builder, image, layout)
    writer = aside(lambda: set_tag(slow.writer, "app", "slow", digest_of(image)), freeze_at)
    overtaken = revision(quick)
    set_tag(quick.writer, "app", "quick", digest_of(image))
    assert snapshots(quick) == [(1, overtaken + 1)]
    writer.go_on()
    # What was late lies there, and is older: a rebuild takes the greatest.
    assert snapshots(quick) == [(1, overtaken + 1), (1, overtaken)]
    assert counts(quick.database, "layout_outbox")["layout_outbox"] == 0
    assert tags(quick.database) == dict.fromkeys(["v1", "slow", "quick"], digest_of(image))
    remove_tag(quick.writer, "app", "slow")
    assert snapshots(quick) == [(1, overtaken + 2)]


def test_older_snapshot_does_not_clear_the_row_of_a_newer_one(
    opened: Opened, aside: Freeze, builder: LayoutBuilder, layout: Path
) -> None:
    slow, slower = opened(), opened()
    image = builder.image()
    commit_one(slow, builder, image, layout)
    first = aside(lambda: set_tag(slow.writer, "app", "first", digest_of(image)), "record.named")
    second = aside(lambda: set_tag(slower.writer, "app", "second", digest_of(image)), "stage.created")
    first.go_on()
    # Its own revision is cleared up to, and the one that is not written yet is still to be.
    assert counts(slow.database, "layout_outbox")["layout_outbox"] == 1
    assert snapshots(slow)[0] == (1, revision(slow) - 1)
    second.go_on()
    assert counts(slow.database, "layout_outbox")["layout_outbox"] == 0
    assert snapshots(slow) == [(1, revision(slow))]


def test_snapshot_of_a_writer_that_dies_when_it_was_overtaken_is_written_by_the_next(
    opened: Opened, aside: Freeze, builder: LayoutBuilder, layout: Path
) -> None:
    slow, quick = opened(), opened()
    image = builder.image()
    commit_one(quick, builder, image, layout)
    writer = aside(lambda: set_tag(slow.writer, "app", "slow", digest_of(image)), "stage.created")
    assert recover(quick.writer, quick.store).snapshots_written == 1
    assert snapshots(quick) == [(1, revision(quick))]
    writer.go_on()
    assert snapshots(quick) == [(1, revision(quick))]


# --- a collector over a restore ---------------------------------------------------------------


@pytest.mark.usefixtures("points_of_deletion")
def test_collector_that_stood_still_over_a_restore_deletes_nothing(
    opened: Opened, aside: Freeze, builder: LayoutBuilder, layout: Path
) -> None:
    """Each batch reads the store's record again.

    Between that and the deletion there is a window that only the rule closes that every other process must
    have ended before a restore; ``test_restore_is_refused_while_a_collector_stands_still`` shows that it is
    kept where it can be seen, and the hour for which a tombstone stands is longer than the window.
    """
    collector, other = opened(), opened()
    commit_one(other, builder, builder.image(), layout)
    named_in_copy = keys_in(other.database, "blobs")
    remove_tag(other.writer, "app", "v1")
    frozen = aside(lambda: run_collect(collector), "test.tombstones_read")
    assert keys_in(other.database, "tombstones") == named_in_copy
    record = Path(other.store.location) / "store.json"
    before = record.read_bytes()
    identity = check_identity(other.database, other.store)
    switch(other.store, other.writer.staging, replace(identity, epoch=identity.epoch + 1))
    with pytest.raises(IdentityMismatch):
        frozen.go_on()
    assert objects(other.store).keys() == named_in_copy
    with pytest.raises(IdentityMismatch):
        collect(collector.writer, collector.store)
    with pytest.raises(IdentityMismatch):
        sweep(collector.database, collector.store, SWEPT)
    assert objects(other.store).keys() == named_in_copy
    record.write_bytes(before)
    assert_only_live_objects(other)


@pytest.mark.usefixtures("points_of_deletion")
def test_collector_that_stood_still_while_a_hold_began_deletes_nothing(
    opened: Opened, aside: Freeze, builder: LayoutBuilder, layout: Path
) -> None:
    collector, other = opened(), opened()
    commit_one(other, builder, builder.image(), layout)
    remove_tag(other.writer, "app", "v1")
    frozen = aside(lambda: run_collect(collector), "test.tombstones_read")
    change(other.database, "UPDATE store_identity SET hold_reason = 'restored'")
    with pytest.raises(Exception, match="on hold: restored"):
        frozen.go_on()
    assert len(objects(other.store)) == 4
    change(other.database, "UPDATE store_identity SET hold_reason = NULL")
    assert_only_live_objects(other)


@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.usefixtures("points_of_deletion")
def test_restore_is_refused_while_a_collector_stands_still(
    opened: Opened, aside: Freeze, builder: LayoutBuilder, layout: Path, tmp_path: Path, settings: Settings
) -> None:
    collector, other = opened(), opened()
    commit_one(other, builder, builder.image(), layout)
    backups.backup(settings, str(tmp_path / "copy"))
    remove_tag(other.writer, "app", "v1")
    frozen = aside(lambda: run_collect(collector), "test.record_read")
    with pytest.raises(Locked):
        backups.restore_file(settings, str(tmp_path / "copy"), lambda: pytest.fail("it was begun"))
    assert frozen.go_on().objects.deleted == 4
    assert_only_live_objects(other)


# --- writers that were taken to be dead -------------------------------------------------------


@pytest.mark.parametrize(
    "freeze_at", ["reserve", "stage.created", "stage.flushed", "publish.renamed", "publish.flushed"]
)
def test_writer_that_stood_still_for_longer_than_its_intents_uses_new_keys(
    opened: Opened, aside: Freeze, builder: LayoutBuilder, layout: Path, freeze_at: str
) -> None:
    """What it wrote under the old ones is never named, and goes."""
    slow, other = opened(), opened()
    image = builder.image()
    builder.tag(image, "v1")
    builder.write(layout)
    # Right after the reserve there is no step outside of a transaction but the first file.
    writer = aside(lambda: import_all(slow, layout), "stage.created" if freeze_at == "reserve" else freeze_at)
    old = keys_in(other.database, "intents")
    assert len(old) == 4
    change(other.database, "UPDATE intents SET expires_at = 0")
    assert recover(other.writer, other.store).intents_taken_back == 4
    for _ in range(2):  # deletes, and forgets
        collect(other.writer, other.store)
    assert objects(other.store) == {}
    assert counts(other.database, "tombstones")["tombstones"] == 0
    writer.go_on()
    named = keys_in(other.database, "blobs")
    assert len(named) == 4
    assert named.isdisjoint(old)
    # It could not know, and went on with what it was about: those are strays for the sweep.
    strays = objects(other.store).keys() - named
    assert strays <= old
    buried = sweep(other.database, other.store, SWEPT).buried
    assert buried == len(strays)
    assert tags(other.database) == {"v1": digest_of(image)}
    assert_only_live_objects(other)


def test_keys_that_were_taken_back_fail_the_fence(
    opened: Opened, aside: Freeze, builder: LayoutBuilder, layout: Path
) -> None:
    """Seen from inside: the first commit raises, and nothing of it has happened."""
    slow, other = opened(), opened()
    image = builder.image()
    with source_of(builder, layout) as source:
        ingest = ingest_of(slow, request(source, image))
        writer = aside(ingest.run, "publish.flushed")
        change(other.database, "UPDATE intents SET expires_at = 0")
        recover(other.writer, other.store)
        with pytest.raises(LostReservation) as lost:
            writer.go_on()
        assert set(lost.value.digests) == set(ingest.image.blobs)
        assert counts(other.database, "blobs", "manifests", "tags") == dict.fromkeys(
            ["blobs", "manifests", "tags"], 0
        )
        ingest.unit.abort()
    assert_only_live_objects(other)


def test_writer_uses_what_another_made_live_while_it_stood_still(
    opened: Opened, aside: Freeze, builder: LayoutBuilder, layout: Path
) -> None:
    slow, quick = opened(), opened()
    shared = builder.layer()
    one, two = builder.image([shared, b"one"]), builder.image([shared, b"two"])
    with source_of(builder, layout) as source:
        slow_ingest = ingest_of(slow, request(source, one, tag="one"))
        writer = aside(slow_ingest.run, "publish.flushed")
        published = set(objects(quick.store))
        ingest_of(quick, request(source, two, tag="two")).run()
        live = keys_in(quick.database, "blobs")
        writer.go_on()
    assert live.isdisjoint(published)
    [dead] = keys_in(quick.database, "tombstones")
    assert dead in published
    assert keys_in(quick.database, "blobs") == live | published - {dead}
    assert tags(quick.database) == {"one": digest_of(one), "two": digest_of(two)}
    assert_only_live_objects(quick)


def test_same_image_of_two_writers_is_stored_once(
    opened: Opened, aside: Freeze, builder: LayoutBuilder, layout: Path
) -> None:
    slow, quick = opened(), opened()
    builder.tag(builder.index([builder.image(), builder.image()]), "v1")
    builder.write(layout)
    writer = aside(lambda: import_all(slow, layout), "publish.flushed")
    import_all(quick, layout)
    live = keys_in(quick.database, "blobs")
    writer.go_on()
    assert keys_in(quick.database, "blobs") == live
    assert_only_live_objects(quick)
    assert keys_in(quick.database, "blobs") == live


# --- two collectors ---------------------------------------------------------------------------


def two_dead_images(writing: Writing, builder: LayoutBuilder, layout: Path) -> Json:
    """Import three images that share a layer, and remove two of their tags; returns the one that stays."""
    shared = builder.layer()
    images = [builder.image([shared, name]) for name in (b"one", b"two", b"kept")]
    for number, image in enumerate(images):
        commit_one(writing, builder, image, layout / str(number), tag=f"v{number}")
    remove_tag(writing.writer, "app", "v0")
    remove_tag(writing.writer, "app", "v1")
    return images[-1]


def test_collectors_of_one_repository_do_not_meet(
    opened: Opened, aside: Freeze, builder: LayoutBuilder, layout: Path
) -> None:
    """One is inside its transaction: the other passes the repository over, or waits for it (SQLite)."""
    slow, quick = opened(), opened()
    kept = two_dead_images(slow, builder, layout)
    first = aside(lambda: run_collect(slow), "collect.committing")
    second = aside(lambda: run_collect(quick), None)
    reports = [first.go_on(), second.go_on()]
    assert sorted(report.manifests for report in reports) == [0, 2]
    assert sum(report.blobs for report in reports) == 6
    assert tags(quick.database) == {"v2": digest_of(kept)}
    assert_only_live_objects(quick)


@pytest.mark.usefixtures("points_of_deletion")
@pytest.mark.parametrize("freeze_at", ["test.tombstones_read", "test.record_read", "delete.unlinked"])
def test_collector_that_is_overtaken_by_another_deletes_nothing_that_came_back(
    opened: Opened, aside: Freeze, builder: LayoutBuilder, layout: Path, freeze_at: str
) -> None:
    """The other one deletes the same objects, forgets them, and the same images come again."""
    slow, quick = opened(), opened()
    kept = two_dead_images(slow, builder, layout)
    first = aside(lambda: run_collect(slow), freeze_at)
    for _ in range(2):
        collect(quick.writer, quick.store)
    assert counts(quick.database, "tombstones")["tombstones"] == 0
    for number in range(2):
        import_like = builder.image([builder.layer(name) for name in (b"one", b"two")][number : number + 1])
        commit_one(quick, builder, import_like, layout / "again", tag=f"v{number}")
    live = keys_in(quick.database, "blobs")
    first.go_on()
    assert objects(quick.store).keys() == keys_in(quick.database, "blobs") == live
    assert tags(quick.database)["v2"] == digest_of(kept)
    assert_only_live_objects(quick)


# --- tags around a collector ------------------------------------------------------------------


def untagged_image(writing: Writing, builder: LayoutBuilder, layout: Path) -> Json:
    image = builder.image()
    commit_one(writing, builder, image, layout)
    remove_tag(writing.writer, "app", "v1")
    return image


def test_tag_that_is_set_while_its_image_is_collected_is_refused(
    opened: Opened, aside: Freeze, builder: LayoutBuilder, layout: Path
) -> None:
    one, other = opened(), opened()
    image = untagged_image(one, builder, layout)
    collector = aside(lambda: run_collect(one), "collect.committing")
    setting = aside(lambda: set_tag(other.writer, "app", "v1", digest_of(image)), None)
    assert collector.go_on().manifests == 1
    with pytest.raises(NotFound, match="no such manifest"):
        setting.go_on()
    assert tags(other.database) == {}
    assert_only_live_objects(other)


def test_image_whose_tag_is_being_set_is_not_collected(
    opened: Opened, aside: Freeze, builder: LayoutBuilder, layout: Path
) -> None:
    one, other = opened(), opened()
    image = untagged_image(one, builder, layout)
    setting = aside(lambda: set_tag(other.writer, "app", "v1", digest_of(image)), "tags.committing")
    collector = aside(lambda: run_collect(one), None)
    setting.go_on()
    assert collector.go_on().manifests == 0
    assert collect(one.writer, one.store).manifests == 0
    assert tags(other.database) == {"v1": digest_of(image)}
    assert_only_live_objects(other)
    assert len(objects(other.store)) == 4


def test_tag_that_moves_away_and_back_around_a_collector_keeps_its_image(
    opened: Opened, aside: Freeze, builder: LayoutBuilder, layout: Path
) -> None:
    """The task of the first move is still there; what it hints at is not true any more."""
    one, other = opened(), opened()
    image, second = builder.image(), builder.image()
    commit_one(one, builder, image, layout)
    commit_one(one, builder, second, layout / "2", tag="v2")
    moving = aside(lambda: set_tag(other.writer, "app", "v1", digest_of(second)), "stage.created")
    set_tag(one.writer, "app", "v1", digest_of(image))
    assert collect(one.writer, one.store).manifests == 0
    moving.go_on()
    assert tags(other.database) == {"v1": digest_of(image), "v2": digest_of(second)}
    assert_only_live_objects(other)
    assert len(objects(other.store)) == 8


# --- leases around a collector ----------------------------------------------------------------


def test_blob_whose_lease_is_being_renewed_is_not_collected(
    opened: Opened, aside: Freeze, builder: LayoutBuilder, layout: Path
) -> None:
    collecting, usual = opened(), opened(Lifetimes())
    image = untagged_image(collecting, builder, layout)
    before = keys_in(collecting.database, "blobs")
    with source_of(builder, layout / "2") as source:
        ingest = ingest_of(usual, request(source, image, tag="again"))
        reserving = aside(lambda: ingest.unit.reserve(ingest.image.blobs), "reserve.committing")
        collector = aside(lambda: run_collect(collecting), None)
        reserving.go_on()
        report = collector.go_on()
        assert (report.manifests, report.blobs) == (1, 0)
        assert len(ingest.unit.stored) == 4
        ingest.unit.publish()
        ingest.commit()
        ingest.unit.finish()
    assert keys_in(collecting.database, "blobs") == before
    assert tags(collecting.database) == {"again": digest_of(image)}


def test_blob_that_is_being_collected_is_not_leased(
    opened: Opened, aside: Freeze, builder: LayoutBuilder, layout: Path
) -> None:
    collecting, usual = opened(), opened(Lifetimes())
    image = untagged_image(collecting, builder, layout)
    before = keys_in(collecting.database, "blobs")
    collector = aside(lambda: run_collect(collecting), "collect.committing")
    with source_of(builder, layout / "2") as source:
        ingest = ingest_of(usual, request(source, image, tag="again"))
        reserving = aside(lambda: ingest.unit.reserve(ingest.image.blobs), None)
        assert collector.go_on().blobs == 4
        reserving.go_on()
        assert ingest.unit.stored == {}
        ingest.stage()
        ingest.unit.publish()
        ingest.commit()
        ingest.unit.finish()
    assert keys_in(collecting.database, "blobs").isdisjoint(before)
    assert tags(collecting.database) == {"again": digest_of(image)}
    assert_only_live_objects(collecting)


def test_writer_that_relied_on_a_blob_which_went_while_it_stood_still_brings_it_again(
    opened: Opened, aside: Freeze, builder: LayoutBuilder, layout: Path
) -> None:
    collecting, slow = opened(), opened()
    shared = builder.layer()
    commit_one(collecting, builder, builder.image([shared, b"old"]), layout)
    image = builder.image([shared, b"new"])
    other = LayoutBuilder()
    other.blobs = builder.blobs
    other.tag(image, "new")
    other.write(layout / "2")
    writer = aside(lambda: import_all(slow, layout / "2"), "publish.flushed")
    remove_tag(collecting.writer, "app", "v1")
    assert collect(collecting.writer, collecting.store).blobs == 4
    writer.go_on()
    assert tags(collecting.database) == {"new": digest_of(image)}
    assert_only_live_objects(collecting)
    with closing(collecting.database):
        assert counts(collecting.database, "blobs")["blobs"] == 4
