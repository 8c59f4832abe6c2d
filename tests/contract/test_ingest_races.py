"""What others do between the phases of an ingest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from regmeta import errors
from regmeta.app import Writing
from regmeta.maintain.recover import recover
from regmeta.oci.digest import Digest
from tests.builders import AMD64, ARM64, LayoutBuilder, digest_of
from tests.support.registry import (
    change,
    commit_one,
    counts,
    ingest_of,
    key_of,
    keys_in,
    objects,
    remove_content,
    request,
    rows,
    scalar,
    source_of,
    tags,
)

Other = Callable[[], Writing]


def lose_intents(writing: Writing, other: Writing) -> None:
    """Let another process think that this one is dead: its intents expire, and are taken back."""
    change(writing.database, "UPDATE intents SET expires_at = 0")
    recover(other.writer, other.store)


def test_keys_taken_back_before_the_commit_are_never_used(
    writing: Writing, other_writer: Other, builder: LayoutBuilder, layout: Path
) -> None:
    """The fence: a process that was frozen finds its intents gone, and starts again with new keys."""
    image = builder.image()
    other = other_writer()
    with source_of(builder, layout) as source:
        ingest = ingest_of(writing, request(source, image))
        ingest.prepare()
        old = set(objects(writing.store))
        lose_intents(writing, other)
        assert keys_in(writing.database, "tombstones") == old
        with pytest.raises(errors.LostReservation) as caught:
            ingest.commit()
        assert caught.value.digests == ingest.image.blobs.keys()
        assert counts(writing.database, "blobs", "manifests", "ingests", "repositories") == {
            "blobs": 0,
            "manifests": 0,
            "ingests": 0,
            "repositories": 0,
        }
        ingest.again(caught.value.digests)
        ingest.commit()
        ingest.unit.finish()
    assert tags(writing.database) == {"v1": digest_of(image)}
    assert keys_in(writing.database, "blobs") == objects(writing.store).keys() - old
    assert keys_in(writing.database, "tombstones") == old


def test_one_key_that_was_taken_back_starts_again_alone(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    image = builder.image()
    with source_of(builder, layout) as source:
        ingest = ingest_of(writing, request(source, image))
        ingest.prepare()
        lost = rows(writing.database, "SELECT key, digest FROM intents ORDER BY id LIMIT 1")[0]
        change(
            writing.database,
            "INSERT INTO tombstones (key, reason, created_at, not_before) VALUES (:key, 'lost', 1, 1)",
            key=lost[0],
        )
        change(writing.database, "DELETE FROM intents WHERE key = :key", key=lost[0])
        before = keys_in(writing.database, "intents")
        with pytest.raises(errors.LostReservation) as caught:
            ingest.commit()
        assert caught.value.digests == {Digest.from_bytes(bytes(lost[1]))}
        ingest.again(caught.value.digests)
        ingest.commit()
        ingest.unit.finish()
    assert before < keys_in(writing.database, "blobs")
    assert keys_in(writing.database, "tombstones") == {lost[0]}


def test_batch_whose_keys_are_taken_back_goes_back_and_succeeds(
    writing: Writing,
    other_writer: Other,
    builder: LayoutBuilder,
    layout: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image, other = builder.image(), other_writer()
    publish = writing.writer.staging.publish
    frozen: list[set[str]] = []

    def publish_and_freeze(staged: object) -> None:
        publish(staged)  # type: ignore[arg-type]
        if not frozen:
            frozen.append(set(objects(writing.store)))
            lose_intents(writing, other)

    monkeypatch.setattr(writing.writer.staging, "publish", publish_and_freeze)
    commit_one(writing, builder, image, layout)
    assert tags(writing.database) == {"v1": digest_of(image)}
    assert keys_in(writing.database, "tombstones") == frozen[0]
    assert counts(writing.database, "ingests", "intents") == {"ingests": 1, "intents": 0}


def test_batch_that_loses_its_keys_again_and_again_gives_up(
    writing: Writing,
    other_writer: Other,
    builder: LayoutBuilder,
    layout: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish, other = writing.writer.staging.publish, other_writer()

    def publish_and_freeze(staged: object) -> None:
        publish(staged)  # type: ignore[arg-type]
        lose_intents(writing, other)

    monkeypatch.setattr(writing.writer.staging, "publish", publish_and_freeze)
    with pytest.raises(errors.StoreUnavailable, match="taken back"):
        commit_one(writing, builder, builder.image(), layout)
    assert counts(writing.database, "blobs", "intents") == {"blobs": 0, "intents": 0}


def test_blob_that_vanished_after_it_was_leased_is_brought_again(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    image = builder.image()
    commit_one(writing, builder, image, layout)
    old = keys_in(writing.database, "blobs")
    with source_of(builder, layout) as source:
        ingest = ingest_of(writing, request(source, image, "other"))
        ingest.prepare()
        assert ingest.unit.missing == []
        remove_content(writing.database)
        with pytest.raises(errors.LostReservation) as caught:
            ingest.commit()
        assert caught.value.digests == ingest.image.blobs.keys()
        ingest.again(caught.value.digests)
        ingest.commit()
        ingest.unit.finish()
    assert not keys_in(writing.database, "blobs") & old
    assert tags(writing.database, "other") == {"v1": digest_of(image)}


def test_child_that_vanished_before_the_commit_is_no_half_image(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    """An index relied on a child that its repository held; the collector took it meanwhile (I3)."""
    child = builder.image(platform=AMD64)
    commit_one(writing, builder, child, layout, tag="child")
    index = builder.index([child])
    del builder.blobs[child["digest"]]
    with source_of(builder, layout.parent / "index") as source:
        ingest = ingest_of(writing, request(source, index))
        assert ingest.image.here_already == {digest_of(child)}
        ingest.prepare()
        remove_content(writing.database)
        with pytest.raises(errors.LostReservation, match=child["digest"]):
            ingest.commit()
        ingest.unit.abort()
    assert tags(writing.database) == {}


def test_blob_that_someone_else_inserted_first_keeps_their_key(
    writing: Writing, other_writer: Other, builder: LayoutBuilder, layout: Path
) -> None:
    image, other = builder.image(), other_writer()
    with source_of(builder, layout) as source:
        mine = ingest_of(writing, request(source, image, "mine"))
        mine.prepare()
        my_keys = set(objects(writing.store))
        ingest_of(other, request(source, image, "theirs")).run()
        mine.commit()
        mine.unit.finish()
    assert not keys_in(writing.database, "blobs") & my_keys
    assert keys_in(writing.database, "tombstones") == my_keys
    assert tags(writing.database, "mine") == tags(writing.database, "theirs") == {"v1": digest_of(image)}


def test_blob_that_is_found_damaged_at_the_commit_is_brought_again(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    image = builder.image()
    commit_one(writing, builder, image, layout)
    with source_of(builder, layout) as source:
        ingest = ingest_of(writing, request(source, image, tag="v2"))
        ingest.prepare()
        change(writing.database, "UPDATE blobs SET state = 'damaged' WHERE digest = :of", of=raw(image))
        with pytest.raises(errors.LostReservation) as caught:
            ingest.commit()
        assert caught.value.digests == {digest_of(image)}
        old = key_of(writing.database, digest_of(image))
        ingest.again(caught.value.digests)
        ingest.commit()
        ingest.unit.finish()
    assert scalar(writing.database, "SELECT count(*) FROM blobs WHERE state = 'damaged'") == 0
    assert keys_in(writing.database, "tombstones") == {old}


@pytest.mark.inconsistent
def test_child_that_arrives_while_a_sparse_index_is_under_way_is_filled_in(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    here, late = builder.image(platform=AMD64), builder.image(platform=ARM64)
    index = builder.index([here, late])
    content = builder.blobs.pop(late["digest"])
    with source_of(builder, layout.parent / "sparse") as source:
        ingest = ingest_of(writing, request(source, index), sparse=True)
        assert ingest.image.absent == {digest_of(late)}
        ingest.prepare()
        builder.blobs[late["digest"]] = content
        commit_one(writing, builder, late, layout, tag="late")
        ingest.commit()
        ingest.unit.finish()
    assert rows(writing.database, "SELECT absence FROM index_manifests ORDER BY position") == [
        (None,),
        (None,),
    ]


def test_sparse_index_is_filled_in_when_its_child_comes(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    here, late = builder.image(platform=AMD64), builder.image(platform=ARM64)
    index = builder.index([here, late])
    content = builder.blobs.pop(late["digest"])
    commit_one(writing, builder, index, layout.parent / "sparse", sparse=True)
    found = "SELECT absence, child_id IS NULL FROM index_manifests ORDER BY position"
    assert [(row[0], bool(row[1])) for row in rows(writing.database, found)] == [
        (None, False),
        ("sparse", True),
    ]
    builder.blobs[late["digest"]] = content
    commit_one(writing, builder, late, layout, repository="elsewhere", tag=None)
    assert rows(writing.database, found)[1][0] == "sparse"
    commit_one(writing, builder, late, layout, tag=None)
    assert [(row[0], bool(row[1])) for row in rows(writing.database, found)] == [(None, False), (None, False)]


def raw(image: dict[str, str]) -> bytes:
    return digest_of(image).to_bytes()


def test_child_that_vanished_spoils_its_own_index_only(
    writing: Writing, builder: LayoutBuilder, layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad image is left out of its batch, also when that is found out at the commit."""
    child, good = builder.image(platform=AMD64), builder.image()
    commit_one(writing, builder, child, layout, tag="child")
    index = builder.index([child])
    del builder.blobs[child["digest"]]
    publish, done = writing.writer.staging.publish, list[bool]()

    def publish_and_collect(staged: object) -> None:
        publish(staged)  # type: ignore[arg-type]
        if not done:
            done.append(True)
            remove_content(writing.database)

    monkeypatch.setattr(writing.writer.staging, "publish", publish_and_collect)
    with source_of(builder, layout.parent / "index") as source:
        wanted = [request(source, index, tag="index"), request(source, good, tag="good")]
        outcomes = list(writing.registry.import_images(wanted))
    assert {outcome.image: outcome.status for outcome in outcomes} == {
        "app:index": "failed",
        "app:good": "imported",
    }
    assert tags(writing.database) == {"good": digest_of(good)}
