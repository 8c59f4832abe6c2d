"""The floor of a sync: a plain concurrent client that downloads, hashes and flushes the same objects.

One thread asks for the list of tags; then several, each with a connection that is kept, fetch the manifest of
each tag, and each configuration and layer once. Every object is hashed while it is written, compared with its
digest, flushed, renamed to a key that is new, and each folder is flushed once at the end. No rows, no
retries, no authentication, no hostile input. Only the standard library.

Usage: python -m benchmarks.sync_floor URL REPOSITORY DEST   (prints the seconds of each number of threads)
"""

import argparse
import hashlib
import http.client
import json
import os
import threading
import time
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

THREAD_COUNTS: Final = (4, 8)
BUFFER_BYTES: Final = 1 << 20
ACCEPT: Final = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)


@dataclass(frozen=True)
class FloorResult:
    """What was done, and in how many seconds."""

    seconds: float
    objects: int
    requests: int
    size_bytes: int


class _Client:
    def __init__(self, url: str, repository: str, dest: Path, threads: int) -> None:
        self._host = urlsplit(url).netloc
        self._base = f"/v2/{repository}"
        self._dest = dest
        self._threads = threads
        self._local = threading.local()
        self._lock = threading.Lock()
        self._seen: set[str] = set()
        self.requests = self.objects = self.size_bytes = 0

    def run(self) -> None:
        tags = json.loads(self._get("/tags/list").read())["tags"]
        for prefix in range(256):
            (self._dest / f"{prefix:02x}").mkdir(parents=True)
        with ThreadPoolExecutor(self._threads) as pool:
            manifests = list(pool.map(self._manifest, tags))
            blobs = list(self._new(blob for document in manifests for blob in document))
            blobs.sort(key=lambda blob: -int(blob["size"]))
            list(pool.map(self._blob, blobs))
            folders = [self._dest, *(path for path in self._dest.iterdir() if any(path.iterdir()))]
            list(pool.map(_flush_folder, folders))

    def head_all(self) -> None:
        tags = json.loads(self._get("/tags/list").read())["tags"]
        with ThreadPoolExecutor(self._threads) as pool:
            list(pool.map(lambda tag: self._get(f"/manifests/{tag}", "HEAD").read(), tags))

    def _new(self, blobs: Iterable[Any]) -> Iterable[Any]:
        for blob in blobs:
            if blob["digest"] not in self._seen:
                self._seen.add(blob["digest"])
                yield blob

    def _manifest(self, reference: str) -> list[Any]:
        answer = self._get(f"/manifests/{reference}")
        content = answer.read()
        digest = hashlib.sha256(content).hexdigest()
        if answer.headers["Docker-Content-Digest"] != f"sha256:{digest}":
            raise SystemExit(f"{reference}: wrong bytes")
        with self._lock:
            is_new = digest not in self._seen
            self._seen.add(digest)
        if is_new:
            path = self._dest / digest[:2] / f"{digest}.{uuid.uuid4().hex}"
            with path.with_suffix(".part").open("xb", buffering=0) as target:
                target.write(content)
                os.fsync(target.fileno())
            path.with_suffix(".part").rename(path)
            self._count(len(content))
        document = json.loads(content)
        found = [document["config"], *document["layers"]] if "config" in document else []
        for child in document.get("manifests", ()):
            found += self._manifest(child["digest"])
        return found

    def _blob(self, descriptor: Any) -> None:
        digest = descriptor["digest"].removeprefix("sha256:")
        path = self._dest / digest[:2] / f"{digest}.{uuid.uuid4().hex}"
        hasher, answer = hashlib.sha256(), self._get(f"/blobs/sha256:{digest}")
        view = memoryview(bytearray(min(BUFFER_BYTES, descriptor["size"] + 1)))
        with path.with_suffix(".part").open("xb", buffering=0) as target:
            while got := answer.readinto(view):
                hasher.update(view[:got])
                target.write(view[:got])
            os.fsync(target.fileno())
        if hasher.hexdigest() != digest:
            raise SystemExit(f"{digest}: wrong bytes")
        path.with_suffix(".part").rename(path)
        self._count(descriptor["size"])

    def _count(self, size_bytes: int) -> None:
        with self._lock:
            self.objects += 1
            self.size_bytes += size_bytes

    def _get(self, path: str, method: str = "GET") -> http.client.HTTPResponse:
        if not hasattr(self._local, "connection"):
            self._local.connection = http.client.HTTPConnection(self._host, timeout=60)
        with self._lock:
            self.requests += 1
        self._local.connection.request(method, self._base + path, headers={"Accept": ACCEPT})
        answer: http.client.HTTPResponse = self._local.connection.getresponse()
        if answer.status != 200:
            raise SystemExit(f"{path}: status {answer.status}")
        return answer


def _flush_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def run(url: str, repository: str, dest: Path, threads: int) -> FloorResult:
    """Fetch everything that `repository` has into the new folder `dest`."""
    dest.mkdir(parents=True)
    client = _Client(url, repository, dest, threads)
    start_s = time.perf_counter()
    client.run()
    return FloorResult(time.perf_counter() - start_s, client.objects, client.requests, client.size_bytes)


def poll(url: str, repository: str, threads: int) -> FloorResult:
    """Ask for the list of tags, and for the digest of each."""
    client = _Client(url, repository, Path(os.devnull), threads)
    start_s = time.perf_counter()
    client.head_all()
    return FloorResult(time.perf_counter() - start_s, 0, client.requests, 0)


def main() -> None:
    """Run the floor from the command line."""
    parser = argparse.ArgumentParser(description="Time a plain client.")
    parser.add_argument("url")
    parser.add_argument("repository")
    parser.add_argument("dest", type=Path)
    arguments = parser.parse_args()
    for threads in THREAD_COUNTS:
        print(threads, run(arguments.url, arguments.repository, arguments.dest / str(threads), threads))


if __name__ == "__main__":
    main()
