"""The staging folder of one process, ``staging/<uuid>/``, held under a lock while the process lives.

=========  =====================================  ===================================  ==============
step       durable effect                         a crash right after leaves           repaired by
=========  =====================================  ===================================  ==============
stage      a flushed file in the staging folder   the file; nobody holds the lock      ``recover``
publish    the file at its key, folder flushed    an object whose intent still stands  ``recover``
record     the document at its name               nothing, or the document             --
=========  =====================================  ===================================  ==============

A write that fails is never flushed again: after an error the kernel may have dropped the pages and call
them clean. The file is removed, and the bytes start again under a new key.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count, repeat
from uuid import UUID

from regmeta.errors import StoreUnavailable
from regmeta.oci.digest import Digest
from regmeta.oci.streams import ByteStream
from regmeta.store import Staged, durable
from regmeta.store.intake import take_in
from regmeta.store.owners import claim_folder, release_folder
from regmeta.store.paths import Root, checked_key, checked_name, require_blobs, wrapped, write_all

_log = logging.getLogger(__name__)

_NEW_FILE = os.O_WRONLY | os.O_EXCL | os.O_NOFOLLOW


class FilesystemStaging:
    """Implements :class:`regmeta.store.Staging` on a local file system."""

    def __init__(self, root: Root, pool: Executor) -> None:
        self._root = root
        self._pool = pool
        self._numbers = count()
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

    @contextmanager
    def _new_file(self, name: str) -> Iterator[int]:
        """Lend a new file of the staging folder; when the block raises, the file goes."""
        with wrapped(self._root.path, f"{self._folder}/{name}"):
            # Objects are read-only from the start; the descriptor may still write.
            fd = durable.create(name, _NEW_FILE, 0o444, self._folder_fd, "stage.created")
            try:
                try:
                    yield fd
                finally:
                    os.close(fd)
            except BaseException:
                durable.unlink(name, self._folder_fd, "stage.dropped")
                raise
