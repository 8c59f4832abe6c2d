"""The undisturbed run of a use case: the points it passes, what it acknowledges, and where it ends."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import sqlalchemy as sa

from regmeta.app import is_initialised
from regmeta.db import Database
from tests.crash.harness.children import Fact, Mutate, Outcome, run_child
from tests.crash.harness.places import Arena, Place
from tests.crash.harness.use_case import UseCase
from tests.support.adoptions import adoption_records
from tests.support.derived import text
from tests.support.logical_dump import logical_dump
from tests.support.registry import open_parts

_T = TypeVar("_T")

Tags = dict[tuple[str, str], str]

_TAGS = sa.text(
    "SELECT r.name, t.name, t.manifest_digest FROM tags t JOIN repositories r ON r.id = t.repository_id"
    " WHERE t.ended_at IS NULL"
)

_LOCKS = sa.text(
    "SELECT r.name, l.pattern FROM tag_locks l JOIN repositories r ON r.id = l.repository_id ORDER BY 1, 2"
)


@dataclass(frozen=True, slots=True)
class State:
    """What a registry says, but for what no two runs have in common."""

    rows: dict[str, Any]
    tags: Tags


@dataclass(frozen=True, slots=True)
class Recording:
    """One use case on one database, undisturbed."""

    case: UseCase
    before: State
    after: State
    facts: tuple[Fact, ...]
    points: tuple[str, ...]  # in order; with the mutation, if there is one

    def label(self, index: int) -> str:
        """Return what the point of this number is called: its name, and the how manieth of that name."""
        name = self.points[index]
        return f"{name}#{self.points[: index + 1].count(name)}"


def record(arena: Arena, backend: str, case: UseCase, mutate: Mutate = None) -> Recording:
    """Run a use case to its end; an undisturbed run is made once."""
    known: Recording | None = arena.recordings.get((backend, case.name))
    if known is None:
        known = arena.recordings[backend, case.name] = _record(arena, backend, case)
    if mutate is None:
        return known
    with arena.copy(case.prepared(arena, backend)) as place:
        points = run_child(lambda acknowledge: case.run(place, acknowledge), mutate=mutate).points
    return replace(known, points=points)


def _record(arena: Arena, backend: str, case: UseCase) -> Recording:
    prepared = case.prepared(arena, backend)
    with arena.copy(prepared) as place:
        before = state(place)  # in a copy of its own: who looks clears up SQLite's log
    with arena.copy(prepared) as place:
        outcome = done(place, case)
        after = state(place)
    return Recording(case, before, after, outcome.facts, outcome.points)


def done(place: Place, case: UseCase) -> Outcome:
    """Run a use case in a child that must succeed."""
    outcome = run_child(lambda acknowledge: case.run(place, acknowledge))
    if outcome.ended != "done":
        raise RuntimeError(f"{case.name} does not work: {outcome.error}")
    return outcome


def state(place: Place) -> State:
    """Return what a registry says; nothing, where there is none yet."""
    return apart(place, lambda: _state(place))


def _state(place: Place) -> State:
    if not has_registry(place):
        return State({}, {})
    database, store = open_parts(place.settings)
    with closing(database), closing(store):
        rows = logical_dump(database)
        rows["repositories"] = [row[:2] for row in rows["repositories"]]  # no revisions, no times
        rows["tag_locks"] = _locks(database)
        rows |= adoption_records(database)
        return State(rows, tags(database))


def has_registry(place: Place) -> bool:
    """Tell whether database and store were tied to each other."""
    return apart(place, lambda: is_initialised(place.settings))


def apart(place: Place, look: Callable[[], _T]) -> _T:
    """Look at a registry, in a child if it is in a bucket: what has spoken to one cannot fork any more.

    Raises:
        RuntimeError: the child has failed.
    """
    if not place.is_in_bucket:
        return look()
    outcome = run_child(lambda tell: tell(look()), seed=4)
    if outcome.ended != "done":
        raise RuntimeError(f"nothing can be seen: {outcome.error}")
    found: Any = outcome.facts[0][0]
    return cast("_T", found)


def tags(database: Database) -> Tags:
    """Return the live tags of all repositories."""
    with database.read() as connection:
        found = connection.execute(_TAGS).all()
    return {(repository, tag): text(bytes(digest)) for repository, tag, digest in found}


def _locks(database: Database) -> list[tuple[Any, ...]]:
    with database.read() as connection:
        if not sa.inspect(connection).has_table("tag_locks"):  # of an older release
            return []
        return [tuple(row) for row in connection.execute(_LOCKS)]
