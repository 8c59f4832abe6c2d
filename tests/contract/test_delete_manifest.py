"""Deleting by digest: all its tags at once, never what an index lists, and nothing that cannot be undone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from regmeta import errors
from regmeta.app import Writing, open_for_writing
from regmeta.content.export import export
from regmeta.ingest import commit as committing
from regmeta.ingest import statements
from regmeta.ingest.plan import Lifetimes
from regmeta.ingest.tags import remove_tag, set_tag
from regmeta.maintain.collect.run import collect
from regmeta.maintain.collect.terms import Terms
from regmeta.maintain.delete.manifest import StillListed, delete_manifest
from regmeta.oci.digest import Digest
from regmeta.oci.names import Reference
from regmeta.query import catalog, tree
from regmeta.settings import Settings
from regmeta.store.exports import open_export
from tests.builders import AMD64, ARM64, Json, LayoutBuilder, digest_of
from tests.support.deleting import assert_verified, events, here, stored
from tests.support.registry import (
    AT_ONCE,
    NOW,
    change,
    commit_one,
    counts,
    ingest_of,
    request,
    rows,
    scalar,
    source_of,
    tags,
)
from tests.support.statements import counted

Other = Callable[[], Writing]


@pytest.fixture
def images(builder: LayoutBuilder) -> SimpleNamespace:
    """Two images, an index of both, and an index of that index."""
    one, two = builder.image(platform=AMD64), builder.image(platform=ARM64)
    inner = builder.index([one, two])
    return SimpleNamespace(one=one, two=two, inner=inner, outer=builder.index([inner], {"outer": "yes"}))


@pytest.fixture
def impatient(settings: Settings) -> Iterator[Writing]:
    """A registry whose leases and windows are over as soon as they begin."""
    with open_for_writing(settings, lifetimes=AT_ONCE) as found:
        yield found


def ended_at(writing: Writing) -> set[int]:
    return {at for (at,) in rows(writing.database, "SELECT ended_at FROM tags")}


# --- what goes --------------------------------------------------------------------------------


def test_deleted_manifest_takes_all_its_tags_with_it_at_one_moment(
    writing: Writing, builder: LayoutBuilder, layout: Path, images: SimpleNamespace
) -> None:
    commit_one(writing, builder, images.one, layout / "1", tag="v1")
    commit_one(writing, builder, images.two, layout / "2", tag="other")
    for tag in ("v2", "v3"):
        set_tag(writing.writer, "app", tag, digest_of(images.one))
    remove_tag(writing.writer, "app", "v3")
    report = delete_manifest(writing.writer, "app", digest_of(images.one))
    assert (report.deleted, report.tags_ended, report.kept) == ((digest_of(images.one),), ("v1", "v2"), ())
    assert tags(writing.database) == {"other": digest_of(images.two)}
    [(deleted_at,)] = rows(writing.database, "SELECT deleted_at FROM manifests WHERE deleted_at > 0")
    found = rows(writing.database, "SELECT name, ended_at FROM tags WHERE ended_at IS NOT NULL ORDER BY name")
    assert [(name, at == deleted_at) for name, at in found] == [("v1", True), ("v2", True), ("v3", False)]
    assert events(writing)[-3:] == ["tag.removed", "tag.removed", "manifest.deleted"]
    assert rows(writing.database, "SELECT kind, reason FROM gc_tasks") == [("manifest", "deleted")]


def test_no_reader_finds_a_deleted_manifest(
    writing: Writing, builder: LayoutBuilder, layout: Path, tmp_path: Path, images: SimpleNamespace
) -> None:
    commit_one(writing, builder, images.one, layout)
    digest = digest_of(images.one)
    delete_manifest(writing.writer, "app", digest)
    reference = Reference.parse(f"app@{digest}")
    for read in (
        lambda: catalog.resolve(writing.database, reference),
        lambda: catalog.resolve(writing.database, Reference.parse("app:v1")),
        lambda: tree.image(writing.database, reference),
        lambda: tree.content(writing.database, reference),
        lambda: export(writing.database, writing.store, reference, open_export(str(tmp_path / "out"))),
    ):
        with pytest.raises(errors.NotFound):
            read()
    assert here(writing) == set()
    assert stored(writing) == {digest}
    assert not writing.registry.can_skip_image("app", "v1", digest)
    assert not writing.registry.can_skip_image("app", str(digest), digest)


@pytest.mark.parametrize("cascade", [False, True])
def test_deleted_index_leaves_its_children_unless_it_cascades(
    writing: Writing, builder: LayoutBuilder, layout: Path, images: SimpleNamespace, cascade: bool
) -> None:
    commit_one(writing, builder, images.outer, layout)
    report = delete_manifest(writing.writer, "app", digest_of(images.outer), cascade=cascade)
    below = {digest_of(item) for item in (images.inner, images.one, images.two)}
    assert here(writing) == (set() if cascade else below)
    assert set(report.deleted) == {digest_of(images.outer), *(below if cascade else ())}
    assert report.deleted[0] == digest_of(images.outer)
    assert report.kept == ()
    assert_verified(writing)


def test_cascade_leaves_what_a_tag_names_and_what_another_index_lists(
    writing: Writing, builder: LayoutBuilder, layout: Path, images: SimpleNamespace
) -> None:
    three = builder.image()
    other = builder.index([images.two, three], {"other": "yes"})
    mixed = builder.index([images.outer, three, builder.image()])
    commit_one(writing, builder, mixed, layout / "1")
    commit_one(writing, builder, other, layout / "2", tag=None)
    set_tag(writing.writer, "app", "mine", digest_of(images.one))
    report = delete_manifest(writing.writer, "app", digest_of(mixed), cascade=True)
    assert {item.digest: item.why for item in report.kept} == {
        digest_of(images.one): "the tag mine names it",
        digest_of(images.two): f"the index {digest_of(other)} lists it",
        digest_of(three): f"the index {digest_of(other)} lists it",
    }
    assert here(writing) == {digest_of(item) for item in (images.one, images.two, three, other)}
    assert_verified(writing)


def test_cascade_leaves_all_that_an_index_which_stays_lists(
    writing: Writing, builder: LayoutBuilder, layout: Path, images: SimpleNamespace
) -> None:
    """What is below a manifest that is here is here: an invariant of deletion, and what revival relies on."""
    commit_one(writing, builder, images.outer, layout)
    set_tag(writing.writer, "app", "mine", digest_of(images.inner))
    report = delete_manifest(writing.writer, "app", digest_of(images.outer), cascade=True)
    assert report.deleted == (digest_of(images.outer),)
    why = f"the index {digest_of(images.inner)} lists it, which stays"
    assert {item.why for item in report.kept} == {"the tag mine names it", why}
    assert here(writing) == {digest_of(item) for item in (images.inner, images.one, images.two)}


def test_child_that_two_doomed_indexes_list_goes_with_them(
    writing: Writing, builder: LayoutBuilder, layout: Path, images: SimpleNamespace
) -> None:
    left, right = builder.index([images.one], {"a": "l"}), builder.index([images.one], {"a": "r"})
    top = builder.index([left, right])
    commit_one(writing, builder, top, layout)
    assert len(delete_manifest(writing.writer, "app", digest_of(top), cascade=True).deleted) == 4
    assert here(writing) == set()


# --- what is refused --------------------------------------------------------------------------


def test_manifest_that_an_index_lists_is_not_deleted_and_the_culprit_is_named(
    writing: Writing, builder: LayoutBuilder, layout: Path, images: SimpleNamespace
) -> None:
    commit_one(writing, builder, images.outer, layout, tag="nightly")
    with pytest.raises(StillListed) as caught:
        delete_manifest(writing.writer, "app", digest_of(images.one), cascade=True)
    assert caught.value.exit_code == 6
    assert f"the index {digest_of(images.inner)} lists it" in str(caught.value)
    assert "through app:nightly" in str(caught.value)
    remove_tag(writing.writer, "app", "nightly")
    with pytest.raises(StillListed, match=f"app@{digest_of(images.outer)}, which has no tag"):
        delete_manifest(writing.writer, "app", digest_of(images.one))
    assert len(here(writing)) == 4
    # From the top down they go; zot: 405, then 202.
    for item in (images.outer, images.inner, images.one):
        delete_manifest(writing.writer, "app", digest_of(item))
    assert here(writing) == {digest_of(images.two)}
    assert_verified(writing)


def test_tagged_index_is_named_before_one_without_a_tag(
    writing: Writing, builder: LayoutBuilder, layout: Path, images: SimpleNamespace
) -> None:
    other = builder.index([images.one], {"other": "yes"})
    commit_one(writing, builder, images.inner, layout / "1", tag=None)
    commit_one(writing, builder, other, layout / "2", tag="v2")
    with pytest.raises(StillListed, match=f"the index {digest_of(other)} lists it, reached through app:v2"):
        delete_manifest(writing.writer, "app", digest_of(images.one))


def test_what_is_not_here_cannot_be_deleted(
    writing: Writing, builder: LayoutBuilder, layout: Path, images: SimpleNamespace
) -> None:
    commit_one(writing, builder, images.one, layout / "1")
    commit_one(writing, builder, images.two, layout / "2", "other")
    delete_manifest(writing.writer, "app", digest_of(images.one))
    before = counts(writing.database, "events", "ingests")
    for repository, of, message in (
        ("app", images.one, "it was deleted at"),
        ("app", images.two, "no such manifest"),
        ("nowhere", images.two, "no such repository"),
    ):
        with pytest.raises(errors.NotFound, match=message):
            delete_manifest(writing.writer, repository, digest_of(of))
    with pytest.raises(errors.InvalidName):
        delete_manifest(writing.writer, "Not/A/Name", digest_of(images.one))
    assert counts(writing.database, "events", "ingests") == before
    assert here(writing, "other") == {digest_of(images.two)}


def test_manifest_with_an_immutable_tag_is_not_deleted(
    writing: Writing, builder: LayoutBuilder, layout: Path, images: SimpleNamespace
) -> None:
    commit_one(writing, builder, images.one, layout, tag="v1")
    set_tag(writing.writer, "app", "free", digest_of(images.one))
    change(
        writing.database,
        "INSERT INTO tag_locks (repository_id, pattern, created_at, created_by) VALUES (1, 'v*', 1, 'me')",
    )
    with pytest.raises(errors.ImmutableTag, match="app:v1"):
        delete_manifest(writing.writer, "app", digest_of(images.one))
    assert tags(writing.database).keys() == {"v1", "free"}
    assert here(writing) == {digest_of(images.one)}


# --- referrers --------------------------------------------------------------------------------


def test_referrers_of_a_deleted_subject_stay_for_as_long_as_its_row_does(
    settings: Settings, builder: LayoutBuilder, layout: Path, images: SimpleNamespace
) -> None:
    """T19, T20 with the default policy: they follow their subject, once it has been collected."""
    referrer = builder.artifact(b"signature", "application/vnd.example.sig", images.one)
    patient = Lifetimes(lease=NOW, garbage=NOW, tombstone=NOW, history=timedelta(hours=1), max_upload=NOW)
    with open_for_writing(settings, lifetimes=patient) as writing:
        commit_one(writing, builder, referrer, layout / "2", tag=None)  # pushed before its subject
        commit_one(writing, builder, images.one, layout / "1")
        collect(writing.writer, writing.store)
        delete_manifest(writing.writer, "app", digest_of(images.one))
        collect(writing.writer, writing.store)
        assert here(writing) == {digest_of(referrer)}
        assert len(stored(writing)) == 2
        assert_verified(writing)
    with open_for_writing(settings, lifetimes=AT_ONCE) as writing:
        change(writing.database, "UPDATE gc_tasks SET not_before = 1")
        collect(writing.writer, writing.store)
        assert stored(writing) == set()


def test_referrers_stay_when_their_subject_has_gone_where_the_policy_says_so(
    impatient: Writing, builder: LayoutBuilder, layout: Path, images: SimpleNamespace
) -> None:
    referrer = builder.artifact(b"signature", "application/vnd.example.sig", images.one)
    commit_one(impatient, builder, images.one, layout / "1")
    commit_one(impatient, builder, referrer, layout / "2", tag=None)
    delete_manifest(impatient.writer, "app", digest_of(images.one))
    collect(
        impatient.writer,
        impatient.store,
        Terms(impatient.writer.lifetimes, keeps_referrers=lambda name: name == "app"),
    )
    assert stored(impatient) == here(impatient) == {digest_of(referrer)}


# --- afterwards -------------------------------------------------------------------------------


def test_deleted_manifest_is_collected_after_the_window_and_not_before(
    settings: Settings, builder: LayoutBuilder, layout: Path, images: SimpleNamespace
) -> None:
    window = Lifetimes(lease=NOW, garbage=NOW, tombstone=NOW, history=timedelta(hours=1), max_upload=NOW)
    with open_for_writing(settings, lifetimes=window) as writing:
        commit_one(writing, builder, images.inner, layout)
        delete_manifest(writing.writer, "app", digest_of(images.inner), cascade=True)
        change(writing.database, "UPDATE gc_tasks SET not_before = 1")
        assert collect(writing.writer, writing.store).manifests == 0
        assert len(stored(writing)) == 3
    with open_for_writing(settings, lifetimes=AT_ONCE) as writing:
        change(writing.database, "UPDATE gc_tasks SET not_before = 1")
        assert collect(writing.writer, writing.store).manifests == 3
        assert counts(writing.database, "blobs", "gc_tasks") == {"blobs": 0, "gc_tasks": 0}


def test_child_of_a_deleted_index_is_queued_again_when_that_is_collected(
    impatient: Writing, builder: LayoutBuilder, layout: Path, images: SimpleNamespace
) -> None:
    """T09, T12: no task for what is gone, and none forgotten for what is left."""
    commit_one(impatient, builder, images.one, layout / "1", tag=None)
    commit_one(impatient, builder, images.inner, layout / "2")
    collect(impatient.writer, impatient.store)
    assert len(here(impatient)) == 3
    delete_manifest(impatient.writer, "app", digest_of(images.inner))
    collect(impatient.writer, impatient.store)
    assert stored(impatient) == set()
    assert counts(impatient.database, "gc_tasks") == {"gc_tasks": 0}


@pytest.mark.parametrize("of", ["one", "inner"])
def test_push_brings_a_deleted_manifest_back_with_all_that_it_lists(
    writing: Writing, builder: LayoutBuilder, layout: Path, images: SimpleNamespace, of: str
) -> None:
    image = getattr(images, of)
    commit_one(writing, builder, images.inner, layout / "1")
    delete_manifest(writing.writer, "app", digest_of(images.inner), cascade=True)
    commit_one(writing, builder, image, layout / "2", tag="v2")
    assert here(writing) == {
        digest_of(item) for item in ([images.one] if of == "one" else [images.inner, images.one, images.two])
    }
    assert tags(writing.database) == {"v2": digest_of(image)}
    assert_verified(writing)


# --- against pushes ---------------------------------------------------------------------------


def push_in_parts(
    writing: Writing, builder: LayoutBuilder, layout: Path, index: Json, between: Callable[[], object]
) -> None:
    """Push an index, and do something right before its commit."""
    with source_of(builder, layout) as source:
        ingest = ingest_of(writing, request(source, index, tag="index"))
        ingest.prepare()
        between()
        ingest.commit()
        ingest.unit.finish()


def test_index_that_is_pushed_after_the_delete_brings_its_child_back(
    writing: Writing, other_writer: Other, builder: LayoutBuilder, layout: Path, images: SimpleNamespace
) -> None:
    commit_one(writing, builder, images.one, layout / "1")
    other = other_writer()
    push_in_parts(
        writing,
        builder,
        layout / "2",
        images.inner,
        lambda: delete_manifest(other.writer, "app", digest_of(images.one)),
    )
    assert here(writing) == {digest_of(item) for item in (images.inner, images.one, images.two)}
    assert tags(writing.database) == {"index": digest_of(images.inner)}


def test_delete_after_an_index_was_pushed_is_refused(
    writing: Writing,
    other_writer: Other,
    builder: LayoutBuilder,
    layout: Path,
    images: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The push has the lock first; the delete waits for it, and reads what it wrote."""
    commit_one(writing, builder, images.one, layout / "1")
    other, answers = other_writer(), list[str]()
    started = threading.Event()

    def begin() -> None:
        try:
            started.set()
            delete_manifest(other.writer, "app", digest_of(images.one))
            answers.append("deleted")
        except StillListed:
            answers.append("refused")

    thread = threading.Thread(target=begin)
    with source_of(builder, layout / "2") as source:
        ingest = ingest_of(writing, request(source, images.inner, tag="index"))
        ingest.prepare()
        record = statements.record_result

        def record_and_wait(*arguments: object) -> None:
            record(*arguments)  # type: ignore[arg-type]
            thread.start()  # all rows are written and the lock is held
            started.wait(10)

        monkeypatch.setattr(committing, "record_result", record_and_wait)
        ingest.commit()
        thread.join(30)
        ingest.unit.finish()
    assert answers == ["refused"]
    assert len(here(writing)) == 3


