"""A store in a folder of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from regmeta.store import Staging
from regmeta.store.filesystem import FilesystemStore


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The store's folder."""
    path = tmp_path / "store"
    path.mkdir()
    return path


@pytest.fixture
def store(root: Path) -> Iterator[FilesystemStore]:
    """An empty store."""
    found = FilesystemStore(str(root))
    found.create()
    yield found
    found.close()


@pytest.fixture
def staging(store: FilesystemStore) -> Iterator[Staging]:
    """The staging area of this process."""
    found = store.open_staging()
    yield found
    found.close()
