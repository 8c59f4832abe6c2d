"""What a search answers: frozen values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Generic, Literal, TypeVar

from regmeta.oci.digest import Digest

T = TypeVar("T")

CANDIDATES: Final = 1000
"""How many repositories that hold a term are ranked at most: of more, those with the lowest ids.

Of tags and of what labels say it is ten times the limit, 200 at least, and never more than these.

What is dead or hidden is none of them; dead texts are, for one who sees all, if the answer is full anyway."""

Match = Literal["exact", "prefix", "substring"]


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """The hits of one kind, the best first.

    With ``more`` a greater limit finds more. With ``cut`` there were more candidates than are ranked, so that
    a better one may have been left out: a longer term finds it.
    """

    items: tuple[T, ...] = ()
    more: bool = False
    cut: bool = False


@dataclass(frozen=True, slots=True)
class RepositoryHit:
    """A repository that is found by its name, or by the last component of it."""

    name: str
    match: Match


@dataclass(frozen=True, slots=True)
class TagHit:
    """A live tag. ``digest`` is None where the row holds none: it is damaged."""

    repository: str
    tag: str
    digest: Digest | None
    match: Match


@dataclass(frozen=True, slots=True)
class DigestHit:
    """A manifest in one repository (``kind`` is *image* or *index*), or a *blob* and who may read it.

    ``tags`` are live tags of the manifest, ``repositories`` the first that hold the blob, both cut.
    """

    kind: str
    digest: Digest
    size_bytes: int
    repositories: tuple[str, ...]
    tags: tuple[str, ...]
    match: Match


@dataclass(frozen=True, slots=True)
class TextHit:
    """What a label (or annotation) of an image says.

    ``digest`` is that of the newest manifest of the repository that says so under this name, and ``tag`` the
    newest live tag of it, or of an index that lists it. ``snippet[start:end]`` is what was looked for; both
    are 0 where the value's own letters are too different to tell.
    """

    repository: str
    digest: Digest | None
    tag: str | None
    label: str
    origin: str
    snippet: str
    start: int
    end: int
    match: Match


@dataclass(frozen=True, slots=True)
class SearchResults:
    """All that was found for a text, kind by kind."""

    text: str
    repositories: Found[RepositoryHit]
    tags: Found[TagHit]
    digests: Found[DigestHit]
    texts: Found[TextHit]


def considered(limit: int) -> int:
    """Return how many tags, or texts, that hold a term are ranked where *limit* are wanted."""
    return min(CANDIDATES, max(200, 10 * limit))


def first(hits: Sequence[T], limit: int, *, cut: bool = False) -> Found[T]:
    """Return the first *limit* of all hits that are known."""
    return Found(tuple(hits[:limit]), more=len(hits) > limit, cut=cut)


def match_of(text: str, term: str) -> Match:
    """Say how *term* is in *text*, which holds it."""
    if text == term:
        return "exact"
    return "prefix" if text.startswith(term) else "substring"
