"""A blob store in a folder of a local file system.

::

    store.json                                        which database this store belongs to
    blobs/<algorithm>/<2 hex>/<hex>.<uuid>            objects, read-only
    staging/<uuid>/                                   what one process is writing, under its lock
    layouts/<repository>/_<epoch>-<revision>.<uuid>.json   snapshots of tags
    repositories/<repository>/_layout/                OCI layouts of hard links, for other tools
"""

from __future__ import annotations

import os
import platform
import stat as stat_module
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import repeat
from uuid import UUID

from regmeta.errors import StoreUnavailable
from regmeta.store import ObjectInfo, ObjectMissing, Staging, durable
from regmeta.store.layouts import RepositoryLayouts
from regmeta.store.owners import abandoned_folders, folder_of
from regmeta.store.paths import Root, checked_key, checked_name, is_key, require_blobs, wrapped
from regmeta.store.staging import FilesystemStaging
from regmeta.threads import Threads

FLUSHING_THREADS = 8  # the journal groups what they flush; more do not help on one disk


class FilesystemStore:
    """Implements :class:`regmeta.store.BlobStore` in a folder. Safe to use from several threads."""

    def __init__(self, path: str) -> None:
        """Open the store in an existing folder.

        Raises:
            StoreUnavailable: there is no such folder, or it cannot be opened.
        """
        self.location = path
        self._root = Root(path)
        self._pool = Threads(FLUSHING_THREADS, thread_name_prefix="flush")
        self.layouts = RepositoryLayouts(self._root)

    location: str

    @property
    def host(self) -> str:
        """The machine: its processes' staging folders are all here."""
        return platform.node()

    def create(self) -> None:
        """Make the folders of an empty store, durably. Later on they are never made again."""
        with wrapped(self.location):
            self._root.make_folders(["blobs"], lasting=True)

    def open_staging(self) -> Staging:
        """Make a staging folder for this process."""
        return FilesystemStaging(self._root, self._pool)

    def abandoned_stagings(self) -> AbstractContextManager[Sequence[UUID]]:
        """Hold the staging folders of processes that have ended; remove them after the block."""
        return abandoned_folders(self._root)

    def staging_exists(self, owner: UUID) -> bool:
        """Tell whether *owner* still has a staging folder here."""
        return self._lstat(folder_of(owner)) is not None

    @contextmanager
    def open(self, key: str, start: int = 0) -> Iterator[_ObjectFile]:
        """Open an object for reading; see :class:`regmeta.store.BlobStore`."""
        name = f"blobs/{checked_key(key)}"
        with wrapped(self.location, name):
            try:
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._root.fd)
            except FileNotFoundError:
                require_blobs(self._root)
                raise ObjectMissing(f"{self.location}/{name}: no such object") from None
        try:
            yield _ObjectFile(fd, start, f"{self.location}/{name}")
        finally:
            os.close(fd)

    def stat(self, key: str) -> ObjectInfo | None:
        """Return what is known of an object, None if there is none."""
        found = self._lstat(f"blobs/{checked_key(key)}")
        if found is None:
            require_blobs(self._root)
            return None
        if not stat_module.S_ISREG(found.st_mode):
            raise StoreUnavailable(f"{self.location}/blobs/{key}: not a regular file")
        return ObjectInfo(key, found.st_size, found.st_mtime)

    def look(self, keys: Iterable[str]) -> dict[str, ObjectInfo | StoreUnavailable | None]:
        """Look at each in turn."""
        found: dict[str, ObjectInfo | StoreUnavailable | None] = {}
        for key in keys:
            try:
                found[key] = self.stat(key)
            except StoreUnavailable as error:
                found[key] = error
        return found

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects and flush their folders."""
        folders = set()
        for key in keys:
            name = f"blobs/{checked_key(key)}"
            with wrapped(self.location, name), suppress(FileNotFoundError):
                durable.unlink(name, self._root.fd, "delete.unlinked")
                folders.add(name.rpartition("/")[0])
        with wrapped(self.location, "blobs"):
            for _ in self._pool.map(self._root.flush_folder, folders, repeat("delete.flushed")):
                continue

    def abort_uploads(self, older_than_s: float) -> int:
        """Return 0: what is not finished lies in staging folders."""
        return 0

    def signed_url(self, key: str, lifetime_s: int) -> str | None:
        """Return None: a folder has no server."""
        return None

    def walk(self) -> Iterator[ObjectInfo]:
        """List every object, folder by folder."""
        for algorithm in self._names("blobs"):
            for prefix in self._names(f"blobs/{algorithm}"):
                folder = f"{algorithm}/{prefix}"
                for name in self._names(f"blobs/{folder}"):
                    if not is_key(f"{folder}/{name}"):
                        continue  # not ours, and never deleted
                    found = self._lstat(f"blobs/{folder}/{name}")
                    if found is not None:  # deleted since the folder was read
                        yield ObjectInfo(f"{folder}/{name}", found.st_size, found.st_mtime)

    def read_record(self, name: str) -> bytes | None:
        """Return a small document, None if there is none."""
        with wrapped(self.location, checked_name(name)):
            try:
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._root.fd)
            except (FileNotFoundError, NotADirectoryError):
                return None
            with os.fdopen(fd, "rb") as file:
                return file.read()

    def list_records(self, folder: str) -> list[str]:
        """Return the names of the documents that lie in a folder, not below it."""
        names = []
        with wrapped(self.location, checked_name(folder)):
            try:
                with self._root.opened_folder(folder) as fd, os.scandir(fd) as entries:
                    names = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
            except (FileNotFoundError, NotADirectoryError):
                return []
        return [f"{folder}/{name}" for name in sorted(names)]

    def walk_records(self, folder: str) -> Iterator[str]:
        """Return the names of all documents below a folder."""
        waiting = [checked_name(folder)]
        while waiting:
            here = waiting.pop()
            with wrapped(self.location, here):
                try:
                    with self._root.opened_folder(here) as fd, os.scandir(fd) as entries:
                        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
                except FileNotFoundError:
                    continue  # never made, or its last repository has just gone
            waiting += [f"{here}/{name}" for name, is_folder in found if is_folder]
            yield from (f"{here}/{name}" for name, is_folder in found if not is_folder)

    def settle(self) -> None:
        """Flush all file systems: one call, however many objects there are."""
        os.sync()

    def delete_record(self, name: str) -> None:
        """Remove a small document, if it is there."""
        with wrapped(self.location, checked_name(name)), suppress(FileNotFoundError):
            durable.unlink(name, self._root.fd, "record.removed")

    def close(self) -> None:
        """End the flushing threads and let go of the folder."""
        self._pool.shutdown()
        self._root.close()

    def _names(self, folder: str) -> list[str]:
        with wrapped(self.location, folder), self._root.opened_folder(folder) as fd:
            return sorted(os.listdir(fd))

    def _lstat(self, name: str) -> os.stat_result | None:
        with wrapped(self.location, name):
            try:
                return os.stat(name, dir_fd=self._root.fd, follow_symlinks=False)
            except FileNotFoundError:
                return None


class _ObjectFile:
    """An object being read."""

    def __init__(self, fd: int, start: int, path: str) -> None:
        self._fd = fd
        self._offset = start
        self._path = path

    def readinto(self, buffer: memoryview, /) -> int:
        with wrapped(self._path):
            got = os.preadv(self._fd, [buffer], self._offset)
        self._offset += got
        return got
