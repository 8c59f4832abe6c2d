"""Manifests: a collector judges one while somebody tags, lists, refers to or pushes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from regmeta.app import Writing
from regmeta.errors import LostReservation, MissingContent, NotFound
from regmeta.ingest.tags import remove_tag, set_tag
from regmeta.maintain.collect import tasks
from regmeta.maintain.delete.manifest import delete_manifest
from regmeta.oci.digest import Digest
from tests.builders import AMD64, Json, LayoutBuilder, digest_of
from tests.support.aside import HOUR, Freeze, Opened, assert_only_live_objects, run_collect
from tests.support.deleting import here, stored
from tests.support.registry import (
    AT_ONCE,
    commit_one,
    counts,
    ingest_of,
    keys_in,
    request,
    rows,
    scalar,
    source_of,
    tags,
)

Race = Callable[..., tuple[Any, Any]]
SIGNATURE = "application/vnd.example.signature"


@pytest.fixture
def image(one: Writing, builder: LayoutBuilder, layout: Path) -> Json:
    """An image that lost its tag, and is due."""
    made = builder.image()
    commit_one(one, builder, made, layout)
    remove_tag(one.writer, "app", "v1")
    return made


def queued(writing: Writing) -> set[Digest]:
    """Return the manifests that tasks are about."""
    found = rows(
        writing.database,
        "SELECT m.digest FROM gc_tasks t JOIN manifests m ON m.id = t.target_id WHERE t.kind = 'manifest'",
    )
    return {Digest.from_bytes(bytes(digest)) for (digest,) in found}


def tasks_about_nothing(writing: Writing) -> int:
    return int(
        scalar(
            writing.database,
            "SELECT count(*) FROM gc_tasks WHERE kind = 'manifest'"
            " AND target_id NOT IN (SELECT id FROM manifests)",
        )
    )


# --- pushed and tagged again ------------------------------------------------------------------


def test_image_that_was_just_pushed_again_is_not_collected(
    one: Writing, other: Writing, race: Race, builder: LayoutBuilder, layout: Path, image: Json
) -> None:
    """T07: the collector passes its repository over, or waits and finds the tag."""
    before = keys_in(one.database, "blobs")
    _, report = race(
        lambda: commit_one(other, builder, image, layout / "again", tag="v2"),
        "ingest.committing",
        lambda: run_collect(one),
        waits="on SQLite",
    )
    assert report.manifests == report.blobs == 0
    assert tags(one.database) == {"v2": digest_of(image)}
    assert_only_live_objects(one)
    assert keys_in(one.database, "blobs") == before


def test_push_of_an_image_while_it_is_collected_makes_all_of_it_anew(
    one: Writing, other: Writing, race: Race, builder: LayoutBuilder, layout: Path, image: Json
) -> None:
    """T07 the other way round."""
    before = keys_in(one.database, "blobs")
    report, _ = race(
        lambda: run_collect(one),
        "collect.committing",
        lambda: commit_one(other, builder, image, layout / "again", tag="v2"),
    )
    assert (report.manifests, report.blobs) == (1, 4)
    assert tags(one.database) == {"v2": digest_of(image)}
    assert counts(one.database, "manifests", "manifest_blobs") == {"manifests": 1, "manifest_blobs": 3}
    assert_only_live_objects(one)
    assert keys_in(one.database, "blobs").isdisjoint(before)


def test_push_that_relied_on_an_image_which_goes_before_its_commit_makes_it_anew(
    one: Writing, other: Writing, race: Race, builder: LayoutBuilder, layout: Path, image: Json
) -> None:
    """T07: its blobs were found here when it began."""
    set_tag(one.writer, "app", "v2", digest_of(image))
    again, _ = race(
        lambda: commit_one(other, builder, image, layout / "more", tag="v3"),
        "ingest.begin",
        lambda: (remove_tag(one.writer, "app", "v2"), run_collect(one)),
        waits="never",
    )
    assert (again.new_manifests, again.new_blobs) == (1, 4)
    assert tags(one.database) == {"v3": digest_of(image)}
    assert_only_live_objects(one)


@pytest.mark.parametrize("how", ["set", "push"])
def test_image_that_is_tagged_after_it_was_listed_as_garbage_stays(
    one: Writing, other: Writing, race: Race, builder: LayoutBuilder, layout: Path, image: Json, how: str
) -> None:
    """T13: the list is a hint; what is deleted is decided after the lock."""

    def tag() -> object:
        if how == "set":
            return set_tag(other.writer, "app", "v2", digest_of(image))
        return commit_one(other, builder, image, layout / "again", tag="v2")

    report, _ = race(lambda: run_collect(one), "collect.begin", tag, waits="never")
    assert report.manifests == report.blobs == 0
    assert tags(one.database) == {"v2": digest_of(image)}
    assert_only_live_objects(one)
    assert len(keys_in(one.database, "blobs")) == 4


# --- the last tag goes ------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["judged first", "removed first"])
def test_image_that_loses_its_last_tag_while_it_is_judged_alive_has_a_task(
    opened: Opened, race: Race, builder: LayoutBuilder, layout: Path, order: str
) -> None:
    """T08: the task that the collector finds done is written again by who removes the tag."""
    collecting, removing = (opened(replace(AT_ONCE, history=HOUR)) for _ in range(2))
    image = builder.image()
    commit_one(collecting, builder, image, layout)
    set_tag(collecting.writer, "app", "v2", digest_of(image))
    remove_tag(collecting.writer, "app", "v2")
    judge, remove = lambda: run_collect(collecting), lambda: remove_tag(removing.writer, "app", "v1")
    if order == "judged first":
        report, _ = race(judge, "collect.committing", remove)
    else:
        _, report = race(remove, "tags.committing", judge, waits="on SQLite")
    assert report.manifests == 0
    assert queued(collecting) == {digest_of(image)}
    assert tags(collecting.database) == {}


# --- indexes ----------------------------------------------------------------------------------


@pytest.fixture
def child(one: Writing, builder: LayoutBuilder, layout: Path) -> Json:
    """An image that lost its tag, is due, and is to be listed by an index."""
    made = builder.image(platform=AMD64)
    commit_one(one, builder, made, layout)
    remove_tag(one.writer, "app", "v1")
    return made


def push_index(writing: Writing, builder: LayoutBuilder, layout: Path, index: Json) -> Callable[[], object]:
    return lambda: commit_one(writing, builder, index, layout / "index", tag="index")


@pytest.mark.parametrize("has_child", [True, False])
def test_child_that_an_index_has_just_listed_is_not_collected(
    one: Writing,
    other: Writing,
    race: Race,
    builder: LayoutBuilder,
    layout: Path,
    child: Json,
    has_child: bool,
) -> None:
    """T09: whether the pushed layout has the child, or relies on the repository for it."""
    index = builder.index([child])
    if not has_child:
        del builder.blobs[child["digest"]]
    push = push_index(other, builder, layout, index)
    _, report = race(push, "ingest.committing", lambda: run_collect(one), waits="on SQLite")
    assert report.manifests == 0
    assert here(one) == {digest_of(index), digest_of(child)}
    assert_only_live_objects(one)
    assert here(one) == {digest_of(index), digest_of(child)}


def test_index_whose_child_is_being_collected_brings_it_again(
    one: Writing, other: Writing, race: Race, builder: LayoutBuilder, layout: Path, child: Json
) -> None:
    """T09 the other way round, where the pushed layout has the child."""
    index = builder.index([child])
    push = push_index(other, builder, layout, index)
    report, _ = race(lambda: run_collect(one), "collect.committing", push)
    assert report.manifests == 1
    assert here(one) == {digest_of(index), digest_of(child)}
    assert_only_live_objects(one)
    assert len(keys_in(one.database, "blobs")) == 5


def test_index_that_relies_on_a_child_which_is_being_collected_is_refused_and_names_it(
    one: Writing, other: Writing, race: Race, builder: LayoutBuilder, layout: Path, child: Json
) -> None:
    """T09 the other way round, where only the repository had the child."""
    index = builder.index([child])
    del builder.blobs[child["digest"]]
    with source_of(builder, layout / "index") as source:
        ingest = ingest_of(other, request(source, index, tag="index"))
        ingest.prepare()
        report, refused = race(lambda: run_collect(one), "collect.committing", ingest.commit)
        assert report.manifests == 1
        assert isinstance(refused, LostReservation)
        assert digest_of(child) in refused.digests
        ingest.unit.abort()
    with pytest.raises(MissingContent, match=child["digest"]):
        push_index(other, builder, layout, index)()
    assert tags(one.database) == {}
    assert_only_live_objects(one)
    assert stored(one) == set()


def test_50_children_go_after_their_index_ten_at_a_time_though_they_came_before_it(
    one: Writing, builder: LayoutBuilder, layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T10: tasks are taken in the order of their ids, and those of children come with their index's end."""
    shared = builder.layer()
    index = builder.index(
        [builder.image([shared], platform={"os": "linux", "architecture": f"a{n}"}) for n in range(50)]
    )
    commit_one(one, builder, index, layout)
    remove_tag(one.writer, "app", "v1")
    monkeypatch.setattr(tasks, "_CLAIM", tasks._CLAIM.limit(sa.literal(10)))
    assert run_collect(one).manifests == 51
    assert counts(one.database, "manifests", "gc_tasks") == {"manifests": 0, "gc_tasks": 0}


