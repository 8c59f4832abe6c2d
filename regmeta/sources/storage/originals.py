"""Where the bytes are of what zot keeps as a placeholder.

Its database of deduplicated blobs names one path of each; nothing in the storage does. So the repositories
are asked one by one, beginning with those that had the last ones: images share the layers of a few bases.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Final

from regmeta.errors import InvalidSource
from regmeta.oci import layout
from regmeta.oci.digest import Digest
from regmeta.sources.storage.remembered import Remembered
from regmeta.sources.storage.trees import Tree, TreeEntry

_REMEMBERED: Final = 100_000  # some 30 MB
_FIRST_ASKED: Final = 16


def is_placeholder(entry: TreeEntry, digest: Digest) -> bool:
    """Tell a placeholder from content: it has no bytes, and its digest is not that of no bytes."""
    return entry.size_bytes == 0 and not digest.matches(b"")


class Originals:
    """Finds the bytes of placeholders. Safe to use from several threads."""

    def __init__(self, tree: Tree, folders: Callable[[], Iterator[str]]) -> None:
        """Look in *tree*, below the *folders* of its repositories."""
        self._tree = tree
        self._folders = folders
        self._lock = threading.Lock()
        self._known: list[str] | None = None
        self._lately: Remembered[str, None] = Remembered(_FIRST_ASKED)
        self._found: Remembered[Digest, tuple[str, TreeEntry] | bool] = Remembered(_REMEMBERED)

    def find(self, digest: Digest) -> tuple[str, TreeEntry] | None:
        """Return the path of a blob's bytes and what is there; None if no repository has them.

        Raises:
            InvalidSource, RemoteUnavailable: it could not be found out.
        """
        known = self._found.get(digest)
        if known is None:
            known = self._looked_for(digest) or False
            self._found.put(digest, known)
        return None if isinstance(known, bool) else known

    def _looked_for(self, digest: Digest) -> tuple[str, TreeEntry] | None:
        lately = self._lately.keys()
        for folder in (*lately, *self._all()):
            path = f"{folder}/{layout.blob_path(digest)}".lstrip("/")
            try:
                entry = self._tree.look(path)
            except InvalidSource:
                continue  # a link, or a folder that is none: it has no bytes for others
            if entry is not None and entry.what == "file" and not is_placeholder(entry, digest):
                self._lately.put(folder, None)
                return path, entry
        return None

    def _all(self) -> list[str]:
        with self._lock:
            if self._known is None:
                self._known = list(self._folders())
            return self._known
