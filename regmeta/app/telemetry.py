"""OpenTelemetry: spans and metrics of ours, given to whatever provider the process has.

Only ``opentelemetry-api`` is needed. Where they go is set up outside, for instance by
``opentelemetry-instrument``; without a provider nothing is sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from regmeta import __version__, metrics, tracing
from regmeta.errors import Error, UsageError


class OpenTelemetry:
    """Observes spans (:mod:`regmeta.tracing`) and events (:mod:`regmeta.metrics`)."""

    def __init__(self, tracer_provider: Any = None, meter_provider: Any = None) -> None:
        """Use these providers, or the process's own.

        Raises:
            UsageError: opentelemetry-api is not installed.
        """
        try:
            from opentelemetry import metrics as otel_metrics
            from opentelemetry import trace
        except ImportError as error:
            raise UsageError(f"OpenTelemetry is missing ({error}): pip install 'regmeta[otel]'") from error
        self._status: Any = trace.Status
        self._error = trace.StatusCode.ERROR
        self._tracer = trace.get_tracer("regmeta", __version__, tracer_provider)
        meter = otel_metrics.get_meter("regmeta", __version__, meter_provider)
        self._counters: dict[str, Any] = {}
        self._histograms: dict[str, Any] = {}
        for each in metrics.ALL:
            unit = "s" if each.name.endswith("_seconds") else "By" if "_bytes_" in each.name else "1"
            # Their exporters put _total and the unit behind a name where that is the custom.
            if each.kind == "counter":
                name = each.name.removesuffix("_total")
                self._counters[each.name] = meter.create_counter(name, unit, each.help)
            else:
                self._histograms[each.name] = meter.create_histogram(each.name, unit, each.help)

    @contextmanager
    def span(self, name: str, fields: Mapping[str, str]) -> Iterator[None]:
        """Be a span while the block runs. An exit code that is no error of ours makes none of it either."""
        with self._tracer.start_as_current_span(
            name,
            attributes={f"regmeta.{field}": value for field, value in fields.items()},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except BaseException as error:
                if isinstance(error, Error) or not hasattr(error, "exit_code"):
                    span.record_exception(error)
                    span.set_status(self._status(self._error, type(error).__name__))
                raise

    def counted(self, name: str, labels: Mapping[str, str], amount: float) -> None:
        """Take note that a counter has grown."""
        self._counters[name].add(amount, labels)

    def measured(self, name: str, labels: Mapping[str, str], value: float) -> None:
        """Take note of one value of a histogram."""
        self._histograms[name].record(value, labels)


@contextmanager
def observing(observer: OpenTelemetry | None = None) -> Iterator[OpenTelemetry]:
    """Tell OpenTelemetry of everything while the block runs.

    Raises:
        UsageError: opentelemetry-api is not installed.
    """
    found = observer or OpenTelemetry()
    tracing.observe(found)
    metrics.observe(found)
    try:
        yield found
    finally:
        tracing.forget(found)
        metrics.forget(found)