def test_child_that_the_pushed_layout_lacks_and_that_is_deleted_is_not_taken_for_here(
    writing: Writing, builder: LayoutBuilder, layout: Path, images: SimpleNamespace
) -> None:
    """It must not be relied on after it was deleted: the push starts again, and finds it missing."""
    commit_one(writing, builder, images.one, layout / "1")
    del builder.blobs[images.one["digest"]]
    with source_of(builder, layout / "2") as source:
        ingest = ingest_of(writing, request(source, images.inner, tag="index"))
        ingest.prepare()
        delete_manifest(writing.writer, "app", digest_of(images.one))
        with pytest.raises(errors.LostReservation) as caught:
            ingest.commit()
        assert caught.value.digests == {digest_of(images.one)}
        ingest.unit.abort()
    assert here(writing) == set()


def test_two_deletes_at_once_have_one_effect(
    writing: Writing, other_writer: Other, builder: LayoutBuilder, layout: Path, images: SimpleNamespace
) -> None:
    commit_one(writing, builder, images.one, layout)
    writers, answers = [writing, other_writer()], list[str]()
    barrier = threading.Barrier(2)

    def run(mine: Writing) -> None:
        barrier.wait(10)
        try:
            delete_manifest(mine.writer, "app", digest_of(images.one))
            answers.append("deleted")
        except errors.NotFound:
            answers.append("not found")

    threads = [threading.Thread(target=run, args=[mine]) for mine in writers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(answers) == ["deleted", "not found"]
    assert events(writing).count("manifest.deleted") == 1


def test_delete_whose_commit_was_not_heard_of_answers_as_it_did(
    writing: Writing,
    builder: LayoutBuilder,
    layout: Path,
    images: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commit_one(writing, builder, images.inner, layout)
    transaction, cut = writing.database.transaction, list[str]()

    @contextmanager
    def once_cut(name: str, **options: Any) -> Iterator[object]:
        with transaction(name, **options) as connection:
            yield connection
        if name == "manifest_deleted" and not cut:
            cut.append(name)
            raise errors.ConnectionLost("cut off after the commit")

    monkeypatch.setattr(writing.database, "transaction", once_cut)
    report = delete_manifest(writing.writer, "app", digest_of(images.inner), cascade=True)
    assert (len(report.deleted), report.tags_ended, cut) == (3, ("v1",), ["manifest_deleted"])
    assert events(writing).count("manifest.deleted") == 3


# --- cost --------------------------------------------------------------------------


def test_delete_sends_as_many_statements_for_a_tree_of_100_as_for_one_of_two(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    sent = []
    for number, size in enumerate((2, 100)):
        index = builder.index([builder.image([b"%d %d" % (size, n)]) for n in range(size)])
        commit_one(writing, builder, index, layout / str(number))
        for tag in range(size):
            set_tag(writing.writer, "app", f"t{tag}", digest_of(index))
        with counted(writing.database.engine) as found:
            report = delete_manifest(writing.writer, "app", digest_of(index), cascade=True)
        assert (len(report.deleted), len(report.tags_ended)) == (size + 1, size + 1)
        sent.append(found)
    assert len(sent[0]) == len(sent[1]), f"{sent[0]}\n--\n{sent[1]}"
    assert len(sent[0]) <= 28, str(sent[0])


def test_snapshot_lists_no_deleted_manifest(
    writing: Writing, builder: LayoutBuilder, layout: Path, images: SimpleNamespace
) -> None:
    commit_one(writing, builder, images.one, layout / "1")
    commit_one(writing, builder, images.two, layout / "2", tag="v2")
    delete_manifest(writing.writer, "app", digest_of(images.one))
    [path] = (Path(writing.store.location) / "layouts/app").glob("_*.json")
    text = path.read_text()
    assert str(digest_of(images.two)) in text
    assert str(digest_of(images.one)) not in text
    assert scalar(writing.database, "SELECT count(*) FROM layout_outbox") == 0


def test_digest_of_another_algorithm_is_just_not_found(writing: Writing, builder: LayoutBuilder) -> None:
    with pytest.raises(errors.NotFound):
        delete_manifest(writing.writer, "app", Digest.parse("sha512:" + "0" * 128))
