"""Metrics and the words that go with what is logged: counted by threads, shown as Prometheus reads it."""

from __future__ import annotations

import ast
import re
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from regmeta import metrics, tracing
from regmeta.metrics import Counter, Gauge, Histogram
from regmeta.threads import Threads

PACKAGE: Final = Path(metrics.__file__).parent
OPERATIONS: Final = PACKAGE.parent / "docs" / "operations.md"


class Seen:
    """What an observer was told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Mapping[str, str], float]] = []
        self.spans: list[str] = []

    def counted(self, name: str, labels: Mapping[str, str], amount: float) -> None:
        self.events.append((name, labels, amount))

    measured = counted

    @contextmanager
    def span(self, name: str, fields: Mapping[str, str]) -> Iterator[None]:
        self.spans.append(f"{name} {dict(fields)}")
        try:
            yield
        except BaseException as error:
            self.spans.append(f"{name} {type(error).__name__}")
            raise


# --- metrics ----------------------------------------------------------------------------------


def test_counts_of_many_threads_are_all_there() -> None:
    counter, histogram = Counter("c_total", "C.", ("kind",)), Histogram("h_seconds", "H.")

    def count() -> None:
        for _ in range(5000):
            counter.add(2, "a")
            histogram.observe(0.02)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert counter.value("a") == 80_000
    assert histogram.count() == 40_000


def test_text_is_what_prometheus_reads() -> None:
    gauge = Gauge("g", "Two\nlines \\ of help.", ("name",))
    gauge.set(1.5, 'a "b"\\\n')
    gauge.set(None, "not known")
    histogram = Histogram("h_seconds", "H.", bounds=(0.1, 1))
    for value in (0.05, 0.1, 0.5, 7):
        histogram.observe(value)

    assert metrics.text(more=[gauge, histogram, Gauge("empty", "E.")], counted=False) == (
        "# HELP g Two\\nlines \\\\ of help.\n"
        "# TYPE g gauge\n"
        'g{name="a \\"b\\"\\\\\\n"} 1.5\n'
        "# HELP h_seconds H.\n"
        "# TYPE h_seconds histogram\n"
        'h_seconds_bucket{le="0.1"} 2\n'
        'h_seconds_bucket{le="1"} 3\n'
        'h_seconds_bucket{le="+Inf"} 4\n'
        "h_seconds_sum 7.65\n"
        "h_seconds_count 4\n"
    )


def test_a_counter_without_labels_is_there_from_the_beginning() -> None:
    assert list(Counter("c_total", "C.").lines()) == ["c_total 0"]
    assert list(Counter("c_total", "C.", ("kind",)).lines()) == []


def test_names_follow_the_conventions() -> None:
    for metric in metrics.ALL:
        assert re.fullmatch(r"regmeta_[a-z_]+", metric.name)
        assert metric.help.endswith(".")
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        if metric.kind == "histogram":
            assert metric.name.endswith("_seconds")
    names = [metric.name for metric in metrics.ALL]
    assert len(set(names)) == len(names)


def test_every_metric_is_in_the_docs_and_no_other() -> None:
    source = (PACKAGE / "metrics.py").read_text() + (PACKAGE / "app" / "metrics.py").read_text()
    source += (PACKAGE / "cli" / "running.py").read_text()
    made = set(re.findall(r'"(regmeta_[a-z_]+)"', source))
    shown = set(re.findall(r"^\| `(regmeta_[a-z_]+)", OPERATIONS.read_text(), re.MULTILINE))

    assert shown == made


def test_a_transaction_that_fails_is_counted_by_its_error() -> None:
    metrics.reset()
    with metrics.timed_transaction("test"):
        pass
    with pytest.raises(ZeroDivisionError), metrics.timed_transaction("test"):
        raise ZeroDivisionError

    assert metrics.COMMITS.value("test") == 1
    assert metrics.FAILED_TRANSACTIONS.value("test", "ZeroDivisionError") == 1
    assert metrics.TRANSACTION_SECONDS.count("test") == 1


def test_observers_are_told_until_they_are_forgotten() -> None:
    seen, counter, histogram = Seen(), Counter("c_total", "C.", ("kind",)), Histogram("h_seconds", "H.")
    metrics.observe(seen)
    try:
        counter.add(3, "a")
        histogram.observe(0.5)
    finally:
        metrics.forget(seen)
    counter.add(1, "a")

    assert seen.events == [("c_total", {"kind": "a"}, 3), ("h_seconds", {}, 0.5)]


# --- context and spans ------------------------------------------------------------------------


def test_words_end_with_their_block() -> None:
    with tracing.bound(request_id="1", command="import"):
        with tracing.bound(ingest="i"):
            tracing.bind(repository="app")
            assert tracing.fields() == {
                "request_id": "1",
                "command": "import",
                "ingest": "i",
                "repository": "app",
            }
        assert tracing.fields() == {"request_id": "1", "command": "import"}
    assert tracing.fields() == {}


def numbered(*, n: int) -> tuple[int, str]:
    return n, tracing.fields()["request_id"]


def test_threads_know_whose_work_they_do() -> None:
    with Threads(2) as pool:
        with tracing.bound(request_id="one"):
            first = pool.submit(tracing.fields)
            several = pool.map(lambda _: tracing.fields()["request_id"], range(4))
        with tracing.bound(request_id="two"):
            second = pool.submit(numbered, n=7)
        assert first.result() == {"request_id": "one"}
        assert list(several) == ["one"] * 4
        assert second.result() == (7, "two")
        assert pool.submit(tracing.fields).result() == {}


def test_every_pool_of_threads_carries_the_context() -> None:
    """A pool of the standard library would log without the request's id."""
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name != "threads.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(ThreadPoolExecutor.__name__)
    ]

    assert found == []


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ({}, "regmeta"),
        ({"command": "gc run"}, "regmeta gc run"),
        ({"command": "gc run", "request_id": "abc"}, "regmeta gc run abc"),
        ({"command": "c" * 80, "request_id": "r" * 32}, f"regmeta {'c' * 22} {'r' * 32}"),
        ({"command": "import", "request_id": "r" * 128}, f"regmeta {'r' * 55}"),
    ],
)
def test_the_name_of_a_connection_keeps_the_request(words: dict[str, str], name: str) -> None:
    with tracing.bound(**words):
        assert tracing.application_name() == name
        assert len(name) <= tracing.LONGEST_APPLICATION_NAME


def test_spans_are_told_with_the_words_of_their_context() -> None:
    first, second = Seen(), Seen()
    with tracing.span("nobody looks"):
        pass
    tracing.observe(first)
    tracing.observe(second)
    try:
        with tracing.bound(command="import"), tracing.span("step", ingest="i"):
            pass
        tracing.forget(second)
        with pytest.raises(KeyError), tracing.span("bad"):
            raise KeyError
    finally:
        tracing.forget(first)
        tracing.forget(second)

    assert first.spans == ["step {'command': 'import', 'ingest': 'i'}", "bad {}", "bad KeyError"]
    assert second.spans == first.spans[:1]
