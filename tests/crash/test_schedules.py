"""Writers, collectors, a sweeper and a reader in every order that a seed can draw: nothing is ever lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import pytest

from tests.crash.harness import schedules
from tests.crash.harness.places import Arena
from tests.crash.harness.schedule_mutants import without_fence
from tests.crash.harness.schedules import Run

BAD = frozenset({"lost", "dangling", "partial"})


def assert_nothing_lost(runs: Iterable[Run]) -> None:
    bad = [run for run in runs if run.bad]
    assert not bad, f"{len(bad)} seeds fail, such as {bad[0].told()}"


def test_nothing_is_lost_in_some_orders(registries: Arena) -> None:
    assert_nothing_lost(schedules.run_seeds(registries, "sqlite", range(1, 21)))


def test_nothing_is_lost_in_some_orders_where_threads_wait_for_rows(all_registries: Arena) -> None:
    assert_nothing_lost(schedules.run_seeds(all_registries, "postgresql", range(1, 4)))


def test_seed_gives_the_same_run_again(registries: Arena) -> None:
    [one], [two] = (schedules.run_seeds(registries, "sqlite", range(7, 8)) for _ in range(2))
    assert one.trace == two.trace
    assert {name for name, _ in one.trace} == {
        *("writer 1", "writer 2", "collector 1", "collector 2", "sweeper", "reader")
    }


def test_commit_without_a_fence_is_caught_in_some_orders(registries: Arena) -> None:
    assert kinds_found(registries, range(1, 7), without_fence)["dangling"] >= 3


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "share", [pytest.param(4, marks=pytest.mark.soak), pytest.param(1, marks=pytest.mark.long)]
)
def test_nothing_is_lost_in_hundreds_of_orders(all_registries: Arena, share: int) -> None:
    """What is counted shows that the orders met what they are about."""
    figures: Counter[str] = Counter()
    for backend, whole in schedules.SEEDS.items():
        seeds = whole // share
        first = schedules.FIRST_SEED[backend]
        runs = schedules.run_seeds(all_registries, backend, range(first, first + seeds))
        assert_nothing_lost(runs)
        assert len(runs) == seeds
        for run in runs:
            figures.update(run.figures)
    print(dict(figures))
    assert figures["acknowledged"] > 10 * len(schedules.SEEDS)
    met = ("objects deleted", "intents taken back", "exported", "swept", "given up", "refused")
    deletes = ("purged", "in common", "did delete", "did undelete", "did restore", "did lock", "did unlock")
    for what in (*met, *deletes, "retention applied"):
        assert figures[what] > 10 // share, f"{what}: {figures}"


def kinds_found(arena: Arena, seeds: range, mutate: Callable[[], None]) -> Counter[str]:
    """Count the seeds that found each kind."""
    found: Counter[str] = Counter()
    for run in schedules.run_seeds(arena, "sqlite", seeds, mutate):
        kinds = {kind for kind, _ in run.bad}
        found.update(kinds)
        found["real damage"] += bool(kinds & BAD)
    return found
