"""Writing an OCI image layout for others to read: a directory, or one uncompressed tar file.

It is written beside its place and moved there when it is whole, so that a reader never finds half of one.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Protocol, Self
from uuid import uuid4

from regmeta.errors import UsageError
from regmeta.oci import layout
from regmeta.oci.digest import Digest
from regmeta.oci.streams import ByteStream, fill
from regmeta.store import COPY_BUFFER_BYTES
from regmeta.store.paths import wrapped, write_all


class LayoutExport(Protocol):
    """A layout that is being written; left without ``finish`` it goes away."""

    def __enter__(self) -> LayoutExport:
        """Begin."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove what was not finished."""

    def add(
        self,
        digest: Digest,
        size_bytes: int,
        stream: ByteStream,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Write one blob."""

    def finish(self, index: bytes) -> None:
        """Write the index and show the layout under its name."""


def open_export(path: str) -> LayoutExport:
    """Return a writer for *path*: an archive if it ends in ``.tar``, else a directory.

    Raises:
        UsageError: something is there already.
    """
    if os.path.lexists(path):
        raise UsageError(f"{path}: is there already")
    return ArchiveExport(path) if path.endswith(".tar") else DirectoryExport(path)


class _Export(ABC):
    """What both kinds share: a place beside the target, and what becomes of it."""

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)
        self._partial = f"{self._path}.partial-{uuid4().hex[:8]}"
        self._is_finished = False

    def __enter__(self) -> Self:
        with wrapped(self._partial):
            self._begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._is_finished:
            self._discard()

    @abstractmethod
    def _begin(self) -> None:
        """Make the place beside the target."""

    @abstractmethod
    def _discard(self) -> None:
        """Remove it."""

    def _show(self) -> None:
        with wrapped(self._path):
            os.rename(self._partial, self._path)
        self._is_finished = True


class DirectoryExport(_Export):
    """A layout in a directory."""

    def _begin(self) -> None:
        os.makedirs(self._partial)

    def _discard(self) -> None:
        shutil.rmtree(self._partial, ignore_errors=True)

    def add(
        self,
        digest: Digest,
        size_bytes: int,
        stream: ByteStream,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Write one blob as a file."""
        target = os.path.join(self._partial, layout.blob_path(digest))
        with wrapped(target):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "xb", buffering=0) as file:
                buffer = memoryview(bytearray(COPY_BUFFER_BYTES))
                while got := stream.readinto(buffer):
                    write_all(file.fileno(), buffer[:got])
                    if progress is not None:
                        progress(got)

    def finish(self, index: bytes) -> None:
        """Write ``oci-layout`` and ``index.json``, and move the directory to its place."""
        for name, content in ((layout.LAYOUT_FILE, layout.LAYOUT_CONTENT), (layout.INDEX_FILE, index)):
            with wrapped(self._partial), open(os.path.join(self._partial, name), "xb") as file:
                file.write(content)
        self._show()


class ArchiveExport(_Export):
    """A layout in an uncompressed tar file."""

    def _begin(self) -> None:
        # Closed by finish or _discard.
        self._tar = tarfile.open(self._partial, "x:", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def _discard(self) -> None:
        self._tar.close()
        with suppress(FileNotFoundError):
            os.unlink(self._partial)

    def add(
        self,
        digest: Digest,
        size_bytes: int,
        stream: ByteStream,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Write one blob as a member."""
        self._member(layout.blob_path(digest), size_bytes, _Reader(stream, progress))

    def finish(self, index: bytes) -> None:
        """Write ``oci-layout`` and ``index.json``, and move the file to its place."""
        for name, content in ((layout.LAYOUT_FILE, layout.LAYOUT_CONTENT), (layout.INDEX_FILE, index)):
            self._member(name, len(content), _Reader(io.BytesIO(content), None))
        with wrapped(self._partial):
            self._tar.close()
        self._show()

    def _member(self, name: str, size_bytes: int, reader: _Reader) -> None:
        info = tarfile.TarInfo(name)
        info.size = size_bytes
        info.mode = 0o644
        with wrapped(self._partial):
            self._tar.addfile(info, reader)
            # The end is read as well: only there is it known that the bytes were right.
            reader.read(1)


class _Reader:
    """Gives ``tarfile`` the reading side of a file."""

    def __init__(self, stream: ByteStream, progress: Callable[[int], None] | None) -> None:
        self._stream = stream
        self._progress = progress

    def read(self, size: int = -1, /) -> bytes:
        # tarfile asks for as much as the member still needs, never for all.
        view = memoryview(bytearray(max(size, 0)))
        total = fill(self._stream, view)
        if self._progress is not None:
            self._progress(total)
        return bytes(view[:total])
