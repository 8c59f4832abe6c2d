"""Compare ``regmeta verify --read-data``'s pass over the bytes with ``openssl dgst`` on the same files.

Two processes of openssl work in parallel on half of the files each, with as many files to a call as fit on a
command line; regmeta hashes with two threads in this process, and asks its database what is there. Both find
the files in the page cache.

Usage: python -m benchmarks.verify --rounds 5 --work DIR
"""

import argparse
import gc
import hashlib
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

from benchmarks import adapter
from benchmarks.generate import random_blocks
from benchmarks.processes import Sample
from benchmarks.report import Target, paired_ratio, print_table, print_targets

JOBS: Final = 2
FILES_OF_A_CALL: Final = 5000
VERIFY: Final = "regmeta verify, the bytes"
OPENSSL: Final = f"openssl dgst, {JOBS} processes"
RATIO_LIMIT: Final = 1.15
FAR_US: Final = 4_000_000_000_000_000  # [us] the year 2096: no collector waits for these


@dataclass(frozen=True)
class BlobSet:
    """So many blobs of one size."""

    name: str
    blobs: int
    size_bytes: int
    limit: float | None  # of the ratio; None: no target


SETS: Final = (
    BlobSet("300 blobs of 4 MiB", 300, 4 << 20, RATIO_LIMIT),
    BlobSet("3,000 blobs of 8 KiB", 3000, 8 << 10, None),
)


def make_store(home: Path, chosen: BlobSet) -> list[Path]:
    """Make a registry whose blobs are rows and objects that no image names; return the files."""
    adapter.initialise(home)
    paths, rows = [], []
    for number in range(chosen.blobs):
        content = next(random_blocks(f"{chosen.name}/{number}", chosen.size_bytes))
        found = hashlib.sha256(content)
        key = f"sha256/{found.hexdigest()[:2]}/{found.hexdigest()}.{uuid.uuid4().hex}"
        path = home / "store" / "blobs" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        paths.append(path)
        rows.append((b"\1" + found.digest(), len(content), key, FAR_US))
    with closing(sqlite3.connect(home / "regmeta.db", isolation_level=None)) as database:
        database.execute("BEGIN")
        database.executemany(
            "INSERT INTO blobs (digest, size_bytes, key, state, created_at, lease_until)"
            " VALUES (?, ?, ?, 'live', 1, ?)",
            rows,
        )
        database.execute("COMMIT")
    return paths


def openssl(paths: list[Path]) -> None:
    """Hash all files, half of them in each of two processes at a time."""
    halves = [paths[start::JOBS] for start in range(JOBS)]
    waiting = [_calls(half) for half in halves]
    running = [next(calls, None) for calls in waiting]
    while any(running):
        for at, process in enumerate(running):
            if process is not None:
                if process.wait():
                    raise SystemExit("openssl dgst failed")
                running[at] = next(waiting[at], None)


def _calls(paths: list[Path]) -> Iterator[subprocess.Popen[bytes]]:
    left = iter(paths)
    while some := list(islice(left, FILES_OF_A_CALL)):
        yield subprocess.Popen(["openssl", "dgst", "-sha256", *map(str, some)], stdout=subprocess.DEVNULL)


def measure_openssl(paths: list[Path]) -> Sample:
    """Run openssl; the time on the processors is that of its processes."""
    start_cpu_s, start_s = _cpu_s(), time.perf_counter()
    openssl(paths)
    return Sample(time.perf_counter() - start_s, _cpu_s() - start_cpu_s)


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run_set(chosen: BlobSet, rounds: int, work: Path) -> list[Target]:
    """Measure one set in interleaved rounds."""
    home = work / f"home-{chosen.size_bytes}"
    paths = make_store(home, chosen)
    cases: dict[str, list[Sample]] = {OPENSSL: [], VERIFY: []}
    work_on: dict[str, Callable[[], Sample]] = {
        OPENSSL: partial(measure_openssl, paths),
        VERIFY: partial(adapter.verify_in_process, home, chosen.blobs, JOBS),
    }
    for case in work_on.values():
        case()  # the page cache and SQLAlchemy's caches are warm from here on
    for number in range(rounds):
        # Who comes first changes: a machine's load seldom stands still.
        for name in sorted(work_on, reverse=bool(number % 2)):
            cases[name].append(work_on[name]())
    shutil.rmtree(home)
    print_table(f"{chosen.name}, wall seconds of {rounds} rounds", cases, OPENSSL, "openssl")
    if chosen.limit is None:
        return []
    ratio = paired_ratio(cases[VERIFY], cases[OPENSSL])
    return [Target(f"{chosen.name}, ratio to openssl", ratio, chosen.limit, "x")]


def main() -> int:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description="Time the hashing of stored blobs.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, required=True, help="a folder on the disk to measure")
    arguments = parser.parse_args()
    gc.set_threshold(100_000, 50, 100)  # as the command does
    arguments.work.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="verify-", dir=arguments.work.resolve()))
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors", flush=True)
    try:
        targets = [target for chosen in SETS for target in run_set(chosen, arguments.rounds, work)]
    finally:
        shutil.rmtree(work)
    print(f"\nload after: {os.getloadavg()[0]:.1f}")
    return print_targets(targets)


if __name__ == "__main__":
    sys.exit(main())
