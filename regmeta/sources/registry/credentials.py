"""Who we are at a registry: credentials, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Credential:
    """A user name with its secret, or an identity token (OAuth2 refresh token). Its repr shows no secret.

    *expires_at_s* is the Unix time after which the source is asked again.
    """

    username: str = ""
    secret: str = field(default="", repr=False)
    identity_token: str | None = field(default=None, repr=False)
    expires_at_s: float | None = None


class CredentialSource(Protocol):
    """A place where credentials are looked up. Safe to use from several threads."""

    def get(self, host: str) -> Credential | None:
        """Return what to show to *host* (``host`` or ``host:port``), None when nothing is set up for it.

        Raises:
            UsageError: what is set up cannot be read; never taken for "none".
            RemoteUnavailable: a helper did not answer.
        """


@dataclass(frozen=True, slots=True)
class NoCredentials:
    """Anonymous everywhere."""

    def get(self, host: str) -> Credential | None:
        """Return None."""
        return None


@dataclass(frozen=True, slots=True)
class FixedCredentials:
    """Credentials that are known already, by ``host`` or ``host:port``."""

    by_host: Mapping[str, Credential]

    def get(self, host: str) -> Credential | None:
        """Return what was given for *host*."""
        return self.by_host.get(host)
