"""File systems that exist for one process and its children only: its end takes them away, however it ends."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.crash.harness.children import run_child

_CLONE_NEWNS: Final = 0x20000
_REC_PRIVATE: Final = (1 << 14) | (1 << 18)


def private() -> None:
    """Give this process mounts of its own; what it mounts from now on nobody else sees.

    The kernel unmounts it all with the last process, and a loop device goes with its mount.

    Raises:
        OSError: not allowed here.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0 or libc.mount(b"none", b"/", None, _REC_PRIVATE, None) != 0:
        raise OSError(ctypes.get_errno(), "no mounts of its own")


def unusable(*, loop: bool) -> str:
    """Return why nothing can be mounted here, with *loop* also not from a file; nothing if it can."""
    if os.geteuid() != 0:
        return "needs root, to mount file systems"
    if loop and shutil.which("mkfs.ext4") is None:
        return "mkfs.ext4 is not installed"

    def attempt(_: object) -> None:
        private()
        with tempfile.TemporaryDirectory() as folder, mounted_memory(Path(folder, "tmpfs"), 8):
            if loop:
                image = Path(folder, "image")
                make_ext4(image, 8)
                with mounted_image(image, Path(folder, "ext4")):
                    pass

    outcome = run_child(attempt)
    return "" if outcome.ended == "done" else f"mounting fails: {outcome.error.strip().splitlines()[-1]}"


def make_ext4(image: Path, size_mib: int) -> None:
    """Make an ext4 file system in a sparse file."""
    with open(image, "wb") as file:
        file.truncate(size_mib * 1024 * 1024)
    _run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)


@contextmanager
def mounted_image(image: Path, folder: Path) -> Iterator[Path]:
    """Mount an ext4 file; its journal is replayed. It commits only what is flushed, for ten minutes."""
    folder.mkdir(exist_ok=True)
    _run("mount", "-t", "ext4", "-o", "loop,commit=600", image, folder)
    try:
        yield folder
    finally:
        _run("umount", folder)


@contextmanager
def mounted_memory(folder: Path, size_mib: int) -> Iterator[Path]:
    """Mount a file system in memory that has room for so much and no more."""
    folder.mkdir(exist_ok=True)
    _run("mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", folder)
    try:
        yield folder
    finally:
        _run("umount", folder)


def copy_image(image: Path, target: Path) -> None:
    """Copy what of a file system is on its disk at this moment."""
    _run("cp", "--sparse=always", image, target)


def copy_tree(source: Path, target: Path) -> None:
    """Copy what is in a folder into another one, links among it kept."""
    _run("cp", "-a", f"{source}/.", target)


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
