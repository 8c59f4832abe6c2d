"""Large blobs that another process is receiving are waited for while it gets on, and no longer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest

from regmeta.app import Writing
from regmeta.ingest import elsewhere, reserve
from regmeta.ingest.local_registry import LocalRegistry
from regmeta.ingest.plan import GroupOutcome, ImageGroup
from regmeta.oci.digest import Digest
from tests.builders import Json, LayoutBuilder, digest_of
from tests.support.registry import Ingest, change, counts, ingest_of, rows, scalar, source_of
from tests.support.registry import request as request_of
from tests.support.sources import WatchedSource

LARGE = bytes(reserve.WATCHED_BYTES)


@dataclass
class Time:
    """A clock that goes on only while somebody sleeps; then *happens* is called with how long it has been."""

    happens: Callable[[float], None] = lambda _: None
    now_s: float = 1000.0
    slept: list[float] = field(default_factory=list)

    def clock_s(self) -> float:
        return self.now_s

    def sleep(self, duration_s: float) -> None:
        self.now_s += duration_s
        self.slept.append(duration_s)
        self.happens(sum(self.slept))

    @property
    def waited_s(self) -> float:
        return sum(self.slept)


@pytest.fixture
def layer(builder: LayoutBuilder) -> Json:
    return builder.layer(LARGE)


@pytest.fixture
def image(builder: LayoutBuilder, layer: Json) -> Json:
    return builder.image([layer, builder.layer(b"small")])


@pytest.fixture
def source(builder: LayoutBuilder, layout: Path, image: Json) -> Iterator[WatchedSource]:
    with source_of(builder, layout) as found:
        yield WatchedSource(found)


@pytest.fixture
def theirs(other_writer: Callable[[], Writing], source: WatchedSource, image: Json) -> Ingest:
    """Another process that has reserved the image, and not yet begun."""
    found = ingest_of(other_writer(), request_of(source.inner, image, "theirs"))
    found.unit.reserve(found.image.blobs)
    return found


def commit(writing: Writing, source: WatchedSource, image: Json, time: Time) -> GroupOutcome:
    """Commit the image here, by another clock."""
    registry = LocalRegistry(writing.writer, writing.store, clock_s=time.clock_s, sleep=time.sleep)
    with closing(registry):
        planned = registry.copy_manifest(request_of(source, image))
        [outcome] = registry.commit_groups([ImageGroup(planned)])
    assert outcome.image.error is None
    return outcome


def grow(writing: Writing, theirs: Ingest, received_bytes: int) -> None:
    change(
        writing.database,
        "UPDATE intents SET received_bytes = :received WHERE key = :key",
        received=received_bytes,
        key=theirs.unit.keys[Digest.of(LARGE)],
    )


def test_large_blob_that_another_process_brings_is_not_fetched(
    writing: Writing, source: WatchedSource, image: Json, theirs: Ingest, layer: Json
) -> None:
    """It is waited for as long as bytes come, however long that is."""

    def happens(waited_s: float) -> None:
        if waited_s < 100:
            grow(writing, theirs, int(waited_s * 1000))
        elif theirs.unit.phase.value == "reserved":
            theirs.stage()
            theirs.unit.publish()
            theirs.commit()
            theirs.unit.finish()

    time = Time(happens)
    outcome = commit(writing, source, image, time)
    assert time.waited_s == 100
    assert digest_of(layer) not in source.opened
    assert outcome.image.copied_bytes < len(LARGE)
    assert counts(writing.database, "intents") == {"intents": 0}


def test_what_is_small_is_fetched_before_the_wait(
    writing: Writing, source: WatchedSource, image: Json, theirs: Ingest, layer: Json
) -> None:
    seen: list[set[Digest]] = []
    commit(writing, source, image, Time(lambda _: seen.append(set(source.opened))))
    assert seen[0] == {Digest.of(b"small")}
    assert source.opened == {Digest.of(b"small"): 1, digest_of(layer): 1}
    theirs.unit.abort()


def test_process_that_does_not_get_on_is_waited_for_30_s(
    writing: Writing, source: WatchedSource, image: Json, theirs: Ingest, layer: Json
) -> None:
    time = Time(lambda waited_s: grow(writing, theirs, 1) if waited_s == 10 else None)
    commit(writing, source, image, time)
    assert time.waited_s == 10 + elsewhere.STALLED_S
    assert source.opened[digest_of(layer)] == 1
    assert rows(writing.database, "SELECT DISTINCT received_bytes FROM intents ORDER BY 1") == [(0,), (1,)]
    theirs.unit.abort()


def test_process_that_gave_up_is_not_waited_for_any_more(
    writing: Writing, source: WatchedSource, image: Json, theirs: Ingest, layer: Json
) -> None:
    time = Time(lambda waited_s: theirs.unit.abort() if waited_s == 5 else None)
    commit(writing, source, image, time)
    assert time.waited_s == 5
    assert source.opened[digest_of(layer)] == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE intents SET expires_at = 1",
        "UPDATE intents SET created_at = created_at + 3600000000",
        "UPDATE intents SET owner = :mine",
    ],
    ids=["expired", "later", "of this process"],
)
def test_intent_that_is_not_an_earlier_one_of_another_process_is_not_waited_for(
    writing: Writing, source: WatchedSource, image: Json, theirs: Ingest, layer: Json, statement: str
) -> None:
    mine = writing.writer.staging.owner
    values = {"mine": mine.hex if writing.database.is_sqlite else mine} if ":mine" in statement else {}
    change(writing.database, statement, **values)
    time = Time()
    commit(writing, source, image, time)
    assert time.slept == []
    assert source.opened[digest_of(layer)] == 1
    change(writing.database, "DELETE FROM intents")


def test_small_blob_is_not_waited_for(
    writing: Writing, builder: LayoutBuilder, layout: Path, other_writer: Callable[[], Writing]
) -> None:
    image = builder.image([LARGE[1:]])
    with source_of(builder, layout) as found:
        theirs = ingest_of(other_writer(), request_of(found, image))
        theirs.unit.reserve(theirs.image.blobs)
        time = Time()
        commit(writing, WatchedSource(found), image, time)
        theirs.unit.abort()
    assert time.slept == []


def test_import_of_a_layout_waits_for_nobody(
    writing: Writing, source: WatchedSource, image: Json, theirs: Ingest, layer: Json
) -> None:
    time = Time()
    registry = LocalRegistry(writing.writer, writing.store, clock_s=time.clock_s, sleep=time.sleep)
    with closing(registry):
        [outcome] = registry.import_images([request_of(source, image)])
    assert outcome.status == "imported"
    assert time.slept == []
    assert source.opened[digest_of(layer)] == 1
    theirs.unit.abort()


def test_who_receives_says_so_every_few_seconds(
    writing: Writing, source: WatchedSource, image: Json, layer: Json
) -> None:
    ingest = ingest_of(writing, request_of(source, image))
    now_s = 0.0
    ingest.unit._clock_s = lambda: now_s
    ingest.unit._noted_s = ingest.unit._renewed_s = 0.0
    ingest.unit.reserve(ingest.image.blobs)
    ingest.stage()
    said = "SELECT received_bytes FROM intents WHERE received_bytes > 0"
    ingest.unit.keep_alive()
    assert rows(writing.database, said) == []
    now_s = 5.0
    ingest.unit.keep_alive()
    assert rows(writing.database, said) == [(len(LARGE),)]
    change(writing.database, "UPDATE intents SET received_bytes = 0")
    now_s = 10.0
    ingest.unit.keep_alive()  # nothing has changed, so nothing is written
    assert rows(writing.database, said) == []
    assert scalar(writing.database, "SELECT count(*) FROM intents") == len(ingest.image.blobs)
    ingest.unit.abort()


def test_who_waits_for_two_goes_on_when_the_first_has_brought_it(
    writing: Writing, source: WatchedSource, image: Json, theirs: Ingest, layer: Json
) -> None:
    """A third process may have an earlier intent too: it waits just so, and says nothing any more."""
    change(
        writing.database,
        "INSERT INTO intents (key, digest, owner, host, created_at, expires_at)"
        " SELECT key || 'x', digest, :other, host, created_at, expires_at FROM intents WHERE key = :key",
        other=uuid4().hex,
        key=theirs.unit.keys[digest_of(layer)],
    )

    def happens(waited_s: float) -> None:
        if waited_s == 3:
            theirs.stage()
            theirs.unit.publish()
            theirs.commit()
            theirs.unit.finish()

    time = Time(happens)
    commit(writing, source, image, time)
    assert time.waited_s == 3
    assert digest_of(layer) not in source.opened
    change(writing.database, "DELETE FROM intents WHERE key LIKE '%x'")
