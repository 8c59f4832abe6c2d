"""What this process did, counted: the figures that Prometheus or OpenTelemetry collects.

A metric is made once, at the end of this module, and counts from the start of the process; docs/operations.md
says what each tells. An event costs less than a microsecond. Names, units and the text follow Prometheus:
``_total`` for what only grows, seconds and bytes as base units.

What stands in the database's rows, such as the age of a queue, is asked when it is wanted
(:mod:`regmeta.app.metrics`); it is shown by :func:`text` beside what was counted.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, Literal, Protocol

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the buckets of a histogram [s]."""

Kind = Literal["counter", "gauge", "histogram"]
Labels = tuple[str, ...]


class Observer(Protocol):
    """Somebody who is told of each event, in the thread in which it happens; must not raise or wait."""

    def counted(self, name: str, labels: Mapping[str, str], amount: float) -> None:
        """Take note that a counter has grown."""

    def measured(self, name: str, labels: Mapping[str, str], value: float) -> None:
        """Take note of one value of a histogram."""


_observers: tuple[Observer, ...] = ()


def observe(observer: Observer) -> None:
    """Tell *observer* of every event from now on."""
    global _observers
    _observers = (*_observers, observer)


def forget(observer: Observer) -> None:
    """Tell *observer* of nothing more."""
    global _observers
    _observers = tuple(each for each in _observers if each is not observer)


# --- metrics ----------------------------------------------------------------------------------


class Metric(Protocol):
    """A metric with all its labels."""

    name: str
    kind: Kind
    help: str

    def lines(self) -> Iterator[str]:
        """Give its samples as text."""

    def reset(self) -> None:
        """Count from nothing again; for tests."""


class Counter:
    """A number that only grows, for each combination of labels. Safe to use from several threads."""

    kind: Kind = "counter"

    def __init__(self, name: str, help: str, labels: Labels = ()) -> None:
        self.name, self.help, self.labels = name, help, labels
        self._lock = threading.Lock()
        self._values: dict[Labels, float] = {}

    def add(self, amount: float = 1, *labels: str) -> None:
        """Count *amount* more; *labels* are values in the order of the names."""
        with self._lock:
            self._values[labels] = self._values.get(labels, 0) + amount
        if _observers:
            named = dict(zip(self.labels, labels, strict=True))
            for observer in _observers:
                observer.counted(self.name, named, amount)

    def value(self, *labels: str) -> float:
        """Return what was counted."""
        return self._values.get(labels, 0)

    def lines(self) -> Iterator[str]:
        """Give its samples as text."""
        values = _copied(self._lock, self._values)
        if not self.labels:
            values.setdefault((), 0)
        for labels, value in sorted(values.items()):
            yield sample(self.name, zip(self.labels, labels, strict=True), value)

    def reset(self) -> None:
        """Count from nothing again; for tests."""
        with self._lock:
            self._values.clear()


class _Buckets:
    __slots__ = ("counts", "total")

    def __init__(self, size: int) -> None:
        self.counts = [0] * size  # of each bucket alone; the last has no bound
        self.total = 0.0


class Histogram:
    """How values are spread, for each combination of labels. Safe to use from several threads."""

    kind: Kind = "histogram"

    def __init__(
        self, name: str, help: str, labels: Labels = (), *, bounds: Sequence[float] = SECONDS
    ) -> None:
        self.name, self.help, self.labels = name, help, labels
        self._bounds = tuple(bounds)
        self._lock = threading.Lock()
        self._values: dict[Labels, _Buckets] = {}

    def observe(self, value: float, *labels: str) -> None:
        """Take in one value."""
        place = bisect_left(self._bounds, value)
        with self._lock:
            buckets = self._values.get(labels)
            if buckets is None:
                buckets = self._values[labels] = _Buckets(len(self._bounds) + 1)
            buckets.counts[place] += 1
            buckets.total += value
        if _observers:
            named = dict(zip(self.labels, labels, strict=True))
            for observer in _observers:
                observer.measured(self.name, named, value)

    def count(self, *labels: str) -> int:
        """Return how many values there were."""
        with self._lock:
            buckets = self._values.get(labels)
            return 0 if buckets is None else sum(buckets.counts)

    def lines(self) -> Iterator[str]:
        """Give its samples as text: each bucket with all below it."""
        with self._lock:
            values = {labels: (list(each.counts), each.total) for labels, each in self._values.items()}
        for labels, (counts, total) in sorted(values.items()):
            named = list(zip(self.labels, labels, strict=True))
            so_far = 0
            for bound, count in zip((*self._bounds, float("inf")), counts, strict=True):
                so_far += count
                yield sample(f"{self.name}_bucket", [*named, ("le", number(bound))], so_far)
            yield sample(f"{self.name}_sum", named, total)
            yield sample(f"{self.name}_count", named, so_far)

    def reset(self) -> None:
        """Count from nothing again; for tests."""
        with self._lock:
            self._values.clear()


class Gauge:
    """A number that goes up and down, as it was found when it was asked for; belongs to one answer."""

    kind: Kind = "gauge"

    def __init__(self, name: str, help: str, labels: Labels = ()) -> None:
        self.name, self.help, self.labels = name, help, labels
        self._values: dict[Labels, float] = {}

    def set(self, value: float | None, *labels: str) -> None:
        """Take in what was found; None is not known, and not shown."""
        if value is not None:
            self._values[labels] = value

    def lines(self) -> Iterator[str]:
        """Give its samples as text."""
        for labels, value in sorted(self._values.items()):
            yield sample(self.name, zip(self.labels, labels, strict=True), value)

    def reset(self) -> None:
        """Know nothing."""
        self._values.clear()


