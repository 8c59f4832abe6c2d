"""Answers that never come to an end, though each byte of them comes in time."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from regmeta.errors import RemoteUnavailable
from tests.unit.sources.registry.conftest import FAST, Connect

Endless = Callable[[threading.Event], Iterator[bytes]]


def interim_answers(over: threading.Event) -> Iterator[bytes]:
    while not over.is_set():
        yield b"HTTP/1.1 100 Continue\r\n\r\n" * 10


def trickling_head(over: threading.Event) -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nX-Long: "
    while not over.wait(0.02):
        yield b"x"


def trailers(over: threading.Event) -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
    while not over.wait(0.02):
        yield b"a: b\r\n"


@contextlib.contextmanager
def saying(endless: Endless) -> Iterator[str]:
    """Serve one answer on a free port until the block ends, or the client goes."""
    over = threading.Event()

    def serve() -> None:
        with contextlib.suppress(OSError):
            client, _ = server.accept()
            with client:
                client.recv(65536)
                for piece in endless(over):
                    client.sendall(piece)

    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        pool.submit(serve)
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            over.set()


@pytest.mark.parametrize("endless", [interim_answers, trickling_head, trailers])
def test_answer_without_end_is_given_up(connect: Connect, endless: Endless) -> None:
    with saying(endless) as url:
        endpoint = connect(url, replace(FAST, retries=0, read_timeout_s=0.2))
        reader = ThreadPoolExecutor(1)

        def read() -> bytes:
            with endpoint.request("GET", "/v2/", scope=None) as response:
                return response.read(1000)

        found = reader.submit(read)
        try:
            with pytest.raises(RemoteUnavailable):
                found.result(20)
        finally:
            reader.shutdown(wait=False)


def test_body_in_chunks_may_take_longer_than_a_piece_of_it(connect: Connect) -> None:
    def slow(over: threading.Event) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        for _ in range(10):
            over.wait(0.1)
            yield b"800\r\n" + bytes(2048) + b"\r\n"
        yield b"0\r\n\r\n"

    with saying(slow) as url:
        endpoint = connect(url, replace(FAST, retries=0, read_timeout_s=0.4))
        with endpoint.request("GET", "/v2/", scope=None) as response:
            assert response.read(100_000) == bytes(20480)
