"""The sockets of one endpoint, to be shut all at once."""

from __future__ import annotations

import socket
import threading
import weakref
from contextlib import suppress


class OpenSockets:
    """The sockets that are open, so that whoever waits at one can be made to go on. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._is_broken_off = False

    def add(self, opened: object) -> None:
        """Remember one. What is no socket (TLS to a proxy, and through it) is left to its time-outs."""
        if not isinstance(opened, socket.socket):
            return
        with self._lock:
            self._sockets.add(opened)
            is_late = self._is_broken_off
        if is_late:
            _shut(opened)

    def break_off(self) -> None:
        """Shut all of them, and those that are still to come."""
        with self._lock:
            self._is_broken_off = True
            sockets = list(self._sockets)
        for each in sockets:
            _shut(each)


def _shut(opened: socket.socket) -> None:
    with suppress(OSError):
        # Not what TLS makes of it: who is reading there still needs the state of the connection.
        socket.socket.shutdown(opened, socket.SHUT_RDWR)
