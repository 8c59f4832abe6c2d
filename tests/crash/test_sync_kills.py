"""A sync that is killed again and again: what was committed is not fetched again, and in the end all is here.

The upstream is in this process and notes every request; the sync is the real program. A kill falls at a
moment that is counted in what the sync has done (requests, layers, objects, commits), and a little later by
chance, so that a slow machine has its kills in the same phases as a fast one. The upstream grows while the
sync is killed: each run has something to do.
"""

from __future__ import annotations

import json
import platform
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

import pytest

from regmeta.oci.digest import Digest
from regmeta.settings import Settings
from tests.builders import AMD64, ARM64, LayoutBuilder, digest_of
from tests.crash.harness.judge import ALLOWED_AFTER_CRASH
from tests.crash.processes import TIMEOUT_S, published, run, started
from tests.support.consistency import assert_consistent, findings
from tests.support.derived import text
from tests.support.registries.bad_registry import BadRegistry
from tests.support.registries.rules import Slow
from tests.support.registry import open_parts, rows, scalar, tags
from tests.support.syncs import write_config

REPOSITORY: Final = "app"
KIB: Final = 1024
PHASES: Final = ("start", "requests", "layers", "objects", "commit")
TAKES_AT_LEAST: Final = 5  # runs that end by themselves, at most, for each kill


@dataclass
class Images:
    """An upstream's images, each with all that belongs to it; some are shown, others are to come."""

    builder: LayoutBuilder
    tags: dict[str, Digest] = field(default_factory=dict)
    signed: dict[str, Digest] = field(default_factory=dict)  # tag to the digest of its signature

    @cached_property
    def layers(self) -> frozenset[str]:
        """The digests of layers, without configurations, which are read before anything is reserved."""
        documents = [json.loads(self.builder.blobs[digest]) for digest in self._manifests()]
        return frozenset(layer["digest"] for document in documents for layer in document.get("layers", ()))

    def _manifests(self) -> Iterator[str]:
        for digest, content in self.builder.blobs.items():
            if content.startswith(b'{"schemaVersion"'):
                yield digest

    @property
    def names(self) -> list[str]:
        """The tags of images, without those of signatures."""
        return [tag for tag in self.tags if not tag.startswith("sha256-")]


def make_images(number: int, seed: int, largest_bytes: int) -> Images:
    """Make images of one to three layers; two of three have a base in common, every fifth is an index of two
    platforms, every seventh has a signature, by a referrer or by a tag of cosign's."""
    chance = random.Random(seed)
    builder = LayoutBuilder(seed=seed)
    made = Images(builder)
    base = builder.layer(chance.randbytes(largest_bytes))

    def image(with_base: bool, **options: object) -> dict[str, object]:
        own = [
            builder.layer(chance.randbytes(chance.randint(100, largest_bytes)))
            for _ in range(chance.randint(1, 2))
        ]
        return builder.image([*([base] if with_base else []), *own], **options)  # type: ignore[arg-type]

    for n in range(number):
        name = f"v{n:03}"
        if n % 5 == 0:
            root = builder.index([image(n % 3 != 1, platform=each) for each in (AMD64, ARM64)])
        else:
            root = image(n % 3 != 1)
        made.tags[name] = digest_of(root)
        if n % 7 == 0:
            signature = b"signature of %s" % name.encode()
            if n % 2 == 0:
                kind = "application/vnd.dev.cosign.artifact.sig.v1+json"
                made.signed[name] = digest_of(builder.artifact(signature, kind, root))
            else:
                of = builder.image([signature])
                made.signed[name] = digest_of(of)
                made.tags[f"sha256-{digest_of(root).hex}.sig"] = digest_of(of)
    return made


