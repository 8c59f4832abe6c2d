"""Which processes are at work: each holds a lock in a folder of its own, ``staging/<uuid>/``.

A lock ends with its process, however that ends, so a folder whose lock can be taken is one of a process that
has ended. That is known of processes on the same file system only; ``host`` names it in rows.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final
from uuid import UUID, uuid4

from regmeta.errors import StoreUnavailable
from regmeta.store import durable
from regmeta.store.locks import try_lock
from regmeta.store.paths import DIRECTORY, Root, wrapped

LOCK_NAME: Final = "lock"
_NOT_PLAIN: Final = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True, slots=True)
class Claim:
    """A folder that this process has made, and holds under its lock."""

    owner: UUID
    folder_fd: int
    lock_fd: int

    @property
    def folder(self) -> str:
        """Its name below the root."""
        return folder_of(self.owner)


def folder_of(owner: UUID) -> str:
    """Return the name of a process's folder."""
    return f"staging/{owner.hex}"


def sign_of(host: str) -> str:
    """Return how a host is written in the name of a process's sign."""
    return _NOT_PLAIN.sub("-", host)


def claim_folder(root: Root) -> Claim:
    """Make a folder with a locked file in it.

    A process that recovers may see the folder before the lock is taken and remove it: then the lock is on
    a file that has no name any more, and another folder is made.
    """
    root.make_folders(["staging"], lasting=True)
    for _ in range(100):
        owner = uuid4()
        durable.make_folder(folder_of(owner), root.fd, "staging.made", 0o700)
        try:
            folder_fd = os.open(folder_of(owner), DIRECTORY, dir_fd=root.fd)
        except FileNotFoundError:
            continue
        lock_fd = _lock_folder(folder_fd, create=True)
        if lock_fd is not None:
            return Claim(owner, folder_fd, lock_fd)
        os.close(folder_fd)
    raise StoreUnavailable(f"{root.path}/staging: no staging folder could be kept")


def release_folder(root: Root, claim: Claim) -> None:
    """Remove this process's folder and let go of its lock.

    Raises:
        StoreUnavailable: the folder is left; the lock is free all the same.
    """
    try:
        with wrapped(root.path, claim.folder):
            _remove_folder(root, claim.folder)
    finally:
        os.close(claim.folder_fd)
        os.close(claim.lock_fd)


@contextmanager
def abandoned_folders(root: Root) -> Iterator[Sequence[UUID]]:
    """Hold the folders of processes that have ended; remove them after the block, if it does not raise."""
    held: list[tuple[UUID, int]] = []
    try:
        for owner in _owners(root):
            lock_fd = _lock(root, owner)
            if lock_fd is not None:
                held.append((owner, lock_fd))
        yield [owner for owner, _ in held]
        for owner, _ in held:
            with wrapped(root.path, folder_of(owner)):
                _remove_folder(root, folder_of(owner))
    finally:
        for _, lock_fd in held:
            os.close(lock_fd)


def _owners(root: Root) -> list[UUID]:
    with wrapped(root.path, "staging"):
        try:
            with root.opened_folder("staging") as fd:
                names = os.listdir(fd)
        except FileNotFoundError:
            return []
    return [UUID(hex=name) for name in names if len(name) == 32 and not name.strip("0123456789abcdef")]


def _lock(root: Root, owner: UUID) -> int | None:
    folder = folder_of(owner)
    with wrapped(root.path, folder):
        try:
            with root.opened_folder(folder) as fd:
                lock_fd = _lock_folder(fd, create=False)
            if lock_fd is None:
                # Without a lock file it is empty: its process was stopped just after making it, or is
                # just removing it. One that is not empty stays.
                with suppress(OSError):
                    durable.remove_folder(folder, root.fd, "staging.empty_removed")
            return lock_fd
        except (FileNotFoundError, NotADirectoryError):
            return None  # its process has just ended and cleared up, or it is not ours


def _lock_folder(folder_fd: int, *, create: bool) -> int | None:
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


def _remove_folder(root: Root, name: str) -> None:
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
