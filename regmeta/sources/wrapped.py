"""A source around another one: what a kind of wrapper does not change, it passes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

from regmeta.oci.descriptor import Descriptor
from regmeta.oci.digest import Digest
from regmeta.oci.streams import ByteStream
from regmeta.sources import Source, SourceEntry


class WrappedSource:
    """Hands out what *source* does; see :class:`regmeta.sources.Source`. As thread-safe as that is."""

    def __init__(self, source: Source) -> None:
        self._source = source

    @property
    def location(self) -> str:
        """What messages call it."""
        return self._source.location

    def entries(self) -> Iterator[SourceEntry]:
        """List the images of the source."""
        return self._source.entries()

    def read(self, descriptor: Descriptor, limit_bytes: int) -> bytes:
        """Return small content whole, verified."""
        return self._source.read(descriptor, limit_bytes)

    def open(self, digest: Digest) -> AbstractContextManager[ByteStream]:
        """Open content for reading, from its first byte."""
        return self._source.open(digest)

    def close(self) -> None:
        """Let go of what the source holds open."""
        self._source.close()