# --- tasks about what is not there ------------------------------------------------------------


@pytest.mark.parametrize("order", ["collected first", "deleted first"])
def test_collected_manifest_leaves_no_task_whoever_deletes_it_meanwhile(
    one: Writing, other: Writing, race: Race, image: Json, order: str
) -> None:
    """T12: the end of its tags queues the manifest, and its row may be gone by then."""
    set_tag(one.writer, "app", "v2", digest_of(image))
    remove_tag(one.writer, "app", "v2")
    collect, delete = (
        lambda: run_collect(one),
        lambda: delete_manifest(other.writer, "app", digest_of(image)),
    )
    if order == "collected first":
        report, refused = race(collect, "collect.committing", delete)
        assert isinstance(refused, NotFound)
    else:
        _, report = race(delete, "manifest_deleted.committing", collect, waits="on SQLite")
        if report.manifests == 0:
            report = run_collect(one)
    assert (report.manifests, report.failures) == (1, [])
    assert tasks_about_nothing(one) == 0
    assert counts(one.database, "manifests", "gc_tasks") == {"manifests": 0, "gc_tasks": 0}


# --- referrers --------------------------------------------------------------------------------


@pytest.fixture
def subject(builder: LayoutBuilder) -> Json:
    return builder.image()


@pytest.fixture
def referrer(one: Writing, builder: LayoutBuilder, layout: Path, subject: Json) -> Json:
    """A referrer that was pushed without a tag before its subject, and is due."""
    made = builder.artifact(b"signed", SIGNATURE, subject)
    commit_one(one, builder, made, layout, tag=None)
    return made


