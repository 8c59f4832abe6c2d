"""The soak: whole processes, killed and frozen at random."""

from __future__ import annotations

import pytest

from tests.crash.harness.places import Arena, arena
from tests.crash.harness.report import Result
from tests.crash.harness.schedule_mutants import without_fence
from tests.crash.harness.soak import FULL, SMALL, Size, soak
from tests.support.postgres import Postgres

WITHOUT_FENCE = Size(30, 30, kills=0, kills_in_commit=0, commits=0, collected_blobs=0, stops_again=True)


def arena_of(backend: str, request: pytest.FixtureRequest) -> Postgres | None:
    return None if backend == "sqlite" else request.getfixturevalue("postgres")


def assert_nothing_lost(result: Result) -> None:
    assert not result.failures, "\n".join(map(str, result.failures))


def test_processes_that_are_killed_and_frozen_lose_nothing_in_seconds() -> None:
    with arena(None) as found:
        result, _ = soak(found, SMALL)
    assert_nothing_lost(result)


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_processes_that_are_killed_and_frozen_lose_nothing(
    backend: str, request: pytest.FixtureRequest
) -> None:
    with arena(arena_of(backend, request)) as found:
        result, figures = soak(found, FULL, backend=backend)
    assert_nothing_lost(result)
    assert list(figures.short_of(FULL)) == []
    assert figures.notes["verified"] > 100
    assert figures.notes["went back"] > 0, "no frozen process lost its reservation"


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_soak_finds_damage_where_commits_have_no_fence() -> None:
    # Whether a frozen writer is overtaken by a collector is chance, and a busy machine has less of it.
    with arena(None) as found:
        assert any(_finds_damage(found, seed) for seed in range(4))


def _finds_damage(found: Arena, seed: int) -> bool:
    result, _ = soak(found, WITHOUT_FENCE, mutate=without_fence, seed=seed)
    return bool({failure.kind for failure in result.failures} & {"partial", "dangling"})


def test_arena_is_empty_after_a_soak() -> None:
    with arena(None) as found:
        soak(found, Size(0, 0.5, kills=0, kills_in_commit=0, commits=0, collected_blobs=0))
        assert _folders(found) == []


def _folders(found: Arena) -> list[str]:
    return [path.name for path in found.folder.iterdir() if path != found.sources]
