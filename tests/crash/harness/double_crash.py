"""T3: die at a point, and the process that recovers dies as well: at each of its points, in a sample."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from regmeta.app import open_for_writing
from tests.crash.harness.children import Acknowledge, Fact, Mutate, die_at, run_child, spread
from tests.crash.harness.judge import judge
from tests.crash.harness.places import Arena, Place
from tests.crash.harness.recordings import Recording, record
from tests.crash.harness.report import Failure, Result, measured
from tests.crash.harness.use_cases import use_case

NAME: Final = "double crash"
CASES: Final = ("import", "import bad", "heal", "tag set", "recover", "collect")
FIRST_CRASHES: Final = 60
SECOND_CRASHES: Final = 5  # of each first one, if recovering has as many points
SEED: Final = 3


@dataclass(frozen=True, slots=True)
class _First:
    recording: Recording
    index: int
    seed: int

    @property
    def where(self) -> str:
        return f"sqlite {self.recording.case.name} {self.recording.label(self.index)}"


def run(arena: Arena, *, quick: bool = False, mutate: Mutate = None) -> Result:
    """Kill twice; *quick* takes a sample of the sample."""
    with measured(NAME) as result:
        chosen = random.Random(SEED)
        points = [
            _First(recording, index, chosen.randrange(2**32))
            for recording in (record(arena, "sqlite", use_case(name), mutate) for name in CASES)
            for index in range(len(recording.points))
        ]
        firsts = chosen.sample(points, 3 if quick else FIRST_CRASHES)

        def kill(first: _First) -> list[tuple[str, bool, list[Failure]]]:
            return _kill(arena, first, mutate)

        for found in spread(firsts, kill):
            for where, killed, failures in found:
                result.add(where, killed=killed, failures=failures)
    return result


def _kill(arena: Arena, first: _First, mutate: Mutate) -> list[tuple[str, bool, list[Failure]]]:
    case = first.recording.case
    with arena.copy(case.prepared(arena, "sqlite")) as place:
        outcome = run_child(
            lambda acknowledge: case.run(place, acknowledge), handler=die_at(first.index), mutate=mutate
        )
        with arena.copy(place) as copied:
            undisturbed = run_child(_recovering(copied), mutate=mutate, seed=4)
        points = undisturbed.points
        chosen = random.Random(first.seed).sample(range(len(points)), min(SECOND_CRASHES, len(points)))
        return [
            _kill_again(arena, place, first, outcome.facts, (index, points[index]), mutate)
            for index in sorted(chosen)
        ]


def _kill_again(
    arena: Arena,
    crashed: Place,
    first: _First,
    facts: tuple[Fact, ...],
    second: tuple[int, str],
    mutate: Mutate,
) -> tuple[str, bool, list[Failure]]:
    index, name = second
    where = f"{first.where} then {name}#{index}"
    with arena.copy(crashed) as place:
        outcome = run_child(_recovering(place), handler=die_at(index), mutate=mutate, seed=4)
        failures = []
        if outcome.ended != "killed" or outcome.points[-1] != name:
            failures.append(Failure("error", where, f"did not come to its second point: {outcome}"))
        failures += judge(place, first.recording, facts, where)
    return where, outcome.ended == "killed", failures


def _recovering(place: Place) -> Callable[[Acknowledge], None]:
    def body(_: Acknowledge) -> None:
        with open_for_writing(place.settings):
            pass

    return body
