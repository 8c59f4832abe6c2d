"""Images go from a remote registry into the local one, whole and with their digests."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from regmeta.app import Writing
from regmeta.errors import DigestMismatch, IntegrityError, MissingContent, RemoteUnavailable, SizeMismatch
from regmeta.ingest.local_registry import StagedImage
from regmeta.ingest.plan import ImageRequest
from regmeta.oci import media_types
from regmeta.oci.manifest import MAX_MANIFEST_BYTES
from regmeta.sources.registry.image import RemoteImage
from regmeta.sources.registry.upstream import Upstream
from tests.builders import AMD64, ARM64, Json, LayoutBuilder, digest_of, parsed, tar_layer
from tests.support.registries.bad_registry import BadRegistry
from tests.support.registries.clients import upstream_of
from tests.support.registries.docker_registry import DockerRegistry
from tests.support.registries.rules import Cut, Headers, LyingLength, Status, WrongBytes
from tests.support.registry import objects, scalar, tags


class Listener:
    """A port that counts who comes."""

    def __init__(self) -> None:
        self.came = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._count)
        self._thread.start()

    def _count(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self.came += 1
            connection.close()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._server.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    with closing(Listener()) as found:
        yield found


@pytest.fixture
def upstream(bad_registry: BadRegistry) -> Iterator[Upstream]:
    with upstream_of(bad_registry.url) as found:
        yield found


def multi_platform(*, docker: bool = False) -> tuple[LayoutBuilder, Json]:
    builder = LayoutBuilder(docker=docker)
    base = builder.layer(tar_layer(b"base" * 50_000))
    images = [
        builder.image([base, builder.layer()], platform=AMD64),
        builder.image([base, builder.layer()], platform=ARM64),
    ]
    index = builder.index(images)
    builder.tag(index, "v1")
    return builder, index


def bring_in(writing: Writing, image: RemoteImage) -> None:
    writing.registry.commit_image(StagedImage(image, image.descriptor), "copy", "v1")


@pytest.mark.parametrize("docker", [False, True])
def test_multi_platform_image_of_docker_registry_is_committed_whole(
    writing: Writing, docker_registry: DockerRegistry, docker: bool
) -> None:
    builder, index = multi_platform(docker=docker)
    repository = docker_registry.unique_name()
    docker_registry.push(builder, repository)
    with upstream_of(docker_registry.url) as upstream:
        bring_in(writing, upstream.image(repository, "v1"))

    assert tags(writing.writer.database, "copy") == {"v1": digest_of(index)}
    assert len(objects(writing.store)) == len(builder.blobs)
    assert scalar(writing.writer.database, "SELECT count(*) FROM manifests") == 3


def test_many_images_of_docker_registry_are_imported(
    writing: Writing, docker_registry: DockerRegistry
) -> None:
    builder = LayoutBuilder()
    for number in range(10):
        builder.tag(
            builder.index([builder.image(platform=AMD64)]) if number % 2 else builder.image(), f"v{number}"
        )
    repository = docker_registry.unique_name("many/images")
    docker_registry.push(builder, repository)
    with upstream_of(docker_registry.url) as upstream:
        images = {tag: upstream.image(repository, tag) for tag in upstream.tags(repository)}
        wanted = [ImageRequest(image, image.descriptor, "copy", tag) for tag, image in images.items()]
        outcomes = list(writing.registry.import_images(wanted))

    assert [outcome.status for outcome in outcomes] == ["imported"] * 10
    assert tags(writing.writer.database, "copy") == {
        entry["annotations"]["org.opencontainers.image.ref.name"]: digest_of(entry)
        for entry in builder.entries
    }


def test_nested_index_with_a_child_of_unknown_type_is_committed(
    writing: Writing, bad_registry: BadRegistry, upstream: Upstream
) -> None:
    """Such a child is a blob in one registry and a manifest in another."""
    builder, index = multi_platform()
    as_blob = builder.blob(b"one", "application/vnd.example.one")
    as_manifest = builder.blob(b"two", "application/vnd.example.two")
    outer = builder.index([index, as_blob, as_manifest])
    builder.tag(outer, "outer")
    bad_registry.push(builder, "app")
    bad_registry.types[as_manifest["digest"]] = as_manifest["mediaType"]

    bring_in(writing, upstream.image("app", "outer"))

    assert tags(writing.writer.database, "copy") == {"v1": digest_of(outer)}
    assert len(objects(writing.store)) == len(builder.blobs)


def test_image_whose_layer_is_cut_over_and_over_is_committed(
    writing: Writing, bad_registry: BadRegistry, upstream: Upstream
) -> None:
    builder, index = multi_platform()
    bad_registry.push(builder, "app")
    bad_registry.misbehave("/blobs/", Cut(after_bytes=60_000, times=12))
    bring_in(writing, upstream.image("app", "v1"))
    assert tags(writing.writer.database, "copy") == {"v1": digest_of(index)}


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        (WrongBytes(), DigestMismatch),
        (LyingLength(40), SizeMismatch),
        (Status(404), MissingContent),
        (Status(503), RemoteUnavailable),
        (Status(200, body=b"<html>"), IntegrityError),
    ],
    ids=["wrong bytes", "lying length", "404", "503", "html"],
)
@pytest.mark.parametrize("what", ["layer", "config", "child"])
def test_image_with_a_bad_part_is_left_out(
    writing: Writing,
    bad_registry: BadRegistry,
    upstream: Upstream,
    what: str,
    rule: Any,
    error: type[Exception],
) -> None:
    builder = LayoutBuilder()
    layer = builder.layer(tar_layer(b"x" * 5000))
    config = builder.config([layer], AMD64)
    child = builder.image([layer], config, platform=AMD64)
    builder.tag(builder.index([child]), "v1")
    bad_registry.push(builder, "app")
    image = upstream.image("app", "v1")
    part = {"layer": layer, "config": config, "child": child}[what]
    if isinstance(rule, Status) and rule.body and what == "child":
        rule = Status(200, {"Content-Type": media_types.OCI_MANIFEST}, rule.body)
    bad_registry.misbehave(part["digest"], rule)
    # The same answer may be caught by its size or by its digest.
    wanted = (DigestMismatch, SizeMismatch) if issubclass(error, IntegrityError) else error
    with pytest.raises(wanted):
        bring_in(writing, image)
    assert tags(writing.writer.database, "copy") == {}
    bad_registry.behave()
    bring_in(writing, image)


def test_root_is_fetched_once(bad_registry: BadRegistry, upstream: Upstream) -> None:
    builder, index = multi_platform()
    bad_registry.push(builder, "app")
    image = upstream.image("app", "v1")
    [entry] = image.entries()
    assert (entry.ref_name, entry.descriptor) == ("v1", parsed(index))
    assert image.read(image.descriptor, MAX_MANIFEST_BYTES) == image.content
    with image.open(image.descriptor.digest) as stream:
        buffer = bytearray(10)
        assert stream.readinto(memoryview(buffer)) == 10
    assert bytes(buffer) == image.content[:10]
    assert bad_registry.count() == 1


def test_parts_are_read_by_digest(bad_registry: BadRegistry, upstream: Upstream) -> None:
    builder, index = multi_platform()
    bad_registry.push(builder, "app")
    image = upstream.image("app", index["digest"])
    assert image.location == f"{bad_registry.host}/app@{index['digest']}"
    [entry] = image.entries()
    assert entry.ref_name is None
    for digest, content in builder.blobs.items():
        kind = bad_registry.types.get(digest, "application/octet-stream")
        read = image.read(parsed({"mediaType": kind, "digest": digest, "size": len(content)}), 2**20)
        assert read == content


@pytest.mark.parametrize("difference", [-1, 1])
def test_part_of_another_size_is_refused(
    bad_registry: BadRegistry, upstream: Upstream, difference: int
) -> None:
    builder, _ = multi_platform()
    bad_registry.push(builder, "app")
    image = upstream.image("app", "v1")
    for digest, content in builder.blobs.items():
        kind = bad_registry.types.get(digest, "application/octet-stream")
        lie = parsed({"mediaType": kind, "digest": digest, "size": len(content) + difference})
        with pytest.raises(SizeMismatch):
            image.read(lie, 2**20)


def test_places_that_foreign_layers_name_are_never_asked(
    writing: Writing, bad_registry: BadRegistry, upstream: Upstream, listener: Listener
) -> None:
    builder = LayoutBuilder()
    urls = [f"http://127.0.0.1:{listener.port}/layer", "file:///etc/passwd"]
    foreign = builder.blob(b"foreign", "application/vnd.oci.image.layer.nondistributable.v1.tar", urls=urls)
    usual = builder.blob(b"usual", "application/vnd.oci.image.layer.v1.tar", urls=urls)
    del builder.blobs[foreign["digest"]]
    image = builder.image([usual, foreign], builder.config([usual, foreign]))
    builder.tag(image, "v1")
    bad_registry.push(builder, "app")

    bring_in(writing, upstream.image("app", "v1"))

    assert tags(writing.writer.database, "copy") == {"v1": digest_of(image)}
    assert bad_registry.count(None, foreign["digest"]) == 0
    del bad_registry.blobs[usual["digest"]]
    with pytest.raises(MissingContent):
        upstream.image("app", "v1").open(digest_of(usual))
    assert listener.came == 0


def test_foreign_and_empty_layers_of_docker_registry_are_taken_as_they_are(
    writing: Writing, docker_registry: DockerRegistry, listener: Listener
) -> None:
    builder = LayoutBuilder()
    urls = [f"http://127.0.0.1:{listener.port}/layer"]
    kind = "application/vnd.oci.image.layer.nondistributable.v1.tar"
    foreign = builder.blob(b"foreign", kind, urls=urls)
    del builder.blobs[foreign["digest"]]
    layers = [foreign, builder.layer(b""), builder.layer()]
    image = builder.image(layers, builder.config(layers))
    builder.tag(image, "v1")
    repository = docker_registry.unique_name()
    docker_registry.push(builder, repository)
    with upstream_of(docker_registry.url) as upstream:
        bring_in(writing, upstream.image(repository, "v1"))

    assert tags(writing.writer.database, "copy") == {"v1": digest_of(image)}
    assert len(objects(writing.store)) == len(builder.blobs)
    assert listener.came == 0


def test_child_that_says_another_type_is_left_out(
    writing: Writing, bad_registry: BadRegistry, upstream: Upstream
) -> None:
    """What a child is, its parent says; the header of another answer does not change it."""
    builder, index = multi_platform()
    bad_registry.push(builder, "app")
    image = upstream.image("app", "v1")
    bad_registry.misbehave("/manifests/sha256", Headers({"Content-Type": media_types.OCI_INDEX}))
    bring_in(writing, image)
    assert tags(writing.writer.database, "copy") == {"v1": digest_of(index)}
