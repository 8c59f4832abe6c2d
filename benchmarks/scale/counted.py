"""Stands between a client and an S3 server, and counts requests by method."""

import re
import socket
import threading
from collections import Counter
from contextlib import suppress
from typing import Final

_REQUEST: Final = re.compile(rb"(?:^|\r\n\r\n|\n)(GET|PUT|POST|HEAD|DELETE) (/\S*) HTTP/1\.1\r\n")


class CountedRequests:
    """A port of this machine; what is said to it goes to the server."""

    def __init__(self, host: str, port: int) -> None:
        self.counts: Counter[str] = Counter()
        self.sent_bytes = 0
        self._server = (host, port)
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                for source, target, counting in ((client, server, True), (server, client, False)):
                    args = (source, target, counting)
                    threading.Thread(target=self._carry, args=args, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, counting: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 18):
                if counting:
                    self._count(data)
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def _count(self, data: bytes) -> None:
        with self._lock:
            self.sent_bytes += len(data)
            for method, path in _REQUEST.findall(data):
                is_list = method == b"GET" and b"list-type" in path
                self.counts["LIST" if is_list else method.decode()] += 1
