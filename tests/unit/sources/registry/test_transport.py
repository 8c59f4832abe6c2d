"""Requests, answers and their bodies over real connections."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from regmeta.errors import (
    Error,
    InvalidSource,
    NotFound,
    RemoteRefused,
    RemoteUnavailable,
    UsageError,
)
from regmeta.oci.streams import fill
from regmeta.sources.registry.credentials import NoCredentials
from regmeta.sources.registry.terms import Terms
from regmeta.sources.registry.transport import Endpoint
from tests.unit.sources.registry.conftest import FAST, Connect, Listen
from tests.unit.sources.registry.listener import Answer, Seen, answer_json


def test_body_and_headers_arrive_unchanged(listen: Listen, connect: Connect) -> None:
    body = bytes(range(256)) * 700
    registry = listen(lambda seen: Answer(headers=(("Docker-Content-Digest", "sha256:x"),), body=body))
    with connect(registry).request(
        "GET", "/v2/a/manifests/b?n=1", scope=None, accept=("a/b", "c/d"), headers={"Range": "bytes=1-"}
    ) as response:
        assert response.headers["docker-content-digest"] == "sha256:x"
        assert response.content_length == len(body)
        assert response.read(len(body)) == body
        assert response.url == f"{registry.url}/v2/a/manifests/b?n=1"
    [seen] = registry.seen
    assert seen.target == "/v2/a/manifests/b?n=1"
    assert seen.headers["accept"] == "a/b, c/d"
    assert seen.headers["accept-encoding"] == "identity"
    assert seen.headers["range"] == "bytes=1-"


def test_compressed_bytes_are_not_decoded(listen: Listen, connect: Connect) -> None:
    registry = listen(lambda seen: Answer(headers=(("Content-Encoding", "gzip"),), body=b"\x1f\x8bnot gzip"))
    with connect(registry).request("GET", "/v2/", scope=None) as response:
        assert response.read(100) == b"\x1f\x8bnot gzip"


def test_chunked_body_arrives_whole(listen: Listen, connect: Connect) -> None:
    body = b"0123456789" * 30_000
    registry = listen(lambda seen: Answer(chunked=True, body=body))
    endpoint = connect(registry)
    for _ in range(2):
        with endpoint.request("GET", "/v2/", scope=None) as response:
            assert response.content_length is None
            assert response.read(len(body)) == body
    assert len({seen.connection for seen in registry.seen}) == 1


def test_read_refuses_more_than_its_limit(listen: Listen, connect: Connect) -> None:
    registry = listen(lambda seen: Answer(chunked=seen.path == "/v2/chunked", body=b"x" * 101))
    endpoint = connect(registry)
    for path in ("/v2/plain", "/v2/chunked"):
        with (
            endpoint.request("GET", path, scope=None) as response,
            pytest.raises(InvalidSource, match="more than 100 bytes"),
        ):
            response.read(100)
        with endpoint.request("GET", path, scope=None) as response:
            assert len(response.read(101)) == 101


def test_connections_are_used_again(listen: Listen, connect: Connect) -> None:
    """After a whole body, a HEAD, an error, an unread small body; not after an unread large one."""
    sizes = {"/v2/small": 2_000, "/v2/large": 3_000_000}
    registry = listen(
        lambda seen: (
            Answer(404, body=b"x" * 500) if seen.path == "/v2/gone" else Answer(body=b"x" * sizes[seen.path])
        )
    )
    endpoint = connect(registry)
    with endpoint.request("GET", "/v2/small", scope=None) as response:
        response.read(10_000)
    with endpoint.request("HEAD", "/v2/large", scope=None) as response:
        assert response.headers["content-length"] == "3000000"
        assert response.read(10) == b""
    with pytest.raises(NotFound):
        endpoint.request("GET", "/v2/gone", scope=None)
    with endpoint.request("GET", "/v2/small", scope=None):
        pass
    with endpoint.request("GET", "/v2/large", scope=None):
        pass
    assert len({seen.connection for seen in registry.seen}) == 1
    with endpoint.request("GET", "/v2/small", scope=None) as response:
        assert len(response.read(10_000)) == 2_000
    assert len({seen.connection for seen in registry.seen}) == 2
    assert endpoint.requests == 6


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, NotFound), (401, RemoteRefused), (403, RemoteRefused), (501, RemoteUnavailable)]
    + [(status, InvalidSource) for status in (400, 302, 206, 204, 405, 416)],
)
def test_status_that_is_not_expected_raises_its_error(
    listen: Listen, connect: Connect, status: int, kind: type[Error]
) -> None:
    said = {"errors": [{"code": "WHY", "message": "be\x1b[31mcause\n" + "y" * 5000, "detail": {}}]}
    registry = listen(lambda seen: Answer(status) if status in (204,) else answer_json(said, status))
    endpoint = connect(registry)
    with pytest.raises(kind) as raised:
        endpoint.request("GET", "/v2/a/manifests/b", scope=None)
    message = str(raised.value)
    assert f"{endpoint.location}/v2/a/manifests/b: HTTP {status}" in message
    if status != 204:
        assert "WHY: be\\x1b[31mcause\\n" in message
    assert message.isprintable()
    assert len(message) < 400
    with endpoint.request("GET", "/v2/a", scope=None, expect=(status,)) as response:
        assert response.status == status
    assert len(registry.seen) == 2


def test_error_body_without_end_is_not_read(listen: Listen, connect: Connect) -> None:
    endless = Answer(403, length=10**12, pieces=iter(lambda: b"x" * 65536, b""))
    registry = listen(lambda seen: endless)
    with pytest.raises(RemoteRefused, match="HTTP 403"):
        connect(registry).request("GET", "/v2/", scope=None)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_passing_failure_is_tried_again(listen: Listen, connect: Connect, status: int) -> None:
    registry = listen()
    registry.script = lambda seen: Answer(status if len(registry.seen) <= 3 else 200, body=b"here")
    with connect(registry).request("GET", "/v2/", scope=None) as response:
        assert response.read(10) == b"here"
    assert len(registry.seen) == 4


def test_lasting_failure_ends_as_unavailable(listen: Listen, connect: Connect) -> None:
    registry = listen(lambda seen: answer_json({"errors": [{"code": "DOWN"}]}, 503))
    endpoint = connect(registry, replace(FAST, retries=2))
    with pytest.raises(RemoteUnavailable, match="HTTP 503: DOWN"):
        endpoint.request("GET", "/v2/", scope=None)
    assert endpoint.requests == len(registry.seen) == 3
    with pytest.raises(RemoteUnavailable):
        endpoint.request("POST", "/v2/", scope=None)
    assert len(registry.seen) == 4  # What may change something is sent once.


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_long_retry_after_is_reported_at_once(listen: Listen, connect: Connect, form: str) -> None:
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=3600), usegmt=True)
    value = "3600" if form == "seconds" else at
    registry = listen(lambda seen: Answer(429, (("Retry-After", value),)))
    with pytest.raises(RemoteUnavailable) as raised:
        connect(registry).request("GET", "/v2/", scope=None)
    assert raised.value.retry_after_s == pytest.approx(3600, abs=60)
    assert len(registry.seen) == 1


def test_short_retry_after_holds_everyone_back(listen: Listen, connect: Connect) -> None:
    times: list[float] = []

    def script(seen: Seen) -> Answer:
        times.append(time.monotonic())
        return Answer(429, (("Retry-After", "1"),)) if len(times) == 1 else Answer()

    registry = listen(script)
    endpoint = connect(registry, replace(FAST, max_retry_delay_s=2.0))
    first = threading.Thread(target=lambda: endpoint.request("GET", "/v2/", scope=None).close())
    first.start()
    while not times:
        time.sleep(0.01)
    time.sleep(0.2)
    endpoint.request("GET", "/v2/other", scope=None).close()
    first.join()
    assert all(later - times[0] >= 0.9 for later in times[1:])


def test_connection_that_was_closed_meanwhile_costs_no_retry(listen: Listen, connect: Connect) -> None:
    registry = listen()

    def script(seen: Seen) -> Answer:
        # The second request of a connection is dropped without an answer, as an idle time-out does.
        mine = [other for other in registry.seen if other.connection == seen.connection]
        return Answer(raw=b"") if len(mine) > 1 else Answer(body=b"ok")

    registry.script = script
    endpoint = connect(registry, replace(FAST, retries=0))
    for _ in range(2):
        with endpoint.request("GET", "/v2/", scope=None) as response:
            assert response.read(10) == b"ok"


@pytest.mark.parametrize("raw", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 300])
def test_answer_that_is_none_is_unavailable(listen: Listen, connect: Connect, raw: bytes) -> None:
    registry = listen(lambda seen: Answer(raw=raw))
    with pytest.raises(RemoteUnavailable, match="the connection broke"):
        connect(registry, replace(FAST, retries=1)).request("GET", "/v2/", scope=None)


def test_nobody_listening_is_unavailable(listen: Listen, connect: Connect) -> None:
    with pytest.raises(RemoteUnavailable, match=r"127\.0\.0\.1:1/v2/: no connection: Connection refused"):
        connect("http://127.0.0.1:1").request("GET", "/v2/", scope=None)
    with pytest.raises(RemoteUnavailable, match="does not resolve"):
        connect("http://nowhere.invalid").request("GET", "/v2/", scope=None)


def test_silence_is_unavailable(listen: Listen, connect: Connect) -> None:
    ended = threading.Event()
    registry = listen(lambda seen: Answer(200 if ended.wait(10) else 500))
    with pytest.raises(RemoteUnavailable, match="no answer in time"):
        connect(registry, replace(FAST, read_timeout_s=0.1, retries=0)).request("GET", "/v2/", scope=None)
    ended.set()


@pytest.mark.parametrize("chunked", [False, True])
def test_cut_body_is_unavailable(listen: Listen, connect: Connect, chunked: bool) -> None:
    start = b"HTTP/1.1 200 OK\r\n"
    head = b"Transfer-Encoding: chunked\r\n\r\n186A0\r\n" if chunked else b"Content-Length: 100000\r\n\r\n"
    registry = listen(lambda seen: Answer(raw=start + head + b"x" * 99_999))
    with connect(registry).request("GET", "/v2/", scope=None) as response:
        buffer = memoryview(bytearray(200_000))
        with pytest.raises(RemoteUnavailable, match="cut"):
            fill(response, buffer)


def test_length_longer_than_the_body_is_a_cut(listen: Listen, connect: Connect) -> None:
    registry = listen(lambda seen: Answer(body=b"x" * 10, length=11))
    endpoint = connect(registry)
    with (
        endpoint.request("GET", "/v2/", scope=None) as response,
        pytest.raises(RemoteUnavailable, match="1 bytes are missing"),
    ):
        response.read(100)
    # The next request is not given the broken connection.
    registry.script = lambda seen: Answer(body=b"whole")
    with endpoint.request("GET", "/v2/", scope=None) as response:
        assert response.read(10) == b"whole"


@pytest.mark.parametrize("chunked", [False, True])
def test_body_that_trickles_has_stalled(listen: Listen, connect: Connect, chunked: bool) -> None:
    """Each byte comes in time, so no time-out of the socket ends it."""
    ended = threading.Event()

    def trickle() -> Iterator[bytes]:
        while not ended.wait(0.05):
            yield b"1\r\nx\r\n" if chunked else b"x"

    registry = listen(lambda seen: Answer(length=None if chunked else 800, chunked=chunked, pieces=trickle()))
    endpoint = connect(registry, replace(FAST, read_timeout_s=0.4))
    with (
        endpoint.request("GET", "/v2/", scope=None) as response,
        pytest.raises(RemoteUnavailable, match="stalled"),
    ):
        response.read(1000)
    ended.set()


def test_body_that_stops_has_stalled(listen: Listen, connect: Connect) -> None:
    ended = threading.Event()

    def stop() -> Iterator[bytes]:
        yield b"x" * 1000
        ended.wait(10)

    registry = listen(lambda seen: Answer(length=2000, pieces=stop()))
    endpoint = connect(registry, replace(FAST, read_timeout_s=0.2))
    with (
        endpoint.request("GET", "/v2/", scope=None) as response,
        pytest.raises(RemoteUnavailable, match="stalled"),
    ):
        response.read(2000)
    ended.set()


def test_no_more_answers_are_open_than_allowed(listen: Listen, connect: Connect) -> None:
    registry = listen(lambda seen: Answer(body=b"x" * 100_000))
    endpoint = connect(registry, replace(FAST, max_concurrent=3))
    lock, open_now, most = threading.Lock(), 0, 0

    def work() -> None:
        nonlocal open_now, most
        for _ in range(5):
            with endpoint.request("GET", "/v2/", scope=None) as response:
                with lock:
                    open_now += 1
                    most = max(most, open_now)
                response.read(100_000)
                time.sleep(0.005)
                with lock:
                    open_now -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 3
    assert len(registry.seen) == 40
    assert len({seen.connection for seen in registry.seen}) <= 3


def test_slot_comes_back_after_every_failure(listen: Listen, connect: Connect) -> None:
    scripts: list[Answer] = [
        Answer(404),
        Answer(raw=b""),
        Answer(302, (("Location", "ftp://x/"),)),
        Answer(401, (("WWW-Authenticate", "Nonsense"),)),
        Answer(body=b"x", length=9),
    ]
    registry = listen(lambda seen: scripts[int(seen.path.rpartition("/")[2])])
    endpoint = connect(registry, replace(FAST, max_concurrent=1, retries=1))
    for number in range(len(scripts)):
        with (
            pytest.raises(Error),
            endpoint.request("GET", f"/v2/{number}", scope=None, follow=True) as answer,
        ):
            answer.read(100)
    registry.script = lambda seen: Answer(body=b"ok")
    with endpoint.request("GET", "/v2/", scope=None) as response:
        assert response.read(10) == b"ok"


def test_requests_are_spaced_evenly(listen: Listen, connect: Connect) -> None:
    registry = listen()
    endpoint = connect(registry, replace(FAST, requests_per_s=50.0))
    started_s = time.monotonic()

    def work() -> None:
        for _ in range(5):
            endpoint.request("GET", "/v2/", scope=None).close()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - started_s >= 14 / 50  # A lower bound, which no slow machine breaks.


@pytest.mark.parametrize("waits_for", ["retry", "rate", "slot"])
def test_waiting_ends_when_stopped(listen: Listen, connect: Connect, waits_for: str) -> None:
    registry = listen(lambda seen: Answer(503 if waits_for == "retry" else 200))
    stopped = threading.Event()
    terms = Terms(
        retry_delay_s=3600.0,
        max_retry_delay_s=3600.0,
        requests_per_s=0.0001 if waits_for == "rate" else None,
        max_concurrent=1,
    )
    endpoint = connect(registry, terms, stopped=stopped)
    held = endpoint.request("GET", "/v2/", scope=None) if waits_for != "retry" else None
    threading.Timer(0.2, stopped.set).start()
    with pytest.raises(RemoteUnavailable, match="stopped while waiting"):
        endpoint.request("GET", "/v2/", scope=None)
    if held is not None:
        held.close()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "registry.example",
        "ftp://a",
        "https://a/v2/",
        "https://user:pw@a",
        "https://a:0",
        "https://a:99999",
        "https://a b",
        "https://a\\b",
        "https://",
        "https://a?x=1",
    ],
)
def test_base_that_is_no_registry_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError) as raised:
        Endpoint(url, terms=FAST, credentials=NoCredentials())
    assert "pw" not in str(raised.value)


def test_location_names_the_port_when_it_is_needed() -> None:
    def location(url: str) -> str:
        return Endpoint(url, terms=FAST, credentials=NoCredentials()).location

    assert location("https://Ghcr.io") == location("https://ghcr.io:443/") == "ghcr.io"
    assert location("http://localhost:5000") == "localhost:5000"
    assert location("http://[::1]:5000") == "[::1]:5000"


def test_ipv6_registry_is_reached(listen: Listen, connect: Connect) -> None:
    registry = listen(host="::1")
    with connect(registry).request("GET", "/v2/", scope=None) as response:
        assert response.read(10) == b"{}"