def test_referrer_whose_subject_has_just_come_is_not_collected(
    one: Writing,
    other: Writing,
    race: Race,
    builder: LayoutBuilder,
    layout: Path,
    subject: Json,
    referrer: Json,
) -> None:
    """T19."""
    _, report = race(
        lambda: commit_one(other, builder, subject, layout / "subject"),
        "ingest.committing",
        lambda: run_collect(one),
        waits="on SQLite",
    )
    assert report.manifests == 0
    assert_only_live_objects(one)
    assert here(one) == {digest_of(subject), digest_of(referrer)}


def test_subject_that_comes_while_its_referrer_is_collected_stands_alone(
    one: Writing,
    other: Writing,
    race: Race,
    builder: LayoutBuilder,
    layout: Path,
    subject: Json,
    referrer: Json,
) -> None:
    """T19 the other way round: the referrer's lease had ended and nothing kept it."""
    report, _ = race(
        lambda: run_collect(one),
        "collect.committing",
        lambda: commit_one(other, builder, subject, layout / "subject"),
    )
    assert report.manifests == 1
    assert_only_live_objects(one)
    assert here(one) == {digest_of(subject)}
    commit_one(other, builder, referrer, layout / "again", tag=None)
    assert_only_live_objects(one)
    assert here(one) == {digest_of(subject), digest_of(referrer)}


@pytest.mark.parametrize("order", ["collected first", "pushed first"])
def test_referrer_that_comes_while_its_subject_is_collected_follows_it(
    one: Writing,
    other: Writing,
    race: Race,
    builder: LayoutBuilder,
    layout: Path,
    image: Json,
    order: str,
) -> None:
    """T20: it has a task of its own, so it is not forgotten whoever came first."""
    referrer = builder.artifact(b"signed", SIGNATURE, image)
    collect = lambda: run_collect(one)  # noqa: E731
    push = lambda: commit_one(other, builder, referrer, layout / "referrer", tag=None)  # noqa: E731
    if order == "collected first":
        race(collect, "collect.committing", push)
    else:
        race(push, "ingest.committing", collect, waits="on SQLite")
    assert queued(one) == stored(one)
    assert_only_live_objects(one)
    assert stored(one) == set()


# --- the same manifest twice ------------------------------------------------------------------


def test_same_image_that_is_pushed_under_two_tags_at_once_is_one_manifest(
    one: Writing, other: Writing, race: Race, builder: LayoutBuilder, layout: Path
) -> None:
    """T23."""
    image = builder.image()
    first, second = race(
        lambda: commit_one(one, builder, image, layout / "1", tag="v1"),
        "ingest.committing",
        lambda: commit_one(other, builder, image, layout / "2", tag="v2"),
    )
    assert (first.new_manifests, second.new_manifests) == (1, 0)
    assert tags(one.database) == {"v1": digest_of(image), "v2": digest_of(image)}
    assert counts(one.database, "manifests", "blobs", "manifest_blobs") == {
        "manifests": 1,
        "blobs": 4,
        "manifest_blobs": 3,
    }
    assert_only_live_objects(one)


def test_push_whose_twin_dies_in_its_commit_is_whole(
    one: Writing, other: Writing, aside: Freeze, builder: LayoutBuilder, layout: Path
) -> None:
    """T22: all of the first one's edges are written, and none of them is to be seen."""
    image = builder.image()
    first = aside(lambda: commit_one(one, builder, image, layout / "1", tag="v1"), "ingest.committing")
    second = aside(lambda: commit_one(other, builder, image, layout / "2", tag="v2"), None)
    second.assert_waits(one.database)
    first.die()
    assert second.go_on().new_manifests == 1
    assert tags(one.database) == {"v2": digest_of(image)}
    assert counts(one.database, "manifests", "manifest_blobs") == {"manifests": 1, "manifest_blobs": 3}
    commit_one(one, builder, image, layout / "1", tag="v1")
    assert counts(one.database, "manifests", "manifest_blobs") == {"manifests": 1, "manifest_blobs": 3}
    assert tags(one.database) == {"v1": digest_of(image), "v2": digest_of(image)}
