"""One search: of each kind that is asked for, what the text finds."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from regmeta.db import Database
from regmeta.errors import UsageError
from regmeta.query.search.digests import find_digests
from regmeta.query.search.found import CANDIDATES, Found, SearchResults
from regmeta.query.search.questions import KINDS, Kind, parse
from regmeta.query.search.repositories import find_repositories
from regmeta.query.search.tags import find_tags
from regmeta.query.search.texts import find_texts
from regmeta.query.visibility import Visibility

LIMIT: Final = 20
MAX_LIMIT: Final = CANDIDATES


def search(
    database: Database,
    text: str,
    *,
    limit: int = LIMIT,
    kinds: Collection[Kind] = KINDS,
    visible: Visibility | None = None,
) -> SearchResults:
    """Return what *text* finds now, at most *limit* hits of each of *kinds*; see :mod:`.questions`.

    What is deleted is not found, nor is what *visible* does not let see.

    Raises:
        UsageError: the text asks for nothing, the limit is not in 1 … ``MAX_LIMIT``, or a kind is none.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise UsageError(f"limit {limit}: ask for 1 to {MAX_LIMIT} hits of a kind")
    asked = parse(text, kinds)
    repositories, tags, digests, texts = Found(), Found(), Found(), Found()  # type: ignore[var-annotated]
    with database.read() as connection:
        if "repositories" in kinds and asked.repository is not None:
            repositories = find_repositories(connection, asked.repository, limit, visible)
        if "tags" in kinds and asked.tag is not None:
            tags = find_tags(connection, asked.tag, asked.tag_in, limit, visible)
        if "digests" in kinds and asked.digest is not None:
            digests = find_digests(connection, asked.digest, limit, visible)
        if "texts" in kinds and asked.text is not None:
            texts = find_texts(connection, asked.text, limit, visible)
    return SearchResults(text, repositories, tags, digests, texts)
