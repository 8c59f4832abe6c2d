"""T14: threads that share a registry as processes would, in an order that a seed draws.

Two writers, two collectors, a sweeper and a reader; what writers do besides pushing and tagging is in
``schedule_acts``. Each opens the registry for itself: its own connections,
its own staging folder and lock. All leases, intents and windows are over at once, so that nothing is safe
because it is young. The baton is passed at each failpoint, and before and after each transaction; on SQLite
never inside one, since the file's lock is held there. On SQLite the clock is a counter, so a seed gives the
same run again; on PostgreSQL threads wait for row locks, so it gives a like one.
"""

from __future__ import annotations

import json
import logging
import os
import random
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import count
from typing import Any, Final
from unittest.mock import patch

import msgspec
import stamina
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine

from regmeta import app, db, errors, failpoints
from regmeta.app import Reading, Writing, open_for_reading, open_for_writing
from regmeta.content.export import export
from regmeta.db import Database
from regmeta.ingest import local_registry
from regmeta.ingest.plan import ImageRequest, Lifetimes
from regmeta.ingest.tags import remove_tag, set_tag
from regmeta.maintain.collect.again import retry_now
from regmeta.maintain.collect.reconcile import reconcile_queue
from regmeta.maintain.collect.run import collect
from regmeta.maintain.collect.sweep import sweep
from regmeta.maintain.progress import NoProgress
from regmeta.maintain.recover import recover
from regmeta.oci.digest import Digest
from regmeta.oci.names import Reference
from regmeta.oci.streams import ByteStream
from regmeta.settings import Settings
from regmeta.sources.open import open_source
from regmeta.store import filesystem
from regmeta.store.filesystem import FilesystemStore
from tests.builders import digest_of, parsed
from tests.crash.harness.baton import Baton, Stuck, Trace
from tests.crash.harness.children import InlineExecutor, Mutate, run_child, spread
from tests.crash.harness.places import Arena, Place
from tests.crash.harness.report import Failure, Result, measured
from tests.crash.harness.schedule_acts import COMMON, Own, act_in_common, half_deleted
from tests.crash.harness.schedule_images import BUILDER, IMAGES, LAYOUT, MemoryExport, tree
from tests.support import consistency, registry

NAME: Final = "schedules"
SEEDS: Final = {"sqlite": 520, "postgresql": 64}
QUICK_SEEDS: Final = {"sqlite": 24, "postgresql": 3}
FIRST_SEED: Final = {"sqlite": 1, "postgresql": 100_001}
BLOCKS_AFTER_S: Final = 0.03

REPOSITORIES: Final = ("app", "lib")  # both writers push and tag
EVERYWHERE: Final = (*REPOSITORIES, "writer-1", "writer-2", COMMON)
SESSIONS: Final = 2  # how often a writer closes and opens the registry
OPERATIONS: Final = 5  # of one session
IN_A_ROW: Final = 3  # of deletes and their undoing, so that some is undone before a collector comes
ROUNDS: Final = 6  # of collectors and sweeper at most, while anybody writes
READS: Final = 24  # the same of the reader
NOW: Final = registry.NOW
AT_ONCE: Final = replace(registry.AT_ONCE, intent=NOW)
SWEPT: Final = Lifetimes(max_upload=timedelta(hours=-1), tombstone=NOW)  # files have the real clock's times
NOT_YIELDING: Final = ("layout.",)  # under a lock that others wait for, and no invariant rests on it

_KINDS: Final = (
    ("dangling", ("its object", "bytes stored", "another digest", "not those of its object")),
    ("orphans", ("no row knows it", "staging/")),
    ("partial", ("is not there (", "is nothing", "manifest_blobs are", "index_manifests are", "was deleted")),
)


