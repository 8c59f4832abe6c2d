"""Following a list from page to page by its ``Link`` headers (RFC 8288), on one registry and not for ever."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from regmeta.errors import InvalidSource, UnsafeRemote
from regmeta.sources.registry.calls import Answer, call
from regmeta.sources.registry.transport import Endpoint

MAX_PAGES: Final = 10_000
MAX_PAGE_BYTES: Final = 16 * 1024 * 1024  # [bytes] some registries put 100,000 tags on one page
_MAX_LINK_LENGTH: Final = 8192  # [characters]
_LINK: Final = re.compile(r"<([^<>]*)>([^<]*)")
_REL: Final = re.compile(r";\s*rel\s*=\s*(?:\"([^\"]*)\"|([^\s\";,]+))", re.IGNORECASE)
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list, unread."""

    content: bytes = field(repr=False)
    media_type: str
    where: str
    is_last: bool


def pages(
    endpoint: Endpoint,
    path: str,
    *,
    scope: str | None,
    accept: Sequence[str] = (),
    first: Answer | None = None,
    follow: bool = False,
) -> Iterator[Page]:
    """Give the pages of a list, from *path* on; *first* is the first one's answer if it is here already.

    With *follow* a page may come from where the registry sends us; the next one is asked of the registry.

    Raises:
        UnsafeRemote: a next page is on another registry, or not of the API.
        InvalidSource: a page is too large or comes twice, or there are too many.
        NotFound, RemoteRefused, RemoteUnavailable: as :meth:`Endpoint.request`.
    """
    seen = {path}
    for _ in range(MAX_PAGES):
        answer = first or call(
            endpoint, "GET", path, scope=scope, accept=accept, limit_bytes=MAX_PAGE_BYTES, follow=follow
        )
        first = None
        following = next_path(answer)
        yield Page(answer.content, answer.media_type, answer.where, following is None)
        if following is None:
            return
        if following in seen:
            raise InvalidSource(f"{answer.where}: the page {following[:300]!r} comes twice")
        seen.add(following)
        path = following
    raise InvalidSource(f"{endpoint.location}: more than {MAX_PAGES} pages")


def next_path(answer: Answer) -> str | None:
    """Return the path, with its query, of the page after this one; None if it is the last.

    Raises:
        UnsafeRemote: the page is on another registry, or not of the API.
        InvalidSource: the link is not one.
    """
    target = _target(answer.headers.get("Link", ""))
    if target is None:
        return None
    if len(target) > _MAX_LINK_LENGTH or not target.isascii() or not target.isprintable() or " " in target:
        raise InvalidSource(f"{answer.where}: the link to the next page is not one: {target[:300]!r}")
    try:
        here, there = urlsplit(answer.url), urlsplit(urljoin(answer.url, target))
        is_here = _origin(here) == _origin(there)
    except ValueError:
        raise InvalidSource(
            f"{answer.where}: the link to the next page is not one: {target[:300]!r}"
        ) from None
    if not is_here or "@" in there.netloc or "\\" in target:
        raise UnsafeRemote(f"{answer.where}: the next page is elsewhere: {target[:300]!r}")
    if not there.path.startswith("/v2/") or ".." in unquote(there.path).split("/"):
        raise UnsafeRemote(f"{answer.where}: the next page is not one of the API: {target[:300]!r}")
    return there.path + (f"?{there.query}" if there.query else "")


def _target(header: str) -> str | None:
    for link in _LINK.finditer(header):
        for quoted, bare in _REL.findall(link[2]):
            if "next" in (quoted or bare).lower().split():
                return link[1]
    return None


def _origin(url: SplitResult) -> tuple[str, str | None, int | None]:
    return url.scheme, url.hostname, url.port or _PORTS.get(url.scheme)
