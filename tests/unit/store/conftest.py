"""A store of each kind: in a folder of its own, and in a bucket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from regmeta.store import BlobStore, Staging
from regmeta.store.bucket import BucketStore
from regmeta.store.filesystem import FilesystemStore
from tests.support.seaweed import Buckets

STORES = ["filesystem", "bucket"]


@pytest.fixture(params=STORES)
def store_kind(request: pytest.FixtureRequest) -> str:
    """Each store that regmeta works with, in turn."""
    return str(request.param)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where staging folders are: the store's folder, or the scratch folder of this machine."""
    path = tmp_path / "store"
    path.mkdir()
    return path


@pytest.fixture
def location(store_kind: str, root: Path, request: pytest.FixtureRequest) -> str:
    """Where the store is."""
    if store_kind == "filesystem":
        return str(root)
    buckets: Buckets = request.getfixturevalue("buckets")
    return buckets.url()


@pytest.fixture
def another(location: str, root: Path) -> Callable[[], BlobStore]:
    """Open the store once more, as another process would."""
    if "://" in location:
        return lambda: BucketStore(location, str(root))
    return lambda: FilesystemStore(location)


@pytest.fixture
def store(another: Callable[[], BlobStore]) -> Iterator[BlobStore]:
    """An empty store."""
    found = another()
    found.create()
    yield found
    found.close()


@pytest.fixture
def staging(store: BlobStore) -> Iterator[Staging]:
    """The staging area of this process."""
    found = store.open_staging()
    yield found
    found.close()
