"""The protocol, broken on purpose in one way at a time: the harness that each break names must catch it.

A harness that finds nothing proves nothing unless it finds these. A mutant is applied in the process that is
to die, by replacing one of the functions that the protocol is made of; nothing of the source is edited.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from regmeta import db, failpoints
from regmeta.ingest import commit, reserve
from regmeta.ingest.unit_of_work import Phase, UnitOfWork
from regmeta.maintain.collect import blobs as collect_blobs
from regmeta.store import durable, filesystem
from tests.crash.harness import kill_points, power_cuts, schedules
from tests.crash.harness.places import Arena
from tests.crash.harness.report import Failure, Result, measured
from tests.crash.harness.schedule_mutants import (
    digest_named_keys,
    judged_outside,
    listed_before_the_lock,
    without_fence,
)
from tests.crash.harness.use_cases import use_case

EVERY_POINT: Final = 2  # of a use case: a mutant shows at many of them
EVERY_CUT: Final = 4


@dataclass(frozen=True, slots=True)
class Mutant:
    """One break, the harness that must catch it, and as what."""

    name: str
    harness: str
    kinds: frozenset[str]
    apply: Callable[[], None]
    run: Callable[[Arena, Callable[[], None]], Result]


# --- the breaks -------------------------------------------------------------------------------


def _row_before_object() -> None:
    """Commit first, and give the objects their keys afterwards."""
    really_commit = UnitOfWork.commit
    late: dict[int, Any] = {}

    def note(self: Any) -> None:
        self._require(Phase.RESERVED)
        late[id(self)] = [s for digest, s in self._staged.items() if digest not in self._published]
        self._published.update(self._staged)
        self._tried.update(staged.key for staged in self._staged.values())
        self.phase = Phase.PUBLISHED

    def commit_first(self: Any, *arguments: Any, **options: Any) -> Any:
        result = really_commit(self, *arguments, **options)
        self._writer.staging.publish(late.pop(id(self)))
        return result

    _replace(UnitOfWork, "publish", note)
    _replace(UnitOfWork, "commit", commit_first)


def _no_intents() -> None:
    """Write objects that no row has announced."""
    _replace(reserve, "_insert_intents", lambda *_: None)
    _replace(commit, "_fence", lambda context: None)


def _object_before_row() -> None:
    """Delete the objects of what is collected before its rows are gone."""
    stores: list[Any] = []
    make, bury = filesystem.FilesystemStore.__init__, reserve.bury_sized

    def made(self: Any, *arguments: Any, **options: Any) -> None:
        make(self, *arguments, **options)
        stores.append(self)

    def delete_first(connection: Any, sizes: Any, *arguments: Any) -> None:
        stores[-1].delete(list(sizes))
        bury(connection, sizes, *arguments)

    _replace(filesystem.FilesystemStore, "__init__", made)
    _replace(collect_blobs, "bury_sized", delete_first)


def _edges_in_another_transaction() -> None:
    """Commit manifests and tags first, and what they name in a second transaction."""
    once, edges = UnitOfWork._commit_once, commit._edges
    late: list[Any] = []

    def commit_in_two(self: Any, plan: Any) -> Any:
        result = once(self, plan)
        with self._writer.database.transaction("edges") as connection:
            while late:
                context, *others = late.pop(0)
                context.connection = connection
                edges(context, *others)
        return result

    _replace(commit, "_edges", lambda *arguments: late.append(arguments))
    _replace(UnitOfWork, "_commit_once", commit_in_two)


def _no_flush(*points: str) -> Callable[[], None]:
    """Leave out what makes something last."""
    flush = durable.flush

    def skip(fd: int, point: str) -> None:
        if point not in points:
            flush(fd, point)
        else:
            failpoints.reach(point)

    return lambda: _replace(durable, "flush", skip)


def _synchronous_normal() -> None:
    """Let SQLite acknowledge a commit that is not on the disk."""
    pragmas = tuple(pragma.replace("synchronous=FULL", "synchronous=NORMAL") for pragma in db.PRAGMAS)
    assert pragmas != db.PRAGMAS
    _replace(db, "PRAGMAS", pragmas)


def _replace(owner: Any, name: str, value: Any) -> None:
    assert inspect.getattr_static(owner, name) is not None
    setattr(owner, name, value)


# --- the harnesses that catch them ------------------------------------------------------------


def _kill_points(*cases: str) -> Callable[[Arena, Callable[[], None]], Result]:
    def run(arena: Arena, mutate: Callable[[], None]) -> Result:
        chosen = tuple(use_case(name) for name in cases)
        return kill_points.run(arena, mutate=mutate, cases=chosen, backends=("sqlite",), every=EVERY_POINT)

    return run


def _power_cuts(*cases: str) -> Callable[[Arena, Callable[[], None]], Result]:
    return lambda arena, mutate: power_cuts.run(arena, mutate=mutate, cases=cases, every=EVERY_CUT)


def _schedules(seeds: int) -> Callable[[Arena, Callable[[], None]], Result]:
    def run(arena: Arena, mutate: Callable[[], None]) -> Result:
        with measured(schedules.NAME) as result:
            for found in schedules.run_seeds(arena, "sqlite", range(1, 1 + seeds), mutate):
                failures = [Failure(kind, found.where, text) for kind, text in found.bad]
                result.add(found.where, killed=False, failures=failures)
        return result

    return run


MUTANTS: Final = (
    Mutant(
        "row before object",
        "kill points",
        frozenset({"dangling"}),
        _row_before_object,
        _kill_points("import"),
    ),
    Mutant("no intents", "kill points", frozenset({"orphans"}), _no_intents, _kill_points("import")),
    Mutant(
        "object deleted before the row's commit",
        "kill points",
        frozenset({"dangling"}),
        _object_before_row,
        _kill_points("collect"),
    ),
    Mutant(
        "manifest and edges in two transactions",
        "kill points",
        frozenset({"partial"}),
        _edges_in_another_transaction,
        _kill_points("import"),
    ),
    Mutant(
        "file not flushed",
        "power cuts",
        frozenset({"dangling", "lost"}),
        _no_flush("stage.flushed"),
        _power_cuts("import"),
    ),
    Mutant(
        "folders not flushed",
        "power cuts",
        frozenset({"dangling", "lost"}),
        _no_flush("publish.flushed", "folder.flushed", "record.named"),
        _power_cuts("import"),
    ),
    Mutant(
        "synchronous=NORMAL",
        "power cuts",
        frozenset({"lost"}),
        _synchronous_normal,
        _power_cuts("tag set", "import"),
    ),
    Mutant(
        "no fence", "schedules", frozenset({"dangling", "lost", "partial"}), without_fence, _schedules(20)
    ),
    Mutant(
        "keys named by digest",
        "schedules",
        frozenset({"dangling", "lost", "partial"}),
        digest_named_keys,
        _schedules(100),
    ),
    Mutant(
        "collector decides outside its transaction, no foreign keys",
        "schedules",
        frozenset({"dangling", "lost", "partial"}),
        judged_outside,
        _schedules(200),
    ),
    Mutant(
        "delete by digest looks for an index before its lock",
        "schedules",
        frozenset({"partial"}),
        listed_before_the_lock,
        _schedules(200),
    ),
)
