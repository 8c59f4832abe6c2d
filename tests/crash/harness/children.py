"""Processes that are made to die: forked from a warm parent, so that no import is paid for each of them.

A child opens everything itself. What it acknowledges, and which points it reaches, it notes in memory that it
shares with its parent: that costs no system call and outlives a SIGKILL. It does all work in one thread and
draws its uuids from a seed, so two runs of one use case take the same steps in the same order.
"""

from __future__ import annotations

import logging
import mmap
import os
import pickle
import random
import signal
import struct
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeVar

from regmeta.errors import Error
from regmeta.failpoints import Handler, armed

Fact = tuple[str, ...]
Acknowledge = Callable[..., None]
Mutate = Callable[[], None] | None
_T = TypeVar("_T")
_R = TypeVar("_R")

NOTES_BYTES: Final = 1024 * 1024
TIMEOUT_S: Final = 120
_LENGTH: Final = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a child ended, and what it had said by then."""

    ended: str  # "done", "killed" or "error"
    facts: tuple[Fact, ...]
    points: tuple[str, ...]
    error: str = ""
    exit_code: int | None = None  # of regmeta's own errors; None for any other

    @property
    def is_clean(self) -> bool:
        """Whether it succeeded, or gave up with an error that says "unavailable" or "refused"."""
        return self.ended == "done" or (self.ended == "error" and self.exit_code in (5, 6))


class Notes:
    """A list that a child adds to and its parent reads, also when the child is dead."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, NOTES_BYTES)
        self._position = _LENGTH.size  # of the first that new() has not given

    def add(self, kind: str, value: object) -> None:
        """Add one note. It is there from one moment to the next."""
        content = pickle.dumps((kind, value))
        used = self._used()
        start = _LENGTH.size + used
        self._map[start : start + len(content) + _LENGTH.size] = _LENGTH.pack(len(content)) + content
        self._map[: _LENGTH.size] = _LENGTH.pack(used + len(content) + _LENGTH.size)

    def read(self) -> Iterator[tuple[str, Any]]:
        """Give all notes."""
        return (note for note, _ in self._from(_LENGTH.size))

    def new(self) -> Iterator[tuple[str, Any]]:
        """Give those that were added since the last call."""
        for note, position in self._from(self._position):
            self._position = position
            yield note

    def _from(self, position: int) -> Iterator[tuple[tuple[str, Any], int]]:
        """Give the notes from a position on, each with the position of the next one."""
        end = _LENGTH.size + self._used()
        while position < end:
            (length,) = _LENGTH.unpack(self._map[position : position + _LENGTH.size])
            start = position + _LENGTH.size
            position = start + length
            yield pickle.loads(self._map[start:position]), position

    def close(self) -> None:
        """Give the memory back."""
        self._map.close()

    def _used(self) -> int:
        return int(_LENGTH.unpack(self._map[: _LENGTH.size])[0])


class InlineExecutor(Executor):
    """Does the work at once, in the thread that hands it over."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Do it; what it raises is found in the future."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001
            future.set_exception(error)
        return future


def run_child(
    body: Callable[[Acknowledge], None],
    *,
    handler: Handler | None = None,
    mutate: Mutate = None,
    seed: int = 1,
    attach: Callable[[int], None] | None = None,
) -> Outcome:
    """Run *body* in a process of its own and wait for its end.

    *handler* is called in it with each point that it reaches; *mutate* before anything else. Two children
    that write to one registry need different seeds: keys are never given out twice. With *attach* it stands
    still, ready to begin, until that has been called with its process id.
    """
    notes = Notes()
    pid = _fork()
    if pid == 0:
        _be_child(notes, body, handler, mutate, seed, stop=attach is not None)
    try:
        if attach is not None:
            os.waitpid(pid, os.WUNTRACED)
            attach(pid)
            os.kill(pid, signal.SIGCONT)
        _, status = os.waitpid(pid, 0)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    outcome = _outcome(notes, status)
    notes.close()
    return outcome


def spread(items: Sequence[_T], work: Callable[[_T], _R], workers: int | None = None) -> list[_R]:
    """Do *work* for each item, in as many processes as there are processors; results in order."""
    count = min(workers or os.cpu_count() or 1, len(items)) or 1
    pipes, pids = [], []
    try:
        for number in range(count):
            reader, writer = os.pipe()
            pid = _fork()
            if pid == 0:
                os.close(reader)
                _be_worker(writer, items[number::count], work)
            os.close(writer)
            pipes.append(reader)
            pids.append(pid)
        results: list[_R] = [None] * len(items)  # type: ignore[list-item]
        for number, reader in enumerate(pipes):
            with os.fdopen(reader, "rb") as file:
                found = pickle.loads(file.read() or pickle.dumps("a worker died"))
            if isinstance(found, str):
                raise RuntimeError(f"a worker failed:\n{found}")
            results[number::count] = found
        return results
    except BaseException:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        raise
    finally:
        for pid in pids:
            os.waitpid(pid, 0)


def die(name: str = "") -> None:
    """Die as by ``kill -9``."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(index: int) -> Handler:
    """Return a handler that dies at the point of this number, counted from 0."""
    left = index

    def handler(name: str) -> None:
        nonlocal left
        if left == 0:
            die()
        left -= 1

    return handler


