"""A store in a bucket beside the plain client: a large layer, and many small blobs.

A server of its own (SeaweedFS, on this machine, its data below ``--work``) takes both. Rounds alternate.

    python -m benchmarks.object_storage --rounds 3 --work DIR
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

MIB: Final = 1024 * 1024
LEAST_RATIO: Final = 0.85
MOST_RSS_MIB: Final = 200
SMALL: Final = (1000, 4096)  # how many, of how many bytes
_BLOCK: Final = 4 * MIB


class Repeated:
    """So many bytes of one block, each time with another number in front."""

    def __init__(self, block: bytes, size_bytes: int) -> None:
        self._block = memoryview(block)
        self._left = size_bytes
        self._number = 0
        self._piece = memoryview(b"")

    def readinto(self, buffer: memoryview, /) -> int:
        if not len(self._piece):
            self._number += 1
            piece = bytearray(self._block)
            piece[:8] = self._number.to_bytes(8, "big")
            self._piece = memoryview(piece)[: min(len(piece), self._left)]
        got = min(len(buffer), len(self._piece))
        buffer[:got] = self._piece[:got]
        self._piece = self._piece[got:]
        self._left -= got
        return got


def digest_of(block: bytes, size_bytes: int) -> str:
    """Return the SHA-256 of what :class:`Repeated` gives."""
    hasher, buffer = hashlib.sha256(), memoryview(bytearray(MIB))
    stream = Repeated(block, size_bytes)
    while got := stream.readinto(buffer):
        hasher.update(buffer[:got])
    return hasher.hexdigest()


def ours(location: str, scratch: str, layer: Path, size_bytes: int, digest: str) -> float:
    """Stage and publish a layer; return the seconds that it took."""
    from regmeta.oci.digest import Digest
    from regmeta.store import new_key
    from regmeta.store.bucket import BucketStore

    of = Digest.parse(f"sha256:{digest}")
    with closing(BucketStore(location, scratch)) as store:
        store.create()
        with closing(store.open_staging()) as staging:
            key = new_key(of)
            began_s = time.monotonic()
            stream = Repeated(layer.read_bytes(), size_bytes)
            staging.publish([staging.stage(key, of, size_bytes, stream)])
            took_s = time.monotonic() - began_s
        store.delete([key])
    return took_s


def plain(location: str, layer: Path, size_bytes: int) -> float:
    """Upload the same bytes by the client alone, in parts of the same size, as many at once."""
    import obstore

    from regmeta.store.bucket_options import BucketOptions

    options, name = BucketOptions(), f"plain/{uuid4().hex}"
    store = _client(location)
    block = layer.read_bytes()

    def pieces() -> Iterator[bytes]:
        buffer, stream = memoryview(bytearray(MIB)), Repeated(block, size_bytes)
        while got := stream.readinto(buffer):
            yield bytes(buffer[:got])

    began_s = time.monotonic()
    obstore.put(
        store,
        name,
        pieces(),
        use_multipart=True,
        chunk_size=options.part_bytes,
        max_concurrency=options.parts_at_once,
    )
    took_s = time.monotonic() - began_s
    obstore.delete(store, name)
    return took_s


def ours_small(location: str, scratch: str) -> float:
    """Stage and publish many small blobs."""
    import io

    from regmeta.oci.digest import Digest
    from regmeta.store import new_key
    from regmeta.store.bucket import BucketStore

    contents = [os.urandom(SMALL[1]) for _ in range(SMALL[0])]
    digests = [Digest.of(content) for content in contents]
    with closing(BucketStore(location, scratch)) as store:
        store.create()
        with closing(store.open_staging()) as staging:
            began_s = time.monotonic()
            staged = [
                staging.stage(new_key(of), of, len(content), io.BytesIO(content))
                for of, content in zip(digests, contents, strict=True)
            ]
            staging.publish(staged)
            took_s = time.monotonic() - began_s
        store.delete([item.key for item in staged])
    return took_s


def plain_small(location: str) -> float:
    """Put as many by the client alone, eight at once."""
    import obstore

    store = _client(location)
    contents = [os.urandom(SMALL[1]) for _ in range(SMALL[0])]
    names = [f"plain/{uuid4().hex}" for _ in contents]

    async def put_all() -> None:
        turns = asyncio.Semaphore(8)

        async def put(name: str, content: bytes) -> None:
            async with turns:
                await obstore.put_async(store, name, content)

        await asyncio.gather(*(put(name, content) for name, content in zip(names, contents, strict=True)))

    began_s = time.monotonic()
    asyncio.run(put_all())
    took_s = time.monotonic() - began_s
    obstore.delete(store, names)
    return took_s


def _client(location: str) -> Any:
    from obstore.store import S3Store

    bucket, _, prefix = location.removeprefix("s3://").partition("/")
    return S3Store(bucket, prefix=prefix, client_options={"allow_http": True}, checksum_algorithm="sha256")


def _child(*arguments: str) -> tuple[float, float]:
    """Run one case in a process of its own; return its seconds and its peak RSS [MiB]."""
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.object_storage", *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    took_s, rss_mib = ran.stdout.split()
    return float(took_s), float(rss_mib)


def _be_child(case: str, arguments: list[str]) -> None:
    import resource

    location, scratch, layer, size_bytes, digest = arguments
    path, size = Path(layer), int(size_bytes)
    took_s = {
        "ours": lambda: ours(location, scratch, path, size, digest),
        "plain": lambda: plain(location, path, size),
        "ours-small": lambda: ours_small(location, scratch),
        "plain-small": lambda: plain_small(location),
    }[case]()
    print(took_s, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


@contextmanager
def _server(work: str) -> Iterator[str]:
    from tests.support.seaweed import reaching
    from tests.support.seaweed_server import BUCKET, Seaweed

    folder = Path(tempfile.mkdtemp(prefix="bench-s3-", dir=work))
    server = Seaweed(folder)
    try:
        server.start()
        os.environ.update(reaching(server.endpoint))
        yield f"s3://{BUCKET}/bench"
    finally:
        server.remove()


def main(arguments: list[str]) -> int:
    """Measure; returns 1 if a target is missed."""
    if arguments[:1] == ["--case"]:
        _be_child(arguments[1], arguments[2:])
        return 0
    parser = argparse.ArgumentParser(prog="benchmarks.object_storage", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size-mib", type=int, default=1024, help="of the layer")
    parser.add_argument("--work", required=True, help="a folder on a disk")
    given = parser.parse_args(arguments)
    size_bytes = given.size_mib * MIB
    taken: dict[str, list[float]] = {"ours": [], "plain": [], "ours-small": [], "plain-small": []}
    peaks: dict[str, float] = dict.fromkeys(taken, 0.0)
    with _server(given.work) as location, tempfile.TemporaryDirectory(dir=given.work) as scratch:
        layer = Path(scratch, "block")
        layer.write_bytes(os.urandom(_BLOCK))
        digest = digest_of(layer.read_bytes(), size_bytes)
        for number in range(given.rounds):
            cases = list(taken) if number % 2 else list(reversed(taken))
            for case in cases:
                took_s, rss_mib = _child(
                    "--case", case, location, f"{scratch}/scratch", str(layer), str(size_bytes), digest
                )
                taken[case].append(took_s)
                peaks[case] = max(peaks[case], rss_mib)
    for case, figures in taken.items():
        median_s = statistics.median(figures)
        what = f"{given.size_mib} MiB" if "small" not in case else f"{SMALL[0]} x {SMALL[1]} bytes"
        print(f"{case:12} {what}: {median_s:.2f} s ({min(figures):.2f}-{max(figures):.2f}),", end=" ")
        print(f"peak RSS {peaks[case]:.0f} MiB")
    ratio = statistics.median(
        plain_s / ours_s for plain_s, ours_s in zip(taken["plain"], taken["ours"], strict=True)
    )
    small = statistics.median(
        plain_s / ours_s for plain_s, ours_s in zip(taken["plain-small"], taken["ours-small"], strict=True)
    )
    print(f"layer: {ratio:.2f} x the plain client's speed (target {LEAST_RATIO}); small: {small:.2f} x")
    return 1 if ratio < LEAST_RATIO or peaks["ours"] > MOST_RSS_MIB else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
