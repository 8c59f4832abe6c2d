"""Listeners and endpoints of the transport tests."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from regmeta.sources.registry.addresses import Resolver, resolve
from regmeta.sources.registry.credentials import Credential, CredentialSource, FixedCredentials
from regmeta.sources.registry.terms import Terms
from regmeta.sources.registry.transport import Endpoint
from tests.unit.sources.registry.listener import Answer, Listener, Script, listening

SECRET = "s3cr3t-of-the-registry"
FAST = Terms(retry_delay_s=0.001, max_retry_delay_s=0.05, read_timeout_s=5.0, connect_timeout_s=5.0)

Listen = Callable[..., Listener]
Connect = Callable[..., Endpoint]


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Start listeners that end with the test."""
    with ExitStack() as stack:

        def start(
            script: Script | None = None,
            *,
            host: str = "127.0.0.1",
            name: str | None = None,
            tls: ssl.SSLContext | None = None,
        ) -> Listener:
            script = script or (lambda seen: Answer(body=b"{}"))
            return stack.enter_context(listening(script, host=host, name=name, tls=tls))

        yield start


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Make endpoints that are closed with the test."""
    with ExitStack() as stack:

        def make(
            listener: Listener | str,
            terms: Terms = FAST,
            credentials: CredentialSource | None = None,
            *,
            resolver: Resolver = resolve,
            stopped: object = None,
        ) -> Endpoint:
            url = listener if isinstance(listener, str) else listener.url
            source = credentials or FixedCredentials({})
            endpoint = Endpoint(url, terms=terms, credentials=source, resolver=resolver, stopped=stopped)  # type: ignore[arg-type]
            stack.callback(endpoint.close)
            return endpoint

        yield make


def login_for(listener: Listener) -> FixedCredentials:
    """Credentials for one listener."""
    return FixedCredentials({f"{listener.host}:{listener.port}": Credential("kim", SECRET)})
