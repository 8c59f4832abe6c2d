"""The power may go off at any step: what was acknowledged was flushed before."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.harness import mounts, power_cuts
from tests.crash.harness.places import Arena

pytestmark = pytest.mark.skipif(bool(mounts.unusable(loop=True)), reason=mounts.unusable(loop=True))


def test_nothing_is_lost_where_the_power_goes_off(registries: Arena) -> None:
    result = power_cuts.run(registries, quick=True)
    assert result.failures == []
    assert len(result.points) >= 20
    # And nothing of it is left mounted.
    assert str(registries.folder) not in Path("/proc/self/mounts").read_text()
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        assert str(registries.folder) not in backing.read_text()


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_nothing_is_lost_at_any_cut_of_any_use_case(registries: Arena) -> None:
    result = power_cuts.run(registries)
    assert result.failures == []
    assert len(result.points) >= 80
