"""A source under watch: it is stopped when the sync is, or when one image takes too long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from regmeta.errors import Error, RemoteUnavailable
from regmeta.oci.descriptor import Descriptor
from regmeta.oci.digest import Digest
from regmeta.oci.streams import ByteStream
from regmeta.sources import Source
from regmeta.sources.wrapped import WrappedSource


class Stopped(Protocol):
    """Whether a sync is to end."""

    def is_set(self) -> bool:
        """Tell whether it is."""


class Halt:
    """Ends one run: set by itself when the run breaks off, or when all of *outer* is to end."""

    def __init__(self, outer: threading.Event) -> None:
        self._outer = outer
        self._own = threading.Event()

    def is_set(self) -> bool:
        """Tell whether the run is to end."""
        return self._own.is_set() or self._outer.is_set()

    def set_for(self, error: BaseException) -> None:
        """Break off because of *error*. What is no error of ours, like an interrupt, ends all."""
        self._own.set()
        if not isinstance(error, Error):
            self._outer.set()


class WatchedSource(WrappedSource):
    """Hands out what another source does, until *deadline_s* (of *clock_s*) or until *stopped* is set."""

    def __init__(
        self,
        source: Source,
        deadline_s: float,
        stopped: Stopped,
        fetched: Callable[[], None],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(source)
        self._deadline_s = deadline_s
        self._stopped = stopped
        self._fetched = fetched
        self._clock_s = clock_s

    def read(self, descriptor: Descriptor, limit_bytes: int) -> bytes:
        """Return small content whole, verified; see :class:`regmeta.sources.Source`.

        Raises:
            RemoteUnavailable: the time is over, or the sync is being stopped.
        """
        self.check()
        return self._source.read(descriptor, limit_bytes)

    @contextmanager
    def open(self, digest: Digest) -> Iterator[ByteStream]:
        """Open content; reading it raises as :meth:`read` does. Who is told of it is told when it is read."""
        self.check()
        with self._source.open(digest) as stream:
            yield _WatchedStream(stream, self.check)
        self._fetched()

    def check(self) -> None:
        """Raise if it is time to end."""
        if self._stopped.is_set():
            raise RemoteUnavailable(f"{self.location}: the sync was stopped")
        if self._clock_s() > self._deadline_s:
            raise RemoteUnavailable(f"{self.location}: took longer than one image may (image_timeout)")


class _WatchedStream:
    def __init__(self, stream: ByteStream, check: Callable[[], None]) -> None:
        self._stream = stream
        self._check = check

    def readinto(self, buffer: memoryview, /) -> int:
        """Read on."""
        self._check()
        return self._stream.readinto(buffer)
