"""A process may die by SIGKILL before any system call that changes what is on a disk."""

from __future__ import annotations

import pytest

from tests.crash.harness import strace, system_calls
from tests.crash.harness.places import Arena

pytestmark = pytest.mark.skipif(bool(strace.unusable()), reason=strace.unusable())


def test_nothing_is_lost_where_a_system_call_kills(registries: Arena) -> None:
    result = system_calls.run(registries, quick=True)
    assert result.failures == []
    assert result.killed == len(result.points) >= 8


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_nothing_is_lost_at_any_system_call_of_an_import(registries: Arena) -> None:
    result = system_calls.run(registries)
    assert result.failures == []
    assert result.killed == len(result.points) >= 250
    assert result.notes == [f"strace -c counts {result.killed} mutating calls"]
