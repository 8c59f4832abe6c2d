"""Repositories by name: the whole of it, its last component, and what is inside."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.models import Repository
from regmeta.oci.folding import behind
from regmeta.query.search.found import CANDIDATES, Found, RepositoryHit, first, match_of
from regmeta.query.search.patterns import Way, has_trigram, holding, parameters_of, way_to
from regmeta.query.visibility import Visibility, seen

_COLUMNS: Final[Any] = sa.select(Repository.id, Repository.name, Repository.leaf).where(
    Repository.state == "active"
)
_BY_NAME: Final = (
    _COLUMNS.where(Repository.name >= sa.bindparam("low"), Repository.name < sa.bindparam("high"))
    .order_by(Repository.name)
    .limit(sa.bindparam("page"))
)
_BY_LEAF: Final = (
    _COLUMNS.where(Repository.leaf >= sa.bindparam("low"), Repository.leaf < sa.bindparam("high"))
    .order_by(Repository.leaf, Repository.name)
    .limit(sa.bindparam("page"))
)


def find_repositories(
    connection: Connection, term: str, limit: int, visible: Visibility | None
) -> Found[RepositoryHit]:
    """Return the repositories that a folded term finds.

    In order: the name itself, those with it as last component, names that start with it, last components
    that do (by component, then name), names that hold it.
    """
    rows, cut = ranked(connection, term, limit + 1, visible)
    hits = []
    for _, name in rows:
        leaf = name.rpartition("/")[2]
        best = min(match_of(text, term) for text in (name, leaf) if term in text)  # "exact" < "prefix" < …
        hits.append(RepositoryHit(name, best))
    return first(hits, limit, cut=cut)


def ranked(
    connection: Connection, term: str, wanted: int, visible: Visibility | None
) -> tuple[list[tuple[int, str]], bool]:
    """Return ids and names of the best repositories, and whether some that hold the term were not ranked."""
    found: dict[int, str] = {}
    of: dict[str, Any] = {"low": term, "high": behind(term)}
    by_name: Any = connection.execute(seen(_BY_NAME, visible), {**of, "page": wanted}).all()
    # Twice as many: each name that is only one component is found by both.
    by_leaf: Any = connection.execute(seen(_BY_LEAF, visible), {**of, "page": 2 * wanted}).all()
    found.update((row.id, row.name) for row in by_name if row.name == term)
    found.update((row.id, row.name) for row in by_leaf if row.leaf == term)
    for row in (*by_name, *by_leaf):
        found.setdefault(row.id, row.name)
    if len(found) >= wanted or not has_trigram(term):
        return list(found.items())[:wanted], False
    is_sqlite = connection.dialect.name == "sqlite"
    # As many as are known already may come again.
    of = {**parameters_of(term, CANDIDATES, is_sqlite=is_sqlite), "page": 2 * wanted}
    candidates = 0
    way = way_to(connection, Repository, term, CANDIDATES)
    statement = _holding(way) if visible is None else _holding_for(way, visible)
    for row in connection.execute(statement, of):
        candidates = row.candidates
        found.setdefault(row.id, row.name)
    return list(found.items())[:wanted], candidates >= CANDIDATES


@lru_cache(maxsize=3)
def _holding(way: Way) -> sa.Select[Any]:
    return _holding_for(way, None)


def _holding_for(way: Way, visible: Visibility | None) -> sa.Select[Any]:
    return holding(seen(_COLUMNS, visible), Repository, way)
