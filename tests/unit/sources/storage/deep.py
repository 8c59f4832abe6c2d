"""Folders nested deeper than any path that the system takes in one piece."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAME = "deep"


@contextmanager
def deep_folders(root: Path, count: int) -> Iterator[None]:
    """Nest *count* folders of one name below *root*, and remove them again: what walks paths cannot."""
    fd = os.open(root, os.O_RDONLY)
    for _ in range(count):
        os.mkdir(NAME, dir_fd=fd)
        inner = os.open(NAME, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    try:
        yield
    finally:
        first = root / NAME
        while first.exists():
            if (first / NAME).exists():
                (first / NAME).rename(root / "next")
            first.rmdir()
            if (root / "next").exists():
                (root / "next").rename(first)
