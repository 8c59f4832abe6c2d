"""Collect 1,000 blobs from registries of very different sizes: the cost must follow the garbage.

The registries are rows that are inserted in bulk (a real schema, a real store, no object but the dead ones).
In each, 500 images lose their tag: their manifests and layers are 1,000 blobs. They lie in a row, as images
of one build do. Rows are counted by ``total_changes``, SQLite's work by the instructions of its virtual
machine, and pages by the page cache of its connections: hits, misses and writes. A larger B-tree has more
levels, and each look-up reads a page of each; and digests that are neighbours in none of them share fewer
pages. So the target is on accesses over the mean number of levels, and the plain figures are printed.

Beside it, on stores of the same images, ``docker-registry garbage-collect`` (offline) and ``regmeta gc run``
(online), whole processes.

Usage: python -m benchmarks.collect --manifests 10000 --manifests 1000000 --work DIR
"""

import argparse
import ctypes
import hashlib
import json
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from benchmarks import adapter
from benchmarks.generate import MEDIA_CONFIG, MEDIA_LAYER, MEDIA_MANIFEST
from benchmarks.processes import Sample, measure, total
from benchmarks.report import Target, print_targets

GARBAGE_IMAGES: Final = 500
DEAD_BLOBS: Final = 2 * GARBAGE_IMAGES  # the manifest's own bytes and one layer
IMAGES_OF_A_REPOSITORY: Final = 1000
BASES: Final = 8
PEER_IMAGES: Final = 2000
DAY_US: Final = 86_400_000_000
CHUNK: Final = 20_000
LIMIT_PERCENT: Final = 10.0
PEER: Final = "docker-registry"
CONFIG = """\
version: 0.1
storage:
  filesystem:
    rootdirectory: {root}
  delete:
    enabled: true
http:
  addr: 127.0.0.1:0
"""


# --- registries of rows -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Content:
    """Some bytes, and how rows and files name them."""

    content: bytes

    @property
    def hex(self) -> str:
        """The hash."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def digest(self) -> bytes:
        """What a row holds: one byte for sha256, and the hash."""
        return DIGEST_PREFIX + bytes.fromhex(self.hex)

    @property
    def key(self) -> str:
        """A key of the store; the same for the same content, so that a run can be repeated."""
        return f"sha256/{self.hex[:2]}/{self.hex}.{UUID(self.hex[:32]).hex}"

    def descriptor(self, media_type: str) -> dict[str, Any]:
        """Return its descriptor."""
        return {"mediaType": media_type, "digest": f"sha256:{self.hex}", "size": len(self.content)}


DIGEST_PREFIX: Final = b"\x01"
BASE: Final = [(Content(f"config {n}".encode()), Content(f"base layer {n}".encode())) for n in range(BASES)]


@dataclass(frozen=True, slots=True)
class Image:
    """One image: a base's configuration and layer, and a layer of its own."""

    number: int
    manifest: Content
    layer: Content

    @classmethod
    def make(cls, number: int) -> "Image":
        """Make the image of this number; the same number gives the same bytes."""
        config, base = BASE[number % BASES]
        layer = Content(f"layer {number}".encode())
        document = {
            "schemaVersion": 2,
            "mediaType": MEDIA_MANIFEST,
            "config": config.descriptor(MEDIA_CONFIG),
            "layers": [base.descriptor(MEDIA_LAYER), layer.descriptor(MEDIA_LAYER)],
        }
        return cls(number, Content(json.dumps(document, separators=(",", ":")).encode()), layer)


