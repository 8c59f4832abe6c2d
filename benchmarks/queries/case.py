"""What a query of the benchmark is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.queries.parameters import Parameters
from benchmarks.queries.raw import Raw, Rows
from regmeta.db import Database


@dataclass(frozen=True, slots=True)
class Case:
    """One query. Limits are in milliseconds, and times the raw statements' time; None is no limit.

    *steady*: it must read about as many pages of each level in a registry of any size. *reports*: it is said
    to read whole tables.
    """

    name: str
    draw: Callable[[Parameters], Any]
    call: Callable[[Database, Any], object]
    raw: Callable[[Raw, Any], Rows] | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    times_raw: float | None = None
    steady: bool = False
    reports: bool = False
