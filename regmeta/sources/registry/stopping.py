"""An end that is told to everybody at once, those who wait for bytes included."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Stopping(threading.Event):
    """An event that calls, when it is set, whoever has asked for it. Thread-safe."""

    def __init__(self) -> None:
        super().__init__()
        self._calls_lock = threading.Lock()
        self._calls: list[Callable[[], None]] = []

    def call_when_set(self, what: Callable[[], None]) -> None:
        """Call *what* when the event is set; at once if it is set already."""
        with self._calls_lock:
            self._calls.append(what)
            is_set = self.is_set()
        if is_set:
            what()

    def forget(self, what: Callable[[], None]) -> None:
        """Call *what* no more."""
        with self._calls_lock:
            self._calls = [each for each in self._calls if each != what]

    def set(self) -> None:
        """Set it, and call."""
        with self._calls_lock:
            super().set()
            calls = list(self._calls)
        for each in calls:
            each()
