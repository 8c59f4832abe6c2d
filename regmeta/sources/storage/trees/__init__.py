"""Folders and files by their names, wherever they lie: what the readers of old registries stand on.

``folder``  a folder of this machine
``bucket``  the objects below a prefix of a bucket

Paths are relative to the root, with ``/`` between names. A name that is no text, or is longer than a store
of images ever makes one, is listed as a defect of its folder by who asks; it is never opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from regmeta.oci.streams import ByteStream


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """One name of a folder: a regular file, a folder, or something else that is not opened.

    What :meth:`Tree.mark` would say of it stands in *mark* where the listing says it already.
    """

    name: str
    what: Literal["file", "folder", "other"]
    size_bytes: int = 0
    modified_at: datetime | None = None
    mark: str = ""


def nothing(_: str) -> bool:
    """Leave nothing out."""
    return False


class Tree(Protocol):
    """A tree of files that is only read. Safe to use from several threads, until :meth:`close`.

    None means that there is no such thing; that it could not be found out always raises (I8).
    """

    @property
    def location(self) -> str:
        """What messages call it: an absolute path, or a URL."""

    def entries(self, path: str) -> list[TreeEntry] | None:
        """List a folder, ordered by name; None if there is none. Links are *other*, and never followed.

        Raises:
            InvalidSource: it is no folder, or cannot be read.
            RemoteUnavailable: the bucket did not answer.
        """

    def files(
        self, path: str, *, leave_out: Callable[[str], bool] = nothing
    ) -> Iterator[tuple[str, TreeEntry]]:
        """List all files below a folder with their paths below it, in no order; none if there is none.

        What is neither file nor folder is among them too, as *other*. What goes meanwhile may be or not.
        Folders that are to be left out by their paths below *path* are listed themselves instead of what is
        in them; a bucket, which lists files and no folders, lists what is in them all the same.

        Raises:
            InvalidSource, RemoteUnavailable: it is not listed to its end.
        """

    def look(self, path: str) -> TreeEntry | None:
        """Look at one file or folder; None if there is none.

        Raises:
            InvalidSource, RemoteUnavailable: it could not be found out.
        """

    def read(self, path: str, limit_bytes: int) -> bytes | None:
        """Return a file whole; None if there is none. Of a larger one, the first *limit_bytes* and one more.

        Raises:
            InvalidSource: it is not a regular file, or cannot be read.
            RemoteUnavailable: the bucket did not answer.
        """

    def mark(self, path: str) -> str | None:
        """Return a text that is another one when a small file says something else; None if there is none.

        A folder's is made from what the file says, a bucket's from what the listing says of it.

        Raises:
            InvalidSource, RemoteUnavailable: it could not be found out.
        """

    def open(self, path: str) -> AbstractContextManager[ByteStream]:
        """Open a file for reading, from its first byte.

        Raises:
            MissingContent: there is none.
            InvalidSource: it is not a regular file, or cannot be read.
            RemoteUnavailable: the bucket did not answer.
        """

    def close(self) -> None:
        """Let go of what is held open."""
