"""Stands between a client and PostgreSQL, counts the round trips, and can make each take longer."""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SOCKET_NAME = ".s.PGSQL.5432"
FLUSH = b"H\0\0\0\4"
TERMINATE = b"X"


class CountingProxy:
    """A Unix socket in ``folder``; what a client says after an answer, until the next one, is one trip."""

    def __init__(self, server_folder: str, folder: Path) -> None:
        self.folder = folder
        self.trips = 0
        self.delay_s = 0.0
        self._server = f"{server_folder}/{SOCKET_NAME}"
        self._lock = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / SOCKET_NAME))
        self._listener.listen()
        self._sides: list[socket.socket] = [self._listener]
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def close(self) -> None:
        """Cut all that go through it."""
        for side in self._sides:
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
            side.close()
        for thread in self._threads:
            thread.join(10)

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._server)
                self._sides += [client, server]
                answered = threading.Event()
                answered.set()
                self._start(self._carry, client, server, answered)
                self._start(self._carry_back, server, client, answered)

    def _carry(self, client: socket.socket, server: socket.socket, answered: threading.Event) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 18):
                # The driver says Flush behind Sync. The answer may be there by then: it waits for no more.
                if answered.is_set() and data != FLUSH:
                    answered.clear()
                    if data[:1] != TERMINATE:
                        with self._lock:
                            self.trips += 1
                        time.sleep(self.delay_s)
                server.sendall(data)
        with suppress(OSError):
            server.shutdown(socket.SHUT_WR)

    def _carry_back(self, server: socket.socket, client: socket.socket, answered: threading.Event) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 18):
                answered.set()
                client.sendall(data)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


@contextmanager
def counting_proxy(server_folder: str) -> Iterator[CountingProxy]:
    """Run a proxy; its folder is the host to connect to."""
    folder = Path(tempfile.mkdtemp(prefix="rmpx-", dir="/tmp"))
    proxy = CountingProxy(server_folder, folder)
    try:
        yield proxy
    finally:
        proxy.close()
        shutil.rmtree(folder, ignore_errors=True)
