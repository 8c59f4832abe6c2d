"""How often, how many at once, and how often again."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, TypeVar

from regmeta.errors import RemoteUnavailable
from regmeta.sources.registry.terms import Terms

_POLL_S: Final = 0.2
_SECONDS_RE: Final = re.compile(r"[0-9]{1,9}")

T = TypeVar("T")


class TryAgain(Exception):
    """A request failed in a way that another try may mend. Never leaves the transport.

    *after_s* is what the registry asked for. *is_stale* says that a kept connection was found closed, which
    says nothing of the registry.
    """

    def __init__(
        self, error: RemoteUnavailable, *, after_s: float | None = None, is_stale: bool = False
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.after_s = after_s
        self.is_stale = is_stale


class Limits:
    """The limits of one endpoint. Thread-safe. Every wait ends at once when *stopped* is set."""

    def __init__(self, terms: Terms, *, location: str, stopped: threading.Event) -> None:
        self._terms = terms
        self._location = location
        self._stopped = stopped
        self._slots = threading.Semaphore(terms.max_concurrent)
        self._lock = threading.Lock()
        self._spacing_s = 1.0 / terms.requests_per_s if terms.requests_per_s else 0.0
        self._next = 0.0

    def take_turn(self) -> None:
        """Wait for the time at which the next request may be sent: they are spaced evenly.

        Raises:
            RemoteUnavailable: stopped while waiting.
        """
        if not self._spacing_s and not self._next:
            return
        now = time.monotonic()
        with self._lock:
            at = max(now, self._next)
            if self._spacing_s:
                self._next = at + self._spacing_s
        self.wait(at - now)

    def hold_back(self, delay_s: float) -> None:
        """Send nothing for so long: the registry asked for it."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + delay_s)

    def take_slot(self) -> None:
        """Wait until fewer than *max_concurrent* answers are open. Give it back with :meth:`free_slot`.

        Raises:
            RemoteUnavailable: stopped while waiting.
        """
        if self._slots.acquire(blocking=False):
            return
        while not self._slots.acquire(timeout=_POLL_S):
            self._refuse_if_stopped()

    def free_slot(self) -> None:
        """Let another request go."""
        self._slots.release()

    def wait(self, delay_s: float) -> None:
        """Wait.

        Raises:
            RemoteUnavailable: stopped while waiting.
        """
        if delay_s > 0 and self._stopped.wait(delay_s):
            self._refuse_if_stopped()

    def _refuse_if_stopped(self) -> None:
        if self._stopped.is_set():
            raise RemoteUnavailable(f"{self._location}: stopped while waiting")

    def repeat(self, once: Callable[[], T], *, retries: int | None = None) -> T:
        """Return what *once* returns; after :class:`TryAgain` call it again, later and later.

        Raises:
            RemoteUnavailable: it failed each time, or the registry asks for a longer wait than allowed.
        """
        terms = self._terms
        left = terms.retries if retries is None else retries
        tries, may_be_stale = 0, retries is None
        while True:
            try:
                return once()
            except TryAgain as again:
                if again.is_stale and may_be_stale:
                    may_be_stale = False
                    continue
                asked_s = again.after_s
                if asked_s is not None and asked_s > terms.max_retry_delay_s:
                    raise again.error from again.__cause__
                if asked_s:
                    self.hold_back(asked_s)
                if tries >= left:
                    raise again.error from again.__cause__
                delay_s = min(terms.max_retry_delay_s, terms.retry_delay_s * 2.0 ** min(tries, 60))
                # Half of it is chance, so that many clients do not come back in step.
                delay_s *= random.uniform(0.5, 1.0)  # noqa: S311 - no secret
                tries += 1
            self.wait(max(delay_s, asked_s or 0.0))


def retry_after_s(value: str | None) -> float | None:
    """Return the wait that a ``Retry-After`` asks for: seconds, or an HTTP date. None for anything else."""
    if value is None:
        return None
    value = value.strip()
    if _SECONDS_RE.fullmatch(value):
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, IndexError, OverflowError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())
