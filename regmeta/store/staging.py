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
from itertools import count, repeat
from uuid import UUID, uuid4

from regmeta.errors import DigestMismatch, SizeMismatch, StoreUnavailable
from regmeta.oci.digest import Digest
from regmeta.oci.streams import ByteStream
from regmeta.store import COPY_BUFFER_BYTES, Staged, durable
from regmeta.store.locks import try_lock
from regmeta.store.paths import (
    DIRECTORY,
    Root,
    checked_key,
    checked_name,
    require_blobs,
    wrapped,
    write_all,
)

_log = logging.getLogger(__name__)

LOCK_NAME = "lock"
_NEW_FILE = os.O_WRONLY | os.O_EXCL | os.O_NOFOLLOW


class FilesystemStaging:
    """Implements :class:`regmeta.store.Staging` on a local file system."""

    def __init__(self, root: Root, pool: Executor) -> None:
        self._root = root
        self._pool = pool
        self._numbers = count()
        with wrapped(root.path, "staging"):
            self.owner, self._folder_fd, self._lock_fd = _claim_folder(root)
        self._folder = f"staging/{self.owner.hex}"

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
            hexdigest, total = _copy(stream, fd, digest, size_bytes, progress)
            if total != size_bytes:
                found = "there are more" if total > size_bytes else f"there are {total}"
                raise SizeMismatch(f"{digest}: {size_bytes} bytes were announced, {found}")
            if hexdigest != digest.hex:
                raise DigestMismatch(f"{digest}: the bytes have the digest {digest.algorithm}:{hexdigest}")
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
        if self._folder_fd < 0:
            return
        try:
            with wrapped(self._root.path, self._folder):
                remove_folder(self._root, self._folder)
        except StoreUnavailable as error:
            # What was to be done is done; who writes next removes the folder.
            _log.warning("a staging folder is left: %s", error)
        os.close(self._folder_fd)
        os.close(self._lock_fd)
        self._folder_fd = self._lock_fd = -1

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


def _copy(
    stream: ByteStream,
    fd: int,
    digest: Digest,
    size_bytes: int,
    progress: Callable[[int], None] | None,
) -> tuple[str, int]:
    """Copy until the end or one byte past the declared size; return the hash and the count."""
    hasher = digest.hasher()
    total = 0
    limit = size_bytes + 1
    buffer = memoryview(bytearray(min(COPY_BUFFER_BYTES, limit)))
    while total < limit:
        got = stream.readinto(buffer[: limit - total])
        if not got:
            break
        total += got
        hasher.update(buffer[:got])
        write_all(fd, buffer[:got])
        if progress is not None:
            progress(got)
    return hasher.hexdigest(), total


def _claim_folder(root: Root) -> tuple[UUID, int, int]:
    """Make a folder with a locked file in it.

    A process that recovers may see the folder before the lock is taken and remove it: then the lock is on
    a file that has no name any more, and another folder is made.
    """
    root.make_folders(["staging"], lasting=True)
    for _ in range(100):
        owner = uuid4()
        name = f"staging/{owner.hex}"
        durable.make_folder(name, root.fd, "staging.made", 0o700)
        try:
            folder_fd = os.open(name, DIRECTORY, dir_fd=root.fd)
        except FileNotFoundError:
            continue
        lock_fd = lock_folder(folder_fd, create=True)
        if lock_fd is not None:
            return owner, folder_fd, lock_fd
        os.close(folder_fd)
    raise StoreUnavailable(f"{root.path}/staging: no staging folder could be kept")


def lock_folder(folder_fd: int, *, create: bool) -> int | None:
    """Take the lock of a staging folder; None if its process lives, or the folder is being removed.

    Only its owner may *create* the lock file: one that appears in a folder that its owner is removing would
    keep it from going.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        if create:
            fd = durable.create(LOCK_NAME, flags, 0o600, folder_fd, "staging.lock_made")
        else:
            fd = os.open(LOCK_NAME, flags, dir_fd=folder_fd)
    except FileNotFoundError:
        return None
    if try_lock(fd):
        with suppress(FileNotFoundError):
            named = os.stat(LOCK_NAME, dir_fd=folder_fd, follow_symlinks=False)
            if named.st_ino == os.fstat(fd).st_ino:
                return fd
    os.close(fd)
    return None


def remove_folder(root: Root, name: str) -> None:
    """Remove a staging folder whose lock is held, with all that lies in it: the lock file last."""
    with suppress(FileNotFoundError):  # when it is nearly empty, who recovers may be faster
        with root.opened_folder(name) as fd:
            with os.scandir(fd) as entries:
                found = list(entries)
            for entry in found:
                if entry.is_dir(follow_symlinks=False):
                    durable.remove_tree(entry.name, fd, "staging.folder_removed")
                elif entry.name != LOCK_NAME:
                    durable.unlink(entry.name, fd, "staging.file_removed")
            durable.unlink(LOCK_NAME, fd, "staging.lock_removed")
        durable.remove_folder(name, root.fd, "staging.removed")
