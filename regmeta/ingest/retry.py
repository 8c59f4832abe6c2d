"""Trying a transaction again, alone, at the edge of a use case."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import stamina
from stamina.instrumentation import LoggingOnRetryHook, RetryDetails, set_on_retry_hooks

from regmeta import errors, metrics

# A broken connection may have committed: what is retried here carries an id that makes it one effect.
RETRIED: Final = (errors.Contention, errors.ConnectionLost, errors.ConstraintViolated)
ATTEMPTS: Final = 15
RETRY_FOR_S: Final = 60.0

_T = TypeVar("_T")


def _count(details: RetryDetails) -> None:
    metrics.RETRIES.add(1, type(details.caused_by).__name__)


# Told to the standard loggers only: left to itself it prints to stdout where structlog is installed.
set_on_retry_hooks([LoggingOnRetryHook, _count])


def retried(run: Callable[[], _T]) -> _T:
    """Run a transaction until it is neither given up for another one nor cut off.

    Raises:
        Error: what the last try raised, after 15 tries or 60 seconds.
    """
    for attempt in stamina.retry_context(
        on=RETRIED,
        attempts=ATTEMPTS,
        timeout=RETRY_FOR_S,
        wait_initial=0.01,
        wait_max=1.0,
        wait_jitter=0.05,
    ):
        with attempt:
            return run()
    raise AssertionError("the last attempt returns or raises")
