"""T2: die by SIGKILL at each mutating system call of an import, on SQLite. strace counts them, and kills."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tests.crash.harness import strace
from tests.crash.harness.children import Mutate, spread
from tests.crash.harness.judge import judge
from tests.crash.harness.places import Arena
from tests.crash.harness.recordings import Recording, record
from tests.crash.harness.report import Failure, Result, measured
from tests.crash.harness.use_cases import use_case

NAME: Final = "system calls"
CASE: Final = "import"
QUICK_STEP: Final = 29


@dataclass(frozen=True, slots=True)
class Call:
    """One system call: the how manieth of its name, counted from 1."""

    name: str
    number: int

    @property
    def label(self) -> str:
        """What it is called in a report."""
        return f"{self.name}#{self.number}"


def run(arena: Arena, *, quick: bool = False, mutate: Mutate = None) -> Result:
    """Kill at each call; what was killed must be as many as there are calls. *quick* takes a sample."""
    with measured(NAME) as result:
        result.skipped = strace.unusable()
        if result.skipped:
            return result
        recording = record(arena, "sqlite", use_case(CASE))
        calls = mutating_calls(arena, recording, mutate)
        result.notes.append(f"strace -c counts {len(calls)} mutating calls")
        if quick:
            calls = calls[::QUICK_STEP]

        def kill(call: Call) -> tuple[bool, list[Failure]]:
            return _kill(arena, recording, call, mutate)

        for call, (killed, failures) in zip(calls, spread(calls, kill), strict=True):
            result.add(f"sqlite {CASE} {call.label}", killed=killed, failures=failures)
    return result


def mutating_calls(arena: Arena, recording: Recording, mutate: Mutate = None) -> list[Call]:
    """Return each mutating call that a use case makes."""
    return calls_of(arena, recording, strace.MUTATING, mutate)


def calls_of(arena: Arena, recording: Recording, names: tuple[str, ...], mutate: Mutate = None) -> list[Call]:
    """Return each call of these names that a use case makes."""
    case = recording.case
    with arena.copy(case.prepared(arena, "sqlite")) as place:
        counted = strace.count(lambda acknowledge: case.run(place, acknowledge), names, mutate)
    return [Call(name, number) for name in sorted(counted) for number in range(1, counted[name] + 1)]


def _kill(arena: Arena, recording: Recording, call: Call, mutate: Mutate) -> tuple[bool, list[Failure]]:
    case = recording.case
    where = f"sqlite {CASE} {call.label}"
    with arena.copy(case.prepared(arena, "sqlite")) as place:
        options = strace.inject(call.name, "signal=SIGKILL", str(call.number))
        outcome = strace.traced(lambda acknowledge: case.run(place, acknowledge), options, mutate=mutate)
        failures = []
        if outcome.ended != "killed":
            failures.append(Failure("error", where, f"was not killed there: {outcome.ended} {outcome.error}"))
        failures += judge(place, recording, outcome.facts, where)
    return outcome.ended == "killed", failures
