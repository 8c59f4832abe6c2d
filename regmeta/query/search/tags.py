"""Live tags by name: wherever they are, or in the repositories that a term finds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import product
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.models import Repository, Tag, TagName
from regmeta.oci.folding import behind, folded
from regmeta.query.search.found import Found, TagHit, considered, first, match_of
from regmeta.query.search.live import is_live_name
from regmeta.query.search.patterns import Way, has_trigram, holding, parameters_of, way_to
from regmeta.query.search.repositories import ranked
from regmeta.query.stored import digest_or_none, raw_digest
from regmeta.query.visibility import Visibility, seen

REPOSITORIES: Final = 100  # the best that ``repo:tag`` looks into
_NAMES_AT_ONCE: Final = 50
_SPELT_OUT: Final = 3  # letters whose two cases are looked for as ranges of names

_STARTING: Final = (
    sa.select(TagName.name, TagName.folded)
    .where(TagName.folded >= sa.bindparam("low"), TagName.folded < sa.bindparam("high"))
    .order_by(TagName.folded, TagName.name)
    .limit(sa.bindparam("page"))
)
_NAMES: Final = _STARTING.where(is_live_name(TagName, None))
_LIVE: Final = (
    sa.select(
        Tag.repository_id,
        Repository.name.label("repository"),
        Tag.name.label("tag"),
        raw_digest(Tag.manifest_digest).label("digest"),
    )
    .join(Repository, Repository.id == Tag.repository_id)
    .where(Tag.ended_at.is_(None), Repository.state == "active")
)
_Name = tuple[str, str]  # as it is written, and folded


def find_tags(
    connection: Connection, tag: str, repository: str | None, limit: int, visible: Visibility | None
) -> Found[TagHit]:
    """Return live tags that a folded text finds.

    In a repository that is named: those that start with it; the best repositories first, then the tag itself,
    then by name. Anywhere: the tag itself, those that start with it, those that hold it; by name, then
    repository.
    """
    if repository is not None:
        return _in_repositories(connection, tag, repository, limit, visible)
    hits: list[TagHit] = []
    cut = False
    for names, is_cut in _names(connection, tag, limit, visible):
        cut = cut or is_cut
        for start in range(0, len(names), _NAMES_AT_ONCE):
            of = names[start : start + _NAMES_AT_ONCE]
            some, left_out = _live(connection, of, tag, (limit, limit + 1 - len(hits)), visible)
            hits += some
            cut = cut or left_out
            if len(hits) > limit:
                return first(hits, limit, cut=cut)
    return first(hits, limit, cut=cut)


def _names(
    connection: Connection, tag: str, limit: int, visible: Visibility | None
) -> Iterator[tuple[list[_Name], bool]]:
    """Give the names of live tags that may be seen, the best first, and whether there are too many."""
    starting = _NAMES if visible is None else _STARTING.where(is_live_name(TagName, visible))
    # Each name is that of a tag at least, so more of them are not needed.
    found: Any = connection.execute(starting, {"low": tag, "high": behind(tag), "page": limit + 1}).all()
    known = {(row.name, row.folded): None for row in found}
    yield [name for name in known if name[1] == tag], False
    yield [name for name in known if name[1] != tag], False
    if not has_trigram(tag):
        return
    is_sqlite = connection.dialect.name == "sqlite"
    at_most = considered(limit)
    of = {**parameters_of(tag, at_most, is_sqlite=is_sqlite), "page": at_most}
    way = way_to(connection, TagName, tag, at_most)
    statement = _holding(way) if visible is None else _holding_for(way, visible)
    rows: Any = connection.execute(statement, of).all()
    others = [name for name in ((row.name, row.folded) for row in rows) if name not in known]
    yield others, len(rows) >= at_most


def _live(
    connection: Connection,
    names: Sequence[_Name],
    tag: str,
    limits: tuple[int, int],
    visible: Visibility | None,
) -> tuple[list[TagHit], bool]:
    """Return the first live tags of these names, and whether there are too many.

    *limits* are that of the question, and how many are wanted still.
    """
    if not names:
        return [], False
    statement = _with_names() if visible is None else _with_names_for(visible)
    at_most, wanted = considered(limits[0]), limits[1]
    of = {"names": [n for n, _ in names], "tag": tag, "length": len(tag), "page": wanted, "at_most": at_most}
    rows: Any = connection.execute(statement, of).all()
    return [_hit(row, tag) for row in rows], bool(rows) and rows[0].candidates >= at_most


@lru_cache(maxsize=1)
def _with_names() -> sa.Select[Any]:
    return _with_names_for(None)


def _with_names_for(visible: Visibility | None) -> sa.Select[Any]:
    """Return the statement of live tags with some names, in the order of hits: their letters are ASCII."""
    some = (
        seen(_LIVE, visible)
        .where(Tag.name.in_(sa.bindparam("names", expanding=True)))
        .order_by(Tag.name, Tag.repository_id)
        .limit(sa.bindparam("at_most", type_=sa.Integer()))
        .subquery()
    )
    lower = sa.func.lower(some.c.tag)
    is_inside = sa.func.substr(lower, 1, sa.bindparam("length", type_=sa.Integer())) != sa.bindparam(
        "tag", type_=sa.String()
    )
    order = (is_inside, lower, some.c.tag, some.c.repository)
    counted = sa.select(some, sa.func.count().over().label("candidates"))
    return counted.order_by(*order).limit(sa.bindparam("page"))


def _hit(row: Any, tag: str) -> TagHit:
    return TagHit(row.repository, row.tag, digest_or_none(row.digest), match_of(folded(row.tag), tag))


@lru_cache(maxsize=3)
def _holding(way: Way) -> sa.Select[Any]:
    return _holding_for(way, None)


def _holding_for(way: Way, visible: Visibility | None) -> sa.Select[Any]:
    columns = sa.select(TagName.id, TagName.name, TagName.folded)
    return holding(columns, TagName, way, lambda of: is_live_name(of, visible))


# --- in repositories that are named -------------------------------------------------------------


def _in_repositories(
    connection: Connection, tag: str, repository: str, limit: int, visible: Visibility | None
) -> Found[TagHit]:
    repositories, cut = ranked(connection, repository, REPOSITORIES + 1, visible)
    cut = cut or len(repositories) > REPOSITORIES
    of = [number for number, _ in repositories[:REPOSITORIES]]
    # The best alone, and the next best: others may have so many tags that theirs would be cut.
    hits: list[TagHit] = []
    for ids in (of[:1], of[1:10], of[10:]):
        if ids and len(hits) <= limit:
            some, left_out = _starting(connection, ids, tag, considered(limit))
            hits += some
            cut = cut or left_out
    return first(hits, limit, cut=cut)


def _starting(
    connection: Connection, ids: Sequence[int], tag: str, at_most: int
) -> tuple[list[TagHit], bool]:
    """Return live tags of these repositories that start so, in their order, and whether there are more."""
    spelt = _spellings(tag)
    parameters: dict[str, Any] = {"ids": list(ids), "tag": tag, "length": len(tag), "page": at_most + 1}
    for number, text in enumerate(spelt):
        parameters |= {f"low_{number}": text, f"high_{number}": behind(text)}
    found: Any = connection.execute(_in_ranges(len(spelt)), parameters).all()
    place = {number: position for position, number in enumerate(ids)}
    # Across the ranges, too: those of the first repositories by id, then by name.
    kept = sorted(found, key=lambda row: (row.repository_id, str(row.tag)))[:at_most]
    kept.sort(
        key=lambda row: (place[row.repository_id], folded(row.tag) != tag, folded(row.tag), str(row.tag))
    )
    return [_hit(row, tag) for row in kept], len(found) > at_most


def _spellings(tag: str) -> list[str]:
    """Return the starts that names have which are *tag* without regard to case, each a range of names."""
    cased: list[str] = []
    letters = 0
    for character in tag:
        upper = character.upper()
        if len(upper) == 1 and upper != character:
            letters += 1
            if letters > _SPELT_OUT:
                break
            cased.append(character + upper)
        else:
            cased.append(character)
    return sorted(map("".join, product(*cased)))


@lru_cache(maxsize=16)
def _in_ranges(ranges: int) -> sa.Select[Any]:
    """Return the statement: each range apart, since an OR of them is not followed by an index."""
    parts: list[Any] = []
    for number in range(ranges):
        part = (
            _LIVE.where(
                Tag.repository_id.in_(sa.bindparam("ids", expanding=True)),
                Tag.name >= sa.bindparam(f"low_{number}"),
                Tag.name < sa.bindparam(f"high_{number}"),
                sa.func.lower(sa.func.substr(Tag.name, 1, sa.bindparam("length")))
                == sa.bindparam("tag", type_=sa.String()),
            )
            .order_by(Tag.repository_id, Tag.name)
            .limit(sa.bindparam("page"))
            .subquery()
        )
        parts.append(sa.select(part))
    union = parts[0].subquery() if ranges == 1 else sa.union_all(*parts).subquery()
    return sa.select(union)
