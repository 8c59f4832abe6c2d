"""What harnesses have found, and the table of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

KINDS: Final = ("lost", "dangling", "partial", "orphans", "error")
"""An acknowledged fact does not hold; a row names bytes that are not there or not right; something is there
by halves; an object that no row knows stays; anything else that must not be."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One thing that must not be, and where it was found."""

    kind: str  # one of KINDS
    where: str  # use case, database and point
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.text}"


@dataclass(slots=True)
class Result:
    """The figures of one harness."""

    name: str
    points: list[str] = field(default_factory=list)  # what was tried, in words
    killed: int = 0  # at how many of them something died or failed
    failures: list[Failure] = field(default_factory=list)
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    skipped: str = ""  # why it could not run on this machine

    def count(self, kind: str) -> int:
        """Return at how many points this kind of failure was found."""
        return len({failure.where for failure in self.failures if failure.kind == kind})

    def add(self, where: str, *, killed: bool, failures: Iterable[Failure]) -> None:
        """Count one point."""
        self.points.append(where)
        self.killed += killed
        self.failures += failures


@contextmanager
def measured(name: str) -> Iterator[Result]:
    """Lend a result, and note how long the block took."""
    result = Result(name)
    began_s = time.monotonic()
    try:
        yield result
    finally:
        result.seconds = time.monotonic() - began_s


def table(results: Iterable[Result]) -> str:
    """Return a table in Markdown, a line for each harness."""
    lines = [
        f"| harness | points | killed | {' | '.join(KINDS)} | seconds | notes |",
        f"| --- | ---: | ---: | {' | '.join('---:' for _ in KINDS)} | ---: | --- |",
    ]
    for result in results:
        notes = f"skipped: {result.skipped}" if result.skipped else "; ".join(result.notes)
        figures = [len(result.points), result.killed, *(result.count(kind) for kind in KINDS)]
        lines.append(f"| {result.name} | {' | '.join(map(str, figures))} | {result.seconds:.0f} | {notes} |")
    return "\n".join(lines)


def names(points: Iterable[str]) -> str:
    """Return how often each point was tried, by its name."""
    counted = Counter(point.rpartition(" ")[2].partition("#")[0] for point in points)
    return ", ".join(f"{name} {count}" for name, count in sorted(counted.items()))
