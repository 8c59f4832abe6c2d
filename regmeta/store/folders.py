"""Making a folder with those above it, durably: what is acknowledged later lies in it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from regmeta.store import durable
from regmeta.store.paths import wrapped


def make_folder(path: str) -> None:
    """Make a folder and those above it that are missing, for this user only.

    Raises:
        StoreUnavailable: it cannot be made.
    """
    with wrapped(path):
        missing = [folder for folder in (Path(path), *Path(path).parents) if not folder.exists()]
        for folder in reversed(missing):
            with suppress(FileExistsError):
                durable.make_folder(str(folder), None, "init.folder_made", 0o700)
            fd = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                durable.flush(fd, "init.folder_flushed")
            finally:
                os.close(fd)