@dataclass(frozen=True, slots=True)
class Run:
    """What one seed gave."""

    backend: str
    seed: int
    trace: Trace
    bad: list[tuple[str, str]] = field(default_factory=list)  # kind and text
    figures: dict[str, int] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """What tables call it."""
        return f"{self.backend} seed#{self.seed}"

    def told(self) -> str:
        """Return all that is needed to look into it."""
        steps = "\n".join(f"    {name:12} {point}" for name, point in self.trace)
        wrong = "\n".join(f"  {kind}: {text}" for kind, text in self.bad)
        return f"{self.where}\n{wrong}\n  trace:\n{steps}"


def run(arena: Arena, *, quick: bool = False, mutate: Mutate = None) -> Result:
    """Run all seeds; *quick* takes a few."""
    with measured(NAME) as result:
        steps = 0
        for backend in arena.backends:
            seeds = QUICK_SEEDS[backend] if quick else SEEDS[backend]
            first = FIRST_SEED[backend]
            for found in run_seeds(arena, backend, range(first, first + seeds), mutate):
                failures = [Failure(kind, found.where, text) for kind, text in found.bad]
                result.add(found.where, killed=False, failures=failures)
                steps += len(found.trace)
        result.notes.append(f"{steps} steps")
    return result


def run_seeds(arena: Arena, backend: str, seeds: range, mutate: Mutate = None) -> list[Run]:
    """Run some seeds in processes of their own, with *mutate* applied there."""
    _base(arena, backend)
    mutated = False

    def work(seed: int) -> Run:
        nonlocal mutated
        if mutate is not None and not mutated:
            mutate()
            mutated = True
        return run_seed(arena, seed, backend)

    return spread(list(seeds), work)


def run_seed(arena: Arena, seed: int, backend: str = "sqlite") -> Run:
    """Run one seed in this process."""
    with arena.copy(_base(arena, backend)) as place:
        blocks_after_s = None if backend == "sqlite" else BLOCKS_AFTER_S
        baton = Baton(seed, blocks_after_s=blocks_after_s)
        found = Run(backend, seed, baton.trace)
        if seed % 4:  # showing layouts costs much and is not what is looked at
            place = replace(place, settings=msgspec.structs.replace(place.settings, layouts="none"))
        everybody = _Everybody(place, seed, found)
        with _arranged(baton, seed, yields_inside=backend != "sqlite"):
            try:
                for name, error in baton.run(everybody.bodies()).items():
                    found.bad.append(("error", f"{name}: {''.join(traceback.format_exception(error))}"))
            except Stuck as stuck:
                found.bad.append(("error", f"stuck {stuck}"))
                return found
            try:
                found.bad.extend(_judged(place, everybody))
            except Exception as error:  # noqa: BLE001 - what was broken on purpose may break anything
                found.bad.append(("error", f"judging: {type(error).__name__}: {error}"))
        return found


# --- who takes part ---------------------------------------------------------------------------


