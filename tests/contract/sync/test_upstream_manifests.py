"""Manifests by tag and by digest: verified, or an error."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from regmeta.errors import (
    DigestMismatch,
    InvalidDigest,
    InvalidName,
    InvalidSource,
    NotFound,
    RemoteUnavailable,
)
from regmeta.oci import media_types
from regmeta.oci.digest import Digest
from regmeta.oci.manifest import MAX_MANIFEST_BYTES
from regmeta.sources.registry.upstream import Upstream
from tests.builders import AMD64, ARM64, Json, LayoutBuilder, digest_of, parsed
from tests.support.registries.bad_registry import BadRegistry
from tests.support.registries.clients import upstream_of
from tests.support.registries.docker_registry import DockerRegistry
from tests.support.registries.rules import Cut, Endless, Headers, Status, WrongBytes

DIGEST = "Docker-Content-Digest"


@pytest.fixture
def image(bad_registry: BadRegistry) -> Json:
    builder = LayoutBuilder()
    found = builder.image()
    builder.tag(found, "v1")
    bad_registry.push(builder, "app")
    return found


@pytest.fixture
def upstream(bad_registry: BadRegistry) -> Iterator[Upstream]:
    with upstream_of(bad_registry.url) as found:
        yield found


@pytest.mark.parametrize("docker", [False, True])
def test_docker_registry_gives_the_exact_manifests(docker_registry: DockerRegistry, docker: bool) -> None:
    builder = LayoutBuilder(docker=docker)
    index = builder.index([builder.image(platform=AMD64), builder.image(platform=ARM64)])
    image = builder.image()
    builder.tag(index, "v1")
    builder.tag(image, "v2")
    repository = docker_registry.unique_name()
    docker_registry.push(builder, repository)
    with upstream_of(docker_registry.url) as upstream:
        for tag, made in (("v1", index), ("v2", image)):
            resolved = upstream.resolve(repository, tag)
            fetched = upstream.image(repository, tag)
            assert resolved == fetched.descriptor == parsed(made)
            assert fetched.content == builder.blobs[made["digest"]]
            assert fetched.location == f"{docker_registry.host}/{repository}:{tag}"
            assert upstream.resolve(repository, made["digest"]) == parsed(made)
            assert upstream.image(repository, made["digest"]).descriptor == parsed(made)
        with pytest.raises(NotFound):
            upstream.resolve(repository, "v3")
        with pytest.raises(NotFound):
            upstream.image(repository, "v3")


def test_tag_is_resolved_by_one_head(bad_registry: BadRegistry, upstream: Upstream, image: Json) -> None:
    assert upstream.resolve("app", "v1") == parsed(image)
    assert [request.method for request in bad_registry.requests] == ["HEAD"]
    assert upstream.requests == 1


@pytest.mark.parametrize(
    "rule",
    [
        Headers({DIGEST: None}),
        Headers({DIGEST: "sha256:short"}),
        Headers({"Content-Length": None}),
        Headers({"Content-Length": "0"}),
        Headers({"Content-Type": None}),
        Status(405),
    ],
    ids=["no digest", "no real digest", "no size", "size 0", "no type", "no HEAD"],
)
def test_head_that_says_too_little_is_followed_by_get(
    bad_registry: BadRegistry, upstream: Upstream, image: Json, rule: Headers
) -> None:
    bad_registry.misbehave("/manifests/", rule, method="HEAD")
    assert upstream.resolve("app", "v1") == parsed(image)
    assert bad_registry.count("GET", "/manifests/v1") == 1


def test_manifest_without_a_digest_header_gets_its_own_digest(
    bad_registry: BadRegistry, upstream: Upstream, image: Json
) -> None:
    bad_registry.misbehave("/manifests/", Headers({DIGEST: None}))
    assert upstream.image("app", "v1").descriptor == parsed(image)


@pytest.mark.parametrize("reference", ["tag", "digest"])
def test_wrong_bytes_are_never_a_manifest(
    bad_registry: BadRegistry, upstream: Upstream, image: Json, reference: str
) -> None:
    bad_registry.misbehave("/manifests/", WrongBytes())
    with pytest.raises(DigestMismatch):
        upstream.image("app", "v1" if reference == "tag" else image["digest"])


def test_another_manifest_under_a_digest_is_refused(
    bad_registry: BadRegistry, upstream: Upstream, image: Json
) -> None:
    builder = LayoutBuilder(seed=1)
    other = builder.image()
    bad_registry.push(builder, "app")
    body = builder.blobs[other["digest"]]
    headers = {"Content-Type": other["mediaType"], DIGEST: other["digest"]}
    bad_registry.misbehave("/manifests/", Status(200, {**headers, "Content-Length": str(len(body))}, body))
    with pytest.raises(DigestMismatch):
        upstream.resolve("app", image["digest"])
    with pytest.raises(DigestMismatch):
        upstream.image("app", image["digest"])


def test_sha512_manifests_are_verified_by_sha512(bad_registry: BadRegistry, upstream: Upstream) -> None:
    builder = LayoutBuilder(algorithm="sha512")
    image = builder.image()
    builder.tag(image, "v1")
    bad_registry.push(builder, "app")
    assert upstream.resolve("app", "v1").digest.algorithm == "sha512"
    assert upstream.image("app", "v1").descriptor == parsed(image)
    # A registry that counts by sha256 itself, asked for a sha512 digest.
    own = Digest.of(builder.blobs[image["digest"]])
    bad_registry.misbehave("/manifests/", Headers({DIGEST: str(own)}))
    assert upstream.resolve("app", image["digest"]) == parsed(image)
    bad_registry.behave()
    bad_registry.misbehave("/manifests/", WrongBytes(), method="GET")
    with pytest.raises(DigestMismatch):
        upstream.image("app", image["digest"])


def test_parameters_of_the_content_type_are_ignored(
    bad_registry: BadRegistry, upstream: Upstream, image: Json
) -> None:
    bad_registry.misbehave("/manifests/", Headers({"Content-Type": f"{image['mediaType']}; charset=utf-8"}))
    assert upstream.resolve("app", "v1").media_type == media_types.OCI_MANIFEST
    assert upstream.image("app", "v1").descriptor.media_type == media_types.OCI_MANIFEST


@pytest.mark.parametrize("kind", [None, "", "html", "a/b/c", "x" * 300 + "/y"])
def test_content_type_that_is_none_is_refused(
    bad_registry: BadRegistry, upstream: Upstream, image: Json, kind: str | None
) -> None:
    bad_registry.misbehave("/manifests/", Headers({"Content-Type": kind}))
    with pytest.raises(InvalidSource, match="Content-Type"):
        upstream.image("app", "v1")


@pytest.mark.parametrize("excess", [0, 1])
def test_manifest_may_have_4_MiB_and_no_more(
    bad_registry: BadRegistry, upstream: Upstream, excess: int
) -> None:
    content = json.dumps({"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": []}).encode()
    content += b" " * (MAX_MANIFEST_BYTES + excess - len(content))
    digest = str(Digest.of(content))
    bad_registry.blobs[digest] = content
    bad_registry.types[digest] = media_types.OCI_INDEX
    bad_registry.tags["app"] = {"v1": digest}
    if not excess:
        assert upstream.resolve("app", "v1").size_bytes == MAX_MANIFEST_BYTES
        assert upstream.image("app", "v1").content == content
        return
    with pytest.raises(InvalidSource):
        upstream.resolve("app", "v1")
    with pytest.raises(InvalidSource):
        upstream.image("app", "v1")


def test_manifest_without_end_is_cut(bad_registry: BadRegistry, upstream: Upstream, image: Json) -> None:
    bad_registry.misbehave("/manifests/", Endless(200_000_000))
    with pytest.raises(InvalidSource):
        upstream.image("app", "v1")


def test_manifest_that_is_cut_is_asked_for_again(
    bad_registry: BadRegistry, upstream: Upstream, image: Json
) -> None:
    bad_registry.misbehave("/manifests/", Cut(after_bytes=30, times=2))
    assert upstream.image("app", "v1").descriptor == parsed(image)
    bad_registry.misbehave("/manifests/", Cut(after_bytes=30))
    with pytest.raises(RemoteUnavailable):
        upstream.image("app", "v1")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_failing_registry_is_not_an_absent_image(
    bad_registry: BadRegistry, upstream: Upstream, image: Json, status: int
) -> None:
    bad_registry.misbehave("/manifests/", Status(status))
    with pytest.raises(RemoteUnavailable):
        upstream.resolve("app", "v1")
    with pytest.raises(RemoteUnavailable):
        upstream.image("app", "v1")


@pytest.mark.parametrize("repository", ["../x", "A", "app/", "a b", "", "app/manifests/v1?x=y"])
def test_bad_names_are_never_asked_for(
    bad_registry: BadRegistry, upstream: Upstream, repository: str
) -> None:
    for ask in (upstream.resolve, upstream.image):
        with pytest.raises(InvalidName):
            ask(repository, "v1")
        with pytest.raises(InvalidName):
            ask("app", "../v1")
        with pytest.raises(InvalidDigest):
            ask("app", "sha256:../../x")
    with pytest.raises(InvalidName):
        upstream.tags(repository)
    with pytest.raises(InvalidName):
        upstream.referrers(repository, Digest.of(b""))
    assert bad_registry.count() == 0


def test_every_kind_of_manifest_is_accepted(
    bad_registry: BadRegistry, upstream: Upstream, image: Json
) -> None:
    upstream.image("app", "v1")
    accepted = bad_registry.requests[0].headers["Accept"]
    for kind in media_types.IMAGE_MANIFESTS | media_types.INDEXES:
        assert kind in accepted
    assert digest_of(image) == upstream.resolve("app", "v1").digest
