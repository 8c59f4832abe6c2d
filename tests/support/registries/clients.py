"""Clients of the registries of a test: quick to give up, so that a failure costs no time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Final
from urllib.parse import urlsplit

from regmeta.sources.registry.credentials import Credential, CredentialSource, FixedCredentials, NoCredentials
from regmeta.sources.registry.terms import Terms
from regmeta.sources.registry.transport import Endpoint
from regmeta.sources.registry.upstream import Upstream
from tests.support.registries.bad_registry import PASSWORD, USERNAME

QUICK: Final = Terms(
    retries=1, retry_delay_s=0.01, max_retry_delay_s=0.02, connect_timeout_s=5, read_timeout_s=2
)


def endpoint_of(url: str, *, terms: Terms = QUICK, credentials: CredentialSource | None = None) -> Endpoint:
    """Return one endpoint, anonymous unless credentials are given."""
    return Endpoint(url, terms=terms, credentials=credentials or NoCredentials())


@contextmanager
def upstream_of(
    *urls: str,
    terms: Terms = QUICK,
    credentials: CredentialSource | None = None,
    clock_s: Callable[[], float] = time.monotonic,
) -> Iterator[Upstream]:
    """Open a registry with its mirrors; it is called as the host of the first."""
    endpoints = [endpoint_of(url, terms=terms, credentials=credentials) for url in urls]
    with closing(Upstream(endpoints, name=urlsplit(urls[0]).netloc, clock_s=clock_s)) as upstream:
        yield upstream


def reader_of(*hosts: str) -> CredentialSource:
    """Return the credentials that :class:`BadRegistry` asks for, for these hosts."""
    return FixedCredentials({host: Credential(USERNAME, PASSWORD) for host in hosts})