@dataclass
class _Everybody:
    """The bodies of all threads, and what they were told."""

    place: Place
    seed: int
    found: Run
    writing: int = 2  # how many writers have not ended
    own: dict[tuple[str, str], Digest | None] = field(default_factory=dict)  # tags of one writer
    last: dict[str, Digest | None] = field(default_factory=dict)  # what each writer last did to ``both``
    owned: dict[str, Own] = field(default_factory=dict)  # by writer

    def __post_init__(self) -> None:
        """Give each writer a repository of its own."""
        for name in ("writer-1", "writer-2"):
            self.owned[name] = Own(name, lambda kind, text: self.found.bad.append((kind, text)), self.count)

    def bodies(self) -> dict[str, Callable[[], None]]:
        """Return what is to be run, by name."""
        return {
            "writer 1": lambda: self._write("writer-1"),
            "writer 2": lambda: self._write("writer-2"),
            "collector 1": lambda: self._collect("collector-1"),
            "collector 2": lambda: self._collect("collector-2"),
            "sweeper": self._sweep,
            "reader": self._read,
        }

    def count(self, what: str, number: int = 1) -> None:
        """Count what happened, so that a test can tell that anything did."""
        self.found.figures[what] = self.found.figures.get(what, 0) + number

    def _write(self, name: str) -> None:
        try:
            self._sessions(name)
        finally:
            self.writing -= 1

    def _sessions(self, name: str) -> None:
        drawn = random.Random(f"{self.seed} {name}")
        for _ in range(SESSIONS):
            with (
                open_for_writing(self.place.settings, lifetimes=AT_ONCE) as writing,
                closing(open_source(str(self.place.sources / LAYOUT))) as source,
            ):
                for _ in range(OPERATIONS):
                    [where] = drawn.choices(("pushes", "own", "common"), (3, 2, 2))
                    if where == "own":
                        for _ in range(IN_A_ROW):
                            with self._given_up():
                                self.owned[name].act(writing, source, drawn)
                        continue
                    if where == "common":
                        for _ in range(IN_A_ROW):
                            with suppress(errors.NotFound, errors.Refused), self._given_up():
                                act_in_common(writing, source, drawn)
                                self.count("in common")
                            self.found.bad.extend(half_deleted(writing.database))
                        continue
                    repository = drawn.choice(REPOSITORIES)
                    tag = drawn.choice((name, name, f"{name}-too", "both", None))
                    image = drawn.choice(IMAGES)
                    act = drawn.choice(("import", "import", "import", "remove", "set"))
                    with suppress(errors.NotFound), self._given_up():
                        if act == "import":
                            wanted = ImageRequest(source, parsed(image), repository, tag)
                            for outcome in writing.registry.import_images([wanted]):
                                if outcome.error is not None:
                                    raise outcome.error
                            self._acknowledged(name, repository, tag, digest_of(image))
                        elif tag is not None and act == "remove":
                            remove_tag(writing.writer, repository, tag)
                            self._acknowledged(name, repository, tag, None)
                        elif tag is not None:
                            set_tag(writing.writer, repository, tag, digest_of(image))
                            self._acknowledged(name, repository, tag, digest_of(image))

    @contextmanager
    def _given_up(self) -> Iterator[None]:
        """Who loses its blobs again and again gives up; on PostgreSQL also who waits too long."""
        try:
            yield
        except errors.StoreUnavailable as error:
            if "taken back" not in str(error):
                raise
            self.count("given up")
        except errors.MissingContent:
            self.count("given up")
        except errors.Contention:
            if self.place.backend == "sqlite":
                raise
            self.count("given up")

    def _acknowledged(self, name: str, repository: str, tag: str | None, digest: Digest | None) -> None:
        self.count("acknowledged")
        if tag == "both":
            self.last[f"{repository} {name}"] = digest
        elif tag is not None:
            self.own[repository, tag] = digest

    def _while_writing(self, rounds: int = ROUNDS) -> Iterator[int]:
        for number in range(rounds):
            yield number
            if not self.writing:
                return

    def _collect(self, name: str) -> None:
        drawn = random.Random(f"{self.seed} {name}")
        with open_for_writing(self.place.settings, lifetimes=AT_ONCE) as writing:
            for _ in self._while_writing():
                with self._given_up():
                    taken = recover(writing.writer, writing.store)
                    self.count("intents taken back", taken.intents_taken_back)
                    if drawn.random() < 0.2:
                        retry_now(writing.database)
                    if drawn.random() < 0.2:
                        reconcile_queue(writing.database, writing.store, name, AT_ONCE, NoProgress())
                    report = collect(writing.writer, writing.store)
                    self.count("objects deleted", report.objects.deleted)
                    self.count("purged", report.repositories)
                    self.found.bad.extend(("error", f"{name}: {told}") for told in report.failures)

    def _sweep(self) -> None:
        with open_for_reading(self.place.settings, check_store=True) as reading:
            for _ in self._while_writing():
                with self._given_up():
                    self.count("swept", sweep(reading.database, reading.store, SWEPT).buried)

    def _read(self) -> None:
        with open_for_reading(self.place.settings) as reading:
            for _ in self._while_writing(READS):
                self.found.bad.extend(half_deleted(reading.database))
                for repository in EVERYWHERE:
                    for tag, interval in _intervals(reading.database, repository).items():
                        told = _read_back(reading, repository, tag, interval)
                        self.count("exported", told is None)
                        if told:
                            self.found.bad.append(("partial", f"reader: {repository}:{tag}: {told}"))


