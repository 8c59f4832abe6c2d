"""The files of an SQLite database: copied, moved aside and put in place, so that a crash loses none of them.

A database is its file and, while it is open, ``-wal`` and ``-shm`` beside it. The ``-wal`` holds commits, and
SQLite replays whichever it finds: it moves with its file, and never stays beside another one.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Final
from uuid import uuid4

from regmeta.errors import Locked, StoreUnavailable, UsageError
from regmeta.store import COPY_BUFFER_BYTES, durable
from regmeta.store.paths import wrapped, write_all

RESTORING: Final = ".restoring"
ASIDE: Final = ".before-restore-"
_PENDING_BYTE: Final = 0x40000000  # SQLite's locks on a database file lie here, whatever its size
_LOCKED_BYTES: Final = 512  # pending, reserved, and 510 shared ones
_FLOCK: Final = "hhqqi"  # struct flock: type, whence, start, length, pid


@contextmanager
def new_file(path: str) -> Iterator[str]:
    """Lend the name of an empty file beside *path*; when the block ends it is flushed and takes that name.

    If the block raises, it goes.

    Raises:
        UsageError: *path* is there already.
        StoreUnavailable: it cannot be written.
    """
    path = os.path.abspath(path)
    partial = f"{path}.partial-{uuid4().hex[:8]}"
    _refuse_existing(path)
    with wrapped(partial):
        os.close(durable.create(partial, os.O_WRONLY | os.O_EXCL, 0o600, None, "backup.made"))
    try:
        yield partial
        with wrapped(partial):
            _flush(partial, os.O_RDONLY, "backup.flushed")
        _refuse_existing(path)
        with wrapped(path):
            durable.rename(partial, None, path, None, "backup.renamed")
            _flush(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY, "backup.folder_flushed")
    except BaseException:
        with suppress(FileNotFoundError):
            durable.unlink(partial, None, "backup.dropped")
        raise


def has_log(path: str) -> bool:
    """Tell whether there are commits beside a database file that are not in it yet."""
    with wrapped(path), suppress(FileNotFoundError):
        return os.stat(f"{path}-wal").st_size > 0
    return False


def copy_for_restore(source: str, path: str) -> str:
    """Copy *source* beside the database at *path*, durably; return the copy's name.

    What an interrupted restore left there goes first.
    """
    target = f"{path}{RESTORING}"
    remove_prepared(path)
    with wrapped(source):
        from_fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with wrapped(target):
            fd = durable.create(target, os.O_WRONLY | os.O_EXCL, 0o600, None, "restore.copy_made")
            try:
                while chunk := os.read(from_fd, COPY_BUFFER_BYTES):
                    write_all(fd, memoryview(chunk))
                durable.flush(fd, "restore.copied")
            finally:
                os.close(fd)
    finally:
        os.close(from_fd)
    return target


def remove_prepared(path: str) -> None:
    """Remove what :func:`copy_for_restore` made: its log first, that of another file would be replayed."""
    for suffix in ("-wal", "-shm", ""):
        name = f"{path}{RESTORING}{suffix}"
        with wrapped(name), suppress(FileNotFoundError):
            durable.unlink(name, None, "restore.leftover_removed")


def put_in_place(path: str) -> str | None:
    """Move the database at *path* aside and give its name to the prepared copy; return where the old one is.

    None if there was none. The old file goes before its log: a file without its log would be a database that
    has forgotten commits. A run that was stopped in between is finished by the next one.

    Raises:
        Locked: the database is open in some process.
    """
    with wrapped(path):
        folder = os.path.dirname(path) or "."
        aside = None
        if os.path.lexists(path):
            with unused(path):
                aside = _new_aside(path)
                durable.rename(path, None, aside, None, "restore.moved_aside")
                _move_log(path, aside)
        elif os.path.lexists(f"{path}-wal"):
            aside = _aside_of_log(path)
            _move_log(path, aside)
        _flush(folder, os.O_RDONLY | os.O_DIRECTORY, "restore.aside_flushed")
        if has_log(f"{path}{RESTORING}"):
            raise StoreUnavailable(f"{path}{RESTORING}: is open in another process")
        durable.rename(f"{path}{RESTORING}", None, path, None, "restore.placed")
        _flush(folder, os.O_RDONLY | os.O_DIRECTORY, "restore.place_flushed")
        return aside


@contextmanager
def unused(path: str) -> Iterator[None]:
    """Keep every process from opening a database while the block runs.

    Raises:
        Locked: some process has it open, this one included.
    """
    with wrapped(path):
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        lock = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, _PENDING_BYTE, _LOCKED_BYTES, 0)
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock)
        except (BlockingIOError, PermissionError) as error:
            raise Locked(f"{path}: is open in another process: end it first") from error
        yield
    finally:
        os.close(fd)


def _refuse_existing(path: str) -> None:
    if os.path.lexists(path):
        raise UsageError(f"{path}: is there already")


def _aside_of_log(path: str) -> str:
    """Return what a log without its file belongs to: an interrupted run moved the file away from it."""
    folder, name = os.path.split(path)
    found = [entry for entry in os.listdir(folder or ".") if entry.startswith(f"{name}{ASIDE}")]
    moved = [entry for entry in found if not entry.endswith(("-wal", "-shm"))]
    if moved and f"{max(moved)}-wal" not in found:
        return os.path.join(folder, max(moved))
    return _new_aside(path)


def _new_aside(path: str) -> str:
    return f"{path}{ASIDE}{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"


def _move_log(path: str, aside: str) -> None:
    for suffix in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            durable.rename(f"{path}{suffix}", None, f"{aside}{suffix}", None, "restore.log_moved_aside")


def _flush(path: str, flags: int, point: str) -> None:
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        durable.flush(fd, point)
    finally:
        os.close(fd)
