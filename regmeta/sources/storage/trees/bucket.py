"""The objects below a prefix of a bucket as a tree of folders and files.

A bucket has no folders: one is there while an object lies below it. An object that has a folder's name is
the mark some tools and Azure's hierarchical accounts leave of it, so it is not listed beside it; a listing of
all files has it, as a file without bytes. Objects whose names are no paths (two slashes in a row, control
characters) are not listed by the client: what asks for their folder raises.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import Final

from regmeta.errors import InvalidSource, MissingContent
from regmeta.object_storage.objects import Listed, ObjectReader, Objects
from regmeta.object_storage.reach import Reach, without_secrets
from regmeta.oci.streams import ByteStream
from regmeta.sources.storage.trees import TreeEntry, nothing

_URL: Final = re.compile(r"(?:s3|gs|az)://[A-Za-z0-9][A-Za-z0-9._-]*(?:/.*)?", re.DOTALL)


class BucketTree:
    """Implements :class:`regmeta.sources.storage.trees.Tree` on a bucket. Safe to use from several threads.

    A process that is forked from one that has asked something already must make its own.
    """

    def __init__(self, url: str, reach: Reach | None = None) -> None:
        """Prepare to connect to the bucket of *url*, as ``s3://bucket/prefix``; nothing is asked yet.

        Raises:
            InvalidSource: it is the URL of no bucket.
            RemoteUnavailable: no client can be made for it.
        """
        if _URL.fullmatch(url) is None:
            raise InvalidSource(
                f"{without_secrets(url)[:200]!r}: is no bucket: write s3://bucket/prefix (or gs, az)"
            )
        self._objects = Objects(url, reach if reach is not None else Reach())
        self.location = self._objects.location

    location: str

    def entries(self, path: str) -> list[TreeEntry] | None:
        """List a folder, ordered by name, with one request for each thousand; None if there is none."""
        objects, folders = self._objects.list_all(path)
        below = _below(path)
        found = {each.name: _file(each) for each in objects if _is_in(each.name, below)}
        found.update({name: TreeEntry(_last(name), "folder") for name in folders if _is_in(name, below)})
        return sorted(found.values(), key=lambda entry: entry.name) if objects or folders else None

    def files(
        self,
        path: str,
        *,
        leave_out: Callable[[str], bool] = nothing,
    ) -> Iterator[tuple[str, TreeEntry]]:
        """List all files below a folder, a thousand with each request; one page of them is in memory."""
        below = _below(path)
        for each in self._objects.walk(path):
            if each.name.startswith(below) and each.name != below:
                yield each.name.removeprefix(below), _file(each)

    def look(self, path: str) -> TreeEntry | None:
        """Look at one file or folder; None if there is none. A folder takes a second request."""
        found = self._objects.head(path) if path else None
        if found is not None and found.size_bytes:
            return _file(found)
        if self._is_folder(path):
            return TreeEntry(_last(path), "folder")
        return None if found is None else _file(found)

    def read(self, path: str, limit_bytes: int) -> bytes | None:
        """Return a file whole, or the first *limit_bytes* and one more; None if there is none."""
        pieces = self._pieces(path)
        if pieces is None:
            return None
        content = bytearray()
        for piece in pieces:
            content += piece[: limit_bytes + 1 - len(content)]
            if len(content) > limit_bytes:
                break
        return bytes(content)

    def mark(self, path: str) -> str | None:
        """Return the server's entity tag of a file, as listings have it too; None if there is none."""
        found = self._objects.head(path)
        if found is None:
            self._require_bucket(path)
            return None
        return _mark(found)

    @contextmanager
    def open(self, path: str) -> Iterator[ByteStream]:
        """Open a file for reading, from its first byte; a MiB of it is in memory."""
        pieces = self._pieces(path)
        if pieces is None:
            raise MissingContent(f"{self.location}/{path}: no such file")
        yield ObjectReader(pieces)

    def close(self) -> None:
        """Do nothing: the client lets go of its connections by itself."""

    def _pieces(self, path: str) -> Iterator[memoryview] | None:
        pieces = self._objects.read(path)
        if pieces is None:
            self._require_bucket(path)
        return pieces

    def _is_folder(self, path: str) -> bool:
        with closing(self._objects.walk(path)) as found:
            return next(found, None) is not None

    def _require_bucket(self, path: str) -> None:
        """Refuse to call something absent where the bucket is: only a listing tells the two apart (I8)."""
        self._is_folder(path)


def _below(path: str) -> str:
    return f"{path}/" if path else ""


def _is_in(name: str, below: str) -> bool:
    """Tell whether a name is of the folder itself: its own mark, and what servers make of ``//``, is not."""
    rest = name.removeprefix(below)
    return name.startswith(below) and rest != "" and "/" not in rest


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _file(found: Listed) -> TreeEntry:
    at = datetime.fromtimestamp(found.modified_s, UTC) if found.modified_s > 0 else None
    return TreeEntry(_last(found.name), "file", found.size_bytes, at, _mark(found))


def _mark(found: Listed) -> str:
    return found.mark or f"{found.size_bytes} {found.modified_s}"
