"""The content of one stored repository as a source of images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from regmeta.errors import Error, MissingContent, without_frames
from regmeta.oci.descriptor import Descriptor
from regmeta.oci.digest import Digest
from regmeta.oci.streams import ByteStream
from regmeta.sources import SourceEntry
from regmeta.sources.storage import RegistryStorage
from regmeta.sources.verified import check_limit, verified


class Readable(RegistryStorage, Protocol):
    """A storage whose bytes are read through it."""

    def read(self, name: str, digest: Digest, limit_bytes: int) -> bytes | None:
        """Return the bytes of a blob, at most one more than *limit_bytes*; None if there are none."""

    def open(self, name: str, digest: Digest) -> AbstractContextManager[ByteStream]:
        """Open a blob for reading, from its first byte."""


class StoredSource:
    """A repository of a storage, which owns what is open; see :class:`regmeta.sources.Source`."""

    def __init__(self, storage: Readable, name: str) -> None:
        self._storage = storage
        self._name = name

    @property
    def location(self) -> str:
        """Where the storage is, and the repository's name."""
        return f"{self._storage.location} ({self._name})"

    def entries(self) -> Iterator[SourceEntry]:
        """List the tags of the repository, in the order of their names."""
        for position, tag in enumerate(self._storage.repository(self._name).tags):
            try:
                descriptor = self._storage.descriptor(self._name, tag.digest)
            except Error as error:
                yield SourceEntry(position, tag.name, None, without_frames(error))
            else:
                yield SourceEntry(position, tag.name, descriptor)

    def read(self, descriptor: Descriptor, limit_bytes: int) -> bytes:
        """Return small content whole, verified."""
        check_limit(descriptor, limit_bytes, self.location)
        content = self._storage.read(self._name, descriptor.digest, descriptor.size_bytes)
        if content is None:
            raise MissingContent(f"{self.location}: {descriptor.digest} is missing")
        return verified(descriptor, content, self.location)

    def open(self, digest: Digest) -> AbstractContextManager[ByteStream]:
        """Open content for reading, from its first byte."""
        return self._storage.open(self._name, digest)

    def close(self) -> None:
        """Leave everything open: the storage closes it."""
