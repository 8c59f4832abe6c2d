"""Stands between a client and PostgreSQL, and cuts the connection at the COMMIT of an ingest."""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SOCKET_NAME = ".s.PGSQL.5432"
INGEST = b"INSERT INTO ingests"
COMMIT = b"COMMIT\0"  # as a whole: BEGIN says READ COMMITTED
ROLLBACK = b"ROLLBACK\0"


class CuttingProxy:
    """Cuts the first *cuts* connections that commit an ingest, before the server hears of it or after."""

    def __init__(self, server_folder: str, folder: Path, *, when: str, cuts: int) -> None:
        self.folder = folder
        self.cuts_left = cuts
        self.cuts_done = 0
        self._when = when
        self._server = f"{server_folder}/{SOCKET_NAME}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / SOCKET_NAME))
        self._listener.listen()
        self._listener.settimeout(0.05)
        self._open = True
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._open = False
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def _accept(self) -> None:
        while self._open:
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            thread = threading.Thread(target=self._serve, args=(client,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server, suppress(OSError):
            server.connect(self._server)
            client.settimeout(0.02)
            server.settimeout(0.02)
            sent = b""
            while self._open:
                data = _receive(client)
                if data == b"":
                    return
                if data is not None:
                    sent += data
                    if ROLLBACK in sent:
                        sent = b""
                    if COMMIT in sent:
                        is_ingest, sent = INGEST in sent, b""
                        if is_ingest and self.cuts_left:
                            self.cuts_left -= 1
                            self._cut(client, server, data)
                            return
                    server.sendall(data)
                answer = _receive(server)
                if answer == b"":
                    return
                if answer is not None:
                    client.sendall(answer)

    def _cut(self, client: socket.socket, server: socket.socket, data: bytes) -> None:
        if self._when == "after":
            server.sendall(data)
            answer = b""
            while COMMIT not in answer:
                if not self._open:
                    return
                # The Sync that asks for the answer may come by itself.
                server.sendall(_receive(client) or b"")
                answer += _receive(server) or b""
        self.cuts_done += 1


def _receive(side: socket.socket) -> bytes | None:
    """Return what there is, nothing at the end, and None if there is nothing now."""
    try:
        return side.recv(65536)
    except TimeoutError:
        return None


@contextmanager
def cutting_proxy(server_folder: str, *, when: str, cuts: int = 1) -> Iterator[CuttingProxy]:
    """Run a proxy; its folder is the host to connect to."""
    folder = Path(tempfile.mkdtemp(prefix="rmpx-", dir="/tmp"))
    proxy = CuttingProxy(server_folder, folder, when=when, cuts=cuts)
    try:
        yield proxy
    finally:
        proxy.close()
        shutil.rmtree(folder)