def _intervals(database: Database, repository: str) -> dict[str, int]:
    found = registry.rows(
        database,
        "SELECT t.name, t.id FROM tags t JOIN repositories r ON r.id = t.repository_id"
        " WHERE r.name = :of AND t.ended_at IS NULL",
        of=repository,
    )
    return dict(found)


def _read_back(reading: Reading, repository: str, tag: str, interval: int) -> str | None:
    """Export an image; returns what is wrong, "" if it went away meanwhile."""
    target = MemoryExport()
    try:
        export(reading.database, reading.store, Reference(repository, tag), target)
    except errors.Error as error:
        # With no read window at all, what is displaced while it is read may go.
        is_still_live = _intervals(reading.database, repository).get(tag) == interval
        return f"{type(error).__name__}: {error}" if is_still_live else ""
    root = str(json.loads(target.index)["manifests"][0]["digest"])
    expected = tree(root)
    if target.found.keys() != expected:
        return f"{root} has {len(target.found)} blobs, and should have {len(expected)}"
    wrong = [digest for digest, content in target.found.items() if content != BUILDER.blobs[digest]]
    return f"{wrong} have other bytes" if wrong else None


# --- judging ----------------------------------------------------------------------------------


def _judged(place: Place, everybody: _Everybody) -> Iterator[tuple[str, str]]:
    database, store = registry.open_parts(place.settings)
    with closing(database), closing(store):
        for line in consistency.findings(database, store):
            # A writer that was overtaken may have made an object after its tombstone was dropped (I2).
            if "no row knows it" not in line:
                yield _kind(line), line
        yield from _facts(database, everybody)
        for own in everybody.owned.values():
            yield from own.findings(database)
        before = {name: registry.tags(database, name) for name in EVERYWHERE}
        with open_for_writing(place.settings, lifetimes=AT_ONCE) as writing:
            # An object that a writer made between being deleted and being looked for waits to be tried again.
            retry_now(writing.database)
            collect(writing.writer, writing.store)
            sweep(writing.database, writing.store, SWEPT)
            collect(writing.writer, writing.store)
            collect(writing.writer, writing.store)
            yield from _whole(writing)
        for line in consistency.findings(database, store):
            yield _kind(line), f"collected: {line}"
        named, found = registry.keys_in(database, "blobs"), set(registry.objects(store))
        if named != found:
            kind = "dangling" if named - found else "orphans"
            yield kind, f"collected: objects {sorted(found ^ named)} are there without a row, or not there"
        for table in ("intents", "tombstones", "gc_tasks", "layout_outbox"):
            if registry.scalar(database, f"SELECT count(*) FROM {table}"):
                yield "orphans", f"collected: rows stay in {table}"
        if before != {name: registry.tags(database, name) for name in EVERYWHERE}:
            yield "lost", "collected: tags have gone"


def _facts(database: Database, everybody: _Everybody) -> Iterator[tuple[str, str]]:
    now = {(name, tag): of for name in REPOSITORIES for tag, of in registry.tags(database, name).items()}
    for (repository, tag), digest in everybody.own.items():
        if now.get((repository, tag)) != digest:
            yield "lost", f"{repository}:{tag} is {now.get((repository, tag))}, {digest} was acknowledged"
    for repository in REPOSITORIES:
        allowed = {of for name, of in everybody.last.items() if name.startswith(f"{repository} ")} or {None}
        if now.get((repository, "both")) not in allowed:
            yield "lost", f"{repository}:both is {now.get((repository, 'both'))}, none of {allowed}"


