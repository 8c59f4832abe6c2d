"""Deleting a repository: nothing in it can be read, all of it can be brought back, and a push revives it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from regmeta import errors
from regmeta.app import Writing
from regmeta.ingest.tags import remove_tag, set_tag
from regmeta.maintain.delete.repository import delete_repository
from regmeta.maintain.delete.undelete import undelete_repository
from regmeta.oci.names import Reference
from regmeta.query import catalog, deleted, tree
from regmeta.query.lists.manifests import manifests
from regmeta.query.lists.repositories import repositories
from regmeta.query.lists.tags import tags as list_tags
from tests.builders import Json, LayoutBuilder, digest_of
from tests.support.deleting import assert_verified, events, here, state, stored
from tests.support.registry import (
    change,
    commit_one,
    counts,
    ingest_of,
    objects,
    request,
    rows,
    scalar,
    source_of,
    tags,
)
from tests.support.statements import counted

Other = Callable[[], Writing]


@pytest.fixture
def image(writing: Writing, builder: LayoutBuilder, layout: Path) -> Json:
    """An index of two images, tagged v1 and v2; another tag has ended."""
    made = builder.index([builder.image(), builder.image()])
    commit_one(writing, builder, made, layout / "image")
    for tag in ("v2", "old"):
        set_tag(writing.writer, "app", tag, digest_of(made))
    remove_tag(writing.writer, "app", "old")
    return made


def test_deleted_repository_is_found_by_no_reader(writing: Writing, image: Json) -> None:
    report = delete_repository(writing.writer, "app")
    assert (report.repository, report.tags, report.manifests) == ("app", 2, 3)
    assert repositories(writing.database).items == ()
    for read in (
        lambda: list_tags(writing.database, "app"),
        lambda: catalog.tag(writing.database, "app", "v1"),
        lambda: manifests(writing.database, "app"),
        lambda: catalog.resolve(writing.database, Reference.parse("app:v1")),
        lambda: tree.image(writing.database, Reference.parse(f"app@{image['digest']}")),
    ):
        with pytest.raises(errors.NotFound):
            read()
    assert not writing.registry.can_skip_image("app", "v1", digest_of(image))
    assert catalog.repository(writing.database, "app").state == "deleted"
    [found] = deleted.deleted_repositories(writing.database)
    assert (found.name, found.state, found.tags, found.manifests) == ("app", "deleted", 2, 3)
    assert found.until == report.until == found.deleted_at + writing.writer.lifetimes.history


def test_all_live_tags_end_at_a_moment_that_is_only_theirs(writing: Writing, image: Json) -> None:
    """It says which tags the deletion ended, also where the clock has stood still or gone back."""
    change(writing.database, "UPDATE tags SET ended_at = 4000000000000000 WHERE name = 'old'")
    delete_repository(writing.writer, "app")
    [(deleted_at,)] = rows(writing.database, "SELECT deleted_at FROM repositories")
    found = dict(rows(writing.database, "SELECT name, ended_at FROM tags"))
    assert found == {"v1": deleted_at, "v2": deleted_at, "old": 4000000000000000}
    assert deleted_at == 4000000000000001


def test_nothing_is_removed_and_the_snapshot_says_deleted(writing: Writing, image: Json) -> None:
    before = counts(writing.database, "manifests", "blobs", "repository_blobs"), objects(writing.store)
    delete_repository(writing.writer, "app")
    assert before == (
        counts(writing.database, "manifests", "blobs", "repository_blobs"),
        objects(writing.store),
    )
    [path] = (Path(writing.store.location) / "layouts/app").glob("_*.json")
    assert '"io.regmeta.state":"deleted"' in path.read_text().replace('": "', '":"')
    links = (Path(writing.store.location) / "repositories/app/_layout/blobs").rglob("*")
    assert [item for item in links if item.is_file()] == []
    assert events(writing)[-1] == "repository.deleted"
    assert_verified(writing)


def test_deletion_queues_the_purge_and_all_that_lost_a_tag(writing: Writing, image: Json) -> None:
    delete_repository(writing.writer, "app")
    found = rows(writing.database, "SELECT kind, target_id, not_before FROM gc_tasks ORDER BY kind")
    [(deleted_at,)] = rows(writing.database, "SELECT deleted_at FROM repositories")
    root = scalar(
        writing.database, "SELECT id FROM manifests WHERE digest = :of", of=digest_of(image).to_bytes()
    )
    until = deleted_at + writing.writer.lifetimes.history.total_seconds() * 1e6
    assert found == [("manifest", root, until), ("repository", 1, until)]


def test_push_revives_a_deleted_repository_without_its_tags(
    writing: Writing, builder: LayoutBuilder, layout: Path, image: Json
) -> None:
    delete_repository(writing.writer, "app")
    other = builder.image()
    commit_one(writing, builder, other, layout / "2", tag="new")
    assert (state(writing), tags(writing.database)) == ("active", {"new": digest_of(other)})
    assert here(writing) == stored(writing)
    assert len(here(writing)) == 4  # what was there is there, and waits for the collector
    assert "repository.restored" in events(writing)
    assert deleted.deleted_repositories(writing.database) == []
    assert_verified(writing)  # the layout shows everything again
    with pytest.raises(errors.NotFound, match="not deleted"):
        undelete_repository(writing.writer, "app")


def test_repository_with_an_immutable_tag_is_not_deleted(writing: Writing, image: Json) -> None:
    change(
        writing.database,
        "INSERT INTO tag_locks (repository_id, pattern, created_at, created_by) VALUES (1, 'v2', 1, 'me')",
    )
    with pytest.raises(errors.ImmutableTag, match="app:v2") as caught:
        delete_repository(writing.writer, "app")
    assert caught.value.exit_code == 6
    assert state(writing) == "active"
    assert tags(writing.database).keys() == {"v1", "v2"}


def test_what_is_not_there_or_is_being_purged_is_not_deleted(writing: Writing, image: Json) -> None:
    with pytest.raises(errors.NotFound):
        delete_repository(writing.writer, "nowhere")
    delete_repository(writing.writer, "app")
    with pytest.raises(errors.NotFound, match="deleted"):
        delete_repository(writing.writer, "app")
    change(writing.database, "UPDATE repositories SET state = 'purging'")
    with pytest.raises(errors.RepositoryNotActive):
        delete_repository(writing.writer, "app")
    change(writing.database, "UPDATE repositories SET state = 'deleted'")


def test_tags_of_a_deleted_repository_cannot_be_changed(writing: Writing, image: Json) -> None:
    """Only a push and ``undelete`` bring it back."""
    delete_repository(writing.writer, "app")
    with pytest.raises(errors.NotFound):
        set_tag(writing.writer, "app", "v3", digest_of(image))
    with pytest.raises(errors.NotFound):
        remove_tag(writing.writer, "app", "v1")
    assert state(writing) == "deleted"


def test_blobs_of_a_deleted_repository_are_mounted_by_another(
    writing: Writing, other_writer: Other, builder: LayoutBuilder, layout: Path, image: Json
) -> None:
    """T37: what is stored stays while it is deleted, and is leased before it is relied on."""
    with source_of(builder, layout / "2") as source:
        ingest = ingest_of(writing, request(source, image, "other"))
        ingest.unit.reserve(ingest.image.blobs)
        assert ingest.unit.missing == []
        delete_repository(other_writer().writer, "app")
        ingest.unit.publish()
        ingest.commit()
        ingest.unit.finish()
    assert tags(writing.database, "other") == {"v1": digest_of(image)}
    assert state(writing) == "deleted"
    assert_verified(writing)


def test_push_and_deletion_at_once_end_in_one_order_or_the_other(
    writing: Writing, other_writer: Other, builder: LayoutBuilder, layout: Path, image: Json
) -> None:
    other = other_writer()
    for number in range(6):
        new = builder.image()
        with source_of(builder, layout / f"push{number}") as source:
            ingest = ingest_of(writing, request(source, new, tag=f"n{number}"))
            ingest.prepare()
            barrier = threading.Barrier(2)

            def delete(barrier: threading.Barrier = barrier) -> None:
                barrier.wait(10)
                delete_repository(other.writer, "app")

            thread = threading.Thread(target=delete)
            thread.start()
            barrier.wait(10)
            ingest.commit()
            thread.join(30)
            ingest.unit.finish()
        if state(writing) == "active":
            assert tags(writing.database) == {f"n{number}": digest_of(new)}
        else:
            assert tags(writing.database) == {}
            undelete_repository(writing.writer, "app")
            assert f"n{number}" in tags(writing.database)


def test_deletion_sends_as_many_statements_for_50_tags_as_for_one(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    sent = []
    for size in (1, 50):
        repository = f"app{size}"
        image = builder.image()
        commit_one(writing, builder, image, layout / repository, repository)
        for tag in range(1, size):
            set_tag(writing.writer, repository, f"t{tag}", digest_of(image))
        with counted(writing.database.engine) as found:
            assert delete_repository(writing.writer, repository).tags == size
        sent.append(found)
    assert len(sent[0]) == len(sent[1]), f"{sent[0]}\n--\n{sent[1]}"
    assert len(sent[0]) <= 22, str(sent[0])
