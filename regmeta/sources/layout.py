"""An OCI image layout in a directory, and what both kinds of layout share.

The root is what the user named, so it may be a symbolic link. Nothing below it may: every file is
opened by one name, relative to the descriptor of a directory that was opened the same way
(:mod:`regmeta.sources.files`). Nothing that happens to the path while it is read can lead out of the layout.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

from regmeta.errors import InputError, InvalidSource, MissingContent, without_frames
from regmeta.oci import layout
from regmeta.oci.descriptor import REF_NAME, Descriptor
from regmeta.oci.digest import Digest
from regmeta.sources import SourceEntry, files
from regmeta.sources.files import unusable
from regmeta.sources.verified import check_limit, check_size, verified


class LayoutDirectory:
    """An OCI image layout in a directory.

    Safe to use from several threads, until :meth:`close`.
    """

    def __init__(self, path: str) -> None:
        """Open the layout at *path* and check that it is one.

        Raises:
            InvalidSource: not a directory, or without an ``oci-layout`` of version 1.
        """
        self._path = path
        self._lock = threading.Lock()
        self._folders: dict[str, int] = {}
        try:
            self._root = os.open(path, files.ROOT)
        except (OSError, ValueError) as error:
            raise unusable(path, error) from error
        try:
            where = f"{path}/{layout.LAYOUT_FILE}"
            content = self._document(layout.LAYOUT_FILE, layout.MAX_LAYOUT_FILE_BYTES)
            layout.check_layout_file(content, where)
        except BaseException:
            self.close()
            raise

    @property
    def location(self) -> str:
        """The path that the layout was opened by."""
        return self._path

    def entries(self) -> Iterator[SourceEntry]:
        """List what ``index.json`` lists; see :meth:`regmeta.sources.Source.entries`."""
        content = self._document(layout.INDEX_FILE, layout.MAX_INDEX_FILE_BYTES)
        return listed(content, f"{self._path}/{layout.INDEX_FILE}")

    def read(self, descriptor: Descriptor, limit_bytes: int) -> bytes:
        """Return small content whole, verified; see :meth:`regmeta.sources.Source.read`."""
        check_limit(descriptor, limit_bytes, self._path)
        fd, size_bytes = self._open(descriptor.digest)
        try:
            check_size(descriptor, size_bytes, self._path)
            content = files.read_up_to(fd, size_bytes)
        except OSError as error:
            raise unusable(self._where(descriptor.digest), error) from error
        finally:
            os.close(fd)
        return verified(descriptor, content, self._path)

    def open(self, digest: Digest) -> files.OpenFile:
        """Open content for reading; see :meth:`regmeta.sources.Source.open`."""
        fd, _ = self._open(digest)
        return files.OpenFile(fd, self._where(digest))

    def close(self) -> None:
        """Close the directories; a stream that is open stays so until its own block ends."""
        with self._lock:
            root, self._root = self._root, files.CLOSED
            for fd in (*self._folders.values(), root):
                if fd != files.CLOSED:
                    os.close(fd)
            self._folders.clear()

    def _open(self, digest: Digest) -> tuple[int, int]:
        try:
            folder = self._folders.get(digest.algorithm)
            if folder is None:
                folder = self._open_folder(digest.algorithm)
            fd, status = files.open_regular(digest.hex, folder, self._where(digest))
        except FileNotFoundError:
            raise MissingContent(f"{self._path}: {digest} is missing") from None
        except OSError as error:
            raise unusable(self._where(digest), error) from error
        return fd, status.st_size

    def _open_folder(self, algorithm: str) -> int:
        # O_NOFOLLOW holds for the last component only, so each directory is opened for itself.
        with self._lock:
            known = self._folders.get(algorithm)
            if known is not None:
                return known
            blobs = os.open(layout.BLOBS_FOLDER, files.FOLDER, dir_fd=self._root)
            try:
                opened = os.open(algorithm, files.FOLDER, dir_fd=blobs)
            finally:
                os.close(blobs)
            self._folders[algorithm] = opened
            return opened

    def _document(self, name: str, limit_bytes: int) -> bytes:
        where = f"{self._path}/{name}"
        try:
            fd, status = files.open_regular(name, self._root, where)
            try:
                check_document_size(status.st_size, limit_bytes, where)
                return files.read_up_to(fd, status.st_size)
            finally:
                os.close(fd)
        except OSError as error:
            raise unusable(where, error) from error

    def _where(self, digest: Digest) -> str:
        return f"{digest} in {self._path}/{layout.blob_path(digest)}"


def listed(content: bytes, where: str) -> Iterator[SourceEntry]:
    """Read ``index.json`` at once, and its entries one after the other.

    Raises:
        InvalidSource: it is not an index.
    """
    return _entries(layout.parse_index_file(content, where), where)


def check_document_size(size_bytes: int, limit_bytes: int, where: str) -> None:
    """Refuse an ``oci-layout`` or ``index.json`` that is too large to be read whole."""
    if size_bytes > limit_bytes:
        raise InvalidSource(f"{where}: {size_bytes} bytes are more than {limit_bytes}")


def _entries(found: list[object], where: str) -> Iterator[SourceEntry]:
    for position, value in enumerate(found):
        found[position] = None  # a list of 100,000 is not held twice
        yield _entry(position, value, where)


def _entry(position: int, value: object, where: str) -> SourceEntry:
    # The name is worth having for an entry that is otherwise bad: it says which image is meant.
    notes = value.get("annotations") if isinstance(value, dict) else None
    name = notes.get(REF_NAME) if isinstance(notes, dict) else None
    ref_name = name if isinstance(name, str) else None
    try:
        descriptor = Descriptor.parse(value, f"{where}: manifests[{position}]")
    except InputError as error:
        return SourceEntry(position, ref_name, None, without_frames(error))
    return SourceEntry(position, ref_name, descriptor)
