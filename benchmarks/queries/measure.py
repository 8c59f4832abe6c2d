"""Clocks, tables and targets."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from benchmarks.queries.case import Case
from benchmarks.queries.parameters import Parameters
from benchmarks.queries.plans import Levels, full_scans, pages_read, sent_by
from benchmarks.queries.raw import Raw
from benchmarks.report import Target
from regmeta.db import Database

PAGES_OVER: Final = 40  # draws that pages are counted over
PLANS_OVER: Final = 3  # draws whose plans are looked at
STEADY_PERCENT: Final = 20

_Time = tuple[float, float]  # [ms] on the wall, and of the processor


@dataclass(frozen=True, slots=True)
class Measured:
    """What one case took in one database: milliseconds, and means over its draws."""

    case: Case
    p50_ms: float
    p99_ms: float
    cpu_ms: float  # of this process: on SQLite that is all of it
    raw_ms: float | None
    raw_cpu_ms: float | None
    statements: float
    pages: float
    levels: float | None
    scans: tuple[str, ...]

    @property
    def times_raw(self) -> float | None:
        """How many times as long as the statements by hand it took, in the median.

        On SQLite it is the processor's time that is compared: other programs do not change it much.
        """
        if self.levels is not None:
            return self.cpu_ms / self.raw_cpu_ms if self.raw_cpu_ms else None
        return self.p50_ms / self.raw_ms if self.raw_ms else None

    @property
    def pages_of_a_level(self) -> float:
        """Pages over the mean depth of the trees; a tree of a larger registry is deeper."""
        return self.pages / (self.levels or 1)


def measure(url: str, cases: Sequence[Case], draws: int) -> dict[str, Measured]:
    """Measure every case in one database."""
    database = Database(url)
    with closing(database), closing(Raw(url)) as raw:
        parameters = Parameters(raw)
        levels = Levels(database) if database.is_sqlite else None
        found = {}
        for case in cases:
            found[case.name] = one = _case(database, raw, parameters, levels, case, draws)
            print(line(one), flush=True)
        return found


def _case(
    database: Database, raw: Raw, parameters: Parameters, levels: Levels | None, case: Case, draws: int
) -> Measured:
    # A report may take many seconds: once will do.
    drawn = [case.draw(parameters) for _ in range(1 if case.reports else draws)]
    for each in [] if case.reports else drawn[: max(20, draws // 5)]:
        case.call(database, each)
    ours: list[_Time] = []
    theirs: list[_Time] = []
    for number, each in enumerate(drawn):
        # Who comes first finds the pages cold, so they take turns.
        if number % 2:
            ours.append(_timed(case.call, database, each))
        if case.raw is not None:
            theirs.append(_timed(case.raw, raw, each))
        if not number % 2:
            ours.append(_timed(case.call, database, each))
    some = drawn[:PAGES_OVER]
    sent = [sent_by(database, partial(case.call, database, each)) for each in some]
    pages = [pages_read(database, partial(case.call, database, each)) for each in some]
    asked = [statement for one in sent[:PLANS_OVER] for statement in one]
    return Measured(
        case,
        statistics.median(wall_ms for wall_ms, _ in ours),
        _percentile([wall_ms for wall_ms, _ in ours], 99),
        statistics.median(cpu_ms for _, cpu_ms in ours),
        statistics.median(wall_ms for wall_ms, _ in theirs) if theirs else None,
        statistics.median(cpu_ms for _, cpu_ms in theirs) if theirs else None,
        statistics.mean(map(len, sent)),
        statistics.mean(pages),
        levels.of(asked) if levels else None,
        tuple(dict.fromkeys(full_scans(database, asked))),
    )


def _timed(run: Callable[[Any, Any], object], on: Any, of: Any) -> _Time:
    start_s, cpu_s = time.perf_counter(), time.thread_time()
    run(on, of)
    return (time.perf_counter() - start_s) * 1000, (time.thread_time() - cpu_s) * 1000


def _percentile(values: list[float], percent: int) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


_TITLES: Final = ("p50 ms", "p99 ms", "CPU ms", "by hand")
HEAD: Final = (
    f"{'query':44} {' '.join(f'{title:>8}' for title in _TITLES)}"
    f" {'times':>6} {'stmts':>6} {'pages':>8} {'/level':>7}"
)


def line(one: Measured) -> str:
    """Return one line of the table."""
    raw = f"{one.raw_ms:8.3f} {one.times_raw or 0:6.1f}" if one.raw_ms else f"{'-':>8} {'-':>6}"
    levels = f"{one.pages_of_a_level:7.1f}" if one.levels else f"{'-':>7}"
    scans = "".join(f"\n    SCAN {scan}" for scan in one.scans)
    times = f"{one.p50_ms:8.3f} {one.p99_ms:8.3f} {one.cpu_ms:8.3f}"
    return f"{one.case.name:44} {times} {raw} {one.statements:6.1f} {one.pages:8.1f} {levels}{scans}"


def targets(url: str, found: dict[str, Measured]) -> list[Target]:
    """Return what must hold in one database."""
    result = []
    for one in found.values():
        case, where = one.case, f"{one.case.name} in {url.partition(':')[0]}"
        if case.p50_ms:
            result.append(Target(f"p50 of {where}", one.p50_ms, case.p50_ms, "ms"))
        if case.p99_ms:
            result.append(Target(f"p99 of {where}", one.p99_ms, case.p99_ms, "ms"))
        if case.times_raw and one.times_raw:
            result.append(Target(f"times by hand of {where}", one.times_raw, case.times_raw, "x"))
        if not case.reports:
            result.append(Target(f"scans of large tables of {where}", len(one.scans), 0, "scans"))
    return result


def steadiness(small: dict[str, Measured], large: dict[str, Measured]) -> list[Target]:
    """Return what must hold between a small registry and a large one, both in SQLite: pages of a level."""
    result = []
    for name, one in large.items():
        if one.case.steady and one.levels and small[name].pages:
            more = 100 * abs(one.pages_of_a_level / small[name].pages_of_a_level - 1)
            result.append(Target(f"difference of pages of a level of {name}", more, STEADY_PERCENT, "%"))
    return result
