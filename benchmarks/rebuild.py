"""Compare a rebuild of a lost database with the physical floor of it.

The store is made of plain files: objects under keys and a snapshot for each repository. The floor reads and
hashes the same manifests and configurations, and inserts the same rows with ``executemany`` into the same
tables of a new SQLite file, in one transaction; it parses nothing and checks nothing.

Usage: python -m benchmarks.rebuild --images 10000 --rounds 3 --work DIR
"""

import argparse
import gc
import hashlib
import json
import os
import shutil
import sqlite3
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks import adapter
from benchmarks.generate import MEDIA_LAYER, PLATFORMS, LayoutWriter, random_blocks
from benchmarks.processes import Sample
from benchmarks.report import Target, paired_ratio, print_table, print_targets

IMAGES_OF_A_REPOSITORY: Final = 1000
LAYERS: Final = 5
SHARED_LAYERS: Final = 4  # of eight bases
LAYER_BYTES: Final = 512
RATE_LIMIT: Final = 2000  # [manifests/s] at least
REBUILD: Final = "regmeta rebuild, in process"
FLOOR: Final = "floor"
JsonObject = dict[str, Any]


def make_store(home: Path, images: int) -> list[Path]:
    """Make a home whose database is lost; return the files that a rebuild must read and hash."""
    adapter.initialise(home)
    layout = home.with_name("layout")
    writer = LayoutWriter(layout)

    def layer(name: str) -> JsonObject:
        return writer.add_blob(MEDIA_LAYER, [next(random_blocks(name, LAYER_BYTES))])

    bases = [[layer(f"base/{base}/{at}") for at in range(SHARED_LAYERS)] for base in range(8)]
    entries: list[JsonObject] = []
    for number in range(images):
        own = [layer(f"own/{number}/{at}") for at in range(LAYERS - SHARED_LAYERS)]
        image = writer.add_image(f"img-{number}", number, PLATFORMS[0], bases[number % 8] + own)
        tag = {"org.opencontainers.image.ref.name": f"img-{number}"}
        entries.append({**image, "annotations": tag})
    to_read: list[Path] = []
    for path in (layout / "blobs" / "sha256").iterdir():
        target = home / "store" / "blobs" / "sha256" / path.name[:2] / f"{path.name}.{uuid.uuid4().hex}"
        target.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes()
        path.rename(target)
        target.chmod(0o444)
        if content.startswith(b"{"):
            to_read.append(target)
    for start in range(0, images, IMAGES_OF_A_REPOSITORY):
        _write_snapshot(home / "store", f"repo-{start:06d}", entries[start : start + IMAGES_OF_A_REPOSITORY])
    lose_database(home)
    return sorted(to_read)


def _write_snapshot(store: Path, repository: str, entries: list[JsonObject]) -> None:
    document = {
        "schemaVersion": 2,
        "manifests": entries,
        "annotations": {
            "io.regmeta.repository": repository,
            "io.regmeta.revision": "1-1",
            "io.regmeta.state": "active",
        },
    }
    path = store / "layouts" / repository / f"_1-1.{uuid.uuid4().hex}.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(document, separators=(",", ":")))


def lose_database(home: Path) -> None:
    """Remove the database."""
    for path in home.glob("regmeta.db*"):
        path.unlink()


def rows_of(home: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows that the rebuild wrote."""
    with sqlite3.connect(home / "regmeta.db") as database:
        tables = [
            name
            for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if not name.startswith("sqlite_")
        ]
        return {name: database.execute(f"SELECT * FROM {name}").fetchall() for name in tables}


def schema_of(home: Path) -> list[str]:
    """Return the statements that make the tables and their indexes."""
    with sqlite3.connect(home / "regmeta.db") as database:
        found = database.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
        return [sql for name, sql in found if not name.startswith("sqlite_")]


def floor(path: Path, to_read: list[Path], schema: list[str], rows: dict[str, list[tuple[Any, ...]]]) -> None:
    """Read and hash what must be read, and insert the rows."""
    for file in to_read:
        content = file.read_bytes()
        if hashlib.sha256(content).hexdigest() != file.name.partition(".")[0]:
            raise SystemExit(f"{file}: rotten")
    database = sqlite3.connect(path, isolation_level=None)
    database.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")
    database.execute("BEGIN IMMEDIATE")
    for statement in schema:
        database.execute(statement)
    for table, values in rows.items():
        if values:
            marks = ", ".join("?" * len(values[0]))
            database.executemany(f"INSERT INTO {table} VALUES ({marks})", values)
    database.execute("COMMIT")
    database.close()


def measured(work: Callable[[], None]) -> Sample:
    """Run something in this process."""
    os.sync()
    start_s, wall_s = time.process_time(), time.perf_counter()
    work()
    return Sample(time.perf_counter() - wall_s, time.process_time() - start_s)


def run(images: int, rounds: int, work: Path) -> int:
    """Measure in interleaved rounds; return the exit code: 1 if the target was missed."""
    home = work / "home"
    to_read = make_store(home, images)
    print(f"{images} images, {len(to_read)} manifests and configurations to read", flush=True)
    cases: dict[str, list[Sample]] = {FLOOR: [], REBUILD: []}
    for number in range(rounds):
        again = work / f"home-{number}"
        shutil.copytree(home, again, copy_function=os.link)
        cases[REBUILD].append(measured(partial(adapter.rebuild_in_process, again, images)))
        rows, schema = rows_of(again), schema_of(again)
        cases[FLOOR].append(measured(partial(floor, work / f"floor-{number}.db", to_read, schema, rows)))
        count = sum(len(values) for values in rows.values())
        print(f"round {number + 1}: {count} rows, {images / cases[REBUILD][-1].wall_s:.0f} manifests/s")
    print_table(f"wall seconds of {rounds} rounds", cases, FLOOR, "floor")
    print(f"\nratio to the floor: {paired_ratio(cases[REBUILD], cases[FLOOR]):.2f}")
    best = max(images / sample.wall_s for sample in cases[REBUILD])
    slowest = Target("seconds for 10,000 manifests", 10_000 / best, 10_000 / RATE_LIMIT, "s")
    return print_targets([slowest])


def main() -> int:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description="Time the rebuild of a lost database.")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, required=True, help="a folder on the disk to measure")
    parser.add_argument("--keep", action="store_true", help="leave the folders in --work")
    arguments = parser.parse_args()
    gc.set_threshold(100_000, 50, 100)  # as the command does
    arguments.work.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="rebuild-", dir=arguments.work.resolve()))
    try:
        return run(arguments.images, arguments.rounds, work)
    finally:
        if not arguments.keep:
            shutil.rmtree(work)


if __name__ == "__main__":
    sys.exit(main())
