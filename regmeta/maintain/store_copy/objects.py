"""Objects from one store to another, in parallel, hashed on the way, within a rate.

Memory is bounded: a thread holds one buffer, and a bucket's staging area what it may of small objects and
parts. What is damaged is said and left out; the rest goes on.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from regmeta.db import Database
from regmeta.errors import Error, IntegrityError, StoreUnavailable
from regmeta.maintain.store_copy.compare import Wanted
from regmeta.maintain.verify.data import FAILED_READS, Rate, Stopped
from regmeta.maintain.verify.objects import still_live
from regmeta.oci.streams import ByteStream
from regmeta.store import BlobStore, ObjectMissing, Staged, Staging
from regmeta.threads import Threads

GROUP_BYTES: Final = 4 * 1024 * 1024  # [bytes] of small objects that are published together
GROUP_OBJECTS: Final = 64
GROUPS_AHEAD: Final = 2  # for each thread


@dataclass(frozen=True, slots=True)
class Damage:
    """An object of the old store that is not what its row says, or cannot be read."""

    digest: str
    key: str
    row_id: int
    detail: str
    is_certain: bool  # where the disk gave an error, it may be good tomorrow


@dataclass(slots=True)
class Copied:
    """How much was brought over."""

    objects: int = 0
    size_bytes: int = 0


class Copier:
    """Copies what it is given; one is used for all passes of a run."""

    def __init__(
        self,
        database: Database,
        source: BlobStore,
        staging: Staging,
        *,
        jobs: int,
        rate_bytes_per_s: int | None,
    ) -> None:
        self._database = database
        self._source = source
        self._staging = staging
        self._jobs = jobs
        self._stop = threading.Event()
        self._rate = Rate(rate_bytes_per_s, self._stop)
        self._lock = threading.Lock()
        self._failed = 0
        self.copied = Copied()
        self.damaged: dict[str, Damage] = {}  # by key

    def copy(self, wanted: Iterable[Wanted], advanced: Callable[[int], None]) -> int:
        """Copy objects; return how many. What is damaged is in ``damaged`` afterwards.

        *advanced* is told how many bytes were copied.

        Raises:
            StoreUnavailable: one of the stores did not do it; what was copied is there.
        """
        before = self.copied.objects
        waiting: deque[Future[None]] = deque()
        with Threads(self._jobs, thread_name_prefix="copy") as pool:
            try:
                for group in _groups(wanted):
                    waiting.append(pool.submit(self._copy_group, group, advanced))
                    if len(waiting) >= self._jobs * GROUPS_AHEAD:
                        wait([waiting[0]])
                    while waiting and waiting[0].done():
                        waiting.popleft().result()
                while waiting:
                    waiting.popleft().result()
            except BaseException:
                self._stop.set()
                for each in waiting:
                    each.cancel()
                raise
        return self.copied.objects - before

    def _copy_group(self, group: Sequence[Wanted], advanced: Callable[[int], None]) -> None:
        staged: list[Staged] = []
        try:
            for wanted in group:
                found = self._stage(wanted, advanced)
                if found is not None:
                    staged.append(found)
            self._staging.publish(staged)
        except BaseException:
            with suppress(Error):
                self._staging.discard(staged)
            raise
        with self._lock:
            self.copied.objects += len(staged)
            self.copied.size_bytes += sum(each.size_bytes for each in staged)

    def _stage(self, wanted: Wanted, advanced: Callable[[int], None]) -> Staged | None:
        """Take one object in; a second time before anything is said of it. None if it is not to be had."""
        detail, is_certain = "", True
        for _ in range(2):
            try:
                with self._reading(wanted.key) as stream:
                    staged = self._staging.stage(
                        wanted.key, wanted.digest, wanted.size_bytes, stream, advanced
                    )
            except ObjectMissing:
                detail, is_certain = f"its object {wanted.key} is not there", True
            except IntegrityError as error:
                detail, is_certain = str(error), True
            except _Unreadable as error:
                self._require_present(wanted.key, error)
                detail, is_certain = f"cannot be read: {error}", False
            else:
                self._note_read()
                return staged
            if not still_live(self._database, wanted.row_id, wanted.key):
                return None  # collected, or healed under another key
        with self._lock:
            self.damaged[wanted.key] = Damage(
                str(wanted.digest), wanted.key, wanted.row_id, detail, is_certain
            )
        return None

    @contextmanager
    def _reading(self, key: str) -> Iterator[ByteStream]:
        with ExitStack() as stack:
            try:
                stream = stack.enter_context(self._source.open(key))
            except StoreUnavailable as error:
                raise _Unreadable(str(error)) from error
            yield _Limited(stream, self._rate)

    def _require_present(self, key: str, error: _Unreadable) -> None:
        """Tell a bad sector from a store that is away: there nothing can be read, or not be looked at."""
        with self._lock:
            self._failed += 1
            is_away = self._failed > FAILED_READS
        if is_away or self._source.stat(key) is None:
            raise StoreUnavailable(str(error)) from error

    def _note_read(self) -> None:
        with self._lock:
            self._failed = 0


class _Unreadable(Exception):
    """The old store gave an error; one of the new store is another thing."""


class _Limited:
    """A stream of the old store."""

    def __init__(self, stream: ByteStream, rate: Rate) -> None:
        self._stream = stream
        self._rate = rate

    def readinto(self, buffer: memoryview, /) -> int:
        try:
            got = self._stream.readinto(buffer)
        except StoreUnavailable as error:
            raise _Unreadable(str(error)) from error
        try:
            self._rate.take(got)
        except Stopped as error:
            raise StoreUnavailable("the copy was stopped") from error
        return got


def _groups(wanted: Iterable[Wanted]) -> Iterator[list[Wanted]]:
    group: list[Wanted] = []
    size_bytes = 0
    for each in wanted:
        if group and (len(group) >= GROUP_OBJECTS or size_bytes + each.size_bytes > GROUP_BYTES):
            yield group
            group, size_bytes = [], 0
        group.append(each)
        size_bytes += each.size_bytes
    if group:
        yield group
