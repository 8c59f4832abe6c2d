"""Ending a command that runs without an end: Ctrl-C or SIGTERM ask it to, a second one insists."""

from __future__ import annotations

import select
import signal
import socket
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Set by a signal while the block runs. Only in the main thread."""

    def __init__(self) -> None:
        self._is_set = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        # A signal also writes to a socket: so none is missed between looking and waiting.
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._wakeup_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._received)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        signal.set_wakeup_fd(self._wakeup_before)
        self._reader.close()
        self._writer.close()

    def is_set(self) -> bool:
        """Tell whether a signal has come."""
        return self._is_set

    def wait(self, timeout_s: float) -> None:
        """Return when a signal has come, or after *timeout_s* seconds."""
        if not self._is_set:
            select.select([self._reader], [], [], timeout_s)

    def _received(self, number: int, frame: FrameType | None) -> None:
        if self._is_set:
            raise KeyboardInterrupt
        self._is_set = True
