"""Blobs and their objects: pushes that rely on what a collector is about to take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from regmeta import failpoints
from regmeta.app import Writing
from regmeta.errors import LostReservation
from regmeta.ingest.plan import Lifetimes
from regmeta.ingest.tags import remove_tag
from regmeta.maintain.collect.sweep import sweep
from tests.builders import Json, LayoutBuilder, digest_of
from tests.support.aside import (
    HOUR,
    SWEPT,
    Died,
    Freeze,
    Opened,
    assert_only_live_objects,
    run_collect,
)
from tests.support.registry import (
    AT_ONCE,
    Ingest,
    change,
    commit_one,
    counts,
    ingest_of,
    key_of,
    keys_in,
    objects,
    request,
    source_of,
    tags,
)

Race = Callable[..., tuple[Any, Any]]


def untagged_image(writing: Writing, builder: LayoutBuilder, layout: Path) -> Json:
    """Import an image and remove its tag: with no lifetimes it is due at once."""
    image = builder.image()
    commit_one(writing, builder, image, layout)
    remove_tag(writing.writer, "app", "v1")
    return image


@contextmanager
def relying_on_garbage(
    opened: Opened, builder: LayoutBuilder, layout: Path, repository: str
) -> Iterator[Ingest]:
    """Give an ingest that found all its blobs here; no manifest names them any more, and they are due.

    The repository ``app`` is still linked to them, as by an old mount.
    """
    patient, usual = opened(replace(AT_ONCE, lease=24 * HOUR)), opened(Lifetimes())
    image = untagged_image(patient, builder, layout)
    with source_of(builder, layout / "again") as source:
        ingest = ingest_of(usual, request(source, image, repository, "again"))
        ingest.unit.reserve(ingest.image.blobs)
        assert ingest.unit.missing == []
        change(usual.database, "UPDATE manifests SET lease_until = 0")
        change(usual.database, "UPDATE gc_tasks SET not_before = 0")
        assert run_collect(patient).manifests == 1
        change(usual.database, "UPDATE blobs SET lease_until = 0")
        change(usual.database, "UPDATE gc_tasks SET not_before = 0")
        assert counts(usual.database, "blobs", "manifests", "repository_blobs") == {
            "blobs": 4,
            "manifests": 0,
            "repository_blobs": 4,
        }
        ingest.unit.publish()
        yield ingest
        ingest.unit.finish()


@pytest.mark.parametrize("repository", ["app", "lib"])
def test_blob_that_a_push_has_just_named_is_not_collected(
    opened: Opened, race: Race, builder: LayoutBuilder, layout: Path, repository: str
) -> None:
    """T01, T02, T06: the collector finds the row locked, or named; a link that is stale goes without it."""
    collecting = opened()
    with relying_on_garbage(opened, builder, layout, repository) as ingest:
        before = keys_in(collecting.database, "blobs")
        _, report = race(
            ingest.commit, "ingest.committing", lambda: run_collect(collecting), waits="on SQLite"
        )
        assert (report.blobs, report.failures) == (0, [])
    assert keys_in(collecting.database, "blobs") == before
    assert tags(collecting.database, repository) == {"again": ingest.image.root}
    assert_only_live_objects(collecting)
    assert objects(collecting.store).keys() == before


@pytest.mark.parametrize("repository", ["app", "lib"])
def test_push_that_names_a_blob_while_it_is_collected_goes_back_for_it(
    opened: Opened, race: Race, builder: LayoutBuilder, layout: Path, repository: str
) -> None:
    """T01, T02, T06 the other way round: it is refused, has written nothing, and brings it again."""
    collecting = opened()
    with relying_on_garbage(opened, builder, layout, repository) as ingest:
        before = keys_in(collecting.database, "blobs")
        report, refused = race(lambda: run_collect(collecting), "collect_blobs.committing", ingest.commit)
        assert (report.blobs, report.failures) == (4, [])
        assert isinstance(refused, LostReservation)
        assert refused.digests == ingest.image.blobs.keys()
        assert counts(collecting.database, "manifests", "blobs") == {"manifests": 0, "blobs": 0}
        ingest.again(refused.digests)
        ingest.commit()
    assert keys_in(collecting.database, "blobs").isdisjoint(before)
    assert tags(collecting.database, repository) == {"again": ingest.image.root}
    assert_only_live_objects(collecting)


# --- objects ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("points_of_deletion")
@pytest.mark.parametrize("at", ["test.record_read", "delete.unlinked", "objects_deleted.begin"])
def test_upload_of_what_is_just_being_deleted_has_an_object_of_its_own(
    opened: Opened, race: Race, builder: LayoutBuilder, layout: Path, at: str
) -> None:
    """T03: the collector stands in the middle of the deletion; nobody waits for it."""
    collecting, pushing = opened(), opened()
    image = untagged_image(collecting, builder, layout)
    old = keys_in(collecting.database, "blobs")
    report, _ = race(
        lambda: run_collect(collecting),
        at,
        lambda: commit_one(pushing, builder, image, layout / "again"),
        waits="never",
    )
    assert report.objects.deleted == 4
    live = keys_in(pushing.database, "blobs")
    assert live.isdisjoint(old)
    assert objects(pushing.store).keys() == live
    assert tags(pushing.database) == {"v1": digest_of(image)}
    assert_only_live_objects(pushing)


def test_deletion_leaves_an_object_that_was_just_uploaded_again(
    opened: Opened, race: Race, builder: LayoutBuilder, layout: Path
) -> None:
    """T03 the other way round: the new object has no row yet when the old one is deleted."""
    slow, collecting, pushing = opened(replace(AT_ONCE, tombstone=HOUR)), opened(), opened()
    image = untagged_image(slow, builder, layout)
    assert run_collect(slow).objects.deleted == 0
    old = keys_in(slow.database, "tombstones")
    change(slow.database, "UPDATE tombstones SET not_before = 0")
    _, report = race(
        lambda: commit_one(pushing, builder, image, layout / "again"),
        "publish.flushed",
        lambda: run_collect(collecting),
        waits="never",
    )
    assert report.objects.deleted == 4
    assert objects(pushing.store).keys() == keys_in(pushing.database, "blobs")
    assert keys_in(pushing.database, "blobs").isdisjoint(old)
    assert tags(pushing.database) == {"v1": digest_of(image)}
    assert_only_live_objects(pushing)


def test_objects_whose_deletion_nobody_noted_are_not_missed_and_are_forgotten_by_the_next_run(
    opened: Opened, builder: LayoutBuilder, layout: Path
) -> None:
    """T04: the collector dies between the store and the database."""
    writing = opened()
    image = untagged_image(writing, builder, layout)

    def die(point: str) -> None:
        if point == "objects_deleted.committing":
            raise Died(point)

    with failpoints.armed(die), pytest.raises(Died):
        run_collect(writing)
    assert objects(writing.store) == {}
    assert counts(writing.database, "blobs", "manifests", "tombstones") == {
        "blobs": 0,
        "manifests": 0,
        "tombstones": 4,
    }
    commit_one(writing, builder, image, layout / "again")
    assert len(objects(writing.store)) == 4
    assert_only_live_objects(writing)
    assert counts(writing.database, "blobs", "tombstones") == {"blobs": 4, "tombstones": 0}


def test_reader_of_an_object_that_is_deleted_meanwhile_reads_it_to_its_end(
    opened: Opened, builder: LayoutBuilder, layout: Path
) -> None:
    """Of a file the open one stays; other stores rest on the hour for which a tombstone stands."""
    writing = opened()
    content = bytes(range(256)) * 4096
    image = builder.image([content])
    commit_one(writing, builder, image, layout)
    [layer] = [digest for digest, stored in builder.blobs.items() if stored == content]
    key = key_of(writing.database, digest_of({"digest": layer}))
    remove_tag(writing.writer, "app", "v1")
    with writing.store.open(key) as stream:
        found = bytearray(1000)
        assert stream.readinto(memoryview(found)) == 1000
        assert run_collect(writing).objects.deleted == 3
        assert objects(writing.store) == {}
        buffer = memoryview(bytearray(65536))
        while got := stream.readinto(buffer):
            found += buffer[:got]
    assert bytes(found) == content


@pytest.mark.parametrize("at", ["publish.renamed", "ingest.begin", "ingest.committing", "ingest.committed"])
def test_object_of_a_push_that_is_under_way_is_not_swept(
    opened: Opened, race: Race, builder: LayoutBuilder, layout: Path, at: str
) -> None:
    """Somebody names it at any time: an intent, from before it is there, and then its row."""
    pushing, sweeping = opened(), opened()
    image = builder.image()
    _, report = race(
        lambda: commit_one(pushing, builder, image, layout),
        at,
        lambda: sweep(sweeping.database, sweeping.store, SWEPT),
        waits="never",
    )
    assert report.unknown == report.buried == 0
    assert tags(pushing.database) == {"v1": digest_of(image)}
    assert_only_live_objects(pushing)
    assert len(objects(pushing.store)) == 4


def test_push_between_a_listing_and_the_sweep_of_it_keeps_its_objects(
    opened: Opened, race: Race, builder: LayoutBuilder, layout: Path
) -> None:
    pushing, sweeping = opened(), opened()
    stray = Path(pushing.store.location) / "blobs" / "sha256" / "00" / f"{'0' * 64}.{'0' * 32}"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"nobody's")
    stray.chmod(0o444)
    report, _ = race(
        lambda: sweep(sweeping.database, sweeping.store, SWEPT),
        "sweep.begin",
        lambda: commit_one(pushing, builder, builder.image(), layout),
        waits="never",
    )
    assert report.buried == 1
    assert len(keys_in(pushing.database, "blobs") & objects(pushing.store).keys()) == 4
    assert_only_live_objects(pushing)
    assert len(objects(pushing.store)) == 4


def test_layer_without_bytes_is_nothing_to_a_collector(
    opened: Opened, aside: Freeze, builder: LayoutBuilder, layout: Path
) -> None:
    """T28: collected beside an image that shares it, while that is pushed."""
    one, other = opened(), opened()
    foreign = builder.blob(b"foreign", "application/vnd.oci.image.layer.nondistributable.v1.tar")
    del builder.blobs[foreign["digest"]]
    images = [builder.image([layer, foreign]) for layer in (b"one", b"two")]
    commit_one(one, builder, images[0], layout)
    remove_tag(one.writer, "app", "v1")
    pushing = aside(lambda: commit_one(other, builder, images[1], layout / "2", tag="v2"), "publish.flushed")
    report = run_collect(one)
    assert (report.manifests, report.blobs, report.failures) == (1, 3, [])
    pushing.go_on()
    assert tags(one.database) == {"v2": digest_of(images[1])}
    assert_only_live_objects(one)
    assert len(objects(one.store)) == 3
