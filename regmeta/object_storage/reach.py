"""How a bucket is reached; see ``regmeta.settings.object_store``."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

MIB: Final = 1024 * 1024
CONNECT_TIMEOUT_S: Final = 10.0
_ENDPOINT: Final = re.compile(
    r"https?://(?:[A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?(?:/[!-~]*)?"
)


@dataclass(frozen=True, slots=True)
class Keys:
    """Who asks an S3 server. What is secret is never shown."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Reach:
    """How one bucket is reached."""

    endpoint: str = ""
    region: str = ""
    virtual_hosted: bool = False
    retry_for: timedelta = timedelta(seconds=60)
    read_timeout: timedelta = timedelta(seconds=30)
    keys: Keys | None = None  # of S3; None takes those of the environment


def is_endpoint(text: str) -> bool:
    """Tell whether a text is the http(s) URL of a server, with a host and without a user."""
    return _ENDPOINT.fullmatch(text) is not None


def endpoint_of(reach: Reach) -> str:
    """Return the URL of the server, "" for the provider's own."""
    # The last one is obstore's own name: it would take it, and the other client would not.
    named = map(os.environ.get, ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"))
    return reach.endpoint or next(filter(None, named), "")


def without_secrets(text: str) -> str:
    """Leave out what stands before the host of a URL."""
    parts = text.split("://")
    for number in range(1, len(parts)):
        host = parts[number].split("/", 1)[0]
        if "@" in host:
            parts[number] = parts[number].partition("@")[2]
    return "://".join(parts)
