"""Who recovers may die as well, at any of its own steps: the next one still gets it right."""

from __future__ import annotations

import pytest

from tests.crash.harness import double_crash
from tests.crash.harness.places import Arena


def test_nothing_is_lost_where_recovery_is_killed(registries: Arena) -> None:
    result = double_crash.run(registries, quick=True)
    assert result.failures == []
    assert result.killed == len(result.points) >= 10


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_nothing_is_lost_in_two_crashes_one_after_the_other(registries: Arena) -> None:
    result = double_crash.run(registries)
    assert result.failures == []
    assert result.killed == len(result.points) == len(set(result.points)) >= 200
