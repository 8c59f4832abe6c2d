"""An HTTP proxy before an S3 server, that spoils requests and answers when it is told to.

    with S3Proxy(endpoint) as proxy:
        proxy.spoil("PUT", "/blobs/", Kind.DROP_AFTER, times=2)

Requests are passed on as they are: the host that the client has signed stays in them.
"""

from __future__ import annotations

import http.client
import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import urlsplit

ERRORS: Final = {403: "AccessDenied", 404: "NoSuchKey", 500: "InternalError", 503: "SlowDown"}
SERVER_TIMEOUT_S: Final = 60


class Kind(Enum):
    """What goes wrong."""

    DELAY = "it takes *seconds* longer"
    DROP_BEFORE = "the connection ends, and the server hears nothing"
    DROP_AFTER = "the server does it, and the connection ends without an answer"
    STATUS = "the answer is *status*, and the server hears nothing"
    CUT_BODY = "half of the answer's body comes, and the connection ends"
    FLIP = "one bit of the request's body is another"
    LATE = "the connection ends, and the server is told when it is released"
    TWICE = "the server is told twice"
    EMPTY_LIST = "a listing has nothing in it"
    SHORT_LIST = "a listing ends after its first half and says that it is whole"


@dataclass
class Fault:
    """Which requests go wrong, and how."""

    method: str
    path: re.Pattern[str]
    kind: Kind
    times: int
    skip: int = 0
    seconds: float = 0.0
    status: int = 503
    happened: int = 0


@dataclass
class Seen:
    """One request that came."""

    method: str
    path: str  # with its query
    size_bytes: int
    status: int = 0  # of the answer; 0 for none


@dataclass
class _Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class S3Proxy:
    """Listens on a port of this machine while its block runs."""

    server: str  # URL
    faults: list[Fault] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    endpoint: str = ""

    def __enter__(self) -> S3Proxy:
        self._lock = threading.Lock()
        self._late: list[_Request] = []
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._httpd.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._httpd.server_address[1]}"
        self._thread = threading.Thread(target=self._httpd.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._httpd.shutdown()
        self._thread.join()
        self._httpd.server_close()

    def spoil(
        self,
        method: str,
        path: str,
        kind: Kind,
        *,
        times: int = 1,
        skip: int = 0,
        seconds: float = 0.0,
        status: int = 503,
    ) -> Fault:
        """Let requests of a *method*, whose path and query a pattern finds, go wrong *times* times."""
        fault = Fault(method, re.compile(path), kind, times, skip, seconds, status)
        self.faults.append(fault)
        return fault

    def release(self) -> int:
        """Send on what was held back; return how many requests."""
        with self._lock:
            late, self._late = self._late, []
        for request in late:
            self.send(request)
        return len(late)

    def requests(self, method: str, path: str = "") -> list[Seen]:
        """Return the requests that have come."""
        return [each for each in self.seen if each.method == method and re.search(path, each.path)]

    def fault_of(self, request: _Request) -> Fault | None:
        """Return what goes wrong with a request."""
        with self._lock:
            for fault in self.faults:
                if fault.method == request.method and fault.path.search(request.path):
                    if fault.skip:
                        fault.skip -= 1
                    elif fault.happened < fault.times:
                        fault.happened += 1
                        return fault
        return None

    def hold(self, request: _Request) -> None:
        """Keep a request until it is released."""
        with self._lock:
            self._late.append(request)

    def send(self, request: _Request) -> tuple[int, list[tuple[str, str]], bytes]:
        """Pass a request on and return the answer."""
        connection = http.client.HTTPConnection(urlsplit(self.server).netloc, timeout=SERVER_TIMEOUT_S)
        try:
            connection.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                if name.lower() not in ("connection", "expect"):
                    connection.putheader(name, value)
            connection.endheaders(request.body)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()


class _Handler(BaseHTTPRequestHandler):
    owner: S3Proxy
    protocol_version = "HTTP/1.1"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._serve
        raise AttributeError(name)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = _Request(self.command, self.path, dict(self.headers.items()), body)
        seen = Seen(self.command, self.path, len(body))
        self.owner.seen.append(seen)
        fault = self.owner.fault_of(request)
        kind = None if fault is None else fault.kind
        if fault is not None and kind is Kind.DELAY:
            time.sleep(fault.seconds)
        elif kind is Kind.DROP_BEFORE:
            self.close_connection = True
            return
        elif kind is Kind.LATE:
            self.owner.hold(request)
            self.close_connection = True
            return
        elif kind is Kind.FLIP and body:
            request.body = body[:-1] + bytes([body[-1] ^ 1])
        elif kind is Kind.TWICE:
            self.owner.send(request)
        elif fault is not None and kind is Kind.STATUS:
            seen.status = fault.status
            self._answer(fault.status, [("Content-Type", "application/xml")], _error(fault.status))
            return
        try:
            status, headers, content = self.owner.send(request)
        except OSError:
            self.close_connection = True
            return
        if kind is Kind.DROP_AFTER:
            self.close_connection = True
            return
        seen.status = status
        if kind in (Kind.EMPTY_LIST, Kind.SHORT_LIST):
            content = _cut_list(content, keep=0.0 if kind is Kind.EMPTY_LIST else 0.5)
        with suppress(OSError):
            self._answer(status, headers, content, is_cut=kind is Kind.CUT_BODY)

    def _answer(
        self, status: int, headers: list[tuple[str, str]], content: bytes, *, is_cut: bool = False
    ) -> None:
        self.send_response_only(status)
        length = str(len(content))
        for name, value in headers:
            if name.lower() == "content-length":
                length = value if self.command == "HEAD" else length
            elif name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
        if self.command == "HEAD" and not headers:
            length = "0"
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(content[: len(content) // 2] if is_cut else content)
        if is_cut:
            self.close_connection = True


def _error(status: int) -> bytes:
    code = ERRORS.get(status, "InternalError")
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>As planned.</Message></Error>".encode()


def _cut_list(content: bytes, keep: float) -> bytes:
    items = list(_items(content))
    for item in items[int(len(items) * keep) :]:
        content = content.replace(item, b"", 1)
    content = content.replace(b"<IsTruncated>true", b"<IsTruncated>false")
    return re.sub(rb"<NextContinuationToken>.*?</NextContinuationToken>", b"", content)


def _items(content: bytes) -> Iterator[bytes]:
    for found in re.finditer(rb"<Contents>.*?</Contents>", content, re.DOTALL):
        yield found[0]
