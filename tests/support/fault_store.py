"""A blob store that goes wrong when it is told to: ``FaultStore(inner, plan)``.

    plan = Plan(Fault("publish", Kind.APPLY_THEN_FAIL), Fault("walk", Kind.TRUNCATE, number=2))

Calls are counted by name, from 1, over the store and all staging areas that it opens.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import Final, TypeVar
from uuid import UUID

from regmeta.errors import StoreUnavailable
from regmeta.oci.digest import Digest
from regmeta.oci.streams import ByteStream
from regmeta.store import BlobStore, LayoutWriter, ObjectInfo, Staged, Staging

_T = TypeVar("_T")


class Kind(Enum):
    """What goes wrong."""

    RAISE = "nothing is done, and it fails"
    DELAY = "something else comes first"
    APPLY_THEN_FAIL = "it is done, and the answer is lost"
    SHORT = "the second half of the bytes is missing"
    FLIP = "one bit is another"
    TRUNCATE = "a listing ends early and says nothing"
    FAIL_MIDWAY = "a listing fails in its middle"


OF_BYTES: Final = (Kind.SHORT, Kind.FLIP)
OF_LISTINGS: Final = (Kind.TRUNCATE, Kind.FAIL_MIDWAY)


@dataclass(frozen=True, slots=True)
class Fault:
    """Which call goes wrong, and how. *first* is what a delay waits for."""

    call: str
    kind: Kind
    number: int = 1
    for_good: bool = False  # the later ones as well
    first: Callable[[], None] = lambda: None


class Plan:
    """The faults of one store, and how far it has come."""

    def __init__(self, *faults: Fault) -> None:
        self._faults = faults
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.happened: list[Fault] = []

    def next(self, call: str) -> Fault | None:
        """Count a call, and return what goes wrong with it."""
        with self._lock:
            self._counts[call] += 1
            for fault in self._faults:
                later = fault.for_good and self._counts[call] > fault.number
                if fault.call == call and (self._counts[call] == fault.number or later):
                    self.happened.append(fault)
                    return fault
        return None

    def run(self, call: str, act: Callable[[], _T]) -> _T:
        """Make a call that neither moves bytes nor lists."""
        return _with(self.next(call), call, act)

    def listed(self, call: str, found: Callable[[], Iterable[_T]]) -> Iterator[_T]:
        """Make a call that lists."""
        fault = self.next(call)
        items = _with(fault, call, lambda: list(found()))
        if fault is not None and fault.kind in OF_LISTINGS:
            yield from islice(items, len(items) // 2)
            if fault.kind is Kind.FAIL_MIDWAY:
                raise StoreUnavailable(f"{call}: fails in the middle, as planned")
            return
        yield from items


def _with(fault: Fault | None, call: str, act: Callable[[], _T]) -> _T:
    if fault is None:
        return act()
    if fault.kind is Kind.RAISE:
        raise StoreUnavailable(f"{call}: fails, as planned")
    if fault.kind is Kind.DELAY:
        fault.first()
    done = act()
    if fault.kind is Kind.APPLY_THEN_FAIL:
        raise StoreUnavailable(f"{call}: no answer, as planned")
    return done


class FaultStore:
    """Implements :class:`regmeta.store.BlobStore` over another one."""

    def __init__(self, inner: BlobStore, plan: Plan) -> None:
        self._inner = inner
        self._plan = plan

    @property
    def location(self) -> str:
        """What messages call it."""
        return self._inner.location

    @property
    def layouts(self) -> LayoutWriter | None:
        """Those of the store below; nothing goes wrong there."""
        return self._inner.layouts

    @property
    def host(self) -> str:
        """That of the store below."""
        return self._inner.host

    def create(self) -> None:
        self._plan.run("create", self._inner.create)

    def open_staging(self) -> Staging:
        return FaultStaging(self._plan.run("open_staging", self._inner.open_staging), self._plan)

    @contextmanager
    def abandoned_stagings(self) -> Iterator[Sequence[UUID]]:
        context = self._plan.run("abandoned_stagings", self._inner.abandoned_stagings)
        with context as owners:
            yield owners

    def staging_exists(self, owner: UUID) -> bool:
        return self._plan.run("staging_exists", lambda: self._inner.staging_exists(owner))

    @contextmanager
    def open(self, key: str, start: int = 0) -> Iterator[ByteStream]:
        fault = self._plan.next("open")
        with _with(fault, "open", lambda: self._inner.open(key, start)) as stream:
            yield _spoilt(fault, stream, None)

    def stat(self, key: str) -> ObjectInfo | None:
        return self._plan.run("stat", lambda: self._inner.stat(key))

    def look(self, keys: Iterable[str]) -> dict[str, ObjectInfo | StoreUnavailable | None]:
        """Each is a ``stat``, and goes wrong as one."""
        found: dict[str, ObjectInfo | StoreUnavailable | None] = {}
        for key in keys:
            try:
                found[key] = self.stat(key)
            except StoreUnavailable as error:
                found[key] = error
        return found

    def delete(self, keys: Iterable[str]) -> None:
        self._plan.run("delete", lambda: self._inner.delete(keys))

    def abort_uploads(self, older_than_s: float) -> int:
        return self._plan.run("abort_uploads", lambda: self._inner.abort_uploads(older_than_s))

    def signed_url(self, key: str, lifetime_s: int) -> str | None:
        return self._plan.run("signed_url", lambda: self._inner.signed_url(key, lifetime_s))

    def walk(self) -> Iterator[ObjectInfo]:
        return self._plan.listed("walk", self._inner.walk)

    def settle(self) -> None:
        self._plan.run("settle", self._inner.settle)

    def read_record(self, name: str) -> bytes | None:
        return self._plan.run("read_record", lambda: self._inner.read_record(name))

    def list_records(self, folder: str) -> list[str]:
        return list(self._plan.listed("list_records", lambda: self._inner.list_records(folder)))

    def walk_records(self, folder: str) -> Iterator[str]:
        return self._plan.listed("walk_records", lambda: self._inner.walk_records(folder))

    def delete_record(self, name: str) -> None:
        self._plan.run("delete_record", lambda: self._inner.delete_record(name))

    def close(self) -> None:
        self._inner.close()


class FaultStaging:
    """Implements :class:`regmeta.store.Staging` over another one."""

    def __init__(self, inner: Staging, plan: Plan) -> None:
        self._inner = inner
        self._plan = plan

    @property
    def owner(self) -> UUID:
        """The process's name."""
        return self._inner.owner

    def stage(
        self,
        key: str,
        digest: Digest,
        size_bytes: int,
        stream: ByteStream,
        progress: Callable[[int], None] | None = None,
    ) -> Staged:
        fault = self._plan.next("stage")
        given = _spoilt(fault, stream, size_bytes)
        return _with(fault, "stage", lambda: self._inner.stage(key, digest, size_bytes, given, progress))

    def publish(self, staged: Sequence[Staged]) -> None:
        self._plan.run("publish", lambda: self._inner.publish(staged))

    def write_record(self, name: str, content: bytes, *, exclusive: bool = False) -> None:
        self._plan.run("write_record", lambda: self._inner.write_record(name, content, exclusive=exclusive))

    def discard(self, staged: Iterable[Staged]) -> None:
        self._plan.run("discard", lambda: self._inner.discard(staged))

    def scratch_folder(self) -> str:
        return self._plan.run("scratch_folder", self._inner.scratch_folder)

    def close(self) -> None:
        self._inner.close()


def _spoilt(fault: Fault | None, stream: ByteStream, size_bytes: int | None) -> ByteStream:
    if fault is None or fault.kind not in OF_BYTES:
        return stream
    return _SpoiltStream(stream, fault.kind, size_bytes)


class _SpoiltStream:
    """Bytes that end at half of the size, or of the first read; or the first of which has a bit flipped."""

    def __init__(self, inner: ByteStream, kind: Kind, size_bytes: int | None) -> None:
        self._inner = inner
        self._kind = kind
        self._left = None if size_bytes is None else size_bytes // 2
        self._is_first = True

    def readinto(self, buffer: memoryview, /) -> int:
        got = self._inner.readinto(buffer)
        if self._kind is Kind.FLIP:
            if self._is_first and got:
                buffer[0] ^= 1
            self._is_first = False
            return got
        if self._left is None:
            self._left = got // 2
        got = min(got, self._left)
        self._left -= got
        return got
