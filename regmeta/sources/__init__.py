"""Where images come from: the contract of a source, and the kinds there are.

A source is hostile (reference: bad-input catalogue; CVE-2024-3727, CVE-2007-4559). An
implementation follows no symbolic link, opens nothing that is not a regular file, builds no path
from a digest that was not parsed, and extracts nothing. It promises nothing of the bytes it hands out
by :meth:`Source.open`: who reads them hashes and counts them.

``layout``   an OCI image layout in a directory
``archive``  an OCI image layout in an uncompressed tar file
``registry`` an image of a remote registry
``wrapped``  a source around another one
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from regmeta.errors import Error
from regmeta.oci.descriptor import Descriptor
from regmeta.oci.digest import Digest
from regmeta.oci.streams import ByteStream


@dataclass(frozen=True, slots=True)
class SourceEntry:
    """One image that a source lists: its descriptor, or the error that its entry is."""

    position: int
    ref_name: str | None
    descriptor: Descriptor | None
    error: Error | None = None


class Source(Protocol):
    """A place that lists images and holds their content. Safe to use from several threads."""

    @property
    def location(self) -> str:
        """What messages call it: a path, or a registry's name."""

    def entries(self) -> Iterator[SourceEntry]:
        """List the images in the source's own order.

        A single entry that is not a valid descriptor is an entry with an error; the others are
        listed all the same.

        Raises:
            InvalidSource: the list itself cannot be read.
        """

    def read(self, descriptor: Descriptor, limit_bytes: int) -> bytes:
        """Return small content whole, verified.

        Raises:
            MissingContent: the source does not hold it.
            SizeMismatch: it has another size than the descriptor says.
            DigestMismatch: it has another digest.
            InvalidManifest: the descriptor says more than *limit_bytes*; nothing is read.
            InvalidSource: it is not a regular file, or cannot be read.
        """

    def open(self, digest: Digest) -> AbstractContextManager[ByteStream]:
        """Open content for reading, from its first byte.

        Raises:
            MissingContent: the source does not hold it.
            InvalidSource: it is not a regular file, or cannot be read.
        """

    def close(self) -> None:
        """Let go of what the source holds open."""
