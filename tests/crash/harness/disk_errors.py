"""T5, T6, T7: the disk is full, fails, or takes less than it was given.

An error that comes once, or from some call on for good, at the system calls of an import, by strace; writes
that take half, by a stand-in for ``os.write``; and two file systems that are really full. The command
succeeds, or gives up as *unavailable* or *refused*; what it acknowledged holds; with a good disk it then
succeeds.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.crash.harness import mounts, strace
from tests.crash.harness.children import Mutate, Outcome, run_child, spread
from tests.crash.harness.judge import judge
from tests.crash.harness.places import Arena, Place
from tests.crash.harness.recordings import Recording, record
from tests.crash.harness.report import Failure, Result, measured
from tests.crash.harness.system_calls import Call, calls_of
from tests.crash.harness.use_cases import use_case

NAME: Final = "disk errors"
CASE: Final = "import"
EVERY_WRITE: Final = 4  # of the many calls of one name that rows make, this share
EVERY_READ: Final = 12
FOR_GOOD_EVERY: Final = 16
SHORT_WRITES: Final = 60
QUICK_STEP: Final = 29
FULL_MIB: Final = 8
_FSYNCS: Final = ("fsync", "fdatasync")
_FEW: Final = ("renameat", "rename", "unlink", "unlinkat", "write")

Run = Callable[[Place], Outcome]


@dataclass(frozen=True, slots=True)
class _Fault:
    """One way in which the disk fails."""

    label: str
    run: Run


def run(arena: Arena, *, quick: bool = False, mutate: Mutate = None) -> Result:
    """Let the disk fail in all these ways; *quick* in a sample of them."""
    with measured(NAME) as result:
        recording = record(arena, "sqlite", use_case(CASE))
        faults = _short_writes(recording, mutate)
        cannot = strace.unusable()
        if cannot:
            result.notes.append(f"no failing calls: {cannot}")
        else:
            faults += _failing_calls(arena, recording, mutate)
        if quick:
            faults = faults[::QUICK_STEP]

        def suffer(fault: _Fault) -> tuple[Outcome, list[Failure]]:
            with arena.copy(recording.case.prepared(arena, "sqlite")) as place:
                outcome = fault.run(place)
                return outcome, _judged(place, recording, fault.label, outcome)

        found = list(zip((fault.label for fault in faults), spread(faults, suffer), strict=True))
        cannot = mounts.unusable(loop=False)
        if cannot:
            result.notes.append(f"no full disks: {cannot}")
        else:
            disks = spread(_FULL, lambda full: _full_disk(arena, recording, full, mutate))
            found += zip((full.label for full in _FULL), disks, strict=True)
        for label, (outcome, failures) in found:
            result.add(_where(label), killed=outcome.ended == "error", failures=failures)
    return result


def _where(label: str) -> str:
    return f"sqlite {CASE} {label}"


def _judged(place: Place, recording: Recording, label: str, outcome: Outcome) -> list[Failure]:
    where = _where(label)
    failures = []
    # What is wrong with a source is wrong input, also when it is its disk.
    of_source = outcome.error.startswith(f"InvalidSource: {place.sources}")
    if not outcome.is_clean and not of_source:
        failures.append(Failure("error", where, f"ended badly: {outcome.error}"))
    return failures + judge(place, recording, outcome.facts, where)


# --- calls that fail --------------------------------------------------------------------------


def _failing_calls(arena: Arena, recording: Recording, mutate: Mutate) -> list[_Fault]:
    faults = []
    for position, call in enumerate(calls_of(arena, recording, strace.MUTATING, mutate)):
        if call.name in (*_FSYNCS, *_FEW) or position % EVERY_WRITE == 0:
            faults.append(_failing(recording, call, "EIO", mutate))
        if call.name in _FEW or position % EVERY_WRITE == 1:
            faults.append(_failing(recording, call, "ENOSPC", mutate))
        if position % FOR_GOOD_EVERY == 0:
            faults.append(_failing(recording, call, "ENOSPC", mutate, for_good=True))
    for position, call in enumerate(calls_of(arena, recording, strace.READING, mutate)):
        if position % EVERY_READ == 0 and call.name != "flock":
            faults.append(_failing(recording, call, "EIO", mutate))
    return faults


def _failing(
    recording: Recording, call: Call, error: str, mutate: Mutate, *, for_good: bool = False
) -> _Fault:
    def fail(place: Place) -> Outcome:
        options = strace.inject(call.name, f"error={error}", f"{call.number}{'+' if for_good else ''}")
        return strace.traced(
            lambda acknowledge: recording.case.run(place, acknowledge), options, mutate=mutate
        )

    return _Fault(f"{call.label}{'+' if for_good else ''}={error}", fail)


# --- writes that take less --------------------------------------------------------------------


def _short_writes(recording: Recording, mutate: Mutate) -> list[_Fault]:
    """Return writes that take half and then go on, and such that take half and then find the disk full."""
    return [
        _short(recording, number, mutate, torn=torn)
        for torn in (False, True)
        for number in range(1, SHORT_WRITES // 2 + 1)
    ]


def _short(recording: Recording, number: int, mutate: Mutate, *, torn: bool) -> _Fault:
    def change() -> None:
        if mutate is not None:
            mutate()
        write, calls = os.write, 0

        def half(fd: int, data: memoryview) -> int:
            nonlocal calls
            calls += 1
            if torn and calls == number + 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(fd, data[: max(1, len(data) // 2)] if calls == number else data)

        os.write = half  # type: ignore[assignment]

    def fail(place: Place) -> Outcome:
        return run_child(lambda acknowledge: recording.case.run(place, acknowledge), mutate=change)

    return _Fault(f"{'torn' if torn else 'short'}-write#{number}", fail)


# --- disks that are full ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Full:
    """A disk on which there is a little room left, and not enough."""

    which: str  # "store" or "database"
    left_bytes: int

    @property
    def label(self) -> str:
        return f"full-disk-of-{self.which}#{self.left_bytes}"


_FULL: Final = (
    *(_Full("store", size_bytes) for size_bytes in (0, 24 * 1024)),
    *(_Full("database", size_bytes) for size_bytes in (0, 48 * 1024, 160 * 1024)),
)


def _full_disk(
    arena: Arena, recording: Recording, full: _Full, mutate: Mutate
) -> tuple[Outcome, list[Failure]]:
    """Fill the disk of the store, or that of the database; run; make room; judge, which runs it again."""
    mounts.private()
    case = recording.case
    with arena.copy(case.prepared(arena, "sqlite")) as place:
        folder = Path(place.settings.home) if full.which == "database" else place.store
        aside = folder.with_name(f"{folder.name}.aside")
        folder.rename(aside)
        with mounts.mounted_memory(folder, FULL_MIB):
            mounts.copy_tree(aside, folder)
            if full.which == "database":  # the store stays on the good disk
                shutil.rmtree(place.store)
                place.store.symlink_to(aside / "store")
            ballast = _fill(folder, full.left_bytes)
            outcome = run_child(lambda acknowledge: case.run(place, acknowledge), mutate=mutate)
            ballast.unlink()
            failures = _judged(place, recording, full.label, outcome)
            if outcome.ended != "error":
                failures.append(Failure("error", _where(full.label), f"the disk was not full: {outcome}"))
            return outcome, failures


def _fill(folder: Path, left_bytes: int) -> Path:
    ballast = folder / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        with suppress(OSError):
            while True:
                file.write(bytes(4096))
        file.truncate(max(0, file.tell() - left_bytes))
    return ballast
