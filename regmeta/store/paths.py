"""Paths below a store's root, by a directory descriptor. Names are checked, so that none leads out of it.

Symbolic links that an operator put in place of a folder (``blobs`` on another disk) are followed; one in
place of an object or a document is not.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from regmeta import metrics
from regmeta.errors import StoreUnavailable
from regmeta.store import durable

_KEY = re.compile(r"(?:sha256/[0-9a-f]{2}/[0-9a-f]{64}|sha512/[0-9a-f]{2}/[0-9a-f]{128})\.[0-9a-f]{32}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def checked_key(key: str) -> str:
    """Return *key* if it is of the form that the store gives out.

    Raises:
        StoreUnavailable: it is not; a row that holds it was not written by regmeta.
    """
    if not is_key(key):
        raise StoreUnavailable(f"not a key of this store: {key[:200]!r}")
    return key


def is_key(key: str) -> bool:
    """Tell whether *key* is of the form that the store gives out."""
    return _KEY.fullmatch(key) is not None


def checked_name(name: str) -> str:
    """Return a relative path if each of its parts is a plain name."""
    if not all(_NAME.fullmatch(part) for part in name.split("/")):
        raise StoreUnavailable(f"not a name in this store: {name[:300]!r}")
    return name


class Root:
    """A directory that is held open; all paths are relative to it."""

    def __init__(self, path: str) -> None:
        self.path = path
        with wrapped(path):
            self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._made: set[str] = set()  # known to be there, and durable

    def make_folders(self, names: Iterable[str], *, lasting: bool) -> None:
        """Make folders and those above them; *lasting* flushes what names each of them.

        A folder that is there already is flushed as well when it is first met: whoever made it may have
        been stopped before doing so.
        """
        new: list[tuple[str, str]] = []
        with wrapped(self.path):
            for name in names:
                parent = "."
                for part in name.split("/"):
                    here = part if parent == "." else f"{parent}/{part}"
                    if here not in self._made:
                        with suppress(FileExistsError):
                            durable.make_folder(here, self.fd, "folder.made")
                        new.append((here, parent))
                    parent = here
            if lasting:
                for parent in {parent for _, parent in new}:
                    self.flush_folder(parent, "folder.flushed")
                self._made.update(here for here, _ in new)

    def has(self, name: str) -> bool:
        """Tell whether something has this name."""
        try:
            os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def flush_folder(self, name: str, point: str) -> None:
        """Make durable which names a folder holds."""
        with self.opened_folder(name) as fd:
            durable.flush(fd, point)

    @contextmanager
    def opened_folder(self, name: str) -> Iterator[int]:
        """Lend a descriptor of a folder."""
        fd = os.open(name, DIRECTORY, dir_fd=self.fd)
        try:
            yield fd
        finally:
            os.close(fd)

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self.fd)


def require_blobs(root: Root) -> None:
    """Refuse to go on without the folder of all objects, which is made once, with the store.

    Where it is missing a disk is not mounted: no object is absent, and none may be written (I8).
    """
    with wrapped(root.path, "blobs"):
        os.stat("blobs", dir_fd=root.fd)


@contextmanager
def wrapped(root: str, name: str = "") -> Iterator[None]:
    """Turn an ``OSError`` into :class:`StoreUnavailable`, which names the path."""
    try:
        yield
    except OSError as error:
        path = os.path.join(root, name) if name else root
        metrics.STORE_ERRORS.add(1, errno.errorcode.get(error.errno or 0, "other"))
        raise StoreUnavailable(f"{path}: {error.strerror or error}") from error


def write_all(fd: int, data: memoryview) -> None:
    """Write all of *data*; a file system may take less at a time."""
    while len(data):
        written = os.write(fd, data)
        data = data[written:]
