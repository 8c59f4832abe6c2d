"""T1: die by SIGKILL at each failpoint that each use case passes, on each database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tests.crash.harness.children import Mutate, die_at, run_child, spread
from tests.crash.harness.judge import judge
from tests.crash.harness.places import Arena, database_of
from tests.crash.harness.recordings import Recording, record
from tests.crash.harness.report import Failure, Result, measured
from tests.crash.harness.use_case import UseCase
from tests.crash.harness.use_cases import USE_CASES

NAME: Final = "kill points"
QUICK_STEPS: Final = {"sqlite": 40, "postgresql": 25, "sqlite-s3": 20, "postgresql-s3": 40}
_QUICK_IN_BUCKET: Final = {"import in parts", "sweep"}
QUICK_CASES: Final = {
    "sqlite": {case.name for case in USE_CASES},
    "postgresql": {"import", "collect"},
    "sqlite-s3": _QUICK_IN_BUCKET,
    "postgresql-s3": _QUICK_IN_BUCKET,
}


@dataclass(frozen=True, slots=True)
class _Point:
    backend: str
    recording: Recording
    index: int

    @property
    def where(self) -> str:
        return f"{self.backend} {self.recording.case.name} {self.recording.label(self.index)}"


def run(
    arena: Arena,
    *,
    quick: bool = False,
    mutate: Mutate = None,
    cases: tuple[UseCase, ...] = USE_CASES,
    backends: tuple[str, ...] = (),
    every: int = 1,
) -> Result:
    """Kill at each point; on PostgreSQL at the first and the last of each name. *quick* takes a sample.

    *every* takes one of so many points.
    """
    with measured(NAME) as result:
        points: list[_Point] = []
        for backend in backends or arena.backends:
            for case in cases:
                if not case.runs_on(backend) or (quick and case.name not in QUICK_CASES[backend]):
                    continue
                recording = record(arena, backend, case, mutate)
                points += [_Point(backend, recording, i) for i in _chosen(backend, recording.points)]
        if quick:
            points = [
                point
                for backend, step in QUICK_STEPS.items()
                for point in [point for point in points if point.backend == backend][::step]
            ]
        points = points[::every]

        def kill(point: _Point) -> tuple[bool, list[Failure]]:
            return _kill(arena, point, mutate)

        for point, (killed, failures) in zip(points, spread(points, kill), strict=True):
            result.add(point.where, killed=killed, failures=failures)
    return result


def _chosen(backend: str, points: tuple[str, ...]) -> list[int]:
    if database_of(backend) == "sqlite":
        return list(range(len(points)))
    first = {name: index for index, name in reversed(list(enumerate(points)))}
    last = {name: index for index, name in enumerate(points)}
    return sorted({*first.values(), *last.values()})


def _kill(arena: Arena, point: _Point, mutate: Mutate) -> tuple[bool, list[Failure]]:
    recording = point.recording
    case = recording.case
    with arena.copy(case.prepared(arena, point.backend)) as place:
        outcome = run_child(
            lambda acknowledge: case.run(place, acknowledge), handler=die_at(point.index), mutate=mutate
        )
        failures = []
        if outcome.points != recording.points[: point.index + 1]:
            failures.append(Failure("error", point.where, f"did not come to its point: {outcome}"))
        failures += judge(place, recording, outcome.facts, point.where)
    return outcome.ended == "killed", failures
