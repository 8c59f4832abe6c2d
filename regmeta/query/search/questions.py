"""What a text in the search box asks for.

==================  ==================================================================================
text                asks for
==================  ==================================================================================
``term``            repositories by name, and what labels say
``repo:tag``        tags that start with ``tag`` in repositories that match ``repo``; ``repo:`` all tags
``:tag``            that tag, wherever it is
``sha256:ab12``     manifests and blobs whose digest starts so; at least 2 hex digits
``ab12cd``          the same, from 6 hex digits on, of any algorithm; and what ``term`` asks for
``repo@sha256:ab``  the same, in one repository; ``repo@ab12cd`` too
==================  ==================================================================================

Case and compatibility forms do not matter (``oci.folding``).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal, get_args

from regmeta.errors import UsageError
from regmeta.oci.digest import stored_ranges
from regmeta.oci.folding import folded

Kind = Literal["repositories", "tags", "digests", "texts"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
MAX_LENGTH: Final = 512  # [characters]
SHORTEST_DIGEST: Final = 2  # hex digits behind an algorithm; fewer mean too much to be looked through

_HEX: Final = re.compile(r"[0-9a-f]{6,128}")
_DIGEST: Final = re.compile(r"(sha256|sha512):([0-9a-f]{0,128})")


@dataclass(frozen=True, slots=True)
class DigestPrefix:
    """The start of a digest, of one algorithm or, with None, of any; perhaps in one repository."""

    algorithm: str | None
    hex: str
    repository: str | None = None

    def ranges(self) -> list[tuple[bytes, bytes]]:
        """Return what stored digests that start so are at least, and what they are less than."""
        return stored_ranges(self.hex, self.algorithm)


@dataclass(frozen=True, slots=True)
class Question:
    """What is looked for, folded; None where nothing of the kind is."""

    repository: str | None = None
    text: str | None = None
    tag: str | None = None
    tag_in: str | None = None  # the repositories that the tag is looked for in
    digest: DigestPrefix | None = None


def parse(text: str, kinds: Collection[Kind] = KINDS) -> Question:
    """Return what a text asks for; one that may only be in labels is taken as it is, colons and all.

    Raises:
        UsageError: it is empty, too long, no text, or too short a digest; or a kind is none.
    """
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown or not kinds:
        raise UsageError(f"no kind of hit: {', '.join(unknown) or 'none'}; there are {', '.join(KINDS)}")
    if len(text) > MAX_LENGTH or "\0" in text or not _is_unicode(text):
        raise UsageError(f"cannot search for {text[:80]!r}: write at most {MAX_LENGTH} characters of text")
    term = folded(text.strip()).strip()
    if not term:
        raise UsageError("nothing to search for: write a name, repo:tag, :tag, a digest or a text")
    if set(kinds) == {"texts"}:
        return Question(text=term)
    digest = _digest(term)
    if digest is not None:
        plain = digest.algorithm is None and digest.repository is None
        return Question(term if plain else None, term if plain else None, digest=digest)
    head, colon, tag = term.rpartition(":")
    if not colon or "/" in tag or ":" in head or " " in term:
        return Question(term, term)  # a name, or words that only labels hold
    if not head and not tag:
        raise UsageError("cannot search for ':': write the start of a tag behind it")
    return Question(tag=tag, tag_in=head or None)


def _digest(term: str) -> DigestPrefix | None:
    repository, at, rest = term.rpartition("@")
    found = _DIGEST.fullmatch(rest)
    if found:
        if len(found[2]) < SHORTEST_DIGEST:
            raise UsageError(
                f"cannot search for {term[:80]!r}: write at least {SHORTEST_DIGEST} hex digits of the digest"
            )
        prefix = DigestPrefix(found[1], found[2], repository if at else None)
    elif _HEX.fullmatch(rest):
        prefix = DigestPrefix(None, rest, repository if at else None)
    else:
        return None
    return None if at and not repository else prefix


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes of a command line that are no UTF-8
        return False
    return True
