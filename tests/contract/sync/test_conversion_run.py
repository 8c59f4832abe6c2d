"""Docker's types become OCI's on the way in; the digest is predicted, so that a poll skips."""

from __future__ import annotations

from typing import Any

import pytest

from regmeta.app import Writing
from regmeta.ingest.tags import set_tag
from regmeta.oci import media_types
from regmeta.oci.digest import Digest
from tests.builders import AMD64, ARM64, Json, LayoutBuilder, digest_of
from tests.support.mirroring import fetched, outcome_of, sync, tags_of
from tests.support.registries.bad_registry import BadRegistry
from tests.support.registry import change, rows, tags


def image(builder: LayoutBuilder) -> Json:
    return builder.image()


def index(builder: LayoutBuilder) -> Json:
    return builder.index([builder.image(platform=AMD64), builder.image(platform=ARM64)])


def hybrid(builder: LayoutBuilder) -> Json:
    """An OCI index of an image of Docker and one of OCI."""
    oci = LayoutBuilder(seed=1)
    made = oci.image(platform=ARM64)
    found = oci.index([builder.image(platform=AMD64), made])
    builder.blobs.update(oci.blobs)
    return found


@pytest.mark.parametrize("make", [image, index, hybrid])
def test_docker_types_become_oci_and_the_next_poll_asks_only(
    writing: Writing, bad_registry: BadRegistry, make: Any
) -> None:
    builder = LayoutBuilder(docker=True)
    made = make(builder)
    builder.tag(made, "v1")
    bad_registry.push(builder, "app")
    report = sync(bad_registry, writing, convert="oci")
    outcome = outcome_of(report, "v1")
    assert outcome.upstream_digest == digest_of(made)
    assert outcome.digest == tags(writing.database)["v1"] != digest_of(made)
    types = {kind for (kind,) in rows(writing.database, "SELECT media_type FROM manifests")}
    assert types <= {media_types.OCI_MANIFEST, media_types.OCI_INDEX}
    bad_registry.requests.clear()
    assert sync(bad_registry, writing, convert="oci").counts.unchanged == 1
    assert [request.method for request in bad_registry.seen(None, "/(manifests|blobs)/")] == ["HEAD"]


@pytest.mark.parametrize("make", [image, index, hybrid])
def test_prediction_spares_all_blobs_when_nothing_is_remembered(
    writing: Writing, bad_registry: BadRegistry, make: Any
) -> None:
    builder = LayoutBuilder(docker=True)
    builder.tag(make(builder), "v1")
    bad_registry.push(builder, "app")
    sync(bad_registry, writing, convert="oci")
    before = tags(writing.database)
    change(writing.database, "DELETE FROM sync_items")
    bad_registry.requests.clear()
    assert sync(bad_registry, writing, convert="oci").counts.unchanged == 1
    assert fetched(bad_registry, "blobs") == 0
    assert tags(writing.database) == before
    bad_registry.requests.clear()
    assert sync(bad_registry, writing, convert="oci").counts.unchanged == 1
    assert fetched(bad_registry) == 0


def test_image_of_oci_stays_as_it_is(writing: Writing, bad_registry: BadRegistry) -> None:
    builder = LayoutBuilder()
    builder.tag(image(builder), "v1")
    builder.tag(index(builder), "v2")
    bad_registry.push(builder, "app")
    sync(bad_registry, writing, convert="oci")
    assert tags(writing.database) == tags_of(builder)
    bad_registry.requests.clear()
    assert sync(bad_registry, writing, convert="oci", referrers=False).counts.unchanged == 2


def test_moved_tag_is_converted_again(writing: Writing, bad_registry: BadRegistry) -> None:
    builder = LayoutBuilder(docker=True)
    builder.tag(image(builder), "v1")
    bad_registry.push(builder, "app")
    sync(bad_registry, writing, convert="oci")
    first = tags(writing.database)["v1"]
    builder.tag(image(builder), "v1")
    bad_registry.push(builder, "app")
    assert sync(bad_registry, writing, convert="oci").counts.copied == 1
    assert tags(writing.database)["v1"] != first


def test_change_of_the_policy_converts_what_is_here(writing: Writing, bad_registry: BadRegistry) -> None:
    builder = LayoutBuilder(docker=True)
    builder.tag(image(builder), "v1")
    bad_registry.push(builder, "app")
    sync(bad_registry, writing)
    assert tags(writing.database) == tags_of(builder)
    bad_registry.requests.clear()
    assert sync(bad_registry, writing, convert="oci").counts.copied == 1
    assert fetched(bad_registry, "blobs") == 0
    converted: Digest = tags(writing.database)["v1"]
    assert converted != digest_of(builder.entries[0])
    assert sync(bad_registry, writing).counts.copied == 1  # and back
    assert tags(writing.database) == tags_of(builder)


def test_wanted_platforms_of_a_docker_list_are_converted(writing: Writing, bad_registry: BadRegistry) -> None:
    builder = LayoutBuilder(docker=True)
    builder.tag(index(builder), "v1")
    bad_registry.push(builder, "app")
    options: dict[str, Any] = {"convert": "oci", "platforms": ("linux/arm64",)}
    assert sync(bad_registry, writing, **options).counts.copied == 1
    assert rows(writing.database, "SELECT count(*) FROM manifests") == [(2,)]
    assert sync(bad_registry, writing, **options).counts.unchanged == 1


def test_tag_that_somebody_moved_here_is_converted_back(writing: Writing, bad_registry: BadRegistry) -> None:
    builder = LayoutBuilder(docker=True)
    for tag in ("v1", "v2"):
        builder.tag(image(builder), tag)
    bad_registry.push(builder, "app")
    sync(bad_registry, writing, convert="oci")
    before = tags(writing.database)
    set_tag(writing.writer, "app", "v1", before["v2"])
    assert sync(bad_registry, writing, convert="oci").counts.copied == 1
    assert tags(writing.database) == before
