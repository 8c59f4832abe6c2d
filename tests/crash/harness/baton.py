"""Threads that pass a baton: one of them goes on at a time, and a seeded draw says which.

A thread gives the baton away at each point that it reaches and goes on when it has it again. So a run is a
list of (thread, point), and the seed makes the same list again.

Where threads wait for each other elsewhere, as for a row's lock in PostgreSQL, the one that has the baton may
not come back: after *blocks_after_s* it is taken to be blocked, and another goes on.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

STUCK_S: Final = 40.0
NEW_SPEEDS: Final = 0.04  # how likely it is at each step that other threads become slow
SPEEDS: Final = (1, 1, 4, 30)  # a slow thread is overtaken many times between two steps of its own

Trace = list[tuple[str, str]]


class Stuck(Exception):
    """Nobody has come to a point for long: the threads wait for each other."""


@dataclass
class _Runner:
    name: str
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    parked_at: str | None = None  # None while it runs, waits for something else, or has ended
    ended: bool = False
    speed: int = 1
    error: BaseException | None = None


class Baton:
    """One run of some threads."""

    def __init__(self, seed: int, *, blocks_after_s: float | None = None) -> None:
        self.trace: Trace = []  # who went on, and from which point
        self._random = random.Random(seed)
        self._blocks_after_s = blocks_after_s
        self._lock = threading.Lock()
        self._all_ended = threading.Event()
        self._runners: list[_Runner] = []
        self._mine = threading.local()
        self._holder: _Runner | None = None

    def run(self, bodies: Mapping[str, Callable[[], None]]) -> dict[str, BaseException]:
        """Run all *bodies* to their ends; returns what they raised, by name.

        Raises:
            Stuck: they do not end.
        """
        self._runners = [_Runner(name, parked_at="start") for name in bodies]
        for runner in self._runners:
            body = bodies[runner.name]
            threading.Thread(target=self._be, args=(runner, body), name=runner.name, daemon=True).start()
        with self._lock:
            self._pass_on()
        self._wait()
        return {runner.name: runner.error for runner in self._runners if runner.error is not None}

    def reach(self, point: str) -> None:
        """Give the baton away; returns when it is this thread's turn. Nothing for any other thread."""
        me: _Runner | None = getattr(self._mine, "runner", None)
        if me is None:
            return
        with self._lock:
            me.parked_at = point
            # One that was taken to be blocked only waits: another has the baton.
            if self._holder in (me, None):
                self._pass_on()
        me.go.acquire()

    def _be(self, me: _Runner, body: Callable[[], None]) -> None:
        self._mine.runner = me
        me.go.acquire()
        try:
            body()
        except BaseException as error:  # noqa: BLE001 - told by ``run``
            me.error = error
        with self._lock:
            me.ended = True
            if self._holder in (me, None):
                self._pass_on()
            if all(runner.ended for runner in self._runners):
                self._all_ended.set()

    def _pass_on(self) -> None:
        ready = [runner for runner in self._runners if runner.parked_at is not None]
        self._holder = self._draw(ready) if ready else None
        if self._holder is not None:
            self.trace.append((self._holder.name, str(self._holder.parked_at)))
            self._holder.parked_at = None
            self._holder.go.release()

    def _draw(self, ready: Sequence[_Runner]) -> _Runner:
        if self._random.random() < NEW_SPEEDS:
            for runner in self._runners:
                runner.speed = self._random.choice(SPEEDS)
        return self._random.choices(ready, [runner.speed for runner in ready])[0]

    def _wait(self) -> None:
        steps, since_s = 0, time.monotonic()
        while not self._all_ended.wait(self._blocks_after_s or 1.0):
            with self._lock:
                if len(self.trace) != steps:
                    steps, since_s = len(self.trace), time.monotonic()
                elif time.monotonic() - since_s > STUCK_S:
                    last = [name for name, _ in self.trace[-1:]]
                    raise Stuck(f"after {steps} steps, at last {last}")
                elif self._blocks_after_s is not None:
                    self._pass_on()
