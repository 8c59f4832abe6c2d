"""Whoever waits for bytes goes on at once when all is to end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from regmeta.errors import RemoteUnavailable
from regmeta.sources.registry.stopping import Stopping
from tests.unit.sources.registry.conftest import FAST, Connect, Listen
from tests.unit.sources.registry.listener import Answer, Seen
from tests.unit.sources.registry.test_tls_and_proxies import Certificates, certificates

__all__ = ["certificates"]

PATIENT = replace(FAST, read_timeout_s=600.0, retries=5)
END_S = 30.0  # who has not ended by then waits for its read time-out


@pytest.fixture
def let_go() -> Iterator[threading.Event]:
    """Set when the test is over: until then the listener says nothing."""
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize("is_tls", [False, True])
@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.parametrize("at", ["headers", "body"])
def test_read_that_waits_ends_when_it_is_stopped(
    listen: Listen,
    connect: Connect,
    let_go: threading.Event,
    certificates: Certificates,
    at: str,
    closes: bool,
    is_tls: bool,
) -> None:
    waits, stopped = threading.Event(), Stopping()

    def pieces() -> Iterator[bytes]:
        yield b"first"
        waits.set()
        let_go.wait(600)

    def script(seen: Seen) -> Answer:
        if at == "headers":
            waits.set()
            let_go.wait(600)
        return Answer(length=1000, pieces=pieces(), close=closes)

    registry = listen(script, name="localhost", tls=certificates.server() if is_tls else None)
    terms = replace(PATIENT, ca_file=str(certificates.folder / "ca.pem"))
    endpoint = connect(registry, terms, stopped=stopped)
    errors: list[RemoteUnavailable] = []

    def read() -> None:
        try:
            with endpoint.request("GET", "/v2/", scope=None) as response:
                response.read(1000)
        except RemoteUnavailable as error:
            errors.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    assert waits.wait(END_S)
    time.sleep(0.05)  # it is reading now
    stopped.set()
    thread.join(END_S)
    assert not thread.is_alive()
    assert len(errors) == 1
    with pytest.raises(RemoteUnavailable):
        endpoint.request("GET", "/v2/", scope=None)


def test_who_comes_after_the_end_is_told_as_well() -> None:
    stopped = Stopping()
    told: list[str] = []
    forgotten = lambda: told.append("forgotten")  # noqa: E731 - the same object twice
    stopped.call_when_set(lambda: told.append("first"))
    stopped.call_when_set(forgotten)
    stopped.forget(forgotten)
    assert told == []
    stopped.set()
    stopped.call_when_set(lambda: told.append("late"))
    assert told == ["first", "late"]
    assert stopped.is_set()
