"""One registry behind several endpoints: which is asked, and what a failure of one means."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

import urllib3

from regmeta.errors import Error, MissingContent, NotFound, RemoteRefused, RemoteUnavailable
from regmeta.sources.registry.transport import Endpoint

AVOIDED_S: Final = 30.0  # an endpoint that could not be connected
NEXT: Final = (RemoteUnavailable, NotFound, MissingContent, RemoteRefused)  # what another one may do better
_ABSENT: Final = (NotFound, MissingContent)

T = TypeVar("T")


class Mirrors:
    """The endpoints of one registry, in the order that they are asked in. Thread-safe."""

    def __init__(self, endpoints: Sequence[Endpoint], clock_s: Callable[[], float] = time.monotonic) -> None:
        if not endpoints:
            raise ValueError("a registry has at least one endpoint")
        self.endpoints = tuple(endpoints)
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._down: dict[int, tuple[float, str]] = {}  # by position: until when [s], and why

    def first(self, ask: Callable[[Endpoint], T], *, start: int = 0) -> T:
        """Return what the first endpoint says that can say something, beginning with the one at *start*.

        The next one is asked where one does not answer, does not let us in, or does not have it. An endpoint
        that could not be connected is left out for 30 s if there is another; what the others do not
        have is then still not known to be absent.

        Raises:
            Error: of all endpoints the first that is not "not there"; else "not there".
        """
        errors: list[Error] = []
        for position, endpoint in self._candidates(errors, start):
            try:
                return ask(endpoint)
            except NEXT as error:
                self.note(position, error)
                errors.append(error)
        raise next((error for error in errors if not isinstance(error, _ABSENT)), errors[0])

    def note(self, position: int, error: Error) -> None:
        """Remember that an endpoint could not be connected, if that is what the error says."""
        if isinstance(error, RemoteUnavailable) and _not_connected(error):
            with self._lock:
                self._down[position] = (self._clock_s() + AVOIDED_S, str(error))

    def _candidates(self, errors: list[Error], start: int) -> Iterator[tuple[int, Endpoint]]:
        now_s = self._clock_s()
        with self._lock:
            down = {position: why for position, (until_s, why) in self._down.items() if until_s > now_s}
        everywhere = len(down) == len(self.endpoints)
        for number in range(len(self.endpoints)):
            position = (start + number) % len(self.endpoints)
            if position in down and not everywhere:
                errors.append(RemoteUnavailable(f"{down[position]} (not tried again for {AVOIDED_S:.0f} s)"))
            else:
                yield position, self.endpoints[position]


def _not_connected(error: BaseException) -> bool:
    """Tell an endpoint that is not there from one that does not do what it is asked."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError):
            return True
        seen = seen.__cause__
    return False
