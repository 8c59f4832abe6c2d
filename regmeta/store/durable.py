"""The calls that change which files there are, or make them last: each with its failpoint.

Nothing else in ``store`` and ``app`` makes them (``tests/unit/test_failpoints.py`` looks for that), so that
no durable step is without a point. Each raises ``OSError`` as the call itself does.
"""

from __future__ import annotations

import os
import shutil

from regmeta.failpoints import reach

Folder = int | None  # a descriptor that the name is relative to; None for an absolute path


def flush(fd: int, point: str) -> None:
    """Make what was written to a file, or which names a folder holds, survive a power cut."""
    os.fsync(fd)
    reach(point)


def rename(source: str, source_folder: Folder, target: str, target_folder: Folder, point: str) -> None:
    """Give a file another name, in place of what has it now."""
    os.rename(source, target, src_dir_fd=source_folder, dst_dir_fd=target_folder)
    reach(point)


def link(source: str, source_folder: Folder, target: str, target_folder: Folder, point: str) -> None:
    """Give a file one more name, which nothing has yet."""
    os.link(source, target, src_dir_fd=source_folder, dst_dir_fd=target_folder, follow_symlinks=False)
    reach(point)


def link_open(fd: int, target: str, target_folder: Folder, point: str) -> None:
    """Give the file behind a descriptor, wherever it lies, one more name, which nothing has yet.

    ``linkat`` with the descriptor itself needs a privilege; by way of ``/proc`` it does not.
    """
    os.link(f"/proc/self/fd/{fd}", target, dst_dir_fd=target_folder, follow_symlinks=True)
    reach(point)


def unlink(name: str, folder: Folder, point: str) -> None:
    """Take a name from a file."""
    os.unlink(name, dir_fd=folder)
    reach(point)


def make_folder(name: str, folder: Folder, point: str, mode: int = 0o755) -> None:
    """Make a folder."""
    os.mkdir(name, mode, dir_fd=folder)
    reach(point)


def remove_folder(name: str, folder: Folder, point: str) -> None:
    """Remove an empty folder."""
    os.rmdir(name, dir_fd=folder)
    reach(point)


def remove_tree(name: str, folder: Folder, point: str) -> None:
    """Remove a folder with all that lies in it."""
    shutil.rmtree(name, dir_fd=folder)
    reach(point)


def create(name: str, flags: int, mode: int, folder: Folder, point: str) -> int:
    """Open a file that may be new; return its descriptor."""
    fd = os.open(name, flags | os.O_CREAT | os.O_CLOEXEC, mode, dir_fd=folder)
    reach(point)
    return fd
