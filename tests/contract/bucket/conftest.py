"""A registry whose store is in a bucket, in place of the one in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from regmeta.maintain.setup import make_identity
from regmeta.settings import Settings
from tests.support.bucket_files import BucketFiles
from tests.support.consistency import assert_consistent
from tests.support.registry import open_parts, settings_of
from tests.support.seaweed import Buckets


@pytest.fixture
def settings(
    registry_home: Path, database_url: str, buckets: Buckets, request: pytest.FixtureRequest
) -> Iterator[Settings]:
    """The settings of a new registry. When the test is over, its database and its bucket must agree."""
    found = settings_of(registry_home, database_url, store=buckets.url())
    database, store = open_parts(found)
    with closing(database), closing(store):
        make_identity(database, store)
    yield found
    if request.node.get_closest_marker("inconsistent") is None:
        database, store = open_parts(found)
        with closing(database), closing(store):
            assert_consistent(database, store)
    BucketFiles(found.store).clear()


@pytest.fixture
def files(settings: Settings) -> BucketFiles:
    """The bucket, looked at from outside."""
    return BucketFiles(settings.store)
