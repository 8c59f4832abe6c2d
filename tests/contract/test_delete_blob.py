"""Deleting a blob takes one repository's access to it away, if none of its manifests names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from regmeta import errors
from regmeta.app import Writing
from regmeta.maintain.collect.run import collect
from regmeta.maintain.delete.blob import StillNamed, delete_blob
from regmeta.maintain.delete.manifest import delete_manifest
from regmeta.oci.digest import Digest
from tests.builders import Json, LayoutBuilder, digest_of
from tests.support.deleting import assert_verified, events
from tests.support.registry import change, commit_one, ingest_of, request, rows, scalar, source_of


@pytest.fixture
def layer(builder: LayoutBuilder) -> Json:
    return builder.layer()


@pytest.fixture
def image(writing: Writing, builder: LayoutBuilder, layout: Path, layer: Json) -> Json:
    made = builder.image([layer])
    commit_one(writing, builder, made, layout / "image")
    return made


def mount(writing: Writing, repository: str, digest: Digest) -> None:
    """Let another repository read a blob, as a mount does."""
    change(
        writing.database,
        "INSERT INTO repositories (name, revision, created_at, updated_at) VALUES (:name, 0, 1, 1)",
        name=repository,
    )
    change(
        writing.database,
        "INSERT INTO repository_blobs (repository_id, blob_id, linked_at) SELECT r.id, b.id, b.created_at"
        " FROM repositories r, blobs b WHERE r.name = :name AND b.digest = :of",
        name=repository,
        of=digest.to_bytes(),
    )


def users(writing: Writing, digest: Digest) -> set[str]:
    found = rows(
        writing.database,
        "SELECT r.name FROM repositories r JOIN repository_blobs l ON l.repository_id = r.id"
        " JOIN blobs b ON b.id = l.blob_id WHERE b.digest = :of",
        of=digest.to_bytes(),
    )
    return {name for (name,) in found}


def test_only_this_repository_loses_its_access(writing: Writing, image: Json, layer: Json) -> None:
    """A shared blob stays whole for the others; zot's plain delete, and its crash in the middle."""
    mount(writing, "other", digest_of(layer))
    delete_blob(writing.writer, "other", digest_of(layer))
    assert users(writing, digest_of(layer)) == {"app"}
    assert events(writing)[-1] == "blob.deleted"
    [(kind, not_before)] = rows(writing.database, "SELECT kind, not_before FROM gc_tasks")
    assert kind == "blob"
    assert not_before >= scalar(
        writing.database, "SELECT lease_until FROM blobs WHERE digest = :of", of=digest_of(layer).to_bytes()
    )
    change(writing.database, "UPDATE gc_tasks SET not_before = 1")
    change(writing.database, "UPDATE blobs SET lease_until = 1")
    assert collect(writing.writer, writing.store).blobs == 0
    assert_verified(writing)


@pytest.mark.parametrize("of", ["config", "layer", "manifest", "entry"])
@pytest.mark.parametrize("deleted", [False, True])
def test_blob_that_a_manifest_names_is_not_deleted_and_the_manifest_is_named(
    writing: Writing, builder: LayoutBuilder, layout: Path, layer: Json, of: str, deleted: bool
) -> None:
    config = builder.config([layer])
    image = builder.image([layer], config)
    entry = builder.blob(b"opaque", "application/vnd.example.opaque")
    index = builder.index([image, entry])
    commit_one(writing, builder, index, layout)
    named, by = {
        "config": (config, image),
        "layer": (layer, image),
        "manifest": (image, image),
        "entry": (entry, index),
    }[of]
    if deleted:
        delete_manifest(writing.writer, "app", digest_of(index), cascade=True)
    with pytest.raises(StillNamed, match=f"the manifest {digest_of(by)} names it") as caught:
        delete_blob(writing.writer, "app", digest_of(named))
    assert caught.value.exit_code == 6
    assert ("can be brought back" in str(caught.value)) == deleted
    assert users(writing, digest_of(named)) == {"app"}


def test_blob_that_is_missing_or_of_another_repository_is_not_found(
    writing: Writing, builder: LayoutBuilder, layout: Path, image: Json, layer: Json
) -> None:
    commit_one(writing, builder, builder.image(), layout / "2", "other")
    for repository, digest in (
        ("app", Digest.of(b"nothing")),
        ("other", digest_of(layer)),
        ("nowhere", digest_of(layer)),
    ):
        with pytest.raises(errors.NotFound):
            delete_blob(writing.writer, repository, digest)
    assert users(writing, digest_of(layer)) == {"app"}


def test_push_that_relies_on_a_deleted_blob_links_it_again(
    writing: Writing, builder: LayoutBuilder, layout: Path, image: Json, layer: Json
) -> None:
    mount(writing, "other", digest_of(layer))
    with source_of(builder, layout / "2") as source:
        ingest = ingest_of(writing, request(source, image, "other"))
        ingest.prepare()
        delete_blob(writing.writer, "other", digest_of(layer))
        ingest.commit()
        ingest.unit.finish()
    assert users(writing, digest_of(layer)) == {"app", "other"}
    assert_verified(writing)
