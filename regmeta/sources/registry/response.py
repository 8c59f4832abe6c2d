"""An answer whose body is still to be read."""

from __future__ import annotations

import http.client
import io
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, Self

import urllib3

from regmeta.errors import InvalidSource, RemoteUnavailable
from regmeta.sources.registry.text import shown
from regmeta.sources.registry.timed import TimedResponse

# What is left unread is read and thrown away when that is cheaper than a new connection.
_MAX_DRAIN: Final = 64 * 1024
_DRAIN_TIMEOUT_S: Final = 1.0
_PIECE: Final = 64 * 1024
# One read gathers bytes for so long, or until its buffer is full.
_GATHER_S: Final = 0.25
# A body that brings less than this in a whole read time-out has stalled, though each byte came in time.
_MIN_BYTES: Final = 1024


class Response:
    """One answer. A context manager; it holds a connection and a slot of the endpoint until it is closed.

    *url* is where it came from, after redirects; its query may hold a signature, so messages show *where*.
    Not for several threads at once.
    """

    def __init__(
        self,
        answer: urllib3.HTTPResponse,
        *,
        url: str,
        where: str,
        read_timeout_s: float,
        done: Callable[[], None],
    ) -> None:
        original = answer._original_response
        assert isinstance(original, http.client.HTTPResponse)
        self.status: int = answer.status
        self.headers: Mapping[str, str] = answer.headers
        self.url = url
        self.content_length: int | None = original.length
        """How many bytes the body has (none after HEAD); None when it comes in chunks or without a length."""
        self._answer = answer
        # Below urllib3 and http.client: they would copy each piece of a layer twice more.
        self._original = original
        self._stream: io.BufferedReader = original.fp
        self._left = self.content_length
        self.where = where
        self._read_timeout_s = read_timeout_s
        self._waited_s = 0.0
        self._window_bytes = 0
        self._done = done
        self._is_closed = False
        self._is_at_end = self._left == 0
        self._hurry(None)  # the head is here

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill *buffer* as far as one read goes; return how many bytes that was, 0 at the end.

        Raises:
            RemoteUnavailable: the body ends before its announced length, or has stalled.
        """
        if self._is_at_end or not buffer:
            return 0
        if self._is_closed:
            raise ValueError("the response is closed")
        started_s = time.monotonic()
        try:
            got = self._gather(buffer, started_s) if self._left is not None else self._piece(buffer)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._abandon()
            if isinstance(error, TimeoutError):
                raise RemoteUnavailable(f"{self.where}: the body has stalled") from error
            raise RemoteUnavailable(f"{self.where}: the body was cut: {shown(str(error))}") from error
        if got == 0:
            if self._left:
                self._abandon()
                raise RemoteUnavailable(f"{self.where}: the body was cut: {self._left} bytes are missing")
            self._is_at_end = True
        elif self._left is not None:
            self._left -= got
            self._is_at_end = self._left == 0
        self._keep_pace(got, time.monotonic() - started_s)
        return got

    def read(self, limit_bytes: int) -> bytes:
        """Return the whole body.

        Raises:
            InvalidSource: it has more than *limit_bytes*.
            RemoteUnavailable: as :meth:`readinto`.
        """
        left = self._left
        if left is not None and left > limit_bytes:
            raise InvalidSource(f"{self.where}: the answer has more than {limit_bytes} bytes")
        size = left if left is not None else _PIECE
        body, total = bytearray(size), 0
        while not self._is_at_end:
            if total == len(body):
                body.extend(bytes(_PIECE))
            with memoryview(body) as view:
                total += self.readinto(view[total:])
            if total > limit_bytes:
                raise InvalidSource(f"{self.where}: the answer has more than {limit_bytes} bytes")
        return bytes(memoryview(body)[:total])

    def close(self) -> None:
        """Give the slot back, and the connection for another request when that is possible."""
        if self._is_closed:
            return
        try:
            if not self._is_at_end:
                self._drain()
        finally:
            self._is_closed = True
            try:
                if self._is_at_end:
                    self._original.close()
                    self._answer.release_conn()
                else:
                    self._answer.close()
                    self._answer.release_conn()
            finally:
                self._done()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _gather(self, buffer: memoryview, started_s: float) -> int:
        """Read the bytes of a body whose length is known."""
        assert self._left is not None
        total, end = 0, min(len(buffer), self._left)
        while total < end:
            got = self._stream.readinto1(buffer[total:end])
            if not got:
                break
            total += got
            if time.monotonic() - started_s > _GATHER_S:
                break
        return total

    def _piece(self, buffer: memoryview) -> int:
        """Read a piece of a body in chunks, or of one that ends with the connection."""
        self._hurry(self._read_timeout_s)
        piece = self._original.read1(min(len(buffer), _PIECE))
        buffer[: len(piece)] = piece
        return len(piece)

    def _hurry(self, timeout_s: float | None) -> None:
        if isinstance(self._original, TimedResponse):
            self._original.hurry(timeout_s)

    def _keep_pace(self, got: int, took_s: float) -> None:
        self._waited_s += took_s
        self._window_bytes += got
        if self._waited_s < self._read_timeout_s or self._is_at_end:
            return
        if self._window_bytes < _MIN_BYTES:
            self._abandon()
            raise RemoteUnavailable(
                f"{self.where}: the body has stalled: {self._window_bytes} bytes in {self._waited_s:.0f} s"
            )
        self._waited_s, self._window_bytes = 0.0, 0

    def _abandon(self) -> None:
        """Never use this connection again."""
        self._answer.close()

    def _drain(self) -> None:
        if self._left is None or self._left > _MAX_DRAIN:
            return
        connection = self._answer.connection
        socket = getattr(connection, "sock", None)
        if socket is None:
            return
        try:
            socket.settimeout(_DRAIN_TIMEOUT_S)
            view = memoryview(bytearray(self._left))
            deadline_s = time.monotonic() + _DRAIN_TIMEOUT_S
            while not self._is_at_end and time.monotonic() < deadline_s:
                self.readinto(view)
        except (RemoteUnavailable, OSError):
            return
