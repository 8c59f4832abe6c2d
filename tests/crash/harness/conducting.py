"""Minding processes that are killed and frozen: who has died is started again, what they say is counted.

A soak and a fleet are conductors: they say what is started, and what is done to it.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import time
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from tests.crash.harness.children import Mutate, Notes
from tests.crash.harness.workers import Tag, Value, Work, is_commit

COUNTED_ONLY: Final = frozenset({"swept", "went back", "verified", "moved"})
"""Kinds of notes that nothing follows from."""


@dataclass
class Figures:
    """What happened."""

    kills: int = 0
    kills_in_commit: int = 0
    freezes: int = 0
    commits: int = 0
    collected_blobs: int = 0
    acknowledged: int = 0
    unknown: int = 0  # operations that were cut off by a death
    notes: Counter[str] = field(default_factory=Counter)  # what workers said, by kind


@dataclass
class Worker:
    """A process, and what it has said."""

    work: Work
    pid: int
    notes: Notes
    awake_at_s: float | None = None  # frozen until then
    is_freezing: bool = False  # by the conductor, at any moment; not by itself, at a step
    in_commit: str = ""  # the commit that it is in
    under_way: dict[Tag, Any] = field(default_factory=dict)  # tags whose operation has no answer yet


class Conductor(ABC):
    """Starts processes, freezes them for up to twice *lease_s*, and listens to them."""

    def __init__(
        self, figures: Figures, rng: random.Random, mutate: Mutate, *, lease_s: float, drain_s: float
    ) -> None:
        self._counted = figures
        self._rng = rng
        self._mutate = mutate
        self._lease_s = lease_s
        self._drain_s = drain_s
        self._workers: list[Worker] = []
        self._is_over = mmap.mmap(-1, mmap.PAGESIZE)
        self._seed = rng.randrange(2**32)

    @abstractmethod
    def start(self, kind: str, number: int) -> None:
        """Start a process."""

    @abstractmethod
    def fail(self, kind: str, who: str, told: str) -> None:
        """Note a failure."""

    def freeze(self, worker: Worker) -> None:
        """Let a process stand still at once; :meth:`tend` wakes it."""
        if worker.awake_at_s is None:
            worker.is_freezing = True
            os.kill(worker.pid, signal.SIGSTOP)

    def tend(self, *, restart: bool) -> None:
        """Wake who has been frozen for long enough, and see who stands still or has ended."""
        now_s = time.monotonic()
        for worker in list(self._workers):
            if worker.awake_at_s is not None and worker.awake_at_s <= now_s:
                worker.awake_at_s = None
                os.kill(worker.pid, signal.SIGCONT)
            pid, status = os.waitpid(worker.pid, os.WNOHANG | os.WUNTRACED)
            self._listen(worker)
            if pid == 0:
                continue
            if os.WIFSTOPPED(status):
                self._counted.freezes += 1
                # At any moment may be inside a commit, where all others have to wait.
                least_s = 0.05 if worker.is_freezing else self._lease_s
                worker.awake_at_s = now_s + self._rng.uniform(least_s, 2 * self._lease_s)
                worker.is_freezing = False
                continue
            self._workers.remove(worker)
            self.bury(worker, status)
            if restart:
                self.start(worker.work.kind, worker.work.number)

    def drain(self) -> None:
        """Let all come to their end."""
        self._is_over[0] = 1
        deadline_s = time.monotonic() + self._drain_s
        while self._workers and time.monotonic() < deadline_s:
            self.tend(restart=False)
            time.sleep(0.01)
        for worker in self._workers:
            self.fail("error", worker.work.name, f"did not end within {self._drain_s:g} s")

    def kill_all(self) -> None:
        """End who is left."""
        for worker in self._workers:
            os.kill(worker.pid, signal.SIGKILL)
            os.waitpid(worker.pid, 0)

    def bury(self, worker: Worker, status: int) -> None:
        """Count how a process has ended."""
        worker.notes.close()
        self._counted.unknown += len(worker.under_way)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            self._counted.kills += 1
            self._counted.kills_in_commit += is_commit(f"{worker.in_commit}.committing")
        elif os.waitstatus_to_exitcode(status) != 0:
            self.fail("error", worker.work.name, f"ended by status {status:#x}")

    # --- what workers say ---------------------------------------------------------------------

    def _listen(self, worker: Worker) -> None:
        for kind, value in worker.notes.new():
            self._counted.notes[kind] += 1
            if kind not in COUNTED_ONLY:
                getattr(self, f"on_{kind.replace(' ', '_')}")(worker, value)

    def on_point(self, worker: Worker, name: str) -> None:
        """A commit begins or has ended."""
        operation, _, step = name.rpartition(".")
        worker.in_commit = operation if step == "committing" else ""
        self._counted.commits += step == "committed" and operation in ("ingest", "tags")

    @abstractmethod
    def on_begin(self, worker: Worker, wanted: dict[Tag, Value]) -> None:
        """It is about to change tags."""

    @abstractmethod
    def on_done(self, worker: Worker, fact: tuple[Tag, Value]) -> None:
        """It was told that a tag is changed."""

    @abstractmethod
    def on_gave_up(self, worker: Worker, told: str) -> None:
        """An operation ended with an error."""

    def on_collected(self, _: Worker, blobs: int) -> None:
        """Blobs were collected."""
        self._counted.collected_blobs += blobs

    def on_contention(self, worker: Worker, told: str) -> None:
        """Another was not waited out."""
        self.fail("error", worker.work.name, f"contention was not waited out: {told}")

    def on_lost(self, worker: Worker, told: str) -> None:
        """What was acknowledged is not there."""
        self.fail("lost", worker.work.name, told)

    def on_broken(self, worker: Worker, told: str) -> None:
        """An image was read back, and is not whole."""
        self.fail("partial", worker.work.name, told)

    def on_end(self, worker: Worker, told: str) -> None:
        """It has come to its end, perhaps by an error that nobody expected."""
        if told:
            self.fail("error", worker.work.name, told)
