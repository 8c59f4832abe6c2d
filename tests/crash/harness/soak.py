"""T16: real processes on one registry, killed and frozen at random for a minute; then everything is counted.

Four pushers, two collectors and a verifier. The conductor kills one of them several times a second, freezes
others for up to twice the lease, and starts the dead again at once. Half of the workers kill or stop
themselves at a step that was drawn for them. Each tag has one owner, so what it must be is known exactly.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from regmeta import app
from tests.crash.harness import conducting
from tests.crash.harness.children import Mutate, Notes, run_child
from tests.crash.harness.conducting import Conductor, Worker
from tests.crash.harness.places import Arena, Place
from tests.crash.harness.report import Failure, Result, measured
from tests.crash.harness.soak_end import settle
from tests.crash.harness.soak_images import Material, make_material
from tests.crash.harness.workers import (
    LEASE_S,
    PUSHERS,
    WORK,
    Fault,
    Tag,
    Value,
    Work,
    be_worker,
    is_commit,
    own_tags,
)

NAME: Final = "soak"
KINDS: Final = {"pusher": PUSHERS, "collector": 2, "verifier": 1}
DRAIN_S: Final = 60.0
KILLS_ELSEWHERE: Final = 3  # for each one inside a commit
KILLS_AT_FIRST: Final = 15


@dataclass(frozen=True)
class Size:
    """How long it goes on: until all minimums are reached, but within these bounds."""

    least_s: float
    most_s: float
    kills: int
    kills_in_commit: int
    commits: int
    collected_blobs: int
    stops_again: bool = False  # every pusher stops with its reservation, again and again


FULL: Final = Size(30, 150, kills=200, kills_in_commit=50, commits=500, collected_blobs=500)
SMALL: Final = Size(3, 30, kills=8, kills_in_commit=1, commits=20, collected_blobs=10)


@dataclass
class Figures(conducting.Figures):
    """What happened."""

    def reached(self, size: Size) -> bool:
        """Tell whether all minimums are reached."""
        return not list(self.short_of(size))

    def short_of(self, size: Size) -> Iterator[str]:
        """Give the figures that are below their minimum."""
        for name in ("kills", "kills_in_commit", "commits", "collected_blobs"):
            found, wanted = getattr(self, name), getattr(size, name)
            if found < wanted:
                yield f"{found} {name}, and {wanted} were wanted"

    def lines(self) -> list[str]:
        """Return them in words."""
        return [
            f"{self.kills_in_commit} kills inside a commit",
            f"{self.freezes} freezes",
            f"{self.commits} commits",
            f"{self.collected_blobs} blobs collected",
            f"{self.acknowledged} operations acknowledged",
            f"{self.unknown} cut off",
            f"{self.notes['verified']} images read back",
            f"{self.notes['went back']} reservations lost",
            f"{self.notes['moved']} moved while they were read",
            f"{self.notes['contention']} contentions",
            f"{self.notes['gave up']} given up",
        ]


def run(arena: Arena, *, quick: bool = False, mutate: Mutate = None, backend: str = "sqlite") -> Result:
    """Run the soak, small if *quick*."""
    return soak(arena, SMALL if quick else FULL, mutate=mutate, backend=backend)[0]


def soak(
    arena: Arena, size: Size, *, mutate: Mutate = None, backend: str = "sqlite", seed: int = 16
) -> tuple[Result, Figures]:
    """Run it; figures below their minimum are failures as well."""
    with measured(f"{NAME} ({backend})") as result:
        place = arena.empty(backend)
        try:
            made = run_child(lambda _: _initialise(place))
            assert made.ended == "done", made.error
            material = make_material(place.folder / "soak-layouts", seed)
            conductor = _Conductor(place, material, result, random.Random(seed), mutate, size.stops_again)
            conductor.run(size)
            figures = conductor.figures
            for told in figures.short_of(size):
                result.failures.append(Failure("error", f"{backend} figures", told))
            for kind, told in settle(place, material, conductor.expected):
                result.failures.append(Failure(kind, f"{backend} end", told))
            result.notes = [*figures.lines(), *result.notes]
        finally:
            arena.remove(place)
    return result, figures


def _initialise(place: Place) -> None:
    app.initialise(place.settings)


# --- conductor --------------------------------------------------------------------------------


class _Conductor(Conductor):
    def __init__(
        self,
        place: Place,
        material: Material,
        result: Result,
        rng: random.Random,
        mutate: Mutate,
        stops_again: bool,
    ) -> None:
        self.figures = Figures()
        super().__init__(self.figures, rng, mutate, lease_s=LEASE_S, drain_s=DRAIN_S)
        self.expected: dict[Tag, frozenset[Value]] = {
            tag: frozenset([None]) for pusher in range(PUSHERS) for tag in own_tags(pusher)
        }
        self._place = place
        self._material = material
        self._result = result
        self._stops_again = stops_again

    def run(self, size: Size) -> None:
        """Let them work, kill and freeze them; then let them come to their end."""
        began_s = time.monotonic()
        kill_at_s = freeze_at_s = began_s + 0.5
        try:
            for kind, count in KINDS.items():
                for number in range(count):
                    self.start(kind, number)
            while (now_s := time.monotonic()) < began_s + size.most_s:
                if now_s >= began_s + size.least_s and self.figures.reached(size):
                    break
                if now_s >= kill_at_s:
                    os.kill(self._rng.choice(self._victims()).pid, signal.SIGKILL)
                    # Once enough have died, a busy machine needs time for commits.
                    pause_s = 0.5 if self.figures.kills < size.kills else 2.0
                    kill_at_s = now_s + self._rng.uniform(0.6, 1.4) * pause_s
                if now_s >= freeze_at_s:
                    self.freeze(self._rng.choice(self._workers))
                    freeze_at_s = now_s + self._rng.uniform(0.3, 1.0)
                self.tend(restart=True)
                time.sleep(0.01)
            self.drain()
        finally:
            self.kill_all()

    def _victims(self) -> list[Worker]:
        inside = self.figures.kills_in_commit
        if self.figures.kills - inside < KILLS_ELSEWHERE * inside + KILLS_AT_FIRST:
            return self._workers
        # On a busy machine nobody would live for long enough to come to the commit that is to kill it.
        others = [w for w in self._workers if w.work.fault is None or w.work.fault.action != "kill"]
        return others or self._workers

    def start(self, kind: str, number: int) -> None:
        """Start a process."""
        self._seed += 1
        tags = own_tags(number) if kind == "pusher" else []
        work = Work(
            kind,
            number,
            msgspec.structs.replace(self._place.settings, actor=f"{kind}-{number}"),
            self._material,
            self._place.folder,
            self._is_over,
            self._seed,
            self._fault(kind),
            {tag: self.expected[tag] for tag in tags},
        )
        notes = Notes()
        pid = os.fork()
        if pid == 0:
            be_worker(work, notes, self._mutate, WORK)
        self._workers.append(Worker(work, pid, notes))

    def _fault(self, kind: str) -> Fault | None:
        draw = self._rng.random()
        always = self._stops_again and kind == "pusher"
        if kind == "verifier" or (draw < 0.2 and not always):
            return None
        if draw < 0.45 or always:  # its reservation is lost when it goes on
            prefix = self._rng.choice(("publish.", "stage.", "reserve.committed"))
            number = self._rng.randint(1, 8)
            return Fault("stop", lambda name: name.startswith(prefix), number, again=always)
        delay_s = self._rng.choice((None, None, self._rng.uniform(0, 0.001)))
        return Fault("kill", is_commit, self._rng.randint(1, 4), delay_s)

    def bury(self, worker: Worker, status: int) -> None:
        """Count how a process has ended, and note where it was killed."""
        kills, inside = self.figures.kills, self.figures.kills_in_commit
        super().bury(worker, status)
        if self.figures.kills > kills:
            is_inside = self.figures.kills_in_commit > inside
            where = f"{worker.in_commit}.committing" if is_inside else "elsewhere"
            self._result.add(f"{self._place.backend} {worker.work.name} {where}", killed=True, failures=())

    def on_begin(self, worker: Worker, wanted: dict[Tag, Value]) -> None:
        """What it may be is one more."""
        worker.under_way = dict(wanted)
        for tag, value in wanted.items():
            self.expected[tag] |= {value}

    def on_done(self, worker: Worker, fact: tuple[Tag, Value]) -> None:
        """What it must be is known."""
        tag, value = fact
        worker.under_way.pop(tag, None)
        self.expected[tag] = frozenset([value])
        self.figures.acknowledged += 1

    def on_gave_up(self, worker: Worker, told: str) -> None:
        """Only a verifier may be in the way of who deletes."""
        if worker.work.kind != "verifier":
            self._result.notes.append(f"{worker.work.name}: {told}")

    def fail(self, kind: str, who: str, told: str) -> None:
        """Note a failure once: what is gone is found again and again."""
        failure = Failure(kind, f"{self._place.backend} {who}", told)
        if failure not in self._result.failures:
            self._result.failures.append(failure)