def fill(home: Path, images: int, garbage: range) -> None:
    """Make a registry of so many images in the home folder; those of *garbage* have lost their tag."""
    adapter.initialise(home)
    now = time.time_ns() // 1000
    old = now - 30 * DAY_US
    with sqlite3.connect(home / "regmeta.db", isolation_level=None) as database:
        database.executescript("PRAGMA synchronous = OFF; PRAGMA foreign_keys = OFF; BEGIN;")
        _insert(
            database,
            "repositories (id, name, revision, created_at, updated_at)",
            ((n + 1, f"repo-{n:05d}", 1, old, old) for n in range(-(-images // IMAGES_OF_A_REPOSITORY))),
        )
        shared = [content for pair in BASE for content in pair]
        _insert(database, _BLOBS, (_blob(n + 1, content, old) for n, content in enumerate(shared)))
        ids = {content: n + 1 for n, content in enumerate(shared)}
        numbers = iter(range(images))
        while some := [Image.make(number) for number in islice(numbers, CHUNK)]:
            _insert_images(database, some, ids, garbage, old)
        database.execute("COMMIT")
    for number in range(-(-images // IMAGES_OF_A_REPOSITORY)):  # a store without any looks unmounted
        snapshot = home / "store" / "layouts" / f"repo-{number:05d}" / f"_1-1.{UUID(int=number).hex}.json"
        snapshot.parent.mkdir(parents=True)
        snapshot.write_text('{"schemaVersion":2,"manifests":[]}')
    for number in garbage:
        image = Image.make(number)
        for content in (image.manifest, image.layer):
            path = home / "store" / "blobs" / content.key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.content)


_BLOBS: Final = "blobs (id, digest, size_bytes, key, lease_until, created_at)"


def _blob(number: int, content: Content, at: int) -> tuple[Any, ...]:
    return (number, content.digest, len(content.content), content.key, at, at)


def _insert_images(
    database: sqlite3.Connection, images: list[Image], base: dict[Content, int], garbage: range, at: int
) -> None:
    first = 2 * BASES + 1

    def blob_ids(image: Image) -> tuple[int, int]:
        return first + 2 * image.number, first + 2 * image.number + 1

    _insert(
        database,
        _BLOBS,
        (
            _blob(number, content, at)
            for image in images
            for number, content in zip(blob_ids(image), (image.manifest, image.layer), strict=True)
        ),
    )
    _insert(
        database,
        "manifests (id, repository_id, digest, kind, media_type, size_bytes, content, blob_id, layer_count,"
        " total_size_bytes, pushed_at, pushed_by, lease_until)",
        (
            (
                image.number + 1,
                image.number // IMAGES_OF_A_REPOSITORY + 1,
                image.manifest.digest,
                "image",
                MEDIA_MANIFEST,
                len(image.manifest.content),
                image.manifest.content,
                blob_ids(image)[0],
                2,
                100,
                at,
                "bench",
                at,
            )
            for image in images
        ),
    )
    edges, links = [], []
    for image in images:
        config, layer = (base[content] for content in BASE[image.number % BASES])
        own = blob_ids(image)
        repository = image.number // IMAGES_OF_A_REPOSITORY + 1
        edges += [
            (image.number + 1, position, role, blob)
            for position, (role, blob) in enumerate((("config", config), ("layer", layer), ("layer", own[1])))
        ]
        links += [(repository, blob, at) for blob in (*own, config, layer)]
    _insert(database, "manifest_blobs (manifest_id, position, role, blob_id)", edges)
    _insert(database, "repository_blobs (repository_id, blob_id, linked_at)", links, "INSERT OR IGNORE")
    _insert(
        database,
        "tags (repository_id, name, manifest_digest, manifest_id, started_at, started_by, ended_at)",
        (
            (
                image.number // IMAGES_OF_A_REPOSITORY + 1,
                f"v{image.number}",
                image.manifest.digest,
                image.number + 1,
                at,
                "bench",
                at + 1 if image.number in garbage else None,
            )
            for image in images
        ),
    )
    _insert(
        database,
        "gc_tasks (kind, target_id, repository_id, reason, created_at, not_before)",
        (
            ("manifest", image.number + 1, image.number // IMAGES_OF_A_REPOSITORY + 1, "untagged", at, at)
            for image in images
            if image.number in garbage
        ),
    )


def _insert(database: sqlite3.Connection, into: str, rows: Any, verb: str = "INSERT") -> None:
    rows = iter(rows)
    first = next(rows, None)
    if first is not None:
        statement = f"{verb} INTO {into} VALUES ({', '.join('?' * len(first))})"
        database.execute(statement, first)
        database.executemany(statement, rows)


# --- what SQLite does -------------------------------------------------------------------------

HITS, MISSES, WRITES = 7, 8, 9  # SQLITE_DBSTATUS_CACHE_…
STEPS_OF_A_TICK: Final = 50


@dataclass
class Counted:
    """What all connections did while they were watched."""

    rows: int = 0
    steps: int = 0
    pages: dict[str, int] = field(default_factory=dict)
    wall_s: float = 0.0


def _status(connection: sqlite3.Connection, what: int) -> int:
    # The driver does not show the counters of the page cache. In a connection of CPython, the library's
    # own handle is the first field behind the object's head.
    import _sqlite3

    handle = ctypes.c_void_p.from_address(id(connection) + object.__basicsize__)
    library = ctypes.CDLL(_sqlite3.__file__)
    now, peak = ctypes.c_int(), ctypes.c_int()
    if library.sqlite3_db_status(handle, what, ctypes.byref(now), ctypes.byref(peak), 0):
        raise SystemExit("SQLite does not tell what its page cache did")
    return now.value


def watched(work: Callable[[], None]) -> Counted:
    """Run something, and count what the connections that it opens do."""
    found = Counted(pages=dict.fromkeys(("accesses", "writes"), 0))
    opened: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def tick() -> int:
        found.steps += STEPS_OF_A_TICK
        return 0

    class Watched(sqlite3.Connection):
        def close(self) -> None:
            _add(self)
            super().close()

    def _add(connection: sqlite3.Connection) -> None:
        if connection in opened:
            opened.remove(connection)
            found.rows += connection.total_changes
            found.pages["accesses"] += _status(connection, HITS) + _status(connection, MISSES)
            found.pages["writes"] += _status(connection, WRITES)

    def connected(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, factory=Watched, **options)
        connection.set_progress_handler(tick, STEPS_OF_A_TICK)
        opened.append(connection)
        return connection

    sqlite3.connect = connected  # type: ignore[assignment]
    start_s = time.perf_counter()
    try:
        work()
    finally:
        found.wall_s = time.perf_counter() - start_s
        sqlite3.connect = connect
        for connection in list(opened):
            _add(connection)
    return found


LEVELS: Final = """
    SELECT avg(levels) FROM (
        SELECT max(length(path) - length(replace(path, '/', ''))) AS levels
        FROM dbstat JOIN sqlite_master USING (name)
        WHERE tbl_name IN ('blobs', 'manifests', 'manifest_blobs', 'repository_blobs', 'index_manifests',
                           'tags', 'labels')
        GROUP BY name HAVING count(*) > 1)
"""


def levels_of(home: Path) -> float:
    """Return how many levels the B-trees have that a collection looks things up in, on the average."""
    with sqlite3.connect(home / "regmeta.db") as database:
        return float(database.execute(LEVELS).fetchone()[0])


# --- the peer ---------------------------------------------------------------------------------


def fill_peer(root: Path, images: int, garbage: range) -> Path:
    """Write a registry of docker's in its own layout; *garbage* has no tag. Returns its settings file."""
    base = root / "docker" / "registry" / "v2"

    def blob(content: Content) -> None:
        path = base / "blobs" / "sha256" / content.hex[:2] / content.hex / "data"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.content)

    def link(path: Path, content: Content) -> None:
        path.mkdir(parents=True, exist_ok=True)
        (path / "link").write_text(f"sha256:{content.hex}")

    for pair in BASE:
        for content in pair:
            blob(content)
    for image in map(Image.make, range(images)):
        name = f"repo-{image.number // IMAGES_OF_A_REPOSITORY:05d}"
        repository = base / "repositories" / name
        for content in (image.manifest, image.layer):
            blob(content)
        link(repository / "_manifests" / "revisions" / "sha256" / image.manifest.hex, image.manifest)
        for content in (image.layer, *BASE[image.number % BASES]):
            link(repository / "_layers" / "sha256" / content.hex, content)
        if image.number not in garbage:
            tag = repository / "_manifests" / "tags" / f"v{image.number}"
            link(tag / "current", image.manifest)
            link(tag / "index" / "sha256" / image.manifest.hex, image.manifest)
    config = root / "config.yml"
    config.write_text(CONFIG.format(root=root))
    return config


def peers(work: Path, images: int) -> Iterator[tuple[str, Sample, int]]:
    """Give how long each registry takes for the same garbage, and how many blobs it deleted."""
    garbage = range(images // 2, images // 2 + GARBAGE_IMAGES)
    if shutil.which(PEER) is None:
        print(f"{PEER} is not installed: no peer")
    else:
        config = fill_peer(work / "peer", images, garbage)
        before = _blobs_of(work / "peer")
        took = measure([PEER, "garbage-collect", "--delete-untagged", str(config)])
        yield f"{PEER} garbage-collect (offline)", took, before - _blobs_of(work / "peer")
    home = work / "beside-peer"
    fill(home, images, garbage)
    before = _objects_of(home)
    runs = []
    for _ in range(2):  # rows; and objects, once the read window is over
        runs.append(measure(adapter.cli_collect("regmeta"), adapter.cli_environment(home)))
        with sqlite3.connect(home / "regmeta.db") as database:
            database.execute("UPDATE tombstones SET not_before = 0")
    yield "regmeta gc run, twice (online)", total(runs), before - _objects_of(home)


def _blobs_of(root: Path) -> int:
    return sum(1 for _ in (root / "docker" / "registry" / "v2" / "blobs").rglob("data"))


def _objects_of(home: Path) -> int:
    return sum(1 for path in (home / "store" / "blobs").rglob("*") if path.is_file())


# --- running ----------------------------------------------------------------------------------


def run(sizes: list[int], work: Path) -> int:
    """Measure; return the exit code: 1 if a target was missed."""
    counted: dict[int, Counted] = {}
    levels: dict[int, float] = {}
    for images in sizes:
        home = work / f"home-{images}"
        start_s = time.perf_counter()
        fill(home, images, range(images // 2, images // 2 + GARBAGE_IMAGES))
        print(f"{images} manifests were made in {time.perf_counter() - start_s:.1f} s", flush=True)
        levels[images] = levels_of(home)
        counted[images] = watched(partial(adapter.collect_in_process, home, DEAD_BLOBS))
    names = ("rows changed", "SQLite instructions", "accesses of a level", "page accesses", "pages written")
    table = {
        images: (
            found.rows,
            found.steps,
            found.pages["accesses"] / levels[images],
            found.pages["accesses"],
            found.pages["writes"],
        )
        for images, found in counted.items()
    }
    print(f"\n{DEAD_BLOBS} blobs collected; per blob")
    heads = " ".join(f"{name:>20}" for name in names)
    print(f"{'manifests':>10} {'levels':>7} {heads} {'wall s':>8}")
    for images, values in table.items():
        cells = " ".join(f"{value / DEAD_BLOBS:20.2f}" for value in values)
        print(f"{images:10} {levels[images]:7.2f} {cells} {counted[images].wall_s:8.2f}")
    smallest, largest = table[min(sizes)], table[max(sizes)]
    targets = [
        Target(f"more {name} at {max(sizes)}", 100 * (high / low - 1), LIMIT_PERCENT, "%")
        for name, low, high in list(zip(names, smallest, largest, strict=True))[:3]
    ]
    print(f"\n{PEER_IMAGES} images, {GARBAGE_IMAGES} of them without a tag; whole processes")
    for name, took, deleted in peers(work, PEER_IMAGES):
        print(f"{name:40} {took.wall_s:8.2f} s, {took.cpu_s:.2f} s CPU, {deleted} blobs deleted")
    return print_targets(targets)


def main() -> int:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description="Count what the collection of 1,000 blobs costs.")
    parser.add_argument("--manifests", type=int, action="append", help="size of a registry; more than once")
    parser.add_argument("--work", type=Path, required=True, help="a folder on the disk to measure")
    parser.add_argument("--keep", action="store_true", help="leave the folders in --work")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="collect-", dir=arguments.work.resolve()))
    try:
        return run(arguments.manifests or [10_000, 1_000_000], work)
    finally:
        if not arguments.keep:
            shutil.rmtree(work)


if __name__ == "__main__":
    sys.exit(main())
