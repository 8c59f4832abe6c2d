"""Answers whose head, and each piece of a body in chunks, must come in time as a whole.

A time-out of the socket starts again with every byte. So a head of a byte now and then, interim answers (100)
without end, and trailers without end would keep a thread for ever.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
from typing import Any, Final

# The first byte may take the whole time-out of the socket.
_TIMES: Final = 2


class TimedResponse(http.client.HTTPResponse):
    """What :mod:`http.client` reads an answer with. From the start it is in a hurry to have the head."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self._timed = _TimedIO(self.fp.detach())
        self.fp = io.BufferedReader(self._timed)
        self.hurry(sock.gettimeout())

    def hurry(self, timeout_s: float | None) -> None:
        """From now on reading raises ``TimeoutError`` after twice *timeout_s*; with None it does not."""
        self._timed.deadline_s = None if timeout_s is None else time.monotonic() + _TIMES * timeout_s


class _TimedIO(io.RawIOBase):
    """The bytes of a socket, until a deadline."""

    def __init__(self, raw: io.RawIOBase) -> None:
        super().__init__()
        self._raw = raw
        self.deadline_s: float | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        if self.deadline_s is not None and time.monotonic() > self.deadline_s:
            raise TimeoutError("timed out")
        return self._raw.readinto(buffer)

    def close(self) -> None:
        try:
            self._raw.close()
        finally:
            super().close()
