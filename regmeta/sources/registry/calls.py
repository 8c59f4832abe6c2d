"""Calls whose answer is small and read whole: pages, manifests, referrers."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from regmeta.errors import RemoteUnavailable
from regmeta.sources.registry.transport import Endpoint

CATALOG_SCOPE: Final = "registry:catalog:*"
_TRIES: Final = 3  # of a body that is cut; the transport has tries of its own for what comes before it


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with its whole body. Messages show *where*: the query of *url* is not everybody's."""

    status: int
    headers: Mapping[str, str]
    content: bytes = field(repr=False)
    url: str
    where: str

    @property
    def media_type(self) -> str:
        """What ``Content-Type`` says, without parameters; empty if it says nothing."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip()


def pull_scope(repository: str) -> str:
    """Return the scope of reading a repository."""
    return f"repository:{repository}:pull"


def call(
    endpoint: Endpoint,
    method: str,
    path: str,
    *,
    scope: str | None,
    limit_bytes: int,
    accept: Sequence[str] = (),
    expect: Container[int] = (200,),
    follow: bool = False,
) -> Answer:
    """Make one call and read its answer; a body that is cut is asked for again.

    Raises:
        NotFound, RemoteRefused, RemoteUnavailable, UnsafeRemote: as :meth:`Endpoint.request`.
        InvalidSource: the body has more than *limit_bytes*, or the status is another.
    """
    tried = 0
    while True:
        with endpoint.request(
            method, path, scope=scope, accept=accept, expect=expect, follow=follow
        ) as response:
            try:
                content = b"" if method == "HEAD" else response.read(limit_bytes)
                return Answer(response.status, response.headers, content, response.url, response.where)
            except RemoteUnavailable:
                tried += 1
                if tried == _TRIES:
                    raise
