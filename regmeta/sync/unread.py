"""An image of a registry that is asked for only if something of it turns out to be needed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from regmeta.oci.descriptor import Descriptor
from regmeta.oci.digest import Digest
from regmeta.oci.streams import ByteStream
from regmeta.sources import Source, SourceEntry


class Unread:
    """A source that *fetch* gives when it is first read; what that raises, reading raises. Thread-safe."""

    def __init__(self, fetch: Callable[[], Source], location: str) -> None:
        self._fetch = fetch
        self._location = location
        self._lock = threading.Lock()
        self._source: Source | None = None

    @property
    def location(self) -> str:
        """What messages call it."""
        return self._location

    def entries(self) -> Iterator[SourceEntry]:
        """List the images of the source."""
        return self._fetched().entries()

    def read(self, descriptor: Descriptor, limit_bytes: int) -> bytes:
        """Return small content whole, verified; see :class:`regmeta.sources.Source`."""
        return self._fetched().read(descriptor, limit_bytes)

    def open(self, digest: Digest) -> AbstractContextManager[ByteStream]:
        """Open content for reading; see :class:`regmeta.sources.Source`."""
        return self._fetched().open(digest)

    def close(self) -> None:
        """Let go of what the source holds open."""
        with self._lock:
            if self._source is not None:
                self._source.close()

    def _fetched(self) -> Source:
        with self._lock:
            if self._source is None:
                self._source = self._fetch()
            return self._source
