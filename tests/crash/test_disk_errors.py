"""A disk may be full, fail, or take less than it was given: that is said, and nothing is lost by it."""

from __future__ import annotations

import pytest

from tests.crash.harness import disk_errors, mounts, strace
from tests.crash.harness.places import Arena

CANNOT = strace.unusable() or mounts.unusable(loop=False)
pytestmark = pytest.mark.skipif(bool(CANNOT), reason=CANNOT)


def test_nothing_is_lost_by_a_sample_of_disk_errors(registries: Arena) -> None:
    result = disk_errors.run(registries, quick=True)
    assert result.failures == []
    assert len(result.points) >= 15


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_nothing_is_lost_by_any_disk_error(registries: Arena) -> None:
    result = disk_errors.run(registries)
    assert result.failures == []
    assert len(result.points) >= 200
    for kind, least in (("ENOSPC", 100), ("EIO", 80), ("+=", 10), ("-write", 50), ("full-disk", 2)):
        assert sum(kind in point for point in result.points) >= least, kind