def _whole(writing: Writing) -> Iterator[tuple[str, str]]:
    for repository in EVERYWHERE:
        for tag, interval in _intervals(writing.database, repository).items():
            told = _read_back(writing, repository, tag, interval)
            if told is not None:
                yield "partial", f"at the end: {repository}:{tag}: {told}"


def _kind(line: str) -> str:
    return next((kind for kind, parts in _KINDS if any(part in line for part in parts)), "error")


# --- arranging --------------------------------------------------------------------------------


def _base(arena: Arena, backend: str) -> Place:
    """Return an empty registry, to be copied."""
    found = arena.bases.get((backend, NAME))
    if found is None:
        if not (arena.sources / LAYOUT).exists():
            BUILDER.write(arena.sources / LAYOUT)
        found = arena.bases[backend, NAME] = arena.empty(backend)
        settings = found.settings
        outcome = run_child(lambda _: _initialise(settings))
        assert outcome.ended == "done", outcome.error
    return found


def _initialise(settings: Settings) -> None:
    app.initialise(settings)


@contextmanager
def _arranged(baton: Baton, seed: int, *, yields_inside: bool) -> Iterator[None]:
    """Let threads of this process pass the baton, do all work themselves, and draw uuids from the seed."""
    begin, read, open_object = Database.transaction, Database.read, FilesystemStore.open

    @contextmanager
    def transaction(self: Database, name: str, **options: bool) -> Iterator[Connection]:
        baton.reach(f"{name}.begin")
        with begin(self, name, **options) as connection:
            yield connection
        baton.reach(f"{name}.committed")

    @contextmanager
    def reading(self: Database, **options: bool) -> Iterator[Connection]:
        baton.reach("read.begin")
        with read(self, **options) as connection:
            yield connection
        baton.reach("read.end")

    @contextmanager
    def opened(self: FilesystemStore, key: str, start: int = 0) -> Iterator[ByteStream]:
        baton.reach("open.begin")
        with open_object(self, key, start) as stream:
            yield stream

    def handler(point: str) -> None:
        is_inside = point.endswith(".committing")
        # Told by ``transaction`` instead, when SQLite's file lock is not held any more.
        if point.endswith(".committed") or (is_inside and not yields_inside):
            return
        if not point.startswith(NOT_YIELDING):
            baton.reach(point)

    with ExitStack() as stack:
        for module in (local_registry, filesystem):
            stack.enter_context(patch.object(module, "Threads", InlineExecutor))
        stack.enter_context(patch.object(Database, "transaction", transaction))
        stack.enter_context(patch.object(Database, "read", reading))
        stack.enter_context(patch.object(FilesystemStore, "open", opened))
        stack.enter_context(patch.object(db, "_sqlite_engine", _with_counted_clock()))
        stack.enter_context(patch.object(os, "urandom", random.Random(seed).randbytes))
        stack.enter_context(_without_waiting())
        stack.enter_context(failpoints.armed(handler))
        logging.disable(logging.CRITICAL)
        stack.callback(logging.disable, logging.NOTSET)
        yield


_SHARED: Final[dict[str, Engine]] = {}


def _with_counted_clock() -> Callable[[str], Engine]:
    """Make SQLite's clock go on by a millisecond each time that it is asked, and not otherwise."""
    make, ticks = db._sqlite_engine, count(1_700_000_000_000)

    def engine(path: str) -> Engine:
        made = make(path)
        # Statements are compiled once for all engines of this process: that is half of the time.
        shared = _SHARED.setdefault("sqlite", made)
        made.dialect, made._compiled_cache = shared.dialect, shared._compiled_cache

        @event.listens_for(made, "connect")
        def connected(connection: Any, _: object) -> None:
            connection.create_function("julianday", 1, lambda _: next(ticks) / 86_400_000 + 2_440_587.5)

        return made

    return engine


@contextmanager
def _without_waiting() -> Iterator[None]:
    """Try again at once: who waits has the baton."""
    stamina.set_testing(True, attempts=8, cap=True)
    try:
        yield
    finally:
        stamina.set_testing(False)
