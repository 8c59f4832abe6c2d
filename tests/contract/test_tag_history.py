"""What a tag was is known, and comes back with its image while the history window holds it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from regmeta import errors
from regmeta.app import Writing, open_for_writing
from regmeta.content.export import export
from regmeta.ingest.tag_restore import Wanted, restore_tag
from regmeta.ingest.tags import remove_tag, set_tag
from regmeta.maintain.collect.run import collect
from regmeta.maintain.delete.manifest import delete_manifest
from regmeta.models.base import UtcTime
from regmeta.oci.digest import Digest
from regmeta.oci.names import Reference
from regmeta.query import history
from regmeta.query.lists.manifests import manifests
from regmeta.query.results import TagValue
from regmeta.settings import Settings
from regmeta.store.exports import open_export
from tests.builders import AMD64, ARM64, Json, LayoutBuilder, digest_of
from tests.support.clock import let_pass
from tests.support.registry import ACTOR, commit_one, counts, dump, rows, scalar, tags
from tests.support.verified import verified

Other = Callable[[], Writing]
WEEK = timedelta(days=7)


@pytest.fixture
def images(writing: Writing, builder: LayoutBuilder, layout: Path) -> list[Json]:
    """Three images; the first is tagged v1, the others a and b."""
    made = [builder.image() for _ in range(3)]
    for image, tag in zip(made, ["v1", "a", "b"], strict=True):
        commit_one(writing, builder, image, layout, tag=tag)
    return made


def values(writing: Writing, tag: str = "v1", **options: object) -> list[TagValue]:
    return history.values_of(writing.database, "app", tag, WEEK, **options)  # type: ignore[arg-type]


def started(writing: Writing, tag: str = "v1") -> list[datetime]:
    """Return when each value of a tag began, the oldest first."""
    found = rows(writing.database, "SELECT started_at FROM tags WHERE name = :of ORDER BY started_at", of=tag)
    return [moment for (at,) in found if (moment := UtcTime().process_result_value(at, None)) is not None]  # type: ignore[arg-type]


# --- history ----------------------------------------------------------------------------------


def test_history_has_every_value_with_who_and_when_and_how_long_it_is_kept(
    writing: Writing, images: list[Json]
) -> None:
    set_tag(writing.writer, "app", "v1", digest_of(images[1]))
    remove_tag(writing.writer, "app", "v1")
    second, first = values(writing)
    assert (first.digest, second.digest) == (digest_of(images[0]), digest_of(images[1]))
    assert first.started_by == first.ended_by == second.ended_by == ACTOR
    assert first.ended_at is not None
    assert first.started_at < first.ended_at == second.started_at
    assert (first.image, second.image) == ("here", "here")
    assert first.kept_until == first.ended_at + WEEK
    assert second.kept_until is None  # the tag a names it


def test_history_tells_what_was_deleted_and_what_was_collected(
    settings: Settings, builder: LayoutBuilder, layout: Path
) -> None:
    with open_for_writing(settings) as writing:
        image = builder.image()
        commit_one(writing, builder, image, layout)
        delete_manifest(writing.writer, "app", digest_of(image))
        [value] = values(writing)
        assert value.image == "deleted"
        assert value.kept_until is not None
        assert value.ended_at is not None
        assert value.kept_until - value.ended_at >= WEEK
        let_pass(writing.database, WEEK + timedelta(hours=1))
        collect(writing.writer, writing.store)
        [value] = values(writing)
        assert (value.digest, value.image, value.kept_until) == (digest_of(image), "collected", None)


def test_image_that_came_again_without_its_tag_is_kept_by_its_lease(
    settings: Settings, builder: LayoutBuilder, layout: Path
) -> None:
    with open_for_writing(settings) as writing:
        image = builder.image()
        commit_one(writing, builder, image, layout)
        remove_tag(writing.writer, "app", "v1")
        let_pass(writing.database, WEEK + timedelta(hours=1))
        collect(writing.writer, writing.store)
        commit_one(writing, builder, image, layout, tag=None)
        [value] = values(writing)
        assert value.image == "here"
        lease = scalar(writing.database, "SELECT lease_until FROM manifests")
        assert value.kept_until == UtcTime().process_result_value(lease, None)  # type: ignore[arg-type]


def test_history_is_given_page_by_page(writing: Writing, images: list[Json]) -> None:
    for number in range(7):
        set_tag(writing.writer, "app", "v1", digest_of(images[(number + 1) % 3]))
    whole = values(writing)
    assert len(whole) == 8
    paged: list[TagValue] = []
    while page := values(writing, after=paged[-1].key if paged else None, limit=3):
        paged += page
    assert paged == whole
    assert [value.started_at for value in whole] == sorted((v.started_at for v in whole), reverse=True)


def test_all_changes_of_a_repository_come_newest_first_and_page_by_page(
    writing: Writing, images: list[Json]
) -> None:
    digests = [digest_of(image) for image in images]
    set_tag(writing.writer, "app", "v1", digests[1])
    remove_tag(writing.writer, "app", "a")
    remove_tag(writing.writer, "app", "v1")
    set_tag(writing.writer, "app", "v1", digests[2])
    whole = history.changes(writing.database, "app")
    assert [(each.tag, each.change, each.digest, each.previous) for each in whole] == [
        ("v1", "created", digests[2], None),
        ("v1", "removed", None, digests[1]),
        ("a", "removed", None, digests[1]),
        ("v1", "moved", digests[1], digests[0]),
        ("b", "created", digests[2], None),
        ("a", "created", digests[1], None),
        ("v1", "created", digests[0], None),
    ]
    assert {each.by for each in whole} == {ACTOR}
    paged = history.changes(writing.database, "app", limit=2)
    while page := history.changes(writing.database, "app", after=paged[-1].key, limit=2):
        paged += page
    assert paged == whole


def test_history_of_what_never_was_is_not_found(writing: Writing, images: list[Json]) -> None:
    with pytest.raises(errors.NotFound, match="app:none: no such tag, now or before"):
        values(writing, "none")
    with pytest.raises(errors.NotFound, match="none: no such repository"):
        history.changes(writing.database, "none")
    for key in ("", "1", "a-b", "-1-1", "999999999999999999-1"):
        with pytest.raises(errors.UsageError):
            history.changes(writing.database, "app", after=key)


def test_two_pushes_of_one_tag_at_once_leave_one_live_and_both_in_the_history(
    writing: Writing, other_writer: Other, builder: LayoutBuilder, layout: Path
) -> None:
    """T24: exactly one interval is live, and the collector is told of the image that lost."""
    others = [writing, other_writer()]
    pushed = [[builder.image() for _ in range(6)] for _ in others]
    builder.write(layout)
    barrier, failed = threading.Barrier(2), list[BaseException]()

    def push(number: int) -> None:
        try:
            for image in pushed[number]:
                barrier.wait(30)
                commit_one(others[number], builder, image, layout.parent / str(number))
        except Exception as error:  # noqa: BLE001
            failed.append(error)
            barrier.abort()

    threads = [threading.Thread(target=push, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    found = values(writing)
    everything = {digest_of(image) for images in pushed for image in images}
    assert {value.digest for value in found} == everything
    assert len(found) == 12
    assert [value for value in found if value.ended_at is None] == found[:1]
    assert tags(writing.database) == {"v1": found[0].digest}
    queued = rows(
        writing.database,
        "SELECT m.digest FROM gc_tasks t JOIN manifests m ON m.id = t.target_id WHERE t.kind = 'manifest'",
    )
    losers = {Digest.from_bytes(bytes(digest)) for (digest,) in queued}
    assert losers == everything - {found[0].digest}


# --- restore ----------------------------------------------------------------------------------


def test_removed_tag_comes_back_as_what_it_was(writing: Writing, images: list[Json]) -> None:
    remove_tag(writing.writer, "app", "v1")
    result = restore_tag(writing.writer, "app", "v1", Wanted())
    assert tags(writing.database)["v1"] == digest_of(images[0])
    [change] = result.tags_changed
    assert (change.tag, change.digest, change.previous) == ("v1", digest_of(images[0]), None)
    newest, oldest = values(writing)
    assert newest.started_by == ACTOR
    assert oldest.ended_at is not None
    assert newest.started_at >= oldest.ended_at
    assert scalar(writing.database, "SELECT kind FROM events ORDER BY id DESC LIMIT 1") == "tag.created"


def test_moved_tag_goes_back_to_the_last_other_value(writing: Writing, images: list[Json]) -> None:
    a, b, c = (digest_of(image) for image in images)
    set_tag(writing.writer, "app", "v1", b)
    set_tag(writing.writer, "app", "v1", c)
    for expected in (b, c, b):
        restore_tag(writing.writer, "app", "v1", Wanted())
        assert tags(writing.database)["v1"] == expected
    restore_tag(writing.writer, "app", "v1", Wanted(to=a))
    assert tags(writing.database)["v1"] == a


def test_tag_goes_back_to_what_it_was_at_a_time(writing: Writing, images: list[Json]) -> None:
    a, b, c = (digest_of(image) for image in images)
    set_tag(writing.writer, "app", "v1", b)
    remove_tag(writing.writer, "app", "v1")
    set_tag(writing.writer, "app", "v1", c)
    first, second, third = started(writing)
    ended = values(writing)[1].ended_at
    assert ended is not None
    tick = timedelta(microseconds=1)
    for at, expected in ((second, b), (second - tick, a), (first, a), (ended - tick, b), (third, c)):
        restore_tag(writing.writer, "app", "v1", Wanted(at=at))
        assert tags(writing.database)["v1"] == expected
    before = dump(writing.database)
    for at in (first - tick, datetime(2001, 1, 1, tzinfo=UTC)):
        with pytest.raises(errors.NotFound, match="app:v1: it never was anything at"):
            restore_tag(writing.writer, "app", "v1", Wanted(at=at))
    if ended < third:
        with pytest.raises(errors.NotFound, match="app:v1: it never was anything at"):
            restore_tag(writing.writer, "app", "v1", Wanted(at=ended))
    assert dump(writing.database) == before


def test_restore_to_what_never_was_is_not_found(writing: Writing, images: list[Json]) -> None:
    before = dump(writing.database)
    for wanted in (Wanted(), Wanted(to=digest_of(images[1]))):
        with pytest.raises(errors.NotFound, match="app:v1: it never was"):
            restore_tag(writing.writer, "app", "v1", wanted)
    with pytest.raises(errors.NotFound, match="app:none: no such tag, now or before"):
        restore_tag(writing.writer, "app", "none", Wanted())
    assert dump(writing.database) == before


def test_deleted_image_comes_back_with_all_that_it_lists(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    children = [builder.image(platform=AMD64), builder.image(platform=ARM64)]
    index = builder.index(children)
    commit_one(writing, builder, index, layout)
    delete_manifest(writing.writer, "app", digest_of(index), cascade=True)
    assert manifests(writing.database, "app").items == ()
    restore_tag(writing.writer, "app", "v1", Wanted())
    assert tags(writing.database) == {"v1": digest_of(index)}
    here = {item.digest for item in manifests(writing.database, "app").items}
    assert here == {digest_of(item) for item in (index, *children)}
    assert verified(writing.database, writing.store).findings == []


def test_tag_removed_by_mistake_comes_back_whole_an_hour_of_collection_later(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    """With the times of a real registry: the collector looks at it in between, more than once."""
    index = builder.index([builder.image(platform=AMD64), builder.image(platform=ARM64)])
    commit_one(writing, builder, index, layout)
    remove_tag(writing.writer, "app", "v1")
    looked_at = 0
    for _ in range(14):
        let_pass(writing.database, timedelta(minutes=5))
        report = collect(writing.writer, writing.store)
        assert (report.manifests, report.blobs, report.objects.deleted) == (0, 0, 0)
        looked_at += report.tasks
    assert looked_at > 0
    restore_tag(writing.writer, "app", "v1", Wanted())
    target = layout.parent / "exported"
    export(writing.database, writing.store, Reference.parse("app:v1"), open_export(str(target)))
    for digest, content in builder.blobs.items():
        assert (target / "blobs" / digest.replace(":", "/")).read_bytes() == content
    assert verified(writing.database, writing.store).findings == []


def test_tag_whose_window_is_over_is_gone_and_the_message_says_so(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    image = builder.image()
    commit_one(writing, builder, image, layout)
    remove_tag(writing.writer, "app", "v1")
    let_pass(writing.database, WEEK - timedelta(minutes=5))
    assert collect(writing.writer, writing.store).manifests == 0
    let_pass(writing.database, timedelta(minutes=10))
    assert collect(writing.writer, writing.store).manifests == 1
    before = dump(writing.database)
    with pytest.raises(errors.NotFound) as caught:
        restore_tag(writing.writer, "app", "v1", Wanted())
    assert caught.value.exit_code == 3
    assert str(caught.value).startswith(f"app:v1: was {image['digest']} until 20")
    assert "is over, and the image was collected" in str(caught.value)
    assert dump(writing.database) == before
    commit_one(writing, builder, image, layout, tag=None)
    restore_tag(writing.writer, "app", "v1", Wanted())
    assert tags(writing.database) == {"v1": digest_of(image)}
    assert counts(writing.database, "manifests") == {"manifests": 1}
