"""What ``store copy`` takes, beside the bytes alone: ``python -m benchmarks.store_copy [--objects N]``.

Folder to folder. The floor reads, hashes, writes and flushes the same files with plain calls, in as many
threads. Also: for how long writers were refused new objects, and what a second pass costs where nothing is
left to do (the listing, and the rows).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

from msgspec.structs import replace

from regmeta import app
from regmeta.app import store_copy
from regmeta.maintain.progress import NoProgress
from regmeta.maintain.store_copy.compare import Compared, missing
from regmeta.models import Blob
from regmeta.oci.digest import Digest
from regmeta.settings import Settings
from regmeta.store import new_key

MIB = 1024 * 1024
JOBS = 4
NOW = datetime.now(UTC)


def main() -> None:
    """Make a registry, move it, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=20_000, help="of 4 KiB")
    parser.add_argument("--mib", type=int, default=512, help="in large objects, besides")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "home")
        settings = Settings(
            home=str(home), database=f"sqlite:///{home}/regmeta.db", store=f"{home}/store", actor="benchmark"
        )
        app.initialise(settings)
        sizes = [4096] * given.objects + [64 * MIB] * (given.mib // 64)
        _fill(settings, sizes)
        floor_s = _timed(lambda: _floor(Path(settings.store, "blobs"), Path(folder, "floor")))
        began_s = time.monotonic()
        moved = store_copy.copy(settings, f"{folder}/new", lambda: nullcontext(NoProgress()), jobs=JOBS)
        took_s = time.monotonic() - began_s
        with app.open_for_reading(replace(settings, store=f"{folder}/new")) as reading:
            look_s = _timed(
                lambda: list(missing(reading.database, reading.store, Compared(), lambda _: None))
            )
    mib = moved.live_bytes / MIB
    print(f"{moved.live} objects, {mib:.0f} MiB")
    print(f"floor        {floor_s:7.1f} s  {mib / floor_s:7.0f} MiB/s  {moved.live / floor_s:7.0f} objects/s")
    print(f"store copy   {took_s:7.1f} s  {mib / took_s:7.0f} MiB/s  {moved.live / took_s:7.0f} objects/s")
    print(f"floor / copy {floor_s / took_s:7.2f}")
    print(
        f"writers were refused new objects for {moved.refused_s:.2f} s; one comparison takes {look_s:.2f} s"
    )


def _fill(settings: Settings, sizes: list[int]) -> None:
    with app.open_for_writing(settings) as writing:
        rows = []
        for start in range(0, len(sizes), 500):
            staged = []
            for size in sizes[start : start + 500]:
                content = os.urandom(size)
                digest = Digest("sha256", hashlib.sha256(content).hexdigest())
                key = new_key(digest)
                staged.append(writing.writer.staging.stage(key, digest, size, _Bytes(content)))
                rows.append((digest, size, key))
            writing.writer.staging.publish(staged)
        with writing.database.engine.begin() as connection:
            connection.execute(
                Blob.__table__.insert(),  # type: ignore[attr-defined]
                [
                    {
                        "digest": digest,
                        "size_bytes": size,
                        "key": key,
                        "state": "live",
                        "lease_until": NOW,
                        "created_at": NOW,
                    }
                    for digest, size, key in rows
                ],
            )


class _Bytes:
    def __init__(self, content: bytes) -> None:
        self._left = memoryview(content)

    def readinto(self, buffer: memoryview, /) -> int:
        got = min(len(buffer), len(self._left))
        buffer[:got] = self._left[:got]
        self._left = self._left[got:]
        return got


def _floor(source: Path, target: Path) -> None:
    files = [path for path in source.rglob("*") if path.is_file()]
    for path in files:
        (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)

    def copy(path: Path) -> None:
        hasher = hashlib.sha256()
        with open(path, "rb") as read, open(target / path.relative_to(source), "wb") as write:
            while piece := read.read(MIB):
                hasher.update(piece)
                write.write(piece)
            write.flush()
            os.fsync(write.fileno())

    with ThreadPoolExecutor(JOBS) as pool:
        for _ in pool.map(copy, files):
            continue
    for folder in {(target / path.relative_to(source)).parent for path in files}:
        fd = os.open(folder, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def _timed(run: Callable[[], object]) -> float:
    began_s = time.monotonic()
    run()
    return time.monotonic() - began_s


if __name__ == "__main__":
    main()
