"""Wiring of ``regmeta gc``: what the settings say of collection, one run of it, and runs without an end."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Final, Protocol

from regmeta.app import Writing, open_for_writing, retention
from regmeta.app.writers import lifetimes_of
from regmeta.errors import Error, Locked, Unavailable
from regmeta.ingest.plan import Lifetimes
from regmeta.maintain.collect.due import until_next
from regmeta.maintain.collect.hold import CollectionHeld, CollectionPaused
from regmeta.maintain.collect.run import CollectReport, collect
from regmeta.maintain.collect.terms import Terms
from regmeta.maintain.progress import Progress
from regmeta.maintain.recover import recover
from regmeta.settings import Settings

LONGEST_WAIT_S: Final = 30.0  # what is queued by others is seen after that
SHORTEST_WAIT_S: Final = 1.0
START_JITTER_S: Final = 2.0  # collectors that are started together do not go on together


class Stop(Protocol):
    """Whether a collection without an end is to end."""

    def is_set(self) -> bool:
        """Tell whether it is."""

    def wait(self, timeout_s: float) -> None:
        """Return when it is to end, or after *timeout_s* seconds."""


def terms_of(settings: Settings, lifetimes: Lifetimes | None = None) -> Terms:
    """Return what a collector goes by; *lifetimes* are other than the usual ones in tests."""
    return Terms(
        lifetimes if lifetimes is not None else lifetimes_of(settings),
        retention.keeps_referrers(settings),
        retention.untagged(settings),
    )


def collect_once(settings: Settings, progress: Progress | None = None) -> CollectReport:
    """Collect what is due; see :func:`regmeta.maintain.collect.run.collect`."""
    with open_for_writing(settings) as registry:
        return _collect(settings, registry, progress=progress)


def watch(
    settings: Settings,
    stop: Stop,
    *,
    collected: Callable[[CollectReport], None],
    changed: Callable[[str], None],
    lifetimes: Lifetimes | None = None,
    chance: Callable[[], float] = random.random,
) -> None:
    """Collect what is due, again and again until *stop*; between rounds it waits.

    *collected* is told of each round; *changed* when it cannot go on, why, and when it can again. A pause, a
    hold, a database or a store that is away are waited for. *chance* gives numbers from 0 to 1.

    Raises:
        SchemaMismatch, IdentityMismatch: this is not the registry any more.
    """
    watching = _Watch(settings, stop, collected, changed)
    stop.wait(START_JITTER_S * chance())
    while not stop.is_set():
        try:
            with open_for_writing(settings, lifetimes=lifetimes) as registry:
                watching.go_on(registry)
        except (Unavailable, Locked) as error:
            watching.hindered(error)
            stop.wait(watching.idle_s(timedelta()))


class _Watch:
    def __init__(
        self,
        settings: Settings,
        stop: Stop,
        collected: Callable[[CollectReport], None],
        changed: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._stop = stop
        self._collected = collected
        self._changed = changed
        self._hindered_by: type[Error] | None = None
        self._in_vain = 0  # rounds in a row

    def go_on(self, registry: Writing) -> None:
        while not self._stop.is_set():
            try:
                report = _collect(self._settings, registry, is_stopped=self._stop.is_set)
            except (CollectionPaused, CollectionHeld) as error:
                self.hindered(error)
            else:
                self._went_well(report)
                # Also the snapshots that are behind.
                recover(registry.writer, registry.store)
            self._stop.wait(self.idle_s(until_next(registry.database)))

    def hindered(self, error: Error) -> None:
        """Note that a round did nothing; say so once."""
        self._in_vain += 1
        if type(error) is not self._hindered_by:
            self._hindered_by = type(error)
            self._changed(str(error))

    def _went_well(self, report: CollectReport) -> None:
        self._collected(report)
        did = report.tasks or report.objects.deleted or report.objects.forgotten
        self._in_vain = 0 if did else self._in_vain + 1
        if self._hindered_by is not None:
            self._hindered_by = None
            self._changed("collecting again")

    def idle_s(self, until_due: timedelta | None) -> float:
        """Return how long to wait: until something is due, but longer after each round in vain."""
        shortest_s = min(SHORTEST_WAIT_S * (1 << min(self._in_vain, 10)), LONGEST_WAIT_S)
        due_s = LONGEST_WAIT_S if until_due is None else until_due.total_seconds()
        return min(max(due_s, shortest_s), LONGEST_WAIT_S)


def _collect(
    settings: Settings,
    registry: Writing,
    *,
    is_stopped: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
) -> CollectReport:
    return collect(
        registry.writer,
        registry.store,
        terms_of(settings, registry.writer.lifetimes),
        is_stopped=is_stopped,
        progress=progress,
    )
