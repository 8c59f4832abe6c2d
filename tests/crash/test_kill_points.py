"""A process may die by SIGKILL after any durable step: nothing is lost, and nothing is there by halves."""

from __future__ import annotations

from typing import Final

import pytest

from tests.crash.harness import kill_points
from tests.crash.harness.places import Arena
from tests.crash.harness.recordings import record
from tests.crash.harness.report import names
from tests.crash.harness.use_cases import USE_CASES
from tests.support.points import named_points

NOT_REACHED: Final = {
    "backup.dropped": "a copy that failed is removed: what is there is not one, before or after"
}
"""Points that no use case reaches, each with the reason."""

IN_BUCKETS: Final = "bucket."
"""What the names of those begin with that only a store in a bucket has: see ``test_s3_faults``."""


def test_every_failpoint_is_reached_by_a_use_case(registries: Arena) -> None:
    in_folders = {name for name in named_points() if not name.startswith(IN_BUCKETS)}
    reached = {
        point
        for case in USE_CASES
        if case.runs_on("sqlite")
        for point in record(registries, "sqlite", case).points
    }
    assert in_folders - reached == NOT_REACHED.keys()


def test_nothing_is_lost_where_a_process_is_killed(registries: Arena) -> None:
    result = kill_points.run(registries, quick=True)
    assert result.failures == []
    assert result.killed == len(result.points) >= 20


def test_nothing_is_lost_where_a_process_is_killed_on_a_server(all_registries: Arena) -> None:
    result = kill_points.run(all_registries, quick=True, backends=("postgresql",))
    assert result.failures == []
    assert result.killed == len(result.points) >= 4


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_nothing_is_lost_at_a_tenth_of_all_failpoints(all_registries: Arena) -> None:
    """Of those on PostgreSQL fewer: making its databases costs most."""
    for backend, every in (("sqlite", 10), ("postgresql", 40)):
        result = kill_points.run(all_registries, backends=(backend,), every=every)
        assert result.failures == []
        assert result.killed == len(result.points) >= 20


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_nothing_is_lost_at_any_failpoint_of_any_use_case(all_registries: Arena) -> None:
    """Of those on PostgreSQL one in four. ``just crash`` takes them all."""
    result = kill_points.run(all_registries, backends=("sqlite",))
    sampled = kill_points.run(all_registries, backends=("postgresql",), every=4)
    for found in (result, sampled):
        assert found.failures == []
        assert found.killed == len(found.points) >= 80
    in_folders = {name for name in named_points() if not name.startswith(IN_BUCKETS)}
    assert in_folders - NOT_REACHED.keys() <= {
        part.rpartition(" ")[0] for part in names(result.points).split(", ")
    }
