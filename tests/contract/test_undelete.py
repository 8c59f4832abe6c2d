"""What was deleted comes back with exactly what its deletion took, for as long as the rows are there."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from regmeta import db, errors
from regmeta.app import Writing, open_for_writing
from regmeta.ingest.plan import Lifetimes
from regmeta.ingest.tags import remove_tag, set_tag
from regmeta.maintain.collect.run import collect
from regmeta.maintain.delete.manifest import delete_manifest
from regmeta.maintain.delete.repository import delete_repository
from regmeta.maintain.delete.undelete import undelete_manifest, undelete_repository
from regmeta.query import deleted
from regmeta.settings import Settings
from tests.builders import AMD64, ARM64, Json, LayoutBuilder, digest_of
from tests.support.clock import let_pass
from tests.support.deleting import assert_verified, events, here, state, stored
from tests.support.registry import AT_ONCE, NOW, change, commit_one, rows, tags


@pytest.fixture
def images(writing: Writing, builder: LayoutBuilder, layout: Path) -> list[Json]:
    """An index of two images, tagged v1 and v2, and an image that is tagged other."""
    index = builder.index([builder.image(platform=AMD64), builder.image(platform=ARM64)])
    other = builder.image()
    commit_one(writing, builder, index, layout / "index")
    commit_one(writing, builder, other, layout / "other", tag="other")
    set_tag(writing.writer, "app", "v2", digest_of(index))
    return [index, other]


@pytest.fixture
def windowed(settings: Settings) -> Iterator[Writing]:
    """A registry where everything but the history window is over as soon as it begins."""
    window = Lifetimes(lease=NOW, garbage=NOW, tombstone=NOW, history=timedelta(hours=1), max_upload=NOW)
    with open_for_writing(settings, lifetimes=window) as found:
        yield found


def intervals(writing: Writing, name: str) -> list[tuple[int, int | None, str]]:
    found = rows(
        writing.database,
        "SELECT started_at, ended_at, started_by FROM tags WHERE name = :of ORDER BY started_at",
        of=name,
    )
    return [(row[0], row[1], row[2]) for row in found]


# --- repositories -----------------------------------------------------------------------------


def test_repository_comes_back_with_exactly_the_tags_that_its_deletion_ended(
    writing: Writing, images: list[Json]
) -> None:
    index, other = map(digest_of, images)
    set_tag(writing.writer, "app", "gone", index)
    remove_tag(writing.writer, "app", "gone")
    set_tag(writing.writer, "app", "moved", index)
    set_tag(writing.writer, "app", "moved", other)
    before = tags(writing.database)
    delete_repository(writing.writer, "app")
    report = undelete_repository(writing.writer, "app")
    assert (report.tags, report.tags_lost) == (len(before), 0)
    assert tags(writing.database) == before
    assert state(writing) == "active"
    assert events(writing)[-1] == "repository.restored"
    (_, ended_at, _), (started_at, now, by) = intervals(writing, "v1")
    assert ended_at is not None
    assert (started_at >= ended_at, now, by) == (True, None, "tester")
    assert_verified(writing)


def test_repository_can_be_deleted_and_brought_back_again_and_again(
    writing: Writing, images: list[Json]
) -> None:
    before = tags(writing.database)
    for number in range(3):
        delete_repository(writing.writer, "app")
        assert undelete_repository(writing.writer, "app").tags == len(before)
        remove_tag(writing.writer, "app", before.popitem()[0])
        assert tags(writing.database) == before, number


def test_manifest_that_was_deleted_before_its_repository_stays_deleted(
    writing: Writing, images: list[Json]
) -> None:
    delete_manifest(writing.writer, "app", digest_of(images[1]))
    delete_repository(writing.writer, "app")
    undelete_repository(writing.writer, "app")
    assert tags(writing.database).keys() == {"v1", "v2"}
    assert digest_of(images[1]) not in here(writing)
    assert undelete_manifest(writing.writer, "app", digest_of(images[1]), tags=True).tags == ("other",)


def test_nothing_in_a_deleted_repository_is_deleted_or_brought_back_alone(
    writing: Writing, images: list[Json]
) -> None:
    delete_repository(writing.writer, "app")
    with pytest.raises(errors.NotFound, match="it was deleted"):
        delete_manifest(writing.writer, "app", digest_of(images[1]))
    with pytest.raises(errors.NotFound, match="undelete it first"):
        undelete_manifest(writing.writer, "app", digest_of(images[1]))
    assert state(writing) == "deleted"


def test_repository_that_is_not_deleted_or_is_being_purged_does_not_come_back(
    writing: Writing, images: list[Json]
) -> None:
    with pytest.raises(errors.NotFound, match="not deleted"):
        undelete_repository(writing.writer, "app")
    with pytest.raises(errors.NotFound, match="no such repository"):
        undelete_repository(writing.writer, "nowhere")
    delete_repository(writing.writer, "app")
    change(writing.database, "UPDATE repositories SET state = 'purging'")
    with pytest.raises(errors.RepositoryNotActive) as caught:
        undelete_repository(writing.writer, "app")
    assert caught.value.exit_code == 6
    change(writing.database, "UPDATE repositories SET state = 'deleted'")


def test_repository_comes_back_after_hours_of_collection_inside_the_window(
    windowed: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    index = builder.index([builder.image(), builder.image()])
    commit_one(windowed, builder, index, layout)
    delete_repository(windowed.writer, "app")
    change(windowed.database, "UPDATE gc_tasks SET not_before = 1")
    assert collect(windowed.writer, windowed.store).manifests == 0
    assert undelete_repository(windowed.writer, "app").tags == 1
    assert tags(windowed.database) == {"v1": digest_of(index)}
    assert_verified(windowed)


def test_rows_and_not_the_clock_say_whether_a_repository_comes_back(
    settings: Settings, builder: LayoutBuilder, layout: Path
) -> None:
    """No collector has run: it is all there. One has: nothing is, and the answer says so."""
    with open_for_writing(settings, lifetimes=AT_ONCE) as writing:
        commit_one(writing, builder, builder.image(), layout)
        delete_repository(writing.writer, "app")
        assert undelete_repository(writing.writer, "app").tags == 1
        delete_repository(writing.writer, "app")
        collect(writing.writer, writing.store)
        with pytest.raises(errors.NotFound, match="nothing of it is left"):
            undelete_repository(writing.writer, "app")
        assert deleted.deleted_repositories(writing.database) == []


# --- manifests --------------------------------------------------------------------------------


@pytest.mark.parametrize("with_tags", [False, True])
def test_manifest_comes_back_with_its_tree_and_its_tags_if_asked_for(
    writing: Writing, images: list[Json], with_tags: bool
) -> None:
    index = digest_of(images[0])
    all_of_it = here(writing)
    remove_tag(writing.writer, "app", "v2")  # this was not the deletion
    delete_manifest(writing.writer, "app", index, cascade=True)
    report = undelete_manifest(writing.writer, "app", index, tags=with_tags)
    assert set(report.restored) == all_of_it - {digest_of(images[1])}
    assert report.tags == (("v1",) if with_tags else ())
    assert here(writing) == all_of_it
    assert tags(writing.database) == {"other": digest_of(images[1]), **({"v1": index} if with_tags else {})}
    assert events(writing).count("manifest.restored") == 3
    assert_verified(writing)


def test_tag_that_was_set_again_since_is_left_as_it_is(writing: Writing, images: list[Json]) -> None:
    index, other = map(digest_of, images)
    delete_manifest(writing.writer, "app", index)
    set_tag(writing.writer, "app", "v1", other)
    remove_tag(writing.writer, "app", "v1")
    set_tag(writing.writer, "app", "new", other)
    assert undelete_manifest(writing.writer, "app", index, tags=True).tags == ("v2",)
    assert tags(writing.database) == {"v2": index, "new": other, "other": other}


@pytest.mark.parametrize("of", ["manifest", "repository"])
def test_tag_that_was_removed_in_the_same_tick_of_the_clock_stays_removed(
    writing: Writing, images: list[Json], monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    """It is not the clock that tells which tags a deletion ended."""
    index, still = digest_of(images[0]), datetime(2100, 1, 1, tzinfo=UTC)
    original = db.stamp
    monkeypatch.setattr(db, "stamp", lambda c: db.Stamp(still, original(c).transaction_id))
    remove_tag(writing.writer, "app", "v2")
    if of == "manifest":
        delete_manifest(writing.writer, "app", index)
        assert undelete_manifest(writing.writer, "app", index, tags=True).tags == ("v1",)
    else:
        delete_repository(writing.writer, "app")
        assert undelete_repository(writing.writer, "app").tags == 2
    assert tags(writing.database) == {"v1": index, "other": digest_of(images[1])}


def test_child_comes_back_alone_and_its_index_stays_deleted(writing: Writing, images: list[Json]) -> None:
    index = digest_of(images[0])
    report = delete_manifest(writing.writer, "app", index, cascade=True)
    child = report.deleted[1]
    assert undelete_manifest(writing.writer, "app", child).restored == (child,)
    assert here(writing) == {child, digest_of(images[1])}
    assert len(stored(writing)) == 4


def test_child_that_came_back_alone_outlives_its_index_by_a_lease(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    child = builder.image()
    index = builder.index([child])
    commit_one(writing, builder, index, layout)
    delete_manifest(writing.writer, "app", digest_of(index), cascade=True)
    let_pass(writing.database, writing.writer.lifetimes.history - timedelta(hours=1))
    undelete_manifest(writing.writer, "app", digest_of(child))
    let_pass(writing.database, timedelta(hours=2))
    while collect(writing.writer, writing.store).tasks:
        pass
    assert stored(writing) == here(writing) == {digest_of(child)}
    let_pass(writing.database, writing.writer.lifetimes.lease)
    collect(writing.writer, writing.store)
    assert stored(writing) == set()


def test_manifest_that_is_here_or_was_collected_does_not_come_back(
    settings: Settings, builder: LayoutBuilder, layout: Path
) -> None:
    image = builder.image()
    with open_for_writing(settings, lifetimes=AT_ONCE) as writing:
        commit_one(writing, builder, image, layout)
        with pytest.raises(errors.NotFound, match="not deleted"):
            undelete_manifest(writing.writer, "app", digest_of(image))
        delete_manifest(writing.writer, "app", digest_of(image))
        undelete_manifest(writing.writer, "app", digest_of(image), tags=True)
        delete_manifest(writing.writer, "app", digest_of(image))
        collect(writing.writer, writing.store)
        with pytest.raises(errors.NotFound, match="was collected, or never was"):
            undelete_manifest(writing.writer, "app", digest_of(image))


def test_deleted_manifests_are_listed_with_their_tags_and_until_when_they_stay(
    writing: Writing, images: list[Json]
) -> None:
    delete_manifest(writing.writer, "app", digest_of(images[0]))
    [found] = deleted.deleted_manifests(writing.database, "app")
    assert (found.digest, found.kind, found.tags) == (digest_of(images[0]), "index", ("v1", "v2"))
    assert found.until == found.deleted_at + writing.writer.lifetimes.history
    delete_repository(writing.writer, "app")
    with pytest.raises(errors.NotFound):
        deleted.deleted_manifests(writing.database, "app")