class Upstream:
    """A registry that has more and more of the images."""

    def __init__(self, registry: BadRegistry, images: Images) -> None:
        self.registry = registry
        self.images = images
        registry.push(images.builder, REPOSITORY)
        self.shown = 0
        registry.misbehave("/(blobs|manifests)/", Slow(0.02))

    def show(self, number: int) -> None:
        """Let so many images be there."""
        self.shown = min(max(number, self.shown), len(self.images.names))
        listed = self.registry.tags[REPOSITORY]
        for name in self.images.names[: self.shown]:
            digest = self.images.tags[name]
            signature = f"sha256-{digest.hex}.sig"
            if signature in self.images.tags:
                listed[signature] = str(self.images.tags[signature])
            listed[name] = str(digest)

    def fetched(self, first: int) -> Counter[str]:
        """Count the requests for each blob from the request of number *first* on."""
        found: Counter[str] = Counter()
        for request in self.registry.requests[first:]:
            if request.method == "GET" and "/blobs/" in request.path:
                found[request.path.rpartition("/")[2]] += 1
        return found


@dataclass
class Notes:
    """What happened, over all runs."""

    kills: Counter[str] = field(default_factory=Counter)
    ended: int = 0
    in_the_middle: int = 0  # kills after which layers that were asked for were not committed
    unfinished: int = 0  # kills after which images were still to come
    refetched: list[str] = field(default_factory=list)


