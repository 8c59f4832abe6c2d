"""Where long work notes how far it has come, so that it can be interrupted and goes on from there."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import Any
from uuid import uuid4

from regmeta.errors import StoreUnavailable
from regmeta.store import durable
from regmeta.store.paths import wrapped, write_all


class FileCheckpoint:
    """A JSON document in a file of its own; a reader finds the old one or the new one, whole."""

    def __init__(self, path: str) -> None:
        self.path = path

    def load(self) -> dict[str, Any] | None:
        """Return what was noted last; None if there is nothing, or nothing that can be read."""
        try:
            with open(self.path, "rb") as file:
                found = json.loads(file.read())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreUnavailable(f"{self.path}: {error.strerror}") from error
        except ValueError:
            return None  # not ours, or torn by a power cut: the work starts again
        return found if isinstance(found, dict) else None

    def save(self, state: dict[str, Any]) -> None:
        """Note how far the work has come.

        Raises:
            StoreUnavailable: it could not be written.
        """
        temporary = f"{self.path}.{uuid4().hex}"
        with wrapped(self.path):
            fd = durable.create(temporary, os.O_WRONLY | os.O_EXCL, 0o600, None, "checkpoint.made")
            try:
                write_all(fd, memoryview(json.dumps(state).encode()))
                durable.flush(fd, "checkpoint.flushed")
            finally:
                os.close(fd)
            durable.rename(temporary, None, self.path, None, "checkpoint.renamed")

    def clear(self) -> None:
        """Forget it: the work is done."""
        with wrapped(self.path), suppress(FileNotFoundError):
            durable.unlink(self.path, None, "checkpoint.removed")
