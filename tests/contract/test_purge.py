"""A repository that was deleted long ago is emptied in pieces; a purge that was stopped goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from regmeta import errors
from regmeta.app import Writing, open_for_writing
from regmeta.ingest.plan import Lifetimes
from regmeta.ingest.tags import remove_tag, set_tag
from regmeta.maintain.collect import purge as purging
from regmeta.maintain.collect.purge import purge
from regmeta.maintain.collect.run import collect
from regmeta.maintain.delete.manifest import delete_manifest
from regmeta.maintain.delete.repository import delete_repository
from regmeta.maintain.delete.undelete import undelete_repository
from regmeta.query import deleted
from regmeta.settings import Settings
from tests.builders import Json, LayoutBuilder, digest_of
from tests.support.deleting import assert_verified, events, state
from tests.support.registry import (
    AT_ONCE,
    NOW,
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

CONTENT = ("manifests", "manifest_blobs", "index_manifests", "labels", "repository_blobs", "blobs", "tags")
EMPTY = dict.fromkeys((*CONTENT, "gc_tasks", "tag_locks"), 0)


@pytest.fixture
def impatient(settings: Settings) -> Iterator[Writing]:
    """A registry whose leases and windows are over as soon as they begin."""
    with open_for_writing(settings, lifetimes=AT_ONCE) as found:
        yield found


def everything(writing: Writing) -> dict[str, int]:
    return dict(counts(writing.database, *EMPTY))


def repository_id(writing: Writing, name: str = "app") -> int:
    return int(scalar(writing.database, "SELECT id FROM repositories WHERE name = :of", of=name))


def fill(writing: Writing, builder: LayoutBuilder, layout: Path, children: int = 50) -> Json:
    """An index whose children have lower ids than it has, and came in several pushes."""
    images = [builder.image([b"layer %d" % number]) for number in range(children)]
    index = builder.index([builder.index(images, {"inner": "yes"}), builder.image()])
    commit_one(writing, builder, index, layout)
    set_tag(writing.writer, "app", "v2", digest_of(index))
    return index


def test_purge_leaves_nothing_of_a_repository_but_its_revision(
    impatient: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    index = fill(impatient, builder, layout, 3)
    referrer = builder.artifact(b"signature", "application/vnd.example.sig", index)
    commit_one(impatient, builder, referrer, layout / "2", tag=None)
    delete_manifest(impatient.writer, "app", digest_of(referrer))
    change(
        impatient.database,
        "INSERT INTO tag_locks (repository_id, pattern, created_at, created_by) VALUES (1, 'x*', 1, 'me')",
    )
    delete_repository(impatient.writer, "app")
    revision = scalar(impatient.database, "SELECT revision FROM repositories")
    report = collect(impatient.writer, impatient.store)
    assert (report.repositories, report.manifests) == (1, 7)
    assert everything(impatient) == EMPTY
    assert objects(impatient.store) == {}
    [(found, deleted_at, now)] = rows(
        impatient.database, "SELECT state, deleted_at, revision FROM repositories"
    )
    assert (found, deleted_at, now > revision) == ("deleted", None, True)
    assert events(impatient)[-1] == "repository.purged"
    assert_verified(impatient)
    commit_one(impatient, builder, index, layout / "3")
    assert tags(impatient.database) == {"v1": digest_of(index)}
    assert_verified(impatient)


def test_children_of_50_go_in_pieces_of_ten_though_they_came_before_their_index(
    impatient: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    """T10: an order by id would find the same ten children again and again."""
    fill(impatient, builder, layout)
    delete_repository(impatient.writer, "app")
    pieces = []

    def may_go_on() -> bool:
        pieces.append(counts(impatient.database, "manifests")["manifests"])
        return len(pieces) < 30

    report = purge(impatient.writer, 1, chunk_manifests=10, may_go_on=may_go_on)
    assert report is not None
    assert (report.manifests, report.is_empty) == (53, True)
    taken = [before - after for before, after in pairwise(pieces)]
    assert max(taken) == 10
    assert all(taken[: len(pieces) - 4])  # each piece takes some, until none is left
    assert counts(impatient.database, "manifests") == {"manifests": 0}


def test_nothing_goes_before_the_window_is_over(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    fill(writing, builder, layout, 2)
    delete_repository(writing.writer, "app")
    before = everything(writing)
    due = rows(writing.database, "SELECT not_before FROM gc_tasks WHERE kind = 'repository'")
    change(writing.database, "UPDATE gc_tasks SET not_before = 1 WHERE kind = 'repository'")
    report = purge(writing.writer, 1)
    assert report is not None
    assert not report.is_due
    assert everything(writing) == before
    assert state(writing) == "deleted"
    assert rows(writing.database, "SELECT not_before FROM gc_tasks WHERE kind = 'repository'") == due


@pytest.mark.parametrize("by", ["push", "undelete"])
def test_repository_that_was_revived_is_left_and_its_task_is_done(
    impatient: Writing, builder: LayoutBuilder, layout: Path, by: str
) -> None:
    fill(impatient, builder, layout, 2)
    delete_repository(impatient.writer, "app")
    if by == "push":
        commit_one(impatient, builder, builder.image(), layout / "2", tag="new")
    else:
        undelete_repository(impatient.writer, "app")
    report = purge(impatient.writer, 1)
    assert report is not None
    assert not report.is_due
    assert state(impatient) == "active"
    assert counts(impatient.database, "manifests")["manifests"] >= 5
    assert scalar(impatient.database, "SELECT count(*) FROM gc_tasks WHERE kind = 'repository'") == 0


def test_leased_manifest_puts_the_rest_of_the_purge_off(
    impatient: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    commit_one(impatient, builder, builder.image(), layout / "1")
    commit_one(impatient, builder, builder.image(), layout / "2", tag="v2")
    delete_repository(impatient.writer, "app")
    until = 4000000000000000
    change(impatient.database, "UPDATE manifests SET lease_until = :until WHERE id = 1", until=until)
    report = purge(impatient.writer, 1)
    assert report is not None
    assert (report.manifests, report.is_empty, state(impatient)) == (1, False, "purging")
    found = rows(impatient.database, "SELECT not_before FROM gc_tasks WHERE kind = 'repository'")
    assert found == [(until,)]
    change(impatient.database, "UPDATE manifests SET lease_until = 1")
    report = purge(impatient.writer, 1)
    assert report is not None
    assert report.is_empty


def test_blob_that_another_ingest_has_leased_survives_the_purge(
    settings: Settings, impatient: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    """T37: a mount of what its source is losing."""
    image = builder.image()
    commit_one(impatient, builder, image, layout / "1")
    delete_repository(impatient.writer, "app")
    patient = Lifetimes(history=NOW)
    with (
        open_for_writing(settings, lifetimes=patient) as other,
        source_of(builder, layout / "2") as source,
    ):
        ingest = ingest_of(other, request(source, image, "other"))
        ingest.prepare()
        assert ingest.unit.stored.keys() == ingest.image.blobs.keys()
        report = purge(impatient.writer, 1)
        assert report is not None
        assert (report.is_empty, report.blobs) == (True, 0)
        ingest.commit()
        ingest.unit.finish()
    assert tags(impatient.database, "other") == {"v1": digest_of(image)}
    assert_verified(impatient)


def test_push_into_a_repository_that_is_being_purged_is_refused_and_leaves_no_row(
    impatient: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    """T36: before the purge it revives, during it it is refused, afterwards it begins anew."""
    fill(impatient, builder, layout, 5)
    delete_repository(impatient.writer, "app")
    purge(impatient.writer, 1, chunk_manifests=2, may_go_on=iter([True, True, False]).__next__)
    assert state(impatient) == "purging"
    assert [item.state for item in deleted.deleted_repositories(impatient.database)] == ["purging"]
    before = everything(impatient)
    image = builder.image()
    with pytest.raises(errors.RepositoryNotActive) as caught:
        commit_one(impatient, builder, image, layout / "2", tag="new")
    assert caught.value.exit_code == 6
    for change_it in (
        lambda: set_tag(impatient.writer, "app", "x", digest_of(image)),
        lambda: remove_tag(impatient.writer, "app", "v1"),
        lambda: undelete_repository(impatient.writer, "app"),
        lambda: delete_repository(impatient.writer, "app"),
        lambda: delete_manifest(impatient.writer, "app", digest_of(image)),
    ):
        with pytest.raises(errors.RepositoryNotActive):
            change_it()
    assert everything(impatient) == before
    collect(impatient.writer, impatient.store)
    commit_one(impatient, builder, image, layout / "2", tag="new")
    assert tags(impatient.database) == {"new": digest_of(image)}


class Stopped(Exception):
    """The process that purged is gone."""


@pytest.mark.parametrize("at", range(1, 12))
@pytest.mark.slow
def test_purge_that_is_stopped_anywhere_goes_on(
    impatient: Writing, builder: LayoutBuilder, layout: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    fill(impatient, builder, layout, 4)
    delete_repository(impatient.writer, "app")
    transaction, begun = impatient.database.transaction, list[str]()

    @contextmanager
    def stopping(name: str, **options: Any) -> Iterator[object]:
        if name.startswith("purge"):
            begun.append(name)
        with transaction(name, **options) as connection:
            yield connection
        if name.startswith("purge") and len(begun) == at:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(impatient.database, "transaction", stopping)
        try:
            purge(impatient.writer, 1, chunk_manifests=1)
        except Stopped:
            assert len(begun) == at
    report = purge(impatient.writer, 1, chunk_manifests=3)
    assert report is not None
    assert (state(impatient), everything(impatient)) == ("deleted", EMPTY)
    assert_verified(impatient)


def test_two_collectors_purge_one_repository(
    settings: Settings, impatient: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    fill(impatient, builder, layout, 30)
    delete_repository(impatient.writer, "app")
    barrier = threading.Barrier(2)
    failed = []

    def run(writing: Writing) -> None:
        barrier.wait(10)
        try:
            for _ in range(100):
                purge(writing.writer, 1, chunk_manifests=1)
                if state(writing) == "deleted":
                    return
        except errors.Error as error:
            failed.append(error)

    with open_for_writing(settings, lifetimes=AT_ONCE) as other:
        threads = [threading.Thread(target=run, args=[each]) for each in (impatient, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert failed == []
    assert (state(impatient), everything(impatient)) == ("deleted", EMPTY)
    assert events(impatient).count("repository.purged") == 1
    assert events(impatient).count("manifest.removed") == 33


def test_what_other_repositories_hold_stays(impatient: Writing, builder: LayoutBuilder, layout: Path) -> None:
    index = fill(impatient, builder, layout, 3)
    commit_one(impatient, builder, index, layout / "2", "other")
    delete_repository(impatient.writer, "app")
    report = collect(impatient.writer, impatient.store)
    assert (report.manifests, report.blobs) == (6, 0)
    assert tags(impatient.database, "other") == {"v1": digest_of(index)}
    assert_verified(impatient)


def test_purge_takes_more_tags_and_links_than_one_piece_holds(
    impatient: Writing, builder: LayoutBuilder, layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purging, "CHUNK_TAGS", 3)
    monkeypatch.setattr(purging, "_ENDED_TAGS", purging._ENDED_TAGS.limit(3))
    image = builder.image()
    commit_one(impatient, builder, image, layout)
    for number in range(8):
        set_tag(impatient.writer, "app", f"t{number}", digest_of(image))
    delete_repository(impatient.writer, "app")
    collect(impatient.writer, impatient.store)
    assert everything(impatient) == EMPTY


def test_hold_stops_a_purge_between_pieces(impatient: Writing, builder: LayoutBuilder, layout: Path) -> None:
    fill(impatient, builder, layout, 2)
    delete_repository(impatient.writer, "app")
    change(impatient.database, "UPDATE store_identity SET hold_reason = 'a test'")
    with pytest.raises(errors.Refused):
        collect(impatient.writer, impatient.store)
    assert state(impatient) == "deleted"
    assert counts(impatient.database, "manifests") == {"manifests": 5}


def test_collector_empties_only_what_is_due(settings: Settings, builder: LayoutBuilder, layout: Path) -> None:
    window = Lifetimes(lease=NOW, garbage=NOW, tombstone=NOW, history=timedelta(hours=1), max_upload=NOW)
    with open_for_writing(settings, lifetimes=window) as writing:
        for name in ("one", "two"):
            commit_one(writing, builder, builder.image(), layout / name, name)
            delete_repository(writing.writer, name)
        change(writing.database, "UPDATE repositories SET deleted_at = 1 WHERE name = 'one'")
        change(writing.database, "UPDATE tags SET started_at = 0, ended_at = 1 WHERE repository_id = 1")
        change(writing.database, "UPDATE gc_tasks SET not_before = 1")
        report = collect(writing.writer, writing.store)
        assert (report.repositories, report.manifests) == (1, 1)
        assert counts(writing.database, "manifests") == {"manifests": 1}