class Outside:
    """Looks at a registry from outside, while others use it and die."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database, self.store = open_parts(settings)

    def close(self) -> None:
        """Let go of it."""
        self.database.close()
        self.store.close()

    def live(self) -> set[str]:
        """Return the digests of blobs that are committed."""
        found = rows(self.database, "SELECT digest FROM blobs WHERE state = 'live'")
        return {text(bytes(digest)) for (digest,) in found}

    def commits(self) -> int:
        """Return how many batches were committed."""
        return int(scalar(self.database, "SELECT count(*) FROM ingests"))

    def here(self) -> dict[str, Digest]:
        """Return the tags, after a check that nothing is there by halves."""
        found = findings(self.database, self.store)
        assert [line for line in found if not ALLOWED_AFTER_CRASH.fullmatch(line)] == []
        return tags(self.database, REPOSITORY)


def moment(outside: Outside, upstream: Upstream, phase: str, chance: random.Random) -> Callable[[], bool]:
    """Draw when a sync is to die."""
    first = len(upstream.registry.requests)
    objects, batches = published(outside.settings), outside.commits()
    number = chance.randint(1, 40)
    if phase == "requests":
        return lambda: len(upstream.registry.requests) - first >= number
    if phase == "layers":
        layers = upstream.images.layers
        return lambda: len(upstream.fetched(first).keys() & layers) >= 1 + number // 8
    if phase == "objects":
        return lambda: published(outside.settings) > objects
    if phase == "commit":
        return lambda: outside.commits() > batches
    return lambda: len(upstream.registry.requests) > first


def kill_once(outside: Outside, upstream: Upstream, phase: str, chance: random.Random) -> bool:
    """Run the sync and kill it; tell whether it was alive until then."""
    is_time = moment(outside, upstream, phase, chance)
    until_s = time.monotonic() + TIMEOUT_S
    with started(outside.settings, "sync", "run") as process:
        while not is_time() and process.poll() is None:
            assert time.monotonic() < until_s, "it never came to that"
            time.sleep(0.002)
        time.sleep(chance.random() * 0.03)
        was_alive = process.poll() is None
        process.send_signal(signal.SIGKILL)
        _, said = process.communicate(timeout=TIMEOUT_S)
    assert was_alive == (process.returncode == -signal.SIGKILL) or process.returncode == 0, said
    assert process.returncode in (0, -signal.SIGKILL), said
    assert "Traceback" not in said
    return process.returncode != 0


def kill_again_and_again(
    outside: Outside, upstream: Upstream, kills: int, *, seed: int, at_first: int
) -> Notes:
    """Kill syncs in all phases, with a check after each."""
    chance = random.Random(seed)
    notes = Notes()
    names = upstream.images.names
    upstream.show(at_first)
    step = (len(names) - at_first) / kills
    while sum(notes.kills.values()) < kills:
        done = sum(notes.kills.values())
        assert notes.ended < TAKES_AT_LEAST * kills
        before, known = outside.live(), outside.here()
        upstream.show(round(at_first + step * (done + 1)))
        if all(name in known for name in names[: upstream.shown]):
            upstream.show(upstream.shown + 1)
        phase = PHASES[done % len(PHASES)]
        first = len(upstream.registry.requests)
        if kill_once(outside, upstream, phase, chance):
            notes.kills[phase] += 1
            asked = upstream.fetched(first).keys() & upstream.images.layers
            notes.in_the_middle += not asked <= outside.live()
        else:
            notes.ended += 1
        notes.refetched += sorted(before & upstream.fetched(first).keys())
        found = outside.here()
        assert found.items() <= upstream.images.tags.items()
        notes.unfinished += not all(name in found for name in names[: upstream.shown])
    return notes


def finish(outside: Outside, upstream: Upstream, notes: Notes) -> None:
    """Run the sync to its end, and look whether all is here."""
    settings, database = outside.settings, outside.database
    upstream.show(len(upstream.images.names))
    before, first = outside.live(), len(upstream.registry.requests)
    run(settings, "sync", "run")
    notes.refetched += sorted(before & upstream.fetched(first).keys())
    assert notes.refetched == []
    images = upstream.images
    assert outside.here() == images.tags
    assert_consistent(database, outside.store)
    stored = {
        text(bytes(digest)): Path(settings.store, "blobs", key).read_bytes()
        for digest, key in rows(database, "SELECT digest, key FROM blobs WHERE state = 'live'")
    }
    assert stored == images.builder.blobs
    found = rows(database, "SELECT digest FROM manifests WHERE subject_digest IS NOT NULL")
    referrers = {Digest.from_bytes(bytes(digest)) for (digest,) in found}
    assert referrers == set(images.signed.values()) - set(images.tags.values())
    outcomes = rows(database, "SELECT outcome, ended_at IS NOT NULL, host FROM sync_runs ORDER BY id")
    assert {(ended, host) for _, ended, host in outcomes} == {(True, platform.node())}
    told = Counter(outcome for outcome, _, _ in outcomes)
    assert told["done"] >= 1 + notes.ended
    assert told["interrupted"] + told["done"] == len(outcomes)
    # A run that died before its first transaction has no row; one that died after its last one is done.
    assert told["interrupted"] >= sum(notes.kills.values()) * 3 // 4
    assert list(Path(settings.store, "staging").iterdir()) == []
    first = len(upstream.registry.requests)
    run(settings, "sync", "run")
    assert upstream.fetched(first) == {}
    run(settings, "verify", "--read-data")


@contextmanager
def upstream_of(images: Images) -> Iterator[Upstream]:
    """Run the upstream in this process."""
    with BadRegistry() as registry:
        yield Upstream(registry, images)


@pytest.mark.soak_on_postgresql
def test_sync_of_12_images_that_is_killed_6_times_ends_whole(settings: Settings) -> None:
    with upstream_of(make_images(12, 5, 64 * KIB)) as upstream, closing(Outside(settings)) as outside:
        write_config(settings, upstream.registry.url, "images_at_once = 2")
        notes = kill_again_and_again(outside, upstream, 6, seed=5, at_first=6)
        finish(outside, upstream, notes)
    assert sum(notes.kills.values()) == 6


@pytest.mark.soak
@pytest.mark.long_on_postgresql
@pytest.mark.timeout(900)
def test_sync_of_50_images_that_is_killed_40_times_ends_whole_and_fetches_nothing_twice(
    settings: Settings,
) -> None:
    with upstream_of(make_images(50, 6, 1024 * KIB)) as upstream, closing(Outside(settings)) as outside:
        write_config(settings, upstream.registry.url, "images_at_once = 2")
        notes = kill_again_and_again(outside, upstream, 40, seed=6, at_first=10)
        print(notes)
        finish(outside, upstream, notes)
    assert sum(notes.kills.values()) == 40
    assert set(notes.kills) == set(PHASES)
    assert notes.in_the_middle >= 5
    assert notes.unfinished >= 20


def test_images_are_of_all_kinds() -> None:
    """What the long test is about is in its images."""
    images = make_images(50, 6, KIB)
    assert len(images.names) == 50
    assert len(images.signed) == 8
    assert len(images.tags) == 54
    kinds = Counter(b'"manifests"' in images.builder.blobs[str(images.tags[name])] for name in images.names)
    assert kinds == {True: 10, False: 40}