def _copied(lock: threading.Lock, values: dict[Labels, float]) -> dict[Labels, float]:
    with lock:
        return dict(values)


# --- text -------------------------------------------------------------------------------------


def text(*, more: Iterable[Metric] = (), counted: bool = True) -> str:
    """Return what was *counted*, then *more* metrics, in the text format of Prometheus."""
    lines: list[str] = []
    for metric in (*(ALL if counted else ()), *more):
        samples = list(metric.lines())
        if samples:
            lines += [
                f"# HELP {metric.name} {_escaped_help(metric.help)}",
                f"# TYPE {metric.name} {metric.kind}",
            ]
            lines += samples
    return "".join(f"{line}\n" for line in lines)


def sample(name: str, labels: Iterable[tuple[str, str]], value: float) -> str:
    """Return one line."""
    named = ",".join(f'{label}="{_escaped(of)}"' for label, of in labels)
    return f"{name}{{{named}}} {number(value)}" if named else f"{name} {number(value)}"


def number(value: float) -> str:
    """Return a number as Prometheus reads it; a whole one without a fraction."""
    if value == float("inf"):
        return "+Inf"
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _escaped_help(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n")


# --- what is measured -------------------------------------------------------------------------


@contextmanager
def timed(histogram: Histogram, *labels: str) -> Iterator[None]:
    """Take down how long the block took [s], also when it raises."""
    began = time.perf_counter()
    try:
        yield
    finally:
        histogram.observe(time.perf_counter() - began, *labels)


@contextmanager
def timed_transaction(name: str) -> Iterator[None]:
    """Take down how long a transaction took and how it ended; entered before it waits for any lock."""
    began = time.perf_counter()
    try:
        yield
    except BaseException as error:
        FAILED_TRANSACTIONS.add(1, name, type(error).__name__)
        raise
    COMMITS.add(1, name)
    TRANSACTION_SECONDS.observe(time.perf_counter() - began, name)


COMMITS: Final = Counter("regmeta_commits_total", "Transactions that were committed.", ("transaction",))
FAILED_TRANSACTIONS: Final = Counter(
    "regmeta_failed_transactions_total",
    "Transactions that ended with an error, before each retry as well.",
    ("transaction", "reason"),
)
TRANSACTION_SECONDS: Final = Histogram(
    "regmeta_transaction_seconds", "From before the first lock to after the commit.", ("transaction",)
)
COMMIT_SECONDS: Final = Histogram("regmeta_commit_seconds", "The COMMIT alone: how fast the disk flushes.")
LOCK_WAIT_SECONDS: Final = Histogram(
    "regmeta_lock_wait_seconds", "Time until a lock was had: begin is SQLite's one writer.", ("lock",)
)
RETRIES: Final = Counter("regmeta_retries_total", "Transactions that are tried again.", ("reason",))
STAGED_BYTES: Final = Counter("regmeta_staged_bytes_total", "Bytes that were taken in and verified.")
CLONED_BYTES: Final = Counter(
    "regmeta_cloned_bytes_total", "Of the staged bytes, those that share their place with another file's."
)
LINKED_BYTES: Final = Counter(
    "regmeta_linked_bytes_total", "Of the staged bytes, those of files that got one more name."
)
PUBLISHED_OBJECTS: Final = Counter("regmeta_published_objects_total", "Objects that got their key.")
PUBLISHED_BYTES: Final = Counter("regmeta_published_bytes_total", "Bytes of objects that got their key.")
IMAGES: Final = Counter("regmeta_images_total", "Images that were brought here, by outcome.", ("outcome",))
PULLS: Final = Counter("regmeta_pulls_total", "Pulls that were added to the statistics.")
REMOTE_REQUESTS: Final = Counter(
    "regmeta_remote_requests_total",
    "Requests to other registries, by method and status.",
    ("method", "status"),
)
COLLECTED: Final = Counter("regmeta_collected_total", "Rows that were collected, by kind.", ("kind",))
COLLECTION_FAILURES: Final = Counter(
    "regmeta_collection_failures_total", "What a collector could not do, by kind.", ("kind",)
)
DELETED_OBJECTS: Final = Counter("regmeta_deleted_objects_total", "Dead objects that are gone.")
DELETED_BYTES: Final = Counter("regmeta_deleted_bytes_total", "Bytes of dead objects that are gone.")
STORE_ERRORS: Final = Counter("regmeta_store_errors_total", "Errors that the store gave.", ("kind",))

ALL: Final[tuple[Counter | Histogram, ...]] = (
    COMMITS,
    FAILED_TRANSACTIONS,
    TRANSACTION_SECONDS,
    COMMIT_SECONDS,
    LOCK_WAIT_SECONDS,
    RETRIES,
    STAGED_BYTES,
    CLONED_BYTES,
    LINKED_BYTES,
    PUBLISHED_OBJECTS,
    PUBLISHED_BYTES,
    IMAGES,
    PULLS,
    REMOTE_REQUESTS,
    COLLECTED,
    COLLECTION_FAILURES,
    DELETED_OBJECTS,
    DELETED_BYTES,
    STORE_ERRORS,
)


def reset() -> None:
    """Count from nothing again; for tests."""
    for metric in ALL:
        metric.reset()
