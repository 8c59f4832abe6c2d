"""Batches that run at once in one process download no digest twice, and never wait in a circle."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from regmeta import errors
from regmeta.app import Writing
from regmeta.ingest.claims import Claims
from regmeta.ingest.plan import ImageGroup
from regmeta.oci.digest import Digest
from tests.builders import Json, LayoutBuilder, digest_of
from tests.support.registry import counts, key_of, rows, source_of, tags
from tests.support.registry import request as request_of
from tests.support.sources import Gate, WatchedSource

WAIT_S = 30.0


class Batches:
    """Batches of one image each, run in threads of their own."""

    def __init__(self, writing: Writing, source: WatchedSource) -> None:
        self._writing = writing
        self._pool = ThreadPoolExecutor(8)
        self.source = source

    def start(
        self, image: Json, tag: str, source: WatchedSource | None = None
    ) -> Future[errors.Error | None]:
        """Begin to commit an image; the answer is its error."""
        wanted = request_of(source or self.source, image, "app", tag)
        planned = self._writing.registry.copy_manifest(wanted)

        def commit() -> errors.Error | None:
            [outcome] = self._writing.registry.commit_groups([ImageGroup(planned)])
            return outcome.image.error

        return self._pool.submit(commit)

    def waits(self, digest: Digest) -> None:
        """Return when one batch has claimed a digest and another has found that out and reserved the rest."""
        deadline = threading.Event()
        for _ in range(3000):
            found = rows(self._writing.database, "SELECT count(DISTINCT created_at) FROM intents")
            if found == [(2,)]:
                return
            deadline.wait(0.01)
        raise AssertionError(f"no batch waits for {digest}")

    def close(self) -> None:
        self._pool.shutdown()


@pytest.fixture
def shared(builder: LayoutBuilder) -> Json:
    return builder.layer(b"a layer of both")


@pytest.fixture
def images(builder: LayoutBuilder, shared: Json) -> list[Json]:
    """Two images that share a layer, and one layer that each has for itself."""
    return [builder.image([shared, builder.layer(name)]) for name in (b"one", b"two")]


@pytest.fixture
def batches(writing: Writing, builder: LayoutBuilder, layout: Path, images: list[Json]) -> Iterator[Batches]:
    with source_of(builder, layout) as source:
        found = Batches(writing, WatchedSource(source))
        yield found
        found.close()


def test_digest_that_two_batches_need_is_opened_once(
    writing: Writing, batches: Batches, images: list[Json], shared: Json
) -> None:
    gate = Gate(digest_of(shared))
    batches.source.before = gate
    first = batches.start(images[0], "one")
    assert gate.reached.wait(WAIT_S)
    second = batches.start(images[1], "two")
    batches.waits(digest_of(shared))
    gate.opened.set()
    assert first.result(WAIT_S) is second.result(WAIT_S) is None
    assert batches.source.opened[digest_of(shared)] == 1
    assert set(batches.source.opened.values()) == {1}
    assert tags(writing.database) == {"one": digest_of(images[0]), "two": digest_of(images[1])}
    assert counts(writing.database, "intents", "tombstones") == {"intents": 0, "tombstones": 0}


@pytest.mark.parametrize("error", [errors.RemoteUnavailable("cut"), errors.StoreUnavailable("full")])
def test_batch_whose_forerunner_failed_fetches_itself(
    writing: Writing, batches: Batches, images: list[Json], shared: Json, error: errors.Error
) -> None:
    """Whether only the image was bad or the whole batch ended."""
    gate = Gate(digest_of(shared), error)
    failing = WatchedSource(batches.source.inner, gate)
    first = batches.start(images[0], "one", failing)
    assert gate.reached.wait(WAIT_S)
    second = batches.start(images[1], "two")
    batches.waits(digest_of(shared))
    gate.opened.set()
    if isinstance(error, errors.StoreUnavailable):
        with pytest.raises(errors.StoreUnavailable):
            first.result(WAIT_S)
    else:
        assert first.result(WAIT_S) is error
    assert second.result(WAIT_S) is None
    assert batches.source.opened[digest_of(shared)] == 1
    assert tags(writing.database) == {"two": digest_of(images[1])}
    assert key_of(writing.database, digest_of(shared))


def test_image_that_lies_about_the_size_of_what_it_waited_for_is_refused(
    writing: Writing, builder: LayoutBuilder, layout: Path, shared: Json
) -> None:
    good, liar = builder.image([shared]), builder.image([{**shared, "size": shared["size"] + 1}])
    gate = Gate(digest_of(shared))
    with source_of(builder, layout) as source:
        batches = Batches(writing, WatchedSource(source, gate))
        first = batches.start(good, "good")
        assert gate.reached.wait(WAIT_S)
        second = batches.start(liar, "liar")
        batches.waits(digest_of(shared))
        gate.opened.set()
        assert first.result(WAIT_S) is None
        assert isinstance(second.result(WAIT_S), errors.SizeMismatch)
        batches.close()
    assert tags(writing.database) == {"good": digest_of(good)}


def test_blob_that_is_here_is_not_waited_for(
    writing: Writing, batches: Batches, images: list[Json], shared: Json, builder: LayoutBuilder
) -> None:
    """A batch that holds a claim on it, and has only leased it, keeps nobody up."""
    assert batches.start(images[0], "one").result(WAIT_S) is None
    own = digest_of(builder.blob(b"two"))
    gate = Gate(own)
    slow = WatchedSource(batches.source.inner, gate)
    held_up = batches.start(images[1], "two", slow)
    assert gate.reached.wait(WAIT_S)
    assert batches.start(images[0], "again").result(WAIT_S) is None
    assert not held_up.done()
    gate.opened.set()
    assert held_up.result(WAIT_S) is None


def test_batches_that_need_the_same_layers_crosswise_all_end(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    layers = [builder.layer(f"layer {number}".encode()) for number in range(6)]
    images = [builder.image(layers[n:] + layers[:n]) for n in range(6)]
    with source_of(builder, layout) as source:
        watched = WatchedSource(source)
        batches = Batches(writing, watched)
        futures = [batches.start(image, f"v{n}") for n, image in enumerate(images * 2)]
        assert [future.result(WAIT_S) for future in futures] == [None] * 12
        batches.close()
    assert {watched.opened[digest_of(layer)] for layer in layers} == {1}


def test_claims_are_dropped_and_wait_only_for_earlier_ones() -> None:
    claims = Claims()
    one, two, three = (Digest.of(text) for text in (b"1", b"2", b"3"))
    first, second = claims.take([one, two]), claims.take([two, three])
    third = claims.take([one, three])
    assert dict(first.others) == {}
    assert dict(second.others) == {two: first.ended}
    assert dict(third.others) == {one: first.ended, three: second.ended}
    first.drop()
    assert first.ended.is_set()
    second.add([one, two])
    third.add([one])
    assert dict(claims.take([one, two]).others) == {one: second.ended, two: second.ended}
    second.drop()
    third.drop()
    assert dict(claims.take([three]).others) == {}
