"""The wire below :mod:`tests.support.registries.bad_registry`: HTTP/1.1, one thread for each connection."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.registries.rules import (
    Cut,
    Endless,
    Hang,
    Headers,
    LyingLength,
    Redirect,
    Rule,
    Slow,
    Status,
    WrongBytes,
)

CHUNK = bytes(64 * 1024)


@dataclass(frozen=True)
class Request:
    """One request as it came; *headers* by their usual names, *path* with the query."""

    method: str
    path: str
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Answer:
    """What is to be sent; ``Content-Length`` is added."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class HttpServer:
    """Answers with what *answer* returns, spoilt as *rule_of* says."""

    def __init__(
        self, answer: Callable[[Request], Answer], rule_of: Callable[[Request], Rule | None] = lambda _: None
    ) -> None:
        self.requests: list[Request] = []
        self.answer = answer
        self.rule_of = rule_of
        self.closed = threading.Event()
        self._server = _Server(self)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Close the port and all connections, and wait for their threads."""
        if self.closed.is_set():
            return
        self.closed.set()
        self._server.shutdown()
        self._server.cut_connections()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # server_close() waits for them
    block_on_close = True
    request_queue_size = 128

    def __init__(self, owner: HttpServer) -> None:
        self.owner = owner
        self._connections: set[Any] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def cut_connections(self) -> None:
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news; anything else is shown."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes
    server: _Server

    def _serve(self) -> None:
        request = Request(self.command, self.path, dict(self.headers.items()))
        owner = self.server.owner
        owner.requests.append(request)
        rule = owner.rule_of(request)
        match rule:
            case Hang():
                owner.closed.wait()
                self.close_connection = True
                return
            case Slow():
                owner.closed.wait(rule.delay_s)
            case Status():
                self._send(Answer(rule.code, rule.body, rule.headers))
                return
            case Redirect():
                location = rule.url.replace("{path}", self.path)
                self._send(Answer(rule.code, b"", {"Location": location}))
                return
        answer = owner.answer(request)
        match rule:
            case Headers():
                changed = {**answer.headers, **rule.changes}
                kept = {name: value for name, value in changed.items() if value is not None}
                left_out = {name.lower() for name, value in rule.changes.items() if value is None}
                self._send(Answer(answer.status, answer.body, kept), without=left_out)
            case WrongBytes() if answer.body:
                spoilt = answer.body[:-1] + bytes([answer.body[-1] ^ 0xFF])
                self._send(Answer(answer.status, spoilt, answer.headers))
            case Cut():
                self._send(answer, upto_bytes=rule.after_bytes)
            case LyingLength():
                self._send(answer, length=rule.length)
            case Endless():
                self._send_chunks(answer, rule.size_bytes)
            case _:
                self._send(answer)

    def _send(
        self,
        answer: Answer,
        *,
        length: int | None = None,
        upto_bytes: int | None = None,
        without: set[str] = frozenset(),  # type: ignore[assignment]
    ) -> None:
        size_bytes = len(answer.body) if length is None else length
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if "content-length" not in without and "Content-Length" not in answer.headers:
            self.send_header("Content-Length", str(size_bytes))
        elif self.command != "HEAD":
            self.close_connection = True  # nothing else says where the body ends
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body if upto_bytes is None else answer.body[:upto_bytes])
        if upto_bytes is not None or length is not None:
            self.close_connection = True

    def _send_chunks(self, answer: Answer, size_bytes: int) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        left = 0 if self.command == "HEAD" else size_bytes
        while left > 0:
            chunk = CHUNK[:left]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            left -= len(chunk)
        if self.command != "HEAD":
            self.wfile.write(b"0\r\n\r\n")

    do_GET = do_HEAD = do_POST = _serve

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""
