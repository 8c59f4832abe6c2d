"""One box that finds repositories, tags, digests and what labels say.

:mod:`.questions` says what a text asks for, :mod:`.run` asks it, and
there is one module for each kind of thing that is found. Each has the same order on both databases: exact,
prefix, substring, then name. No question ranks more than a fixed number of candidates (``CANDIDATES``) of a
kind; an answer that left some out says so.
"""

from regmeta.query.search.found import (
    DigestHit,
    Found,
    Match,
    RepositoryHit,
    SearchResults,
    TagHit,
    TextHit,
)
from regmeta.query.search.questions import KINDS, MAX_LENGTH, Kind
from regmeta.query.search.run import LIMIT, MAX_LIMIT, search

__all__ = [
    "KINDS",
    "LIMIT",
    "MAX_LENGTH",
    "MAX_LIMIT",
    "DigestHit",
    "Found",
    "Kind",
    "Match",
    "RepositoryHit",
    "SearchResults",
    "TagHit",
    "TextHit",
    "search",
]
