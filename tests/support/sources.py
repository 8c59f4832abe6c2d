"""Sources that a test looks into: what is opened and read is counted, and can be made to wait or to fail."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

from regmeta.oci.descriptor import Descriptor
from regmeta.oci.digest import Digest
from regmeta.oci.streams import ByteStream
from regmeta.sources import Source, SourceEntry


def _let_pass(_: Digest) -> None: ...


@dataclass
class WatchedSource:
    """A source that counts; *before* is called with each digest that is opened, and may wait or raise."""

    inner: Source
    before: Callable[[Digest], None] = _let_pass
    opened: Counter[Digest] = field(default_factory=Counter)
    read_digests: Counter[Digest] = field(default_factory=Counter)

    @property
    def location(self) -> str:
        return self.inner.location

    def entries(self) -> Iterator[SourceEntry]:
        return self.inner.entries()

    def read(self, descriptor: Descriptor, limit_bytes: int) -> bytes:
        self.read_digests[descriptor.digest] += 1
        return self.inner.read(descriptor, limit_bytes)

    def open(self, digest: Digest) -> AbstractContextManager[ByteStream]:
        return self._open(digest)

    @contextmanager
    def _open(self, digest: Digest) -> Iterator[ByteStream]:
        self.opened[digest] += 1
        self.before(digest)
        with self.inner.open(digest) as stream:
            yield stream

    def close(self) -> None:
        self.inner.close()


@dataclass
class Gate:
    """Stops who opens one digest until the test lets it go on, and then may let it fail."""

    digest: Digest
    error: Exception | None = None
    timeout_s: float = 30.0
    reached: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)

    def __call__(self, digest: Digest) -> None:
        if digest != self.digest:
            return
        self.reached.set()
        assert self.opened.wait(self.timeout_s)
        if self.error is not None:
            raise self.error
