"""Hashing every live object again, in parallel, within a rate, and from where an interruption left it."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from regmeta.db import Database
from regmeta.errors import StoreUnavailable, UsageError
from regmeta.maintain.verify.findings import Finding, Kind
from regmeta.maintain.verify.objects import still_live
from regmeta.maintain.verify.pages import digest_of, pages, raw
from regmeta.maintain.verify.users import users_of
from regmeta.models import Blob
from regmeta.oci.digest import Digest
from regmeta.store import COPY_BUFFER_BYTES, BlobStore, ObjectMissing
from regmeta.store.paths import is_key
from regmeta.threads import Threads

FAILED_READS: Final = 20  # in a row, each tried twice: the store is away rather than ten objects bad
GROUP_BYTES: Final = 4 * 1024 * 1024  # [bytes] of small objects that one task hashes
GROUP_OBJECTS: Final = 64
GROUPS_AHEAD: Final = 512  # of the slowest one; what is ahead is read again after an interruption

_BLOBS: Final = sa.select(Blob.key, Blob.id, raw(Blob.digest), Blob.size_bytes, Blob.state)


@dataclass(frozen=True, slots=True)
class Subset:
    """Which blobs are read: slice *number* of *parts*, or a random *share* of them."""

    text: str
    number: int = 1
    parts: int = 1
    share: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Subset:
        """Read ``n/t`` (the n-th of t slices), ``x%`` (a random sample), or ``all``.

        Raises:
            UsageError: it is none of these.
        """
        number, slash, parts = text.partition("/")
        if text == "all":
            return cls(text)
        if slash and _is_number(number) and _is_number(parts) and 1 <= int(number) <= int(parts) <= 10_000:
            return cls(text, int(number), int(parts))
        percent = text.removesuffix("%")
        if text.endswith("%") and percent.replace(".", "", 1).isascii():
            try:
                share = float(percent) / 100
            except ValueError:
                share = 0
            if 0 < share <= 1:
                return cls(text, share=share)
        raise UsageError(f"--read-data={text}: say n/t (as 1/7), x% (as 5%), or nothing for all")

    def has(self, digest: Digest, seed: str) -> bool:
        """Tell whether a blob is in it; *seed* makes the sample of a run."""
        if self.parts > 1:
            return int(digest.hex[:15], 16) % self.parts == self.number - 1
        return self.share >= 1 or random.Random(f"{seed}{digest}").random() < self.share  # noqa: S311


class Stopped(Exception):
    """The hashing threads are to end."""


class Rate:
    """Holds several threads together to so many bytes a second."""

    def __init__(self, bytes_per_s: int | None, stop: threading.Event) -> None:
        self._bytes_per_s = bytes_per_s
        self._stop = stop
        self._lock = threading.Lock()
        self._free_s = 0.0

    def take(self, size_bytes: int) -> None:
        """Wait until so many bytes may be read.

        Raises:
            Stopped: the run ends.
        """
        if self._stop.is_set():
            raise Stopped
        if self._bytes_per_s is None:
            return
        with self._lock:
            now_s = time.monotonic()
            self._free_s = max(self._free_s, now_s) + size_bytes / self._bytes_per_s
            wait_s = self._free_s - now_s
        if self._stop.wait(wait_s):
            raise Stopped


@dataclass(frozen=True, slots=True)
class Hashed:
    """What was hashed, up to a key: everything before it is done."""

    up_to: str
    objects: int
    size_bytes: int
    findings: tuple[Finding, ...]


class DataCheck:
    """One run over the objects of all live blobs, in the order of their keys."""

    def __init__(
        self, database: Database, store: BlobStore, *, jobs: int, rate_bytes_per_s: int | None
    ) -> None:
        self._database = database
        self._store = store
        self._jobs = jobs
        self._stop = threading.Event()
        self._rate = Rate(rate_bytes_per_s, self._stop)
        self._local = threading.local()
        self._counting = threading.Lock()
        self._failed = 0

    def run(
        self, subset: Subset, seed: str, after: str, advanced: Callable[[int], None]
    ) -> Generator[Hashed, None, None]:
        """Give results in the order of keys; what is behind the last one given is not done.

        *advanced* is told how many bytes were read. Closing it, or an interruption, stops the threads.

        Raises:
            StoreUnavailable: an object could not be read; that is not taken for damage.
        """
        waiting: deque[Future[Hashed]] = deque()
        with Threads(self._jobs, thread_name_prefix="hash") as pool:
            try:
                for group in self._groups(subset, seed, after):
                    waiting.append(pool.submit(self._hash_group, group, advanced))
                    if len(waiting) >= GROUPS_AHEAD:
                        wait([waiting[0]])
                    while waiting and waiting[0].done():
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                self._stop.set()
                for task in waiting:
                    task.cancel()

    def _groups(self, subset: Subset, seed: str, after: str) -> Iterator[list[Any]]:
        """Give blobs in the order of keys: large ones alone, small ones together."""
        group: list[Any] = []
        size_bytes = 0
        for rows in pages(self._database, _BLOBS.where(Blob.key > after, Blob.state == "live"), Blob.key):
            for row in rows:
                digest = digest_of(row.digest)
                if digest is None or not is_key(str(row.key)) or not isinstance(row.size_bytes, int):
                    continue  # found when the rows were looked at
                if not subset.has(digest, seed):
                    continue
                if group and (size_bytes + row.size_bytes > GROUP_BYTES or len(group) >= GROUP_OBJECTS):
                    yield group
                    group, size_bytes = [], 0
                group.append(row)
                size_bytes += row.size_bytes
        if group:
            yield group

    def _hash_group(self, group: Sequence[Any], advanced: Callable[[int], None]) -> Hashed:
        findings, total = [], 0
        for row in group:
            digest = digest_of(row.digest)
            assert digest is not None
            finding, size_bytes = self._check(row, digest, advanced)
            total += size_bytes
            if finding is not None:
                findings.append(finding)
        return Hashed(group[-1].key, len(group), total, tuple(findings))

    def _check(self, row: Any, digest: Digest, advanced: Callable[[int], None]) -> tuple[Finding | None, int]:
        """Hash one object; a second time before anything is said of it."""
        total = 0
        for _ in range(2):
            problem, size_bytes = self._problem(row, digest, advanced)
            total += size_bytes
            if problem is None or not still_live(self._database, row.id, row.key):
                return None, total
        assert problem is not None
        kind, detail = problem
        users = users_of(self._database, row.id)
        return Finding(kind, str(digest), detail, row.id, users, row.key), total

    def _problem(
        self, row: Any, digest: Digest, advanced: Callable[[int], None]
    ) -> tuple[tuple[Kind, str] | None, int]:
        buffer = self._buffer()
        hasher, total = digest.hasher(), 0
        try:
            with self._store.open(row.key) as stream:
                while got := stream.readinto(buffer):
                    self._rate.take(got)
                    hasher.update(buffer[:got])
                    total += got
                    advanced(got)
                    if total > row.size_bytes:
                        return (Kind.OBJECT_SIZE, f"its object has more than {row.size_bytes} bytes"), total
        except ObjectMissing:
            return (Kind.OBJECT_MISSING, f"its object {row.key} is not there"), total
        except StoreUnavailable as error:
            # A bad sector must not keep the rest from being read. A store that is away is another thing:
            # then it cannot say that the object is there, or many in a row cannot be read.
            if self._store.stat(row.key) is None or self._is_away(read=False):
                raise
            return (Kind.OBJECT_UNREADABLE, f"cannot be read: {error}"), total
        self._is_away(read=True)
        if total != row.size_bytes:
            return (Kind.OBJECT_SIZE, f"its object has {total} bytes, not {row.size_bytes}"), total
        if hasher.hexdigest() != digest.hex:
            return (Kind.OBJECT_CORRUPT, f"the bytes of {row.key} have another digest"), total
        return None, total

    def _is_away(self, *, read: bool) -> bool:
        """Count reads that fail in a row; tell whether there were too many of them."""
        with self._counting:
            self._failed = 0 if read else self._failed + 1
            return self._failed > FAILED_READS

    def _buffer(self) -> memoryview:
        found: memoryview | None = getattr(self._local, "buffer", None)
        if found is None:
            found = self._local.buffer = memoryview(bytearray(COPY_BUFFER_BYTES))
        return found


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10