def _fork() -> int:
    with warnings.catch_warnings():
        # Python 3.12 warns where there are threads, as pytest-xdist has; no child needs theirs.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _be_child(
    notes: Notes,
    body: Callable[[Acknowledge], None],
    handler: Handler | None,
    mutate: Mutate,
    seed: int,
    *,
    stop: bool,
) -> NoReturn:
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(TIMEOUT_S)
        _make_deterministic(seed)
        if mutate is not None:
            mutate()

        def reached(name: str) -> None:
            assert threading.current_thread() is threading.main_thread(), f"{name} is reached in a thread"
            notes.add("point", name)
            if handler is not None:
                handler(name)

        if stop:
            os.kill(os.getpid(), signal.SIGSTOP)
        with armed(reached):
            body(lambda *fact: notes.add("fact", fact))
        notes.add("end", ("done", "", None))
    except Error as error:
        notes.add("end", ("error", f"{type(error).__name__}: {error}", error.exit_code))
    except BaseException:  # noqa: BLE001
        notes.add("end", ("error", traceback.format_exc(), None))
    os._exit(0)


def _make_deterministic(seed: int) -> None:
    from regmeta.ingest import local_registry
    from regmeta.maintain.verify import run
    from regmeta.sync import pipeline

    logging.disable(logging.CRITICAL)  # writing to stderr would be a system call that is no step
    for name, module in list(sys.modules.items()):
        # In every module, and where one that is loaded later finds it.
        if name.startswith("regmeta.") and "Threads" in vars(module):
            vars(module)["Threads"] = InlineExecutor
    vars(pipeline)["wait"] = all_done
    run.CHECKPOINT_S = 0.0  # type: ignore[misc]
    for batching in (local_registry, pipeline):
        vars(batching).update(BATCH_IMAGES=2, BATCH_S=3600.0)
    # Uuids are made of it; where they sort decides how many pages a commit writes.
    os.urandom = random.Random(seed).randbytes


def all_done(futures: Sequence[Future[Any]], **_: object) -> tuple[Sequence[Future[Any]], set[Future[Any]]]:
    """Return futures in the order in which they were handed out: what is done inline is done."""
    return futures, set()


def _outcome(notes: Notes, status: int) -> Outcome:
    found: dict[str, list[Any]] = {"fact": [], "point": [], "end": []}
    for kind, value in notes.read():
        found[kind].append(value)
    facts, points = tuple(found["fact"]), tuple(found["point"])
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return Outcome("killed", facts, points)
    if not found["end"]:
        return Outcome("error", facts, points, f"ended by status {status:#x}")
    ended, error, exit_code = found["end"][-1]
    return Outcome(ended, facts, points, error, exit_code)


def _be_worker(writer: int, items: Sequence[_T], work: Callable[[_T], _R]) -> NoReturn:
    try:
        content = pickle.dumps([work(item) for item in items])
    except BaseException:  # noqa: BLE001
        content = pickle.dumps(traceback.format_exc())
    with os.fdopen(writer, "wb") as file:
        file.write(content)
    os._exit(0)
