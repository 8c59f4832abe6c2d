"""Blobs: streamed, resumed where they were cut, taken from a mirror where one fails."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import pytest

from regmeta.errors import InvalidSource, MissingContent, RemoteRefused, RemoteUnavailable
from regmeta.oci.digest import Digest
from regmeta.sources.registry import blobs
from regmeta.sources.registry.image import RemoteImage
from regmeta.sources.registry.upstream import Upstream
from tests.builders import LayoutBuilder
from tests.support.registries.bad_registry import BadRegistry
from tests.support.registries.clients import QUICK, upstream_of
from tests.support.registries.docker_registry import DockerRegistry
from tests.support.registries.rules import (
    Cut,
    Endless,
    Hang,
    Headers,
    LyingLength,
    Redirect,
    Rule,
    Slow,
    Status,
    WrongBytes,
)

SIZE = 300_000  # [bytes]
CONTENT = hashlib.shake_256(b"layer").digest(SIZE)
DIGEST = Digest.of(CONTENT)
BLOB = f"/blobs/{DIGEST}"


def builder_of_one_layer() -> LayoutBuilder:
    builder = LayoutBuilder()
    builder.tag(builder.image([CONTENT]), "v1")
    return builder


@pytest.fixture
def registry(bad_registry: BadRegistry) -> BadRegistry:
    bad_registry.push(builder_of_one_layer(), "app")
    return bad_registry


@pytest.fixture
def upstream(registry: BadRegistry) -> Iterator[Upstream]:
    with upstream_of(registry.url) as found:
        yield found


@pytest.fixture
def image(upstream: Upstream) -> RemoteImage:
    return upstream.image("app", "v1")


def read_all(image: RemoteImage, digest: Digest = DIGEST, piece_bytes: int = 10_000) -> bytes:
    content = bytearray()
    buffer = memoryview(bytearray(piece_bytes))
    with image.open(digest) as stream:
        while count := stream.readinto(buffer):
            content += buffer[:count]
        assert stream.readinto(buffer) == 0
    return bytes(content)


def ranges(registry: BadRegistry) -> list[str | None]:
    """Return which range each request for the blob asked for."""
    return [request.headers.get("Range") for request in registry.seen("GET", BLOB)]


def test_blob_of_docker_registry_is_streamed(docker_registry: DockerRegistry) -> None:
    repository = docker_registry.unique_name()
    docker_registry.push(builder_of_one_layer(), repository)
    with upstream_of(docker_registry.url) as upstream:
        image = upstream.image(repository, "v1")
        assert read_all(image) == CONTENT
        with pytest.raises(MissingContent):
            image.open(Digest.of(b"not there"))


def test_blob_that_is_cut_goes_on_from_the_byte_it_reached(registry: BadRegistry, image: RemoteImage) -> None:
    registry.misbehave(BLOB, Cut(after_bytes=100_000, times=1))
    registry.misbehave(BLOB, Cut(after_bytes=50_000, times=1))
    assert read_all(image) == CONTENT
    assert ranges(registry) == [None, "bytes=100000-", "bytes=150000-"]


def test_each_byte_of_progress_buys_new_tries(registry: BadRegistry, image: RemoteImage) -> None:
    times = blobs.FRUITLESS_RESUMES * 3
    registry.misbehave(BLOB, Cut(after_bytes=1000, times=times))
    assert read_all(image) == CONTENT
    assert registry.count("GET", BLOB) == times + 1


def test_blob_that_brings_nothing_more_is_given_up(registry: BadRegistry, image: RemoteImage) -> None:
    registry.misbehave(BLOB, Cut(after_bytes=100_000, times=1))
    registry.misbehave(BLOB, Cut(after_bytes=0))
    with pytest.raises(RemoteUnavailable, match="given up at byte 100000"):
        read_all(image)
    assert registry.count("GET", BLOB) == 1 + blobs.FRUITLESS_RESUMES


def test_drip_of_a_byte_for_each_request_ends(
    registry: BadRegistry, image: RemoteImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "MAX_RESUMES", 20)
    registry.misbehave(BLOB, Cut(after_bytes=1))
    with pytest.raises(RemoteUnavailable, match="given up at byte 21"):
        read_all(image)


def test_registry_without_ranges_is_read_again_from_the_start(
    registry: BadRegistry, image: RemoteImage
) -> None:
    registry.misbehave(BLOB, Cut(after_bytes=100_000, times=1))
    registry.misbehave(BLOB, Status(200, body=CONTENT, times=1))
    assert read_all(image) == CONTENT
    assert ranges(registry) == [None, "bytes=100000-"]


@pytest.mark.parametrize(
    "content_range",
    [
        None,
        "",
        "bytes 0-299999/300000",
        "bytes 99999-299999/300000",
        "bytes 100001-299999/300000",
        "bytes 100000-99999/300000",
        "bytes 100000-300000/300000",
        "bytes 100000-299999/400000",
        "bytes \u0661\u0660\u0660\u0660\u0660\u0660-299999/300000",
        "bytes=100000-299999/300000",
    ],
)
def test_another_part_than_the_one_asked_for_is_refused(
    registry: BadRegistry, image: RemoteImage, content_range: str | None
) -> None:
    registry.misbehave(BLOB, Cut(after_bytes=100_000, times=1))
    if content_range is not None:
        content_range = content_range.encode().decode("latin-1")  # as it goes over the wire
    registry.misbehave(BLOB, Headers({"Content-Range": content_range}))
    with pytest.raises(InvalidSource):
        read_all(image)


def test_shorter_range_than_asked_for_is_followed_by_another(
    registry: BadRegistry, image: RemoteImage
) -> None:
    registry.misbehave(BLOB, Cut(after_bytes=100_000, times=1))
    part = Status(206, {"Content-Range": "bytes 100000-149999/300000"}, CONTENT[100_000:150_000], times=1)
    registry.misbehave(BLOB, part)
    assert read_all(image) == CONTENT
    assert ranges(registry) == [None, "bytes=100000-", "bytes=150000-"]


def test_blob_that_changes_its_size_is_refused(registry: BadRegistry, image: RemoteImage) -> None:
    registry.misbehave(BLOB, Cut(after_bytes=100_000, times=1))
    registry.misbehave(BLOB, Status(200, body=CONTENT + b"more", times=1))
    with pytest.raises(InvalidSource, match="300004"):
        read_all(image)


def test_promise_of_more_bytes_than_there_are_ends_where_they_end(
    registry: BadRegistry, image: RemoteImage
) -> None:
    """Who reads counts and hashes; here it must only not go round for ever."""
    registry.misbehave(BLOB, LyingLength(SIZE + 1000, times=1))
    assert read_all(image) == CONTENT
    assert ranges(registry) == [None, f"bytes={SIZE}-"]


def test_promise_of_fewer_bytes_cuts_the_blob(registry: BadRegistry, image: RemoteImage) -> None:
    registry.misbehave(BLOB, LyingLength(1000))
    assert read_all(image) == CONTENT[:1000]


def test_blob_in_chunks_is_read_to_its_end(registry: BadRegistry, image: RemoteImage) -> None:
    registry.misbehave(BLOB, Endless(200_000))
    assert read_all(image) == bytes(200_000)


def test_blob_is_read_where_the_registry_sends_us(registry: BadRegistry) -> None:
    with BadRegistry() as storage:
        storage.push(builder_of_one_layer(), "app")
        storage.misbehave(BLOB, Cut(after_bytes=100_000, times=1))
        registry.misbehave(BLOB, Redirect(f"{storage.url}{{path}}?signature=x"))
        terms = replace(QUICK, redirect_hosts=frozenset({storage.host}))
        with upstream_of(registry.url, terms=terms) as upstream:
            assert read_all(upstream.image("app", "v1")) == CONTENT
        assert ranges(storage) == [None, "bytes=100000-"]
        assert all(request.path.endswith("?signature=x") for request in storage.requests)
        # Each part is asked for at the registry: the place that it named before may not be good any more.
        assert ranges(registry) == [None, "bytes=100000-"]


@pytest.mark.parametrize("rule", [Cut(after_bytes=0), Headers({"Content-Range": "bytes 7-8/9"})])
def test_signature_of_a_redirect_is_in_no_message(registry: BadRegistry, rule: Rule) -> None:
    with BadRegistry() as storage:
        storage.push(builder_of_one_layer(), "app")
        storage.misbehave(BLOB, Cut(after_bytes=100, times=1))
        storage.misbehave(BLOB, rule)
        registry.misbehave(BLOB, Redirect(f"{storage.url}{{path}}?signature=x"))
        terms = replace(QUICK, redirect_hosts=frozenset({storage.host}))
        with upstream_of(registry.url, terms=terms) as upstream:
            image = upstream.image("app", "v1")
            with pytest.raises((RemoteUnavailable, InvalidSource)) as caught:
                read_all(image)
        assert storage.host in str(caught.value)
        assert "signature" not in str(caught.value)


def test_rest_of_a_blob_comes_from_a_mirror_when_the_first_dies(registry: BadRegistry) -> None:
    with BadRegistry() as mirror:
        mirror.push(builder_of_one_layer(), "app")
        with upstream_of(registry.url, mirror.url) as upstream:
            image = upstream.image("app", "v1")
            registry.misbehave(BLOB, Cut(after_bytes=100_000, times=1))
            registry.misbehave(BLOB, Status(503))
            assert read_all(image) == CONTENT
        assert ranges(mirror) == ["bytes=100000-"]


def test_mirror_is_asked_when_the_first_answers_and_brings_nothing(registry: BadRegistry) -> None:
    with BadRegistry() as mirror:
        mirror.push(builder_of_one_layer(), "app")
        with upstream_of(registry.url, mirror.url) as upstream:
            image = upstream.image("app", "v1")
            registry.misbehave(BLOB, Cut(after_bytes=0))
            assert read_all(image) == CONTENT
        assert mirror.count("GET", BLOB) == 1


def test_blob_that_only_a_mirror_has_is_found(registry: BadRegistry) -> None:
    with BadRegistry() as mirror:
        mirror.push(builder_of_one_layer(), "app")
        del registry.blobs[str(DIGEST)]
        with upstream_of(registry.url, mirror.url) as upstream:
            assert read_all(upstream.image("app", "v1")) == CONTENT


def test_blob_that_vanishes_half_way_is_not_absent(registry: BadRegistry, image: RemoteImage) -> None:
    registry.misbehave(BLOB, Cut(after_bytes=100_000, times=1))
    registry.misbehave(BLOB, Status(404))
    with pytest.raises(RemoteUnavailable, match="it was there before"):
        read_all(image)


def test_blob_that_is_not_there_is_missing_and_one_that_fails_is_not(
    registry: BadRegistry, image: RemoteImage
) -> None:
    with pytest.raises(MissingContent):
        image.open(Digest.of(b"not there"))
    registry.misbehave("/blobs/", Status(500))
    with pytest.raises(RemoteUnavailable):
        image.open(Digest.of(b"not there"))


def test_slow_registry_is_waited_for_and_one_that_hangs_is_not(registry: BadRegistry) -> None:
    terms = replace(QUICK, read_timeout_s=0.5)
    with upstream_of(registry.url, terms=terms) as upstream:
        image = upstream.image("app", "v1")
        registry.misbehave(BLOB, Slow(0.1, times=1))
        assert read_all(image) == CONTENT
        registry.misbehave(BLOB, Hang())
        with pytest.raises(RemoteUnavailable):
            image.open(DIGEST)


def test_bytes_are_handed_out_as_they_come(registry: BadRegistry, image: RemoteImage) -> None:
    """A source promises nothing of a stream: the store hashes it."""
    registry.misbehave(BLOB, WrongBytes())
    assert read_all(image) == CONTENT[:-1] + bytes([CONTENT[-1] ^ 0xFF])


@pytest.mark.parametrize(
    "rule", [Cut(after_bytes=0), Status(500), Status(403), Headers({"Content-Range": "bytes 7-8/9"})]
)
def test_every_slot_is_given_back(registry: BadRegistry, image: RemoteImage, rule: Rule) -> None:
    """More failures than there are slots: one that is kept makes the last read wait for ever."""
    for _ in range(QUICK.max_concurrent + 1):
        registry.misbehave(BLOB, Cut(after_bytes=100, times=1))
        registry.misbehave(BLOB, rule)
        with pytest.raises((RemoteUnavailable, RemoteRefused, InvalidSource)):
            read_all(image)
        registry.behave()
    assert read_all(image) == CONTENT


def test_reader_that_leaves_early_gives_its_slot_back(registry: BadRegistry, image: RemoteImage) -> None:
    for _ in range(QUICK.max_concurrent + 1):
        with image.open(DIGEST) as stream:
            stream.readinto(memoryview(bytearray(200)))
    assert read_all(image) == CONTENT
