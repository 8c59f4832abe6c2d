"""Only some platforms: the index keeps its digest, and what is not wanted is absent by policy."""

from __future__ import annotations

import pytest

from regmeta.app import Writing
from regmeta.oci.conversion import REFERENCE_DIGEST
from regmeta.oci.digest import Digest
from tests.builders import AMD64, ARM64, S390X, Json, LayoutBuilder, digest_of
from tests.support.mirroring import blobs_fetched, bring, fetched, noted, outcome_of, sync
from tests.support.registries.bad_registry import BadRegistry
from tests.support.registries.docker_registry import DockerRegistry
from tests.support.registry import rows, tags

UNKNOWN = {"os": "unknown", "architecture": "unknown"}


def here(writing: Writing) -> set[Digest]:
    return {Digest.from_bytes(bytes(of)) for (of,) in rows(writing.database, "SELECT digest FROM manifests")}


def absences(writing: Writing) -> list[str]:
    found = "SELECT absence FROM index_manifests WHERE absence IS NOT NULL ORDER BY absence"
    return [absence for (absence,) in rows(writing.database, found)]


@pytest.fixture
def children(builder: LayoutBuilder) -> list[Json]:
    """The images of an index that is tagged v1, each with a layer of its own."""
    found = [builder.image(platform=platform) for platform in (AMD64, ARM64, S390X)]
    builder.tag(builder.index(found), "v1")
    return found


def test_index_keeps_its_digest_and_has_the_wanted_child(
    writing: Writing, bad_registry: BadRegistry, builder: LayoutBuilder, children: list[Json]
) -> None:
    bad_registry.push(builder, "app")
    assert sync(bad_registry, writing, platforms=("linux/arm64",)).counts.copied == 1
    index = digest_of(builder.entries[0])
    assert tags(writing.database) == {"v1": index}
    assert here(writing) == {index, digest_of(children[1])}
    assert absences(writing) == ["policy", "policy"]
    assert bad_registry.count(None, f"{children[0]['digest']}|{children[2]['digest']}") == 0


def test_filtered_index_is_unchanged_at_the_next_poll(
    writing: Writing, bad_registry: BadRegistry, builder: LayoutBuilder, children: list[Json]
) -> None:
    bad_registry.push(builder, "app")
    options = {"platforms": ("linux/arm64",), "referrers": False}
    sync(bad_registry, writing, **options)
    bad_registry.requests.clear()
    assert sync(bad_registry, writing, **options).counts.unchanged == 1
    assert [request.method for request in bad_registry.seen(None, "/manifests/")] == ["HEAD"]


def test_wider_policy_brings_only_what_is_missing(
    writing: Writing, bad_registry: BadRegistry, builder: LayoutBuilder, children: list[Json]
) -> None:
    bad_registry.push(builder, "app")
    sync(bad_registry, writing, platforms=("linux/arm64",))
    before = set(blobs_fetched(bad_registry))
    bad_registry.requests.clear()
    assert sync(bad_registry, writing, platforms=("linux/arm64", "linux/amd64")).counts.copied == 1
    assert digest_of(children[0]) in here(writing)
    assert absences(writing) == ["policy"]
    assert not before & set(blobs_fetched(bad_registry))
    assert bad_registry.count("GET", f"/manifests/{children[1]['digest']}") == 0
    sync(bad_registry, writing)
    assert absences(writing) == []


def test_attestation_comes_with_the_image_that_it_is_about(
    writing: Writing, bad_registry: BadRegistry, builder: LayoutBuilder
) -> None:
    images = [builder.image(platform=platform) for platform in (AMD64, ARM64)]
    about = [
        builder.image([b"about %d" % number], platform=UNKNOWN)
        | {"annotations": {REFERENCE_DIGEST: i["digest"]}}
        for number, i in enumerate(images)
    ]
    builder.tag(builder.index([*images, *about]), "v1")
    bad_registry.push(builder, "app")
    options = {"platforms": ("linux/amd64",), "referrers": False}
    sync(bad_registry, writing, **options)
    wanted = {digest_of(images[0]), digest_of(about[0])}
    assert here(writing) == {*wanted, digest_of(builder.entries[0])}
    bad_registry.requests.clear()
    assert sync(bad_registry, writing, **options).counts.unchanged == 1
    assert fetched(bad_registry) == 0


@pytest.mark.parametrize("indexed", [True, False])
def test_image_of_another_platform_is_left_out_and_not_asked_about_again(
    writing: Writing, bad_registry: BadRegistry, builder: LayoutBuilder, indexed: bool
) -> None:
    image = builder.image(platform=S390X)
    builder.tag(builder.index([image]) if indexed else image, "v1")
    bad_registry.push(builder, "app")
    report = sync(bad_registry, writing, platforms=("linux/amd64",))
    assert outcome_of(report, "v1").outcome == "left out"
    assert tags(writing.database) == {}
    bad_registry.requests.clear()
    again = sync(bad_registry, writing, platforms=("linux/amd64",))
    assert outcome_of(again, "v1").reason == outcome_of(report, "v1").reason
    assert [request.method for request in bad_registry.seen(None, "/manifests/")] == ["HEAD"]
    assert noted(writing)["v1"] == ("left out", None, 0)
    assert sync(bad_registry, writing, platforms=("linux/s390x",)).counts.copied == 1


def test_tag_that_moves_to_another_platform_keeps_what_is_here(
    writing: Writing, bad_registry: BadRegistry, builder: LayoutBuilder
) -> None:
    image = builder.image(platform=AMD64)
    builder.tag(image, "v1")
    bad_registry.push(builder, "app")
    sync(bad_registry, writing, platforms=("linux/amd64",))
    builder.tag(builder.image(platform=S390X), "v1")
    bad_registry.push(builder, "app")
    assert sync(bad_registry, writing, platforms=("linux/amd64",)).counts.left_out == 1
    assert tags(writing.database) == {"v1": digest_of(image)}
    bad_registry.requests.clear()
    assert sync(bad_registry, writing, platforms=("linux/amd64",)).counts.left_out == 1
    assert fetched(bad_registry) == 0


def test_digest_of_a_filtered_index_is_brought_without_its_tag(
    writing: Writing, bad_registry: BadRegistry, builder: LayoutBuilder, children: list[Json]
) -> None:
    bad_registry.push(builder, "app")
    digest = builder.entries[0]["digest"]
    assert bring(bad_registry, writing, digest, platforms=("linux/arm64",)).counts.copied == 1
    assert here(writing) == {digest_of(builder.entries[0]), digest_of(children[1])}


def test_docker_list_from_docker_registry_is_filtered(
    writing: Writing, docker_registry: DockerRegistry
) -> None:
    builder = LayoutBuilder(docker=True)
    found = [builder.image(platform=platform) for platform in (AMD64, ARM64)]
    builder.tag(builder.index(found), "v1")
    repository = docker_registry.unique_name()
    docker_registry.push(builder, repository)
    assert sync(docker_registry, writing, repository, platforms=("linux/arm64",)).counts.copied == 1
    assert here(writing) == {digest_of(builder.entries[0]), digest_of(found[1])}
    assert sync(docker_registry, writing, repository, platforms=("linux/arm64",)).counts.unchanged == 1
