"""URLs, taken apart strictly: what two parsers could read in two ways is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urljoin

from regmeta.sources.registry.text import shown

_PORTS: Final = {"http": 80, "https": 443}
_MAX_URL: Final = 16 * 1024
# No userinfo, no backslash, no blank, no control character; a bracket only around an IPv6 address.
_URL_RE: Final = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*+)://"
    r"(?P<host>[A-Za-z0-9._-]++|\[[0-9A-Fa-f:.]++\])(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<target>[/?][!-\[\]-~]*+)?",
)


class BadURL(ValueError):
    """A text is no http or https URL of the strict form; the message says why, without secrets in it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server listens. Two URLs are of one origin when their places are equal."""

    scheme: str
    host: str
    port: int

    @property
    def name(self) -> str:
        """``host``, or ``host:port`` when the port is not the scheme's own."""
        return self.host if self.port == _PORTS[self.scheme] else f"{self.host}:{self.port}"

    @property
    def origin(self) -> str:
        """The URL of the place, without a path."""
        return f"{self.scheme}://{self.name}"

    def is_in(self, hosts: frozenset[str]) -> bool:
        """Whether *hosts* list this place, by its host or by ``host:port``."""
        return any(host.lower() in (self.host, f"{self.host}:{self.port}") for host in hosts)


def parse_url(url: str) -> tuple[Place, str]:
    """Return the place of *url*, and its path with the query.

    Raises:
        BadURL: it holds credentials, is of another scheme, or has no clear host.
    """
    url = url.partition("#")[0]
    match = _URL_RE.fullmatch(url) if len(url) <= _MAX_URL else None
    if match is None:
        if "@" in re.split(r"[/?\\]", url.partition("://")[2], maxsplit=1)[0]:
            raise BadURL("credentials in a URL")
        raise BadURL(f"{shown(without_query(url))!r} is not a URL that can be used")
    scheme = match["scheme"].lower()
    if scheme not in _PORTS:
        raise BadURL(f"{shown(scheme)!r} is neither http nor https")
    port = int(match["port"]) if match["port"] else _PORTS[scheme]
    if not 0 < port < 65536:
        raise BadURL(f"there is no port {port}")
    host = match["host"].lower().rstrip(".")
    if not host:
        raise BadURL("no host")
    target = match["target"] or "/"
    return Place(scheme, host, port), target if target.startswith("/") else "/" + target


def join_url(base: str, reference: str) -> tuple[Place, str]:
    """Return the place and the target that *reference* means when it is found at *base*.

    Raises:
        BadURL: as :func:`parse_url`.
    """
    if re.search(r"[^!-~]|\\", reference):
        raise BadURL(f"{shown(without_query(reference))!r} holds characters that no URL has")
    try:
        return parse_url(urljoin(base, reference))
    except BadURL:
        raise
    except ValueError:
        raise BadURL(f"{shown(without_query(reference))!r} is not a URL") from None


def without_query(target: str) -> str:
    """Return *target* as messages show it: a query may hold a signature that lets anybody in."""
    return target.partition("?")[0]
