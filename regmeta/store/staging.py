"""The staging folder of one process, ``staging/<uuid>/``, held under a lock while the process lives.

=========  =====================================  ===================================  ==============
step       durable effect                         a crash right after leaves           repaired by
=========  =====================================  ===================================  ==============
stage      a flushed file in the staging folder,  the file; nobody holds the lock      ``recover``
           new or one more name of another
publish    the file at its key, folder flushed    an object whose intent still stands  ``recover``
record     the document at its name               nothing, or the document             --
=========  =====================================  ===================================  ==============

A write that fails is never flushed again: after an error the kernel may have dropped the pages and call
them clean. The file is removed, and the bytes start again under a new key.

A file that is there already is not copied where that can be helped: see :mod:`regmeta.store.linking`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count, repeat
from typing import Final
from uuid import UUID

from regmeta import metrics
from regmeta.errors import StoreUnavailable
from regmeta.oci.digest import Digest
from regmeta.oci.streams import ByteStream, LinkableStream
from regmeta.store import Staged, durable, linking
from regmeta.store.intake import take_in
from regmeta.store.linking import NotShared, Progress
from regmeta.store.owners import claim_folder, release_folder
from regmeta.store.paths import Root, checked_key, checked_name, require_blobs, wrapped, write_all

_log = logging.getLogger(__name__)

_NEW_FILE: Final = os.O_EXCL | os.O_NOFOLLOW
_READ_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class FilesystemStaging:
    """Implements :class:`regmeta.store.Staging` on a local file system."""

    def __init__(self, root: Root, pool: Executor) -> None:
        self._root = root
        self._pool = pool
        self._numbers = count()
        self._without_clones: set[int] = set()  # devices
        with wrapped(root.path, "staging"):
            self._claim = claim_folder(root)
        self.owner = self._claim.owner
        self._folder = self._claim.folder
        self._folder_fd = self._claim.folder_fd
        self._is_open = True

    owner: UUID

    def stage(
        self,
        key: str,
        digest: Digest,
        size_bytes: int,
        stream: ByteStream,
        progress: Callable[[int], None] | None = None,
    ) -> Staged:
        """Take bytes in, verified and flushed; see :class:`regmeta.store.Staging`."""
        checked_key(key)
        if isinstance(stream, LinkableStream):
            progress = progress and linking.capped(progress, size_bytes)
            fd = stream.linkable_fd
            name = self._clone(fd, digest, size_bytes, progress) or self._link(
                fd, digest, size_bytes, progress
            )
            if name is not None:
                return Staged(key, digest, size_bytes, name)
        name = str(next(self._numbers))
        with self._new_file(name) as fd:
            take_in(stream, digest, size_bytes, partial(write_all, fd), progress)
            durable.flush(fd, "stage.flushed")
        return Staged(key, digest, size_bytes, name)

    def publish(self, staged: Sequence[Staged]) -> None:
        """Give each its key, durably; see :class:`regmeta.store.Staging`."""
        require_blobs(self._root)
        folders = {f"blobs/{item.key.rpartition('/')[0]}" for item in staged}
        self._root.make_folders(folders, lasting=True)
        with wrapped(self._root.path, "blobs"):
            for item in staged:
                target = f"blobs/{checked_key(item.key)}"
                if self._root.has(target):  # keys hold a uuid: only a defect gives one out twice
                    raise StoreUnavailable(f"{self._root.path}/{target}: is there already")
                durable.rename(item.token, self._folder_fd, target, self._root.fd, "publish.renamed")
            # Flushes of several threads share one journal commit.
            for _ in self._pool.map(self._root.flush_folder, folders, repeat("publish.flushed")):
                continue

    def write_record(self, name: str, content: bytes, *, exclusive: bool = False) -> None:
        """Write a small document, durably; see :class:`regmeta.store.Staging`."""
        folder, _, _ = checked_name(name).rpartition("/")
        if folder:
            self._root.make_folders([folder], lasting=True)
        temporary = str(next(self._numbers))
        with self._new_file(temporary) as fd:
            write_all(fd, memoryview(content))
            durable.flush(fd, "record.flushed")
        with wrapped(self._root.path, name):
            if exclusive:
                try:
                    durable.link(temporary, self._folder_fd, name, self._root.fd, "record.linked")
                finally:
                    durable.unlink(temporary, self._folder_fd, "record.unlinked")
            else:
                durable.rename(temporary, self._folder_fd, name, self._root.fd, "record.renamed")
            self._root.flush_folder(folder or ".", "record.named")

    def discard(self, staged: Iterable[Staged]) -> None:
        """Remove staged bytes that were not published."""
        with wrapped(self._root.path, self._folder):
            for item in staged:
                with suppress(FileNotFoundError):
                    durable.unlink(item.token, self._folder_fd, "discard.unlinked")

    def scratch_folder(self) -> str:
        """Make a folder inside the staging folder; it is removed with it, also after a crash."""
        name = f"scratch-{next(self._numbers)}"
        with wrapped(self._root.path, f"{self._folder}/{name}"):
            durable.make_folder(name, self._folder_fd, "scratch.made", 0o700)
        return os.path.join(self._root.path, self._folder, name)

    def close(self) -> None:
        """Remove the folder and let go of its lock. Safe to call twice."""
        if not self._is_open:
            return
        self._is_open = False
        try:
            release_folder(self._root, self._claim)
        except StoreUnavailable as error:
            # What was to be done is done; who writes next removes the folder.
            _log.warning("a staging folder is left: %s", error)

    def _clone(
        self, source_fd: int, digest: Digest, size_bytes: int, progress: Progress | None
    ) -> str | None:
        """Stage a clone of a file; return its name, None if it cannot be cloned."""
        device = os.fstat(source_fd).st_dev
        if device in self._without_clones:
            return None
        name = str(next(self._numbers))
        try:
            with self._new_file(name, os.O_RDWR) as fd:
                linking.clone(source_fd, fd)
                linking.verify(fd, digest, size_bytes, progress)
        except NotShared:
            self._without_clones.add(device)  # not tried for each of its files
            return None
        metrics.CLONED_BYTES.add(size_bytes)
        return name

    def _link(self, source_fd: int, digest: Digest, size_bytes: int, progress: Progress | None) -> str | None:
        """Stage one more name of a file; return it, None if the file cannot or must not be linked."""
        if not linking.may_link(os.fstat(source_fd), os.fstat(self._root.fd), os.geteuid()):
            return None
        name = str(next(self._numbers))
        try:
            with self._dropped_on_error(name):
                linking.link(source_fd, name, self._folder_fd)
                # From here on it is the new name's file that is looked at.
                fd = os.open(name, _READ_FILE, dir_fd=self._folder_fd)
                try:
                    linking.verify(fd, digest, size_bytes, progress)
                finally:
                    os.close(fd)
        except NotShared:
            return None
        metrics.LINKED_BYTES.add(size_bytes)
        return name

    @contextmanager
    def _new_file(self, name: str, access: int = os.O_WRONLY) -> Iterator[int]:
        """Lend a new file of the staging folder; when the block raises, the file goes."""
        with self._dropped_on_error(name):
            # Objects are read-only from the start; the descriptor may still write.
            fd = durable.create(name, access | _NEW_FILE, 0o444, self._folder_fd, "stage.created")
            try:
                yield fd
            finally:
                os.close(fd)

    @contextmanager
    def _dropped_on_error(self, name: str) -> Iterator[None]:
        """Take a name out of the staging folder when the block raises."""
        with wrapped(self._root.path, f"{self._folder}/{name}"):
            try:
                yield
            except BaseException:
                with suppress(FileNotFoundError):  # it did not come to have it
                    durable.unlink(name, self._folder_fd, "stage.dropped")
                raise
