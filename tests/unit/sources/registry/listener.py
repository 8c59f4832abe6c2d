"""A real HTTP server on a free port that answers as told and keeps all that it was sent."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Seen:
    """One request as it came in."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    connection: int

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.target).query)

    @property
    def authorization(self) -> str | None:
        return self.headers.get("authorization")

    def everything(self) -> str:
        return f"{self.method} {self.target} {dict(self.headers)} {self.body!r}"


@dataclass(frozen=True)
class Answer:
    """What to say. With *length* the header lies; with *raw* nothing else is said."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    length: int | None = None
    pieces: Iterator[bytes] | None = None
    chunked: bool = False
    raw: bytes | None = None
    close: bool = False


Script = Callable[[Seen], Answer]


def answer_json(document: Any, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    return Answer(status, headers, json.dumps(document).encode())


def redirect(to: str, status: int = 307) -> Answer:
    return Answer(status, (("Location", to),))


def challenge(text: str) -> Answer:
    return answer_json({"errors": [{"code": "UNAUTHORIZED"}]}, 401, (("WWW-Authenticate", text),))


@dataclass
class Listener:
    """A running server."""

    url: str
    host: str
    port: int
    script: Script
    seen: list[Seen] = field(default_factory=list)

    def at(self, path: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.path == path]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    listener: Listener

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away, or does not like our certificate, is no error of the test."""


class _ServerV6(_Server):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _serve(self) -> None:
        listener = self.server.listener
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        seen = Seen(self.command, self.path, headers, body, self.client_address[1])
        listener.seen.append(seen)
        answer = listener.script(seen)
        if answer.raw is not None:
            self.wfile.write(answer.raw)
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        if answer.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header(
                "Content-Length", str(len(answer.body) if answer.length is None else answer.length)
            )
        if answer.close:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD":
            return
        if answer.pieces is not None:
            for piece in answer.pieces:
                self.wfile.write(piece)
                self.wfile.flush()
        elif answer.chunked:
            self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(answer.body), answer.body))
        else:
            self.wfile.write(answer.body)
        if answer.close or answer.length is not None:
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = _serve

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def listening(
    script: Script, *, host: str = "127.0.0.1", name: str | None = None, tls: ssl.SSLContext | None = None
) -> Iterator[Listener]:
    """Serve until the block ends, at an address of *host*; *name* is what its URL says instead."""
    server = (_ServerV6 if ":" in host else _Server)((host, 0), _Handler)
    if tls is not None:
        # The handshake is made by the thread of the connection, not by the one that accepts.
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    port = server.server_address[1]
    called = name or (f"[{host}]" if ":" in host else host)
    scheme = "https" if tls is not None else "http"
    listener = Listener(f"{scheme}://{called}:{port}", called, port, script)
    server.listener = listener
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield listener
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def outer_address() -> str | None:
    """Return an address of this machine that is not its loopback, None if it has no other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))
        except OSError:
            return None
        address: str = probe.getsockname()[0]
        return None if address.startswith("127.") else address
