"""How a remote registry is spoken to: values that a policy decides and the transport obeys."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for every request to one endpoint.

    *ca_file* holds certificates (PEM) that are trusted besides the system's; *cert_dir* is a folder as
    Docker's ``certs.d/HOST``: ``*.crt`` are trusted, ``*.cert`` with its ``*.key`` is shown to the registry.
    *retries* are further tries after the first one; the wait before the n-th is about
    ``retry_delay_s * 2**(n-1)``, at most *max_retry_delay_s*. A time-out counts from the last byte seen.
    *auth_hosts* and *redirect_hosts* (``host`` or ``host:port``) may get the registry's credentials, or serve
    its blobs, wherever their addresses are.
    """

    tls_verify: bool = True
    ca_file: str | None = None
    cert_dir: str | None = None
    retries: int = 3
    retry_delay_s: float = 1.0
    max_retry_delay_s: float = 30.0
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 30.0
    max_concurrent: int = 6
    requests_per_s: float | None = None
    auth_hosts: frozenset[str] = frozenset()
    redirect_hosts: frozenset[str] = frozenset()
