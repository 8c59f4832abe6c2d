"""Deletes and their undoing, beside pushes, locks and the collector."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from regmeta.app import Writing
from regmeta.errors import ImmutableTag, LostReservation, MissingContent, NotFound, RepositoryNotActive
from regmeta.ingest.plan import Lifetimes
from regmeta.ingest.tag_locks import lock_tags
from regmeta.ingest.tags import remove_tag, set_tag
from regmeta.maintain.delete.blob import StillNamed, delete_blob
from regmeta.maintain.delete.manifest import StillListed, delete_manifest
from regmeta.maintain.delete.repository import delete_repository
from regmeta.maintain.delete.undelete import undelete_manifest, undelete_repository
from tests.builders import AMD64, Json, LayoutBuilder, digest_of
from tests.support.aside import HOUR, Opened, assert_only_live_objects, run_collect
from tests.support.deleting import here, state, stored
from tests.support.registry import (
    AT_ONCE,
    change,
    commit_one,
    counts,
    ingest_of,
    keys_in,
    request,
    scalar,
    source_of,
    tags,
)

Race = Callable[..., tuple[Any, Any]]

DELETED = "manifest_deleted.committing"
REPOSITORY_DELETED = "repository_deleted.committing"
PUSHED = "ingest.committing"


@pytest.fixture
def image(one: Writing, builder: LayoutBuilder, layout: Path) -> Json:
    """An image that is tagged v1."""
    made = builder.image(platform=AMD64)
    commit_one(one, builder, made, layout)
    return made


# --- a digest ---------------------------------------------------------------------------------


def test_child_that_is_deleted_while_an_index_that_lists_it_is_pushed_is_kept_and_the_index_named(
    one: Writing, other: Writing, race: Race, builder: LayoutBuilder, layout: Path, image: Json
) -> None:
    index = builder.index([image])
    _, refused = race(
        lambda: commit_one(one, builder, index, layout / "index", tag="index"),
        PUSHED,
        lambda: delete_manifest(other.writer, "app", digest_of(image)),
    )
    assert isinstance(refused, StillListed)
    assert f"the index {index['digest']} lists it" in str(refused)
    assert tags(one.database) == {"v1": digest_of(image), "index": digest_of(index)}
    assert_only_live_objects(one)
    assert here(one) == {digest_of(image), digest_of(index)}


def test_index_that_is_pushed_while_its_child_is_deleted_brings_it_back(
    one: Writing, other: Writing, race: Race, builder: LayoutBuilder, layout: Path, image: Json
) -> None:
    index = builder.index([image])
    before = keys_in(one.database, "blobs")
    deleted, _ = race(
        lambda: delete_manifest(other.writer, "app", digest_of(image)),
        DELETED,
        lambda: commit_one(one, builder, index, layout / "index", tag="index"),
    )
    assert deleted.tags_ended == ("v1",)
    assert tags(one.database) == {"index": digest_of(index)}
    assert_only_live_objects(one)
    assert here(one) == {digest_of(image), digest_of(index)}
    assert before < keys_in(one.database, "blobs")


def test_index_that_relies_on_a_child_which_is_being_deleted_is_refused_and_names_it(
    one: Writing, other: Writing, race: Race, builder: LayoutBuilder, layout: Path, image: Json
) -> None:
    """Only the repository had the child: nobody but its owner brings it back."""
    index = builder.index([image])
    del builder.blobs[image["digest"]]
    with source_of(builder, layout / "index") as source:
        ingest = ingest_of(one, request(source, index, tag="index"))
        ingest.prepare()
        _, refused = race(
            lambda: delete_manifest(other.writer, "app", digest_of(image)), DELETED, ingest.commit
        )
        assert isinstance(refused, LostReservation)
        assert refused.digests == {digest_of(image)}
        ingest.unit.abort()
    with pytest.raises(MissingContent, match=image["digest"]):
        commit_one(one, builder, index, layout / "2", tag="index")
    assert tags(one.database) == {}


@pytest.mark.parametrize("order", ["tagged first", "deleted first"])
def test_manifest_that_is_tagged_while_it_is_deleted_has_no_tag_afterwards(
    one: Writing, other: Writing, race: Race, image: Json, order: str
) -> None:
    tag = lambda: set_tag(one.writer, "app", "v2", digest_of(image))  # noqa: E731
    delete = lambda: delete_manifest(other.writer, "app", digest_of(image))  # noqa: E731
    if order == "tagged first":
        _, report = race(tag, "tags.committing", delete)
        assert report.tags_ended == ("v1", "v2")
    else:
        report, refused = race(delete, DELETED, tag)
        assert report.tags_ended == ("v1",)
        assert isinstance(refused, NotFound)
    assert tags(one.database) == {}
    assert here(one) == set()


@pytest.mark.parametrize("order", ["pushed first", "deleted first"])
def test_manifest_that_is_pushed_while_it_is_deleted_is_as_the_later_one_says(
    one: Writing, other: Writing, race: Race, builder: LayoutBuilder, layout: Path, image: Json, order: str
) -> None:
    push = lambda: commit_one(one, builder, image, layout / "again", tag="v2")  # noqa: E731
    delete = lambda: delete_manifest(other.writer, "app", digest_of(image))  # noqa: E731
    if order == "pushed first":
        _, report = race(push, PUSHED, delete)
        assert report.tags_ended == ("v1", "v2")
        assert (tags(one.database), here(one)) == ({}, set())
    else:
        report, _ = race(delete, DELETED, push)
        assert report.tags_ended == ("v1",)
        assert (tags(one.database), here(one)) == ({"v2": digest_of(image)}, {digest_of(image)})
    assert_only_live_objects(one)


@pytest.mark.parametrize("what", ["digest", "repository"])
@pytest.mark.parametrize("order", ["locked first", "deleted first"])
def test_tag_that_was_locked_before_a_delete_does_not_end(
    one: Writing, other: Writing, race: Race, image: Json, order: str, what: str
) -> None:
    """T38: of the digest that it names, and of the whole repository."""
    lock = lambda: lock_tags(one.writer, "app", "v1")  # noqa: E731

    def delete() -> object:
        if what == "digest":
            return delete_manifest(other.writer, "app", digest_of(image))
        return delete_repository(other.writer, "app")

    point = DELETED if what == "digest" else REPOSITORY_DELETED
    if order == "locked first":
        _, refused = race(lock, "tags.committing", delete)
        assert isinstance(refused, ImmutableTag)
        assert tags(one.database) == {"v1": digest_of(image)}
    else:
        _, told = race(delete, point, lock)
        assert isinstance(told, NotFound) == (what == "repository")
        assert tags(one.database) == {}


@pytest.mark.parametrize("order", ["restored first", "collected first"])
def test_manifest_that_is_brought_back_while_it_is_collected_is_whole_or_gone(
    one: Writing, other: Writing, race: Race, image: Json, order: str
) -> None:
    delete_manifest(one.writer, "app", digest_of(image))
    restore = lambda: undelete_manifest(other.writer, "app", digest_of(image), tags=True)  # noqa: E731
    collect = lambda: run_collect(one)  # noqa: E731
    if order == "restored first":
        told, report = race(restore, "manifest_restored.committing", collect, waits="on SQLite")
        assert (told.tags, report.manifests) == (("v1",), 0)
        assert tags(one.database) == {"v1": digest_of(image)}
    else:
        report, refused = race(collect, "collect.committing", restore)
        assert report.manifests == 1
        assert isinstance(refused, NotFound)
        assert stored(one) == set()
    assert_only_live_objects(one)


# --- a repository -----------------------------------------------------------------------------


@pytest.fixture
def patient(opened: Opened) -> Writing:
    """Whose window is an hour: what it deletes is not purged at once."""
    return opened(replace(AT_ONCE, history=HOUR))


def test_repository_that_is_deleted_while_it_is_pushed_to_is_deleted_with_the_new_tag(
    one: Writing, patient: Writing, race: Race, builder: LayoutBuilder, layout: Path, image: Json
) -> None:
    new = builder.image()
    _, report = race(
        lambda: commit_one(one, builder, new, layout / "new", tag="v2"),
        PUSHED,
        lambda: delete_repository(patient.writer, "app"),
    )
    assert report.tags == 2
    assert (state(one), tags(one.database)) == ("deleted", {})
    undelete_repository(patient.writer, "app")
    assert tags(one.database) == {"v1": digest_of(image), "v2": digest_of(new)}


def test_repository_that_is_pushed_to_while_it_is_deleted_has_only_the_new_tag(
    one: Writing, patient: Writing, race: Race, builder: LayoutBuilder, layout: Path, image: Json
) -> None:
    new = builder.image()
    report, pushed = race(
        lambda: delete_repository(patient.writer, "app"),
        REPOSITORY_DELETED,
        lambda: commit_one(one, builder, new, layout / "new", tag="v2"),
    )
    assert report.tags == 1
    assert len(pushed.revived) == 1
    assert (state(one), tags(one.database)) == ("active", {"v2": digest_of(new)})
    # The task of the deletion finds it revived.
    change(one.database, "UPDATE gc_tasks SET not_before = 0")
    assert run_collect(one).repositories == 0
    assert tags(one.database) == {"v2": digest_of(new)}
    assert digest_of(image) not in stored(one)  # its tag ended, and the window of this collector is over


@pytest.mark.parametrize("how", ["push", "undelete"])
def test_repository_that_is_revived_after_it_was_listed_for_the_purge_is_left(
    one: Writing, other: Writing, race: Race, builder: LayoutBuilder, layout: Path, image: Json, how: str
) -> None:
    """T36: the purge decides from the row that it has locked."""
    delete_repository(one.writer, "app")

    def revive() -> object:
        if how == "undelete":
            return undelete_repository(other.writer, "app")
        return commit_one(other, builder, image, layout / "again")

    report, _ = race(lambda: run_collect(one), "purge_begins.begin", revive, waits="never")
    assert (report.repositories, report.manifests) == (0, 0)
    assert (state(one), tags(one.database)) == ("active", {"v1": digest_of(image)})
    assert_only_live_objects(one)
    assert here(one) == {digest_of(image)}


@pytest.mark.parametrize("at", ["repository_restored.committing", "ingest.committing"])
def test_repository_that_is_just_being_revived_is_not_purged(
    one: Writing, other: Writing, race: Race, builder: LayoutBuilder, layout: Path, image: Json, at: str
) -> None:
    delete_repository(one.writer, "app")

    def revive() -> object:
        if at.startswith("repository"):
            return undelete_repository(other.writer, "app")
        return commit_one(other, builder, image, layout / "again")

    _, report = race(revive, at, lambda: run_collect(one), waits="on SQLite")
    assert (report.repositories, report.manifests) == (0, 0)
    assert (state(one), tags(one.database)) == ("active", {"v1": digest_of(image)})
    assert_only_live_objects(one)


@pytest.mark.parametrize("at", ["purge_begins.committing", "purge.begin"])
@pytest.mark.parametrize("how", ["push", "undelete", "tag"])
def test_nobody_gets_into_a_repository_whose_purge_has_begun(
    one: Writing,
    other: Writing,
    race: Race,
    builder: LayoutBuilder,
    layout: Path,
    image: Json,
    at: str,
    how: str,
) -> None:
    """T36: the push is refused and leaves no row; when the purge is over it makes the repository anew."""
    delete_repository(one.writer, "app")
    new = builder.image()
    acts: dict[str, Callable[[], object]] = {
        "push": lambda: commit_one(other, builder, new, layout / "new", tag="v2"),
        "undelete": lambda: undelete_repository(other.writer, "app"),
        "tag": lambda: set_tag(other.writer, "app", "v2", digest_of(image)),
    }
    report, refused = race(
        lambda: run_collect(one), at, acts[how], waits="always" if at.endswith("committing") else "never"
    )
    if at == "purge.begin":
        assert isinstance(refused, RepositoryNotActive)
        assert (report.repositories, report.manifests) == (1, 1)
        assert counts(one.database, "manifests", "blobs")["manifests"] == 0
    else:  # who waited may come between two pieces of the purge, or find it over
        assert isinstance(refused, RepositoryNotActive | NotFound) or how == "push"
        assert report.manifests + run_collect(one).manifests == 1
    acts["push"]()
    assert tags(one.database) == {"v2": digest_of(new)}
    assert_only_live_objects(one)
    assert here(one) == {digest_of(new)}


@pytest.mark.parametrize("lifetimes", [Lifetimes(), AT_ONCE], ids=["leased", "not leased"])
@pytest.mark.parametrize("order", ["purged first", "pushed first"])
def test_push_elsewhere_that_relies_on_blobs_of_a_repository_which_is_purged_is_whole(
    opened: Opened,
    one: Writing,
    race: Race,
    builder: LayoutBuilder,
    layout: Path,
    image: Json,
    order: str,
    lifetimes: Lifetimes,
) -> None:
    """T37: the lease keeps them, or the push finds them gone and brings them again."""
    pushing = opened(lifetimes)
    before = keys_in(one.database, "blobs")
    delete_repository(one.writer, "app")
    collect = lambda: run_collect(one)  # noqa: E731
    with source_of(builder, layout / "lib") as source:
        ingest = ingest_of(pushing, request(source, image, "lib"))
        ingest.unit.reserve(ingest.image.blobs)
        assert ingest.unit.missing == []
        ingest.unit.publish()
        is_leased = lifetimes is not AT_ONCE
        if order == "purged first":
            # It has their rows locked, also of those that a lease keeps.
            report, told = race(collect, "purge.committing", ingest.commit)
            assert isinstance(told, LostReservation) != is_leased
            if not is_leased:
                ingest.again(told.digests)
                ingest.commit()
        else:
            _, report = race(ingest.commit, PUSHED, collect, waits="on SQLite")
        ingest.unit.finish()
    assert (report.repositories, report.manifests) == (1, 1)
    assert tags(one.database, "lib") == {"v1": digest_of(image)}
    assert (keys_in(one.database, "blobs") == before) == (is_leased or order == "pushed first")
    assert_only_live_objects(one)


# --- a blob -----------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["pushed first", "deleted first"])
def test_blob_that_is_deleted_while_a_push_names_it_is_linked_by_the_push(
    opened: Opened, one: Writing, race: Race, builder: LayoutBuilder, layout: Path, image: Json, order: str
) -> None:
    usual = opened(Lifetimes())
    layer = digest_of(json.loads(builder.blobs[image["digest"]])["layers"][0])
    with source_of(builder, layout / "again") as source:
        ingest = ingest_of(usual, request(source, image, tag="v2"))
        ingest.unit.reserve(ingest.image.blobs)
        ingest.unit.publish()
        remove_tag(one.writer, "app", "v1")
        # The manifest goes, and the repository stays linked to what it named.
        linked = opened(replace(AT_ONCE, lease=24 * HOUR))
        change(one.database, "UPDATE gc_tasks SET not_before = 0")
        assert run_collect(linked).manifests == 1
        delete = lambda: delete_blob(one.writer, "app", layer)  # noqa: E731
        if order == "pushed first":
            _, refused = race(ingest.commit, PUSHED, delete)
            assert isinstance(refused, StillNamed)
            assert image["digest"] in str(refused)
        else:
            race(delete, "blob_deleted.committing", ingest.commit)
        ingest.unit.finish()
    of = "SELECT count(*) FROM repository_blobs"
    assert scalar(one.database, of) == 4
    assert tags(one.database) == {"v2": digest_of(image)}
    assert_only_live_objects(one)
    assert len(keys_in(one.database, "blobs")) == 4
