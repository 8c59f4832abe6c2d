"""A remote source that is not asked for what is here."""

from __future__ import annotations

from collections.abc import Callable

from regmeta.errors import DamagedBlob, SizeMismatch
from regmeta.oci.descriptor import Descriptor
from regmeta.sources import Source
from regmeta.sources.wrapped import WrappedSource


class LocalFirst(WrappedSource):
    """Reads manifests and configurations from the store, if they are here, and all else from *source*.

    An ingest opens only what is not here, so that is the source's to hand out.
    As thread-safe as its parts. What is stored is verified: if it is damaged or its object has gone, the
    source is asked. An ingest of what ``verify`` has marked as damaged heals it.
    """

    def __init__(self, source: Source, stored: Callable[[Descriptor], bytes | None]) -> None:
        super().__init__(source)
        self._stored = stored

    def read(self, descriptor: Descriptor, limit_bytes: int) -> bytes:
        """Return small content whole, verified; see :class:`regmeta.sources.Source`."""
        if descriptor.size_bytes <= limit_bytes:
            try:
                content = self._stored(descriptor)
            except (DamagedBlob, SizeMismatch):  # who is right about a size is for the source to say
                content = None
            if content is not None:
                return content
        return self._source.read(descriptor, limit_bytes)
