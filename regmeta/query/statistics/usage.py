"""How much room repositories take, one by one, and together below a prefix.

``logical_bytes``    each blob once for each image that names it, and manifests: the sum of all images
``unique_bytes``     each blob once: what is stored for it
``exclusive_bytes``  of these, blobs that nothing else links: what could be given back if it were deleted
``shared_bytes``     the others

:func:`usage` is computed from the rows of now, from each link of the repositories in question to a blob: some
seconds for a million. For a list of the whole registry there are samples of each day (:func:`sampled_usage`):
one page of an index. What those who may not see all are told is exclusive is so for everybody.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.orm import aliased

from regmeta import models
from regmeta.db import Database
from regmeta.errors import NotFound, UsageError
from regmeta.query import cursors
from regmeta.query.catalog import PAGE
from regmeta.query.results import Page
from regmeta.query.statistics.measure import SOME, Measured, measure
from regmeta.query.statistics.sampled import sampled_day
from regmeta.query.visibility import Visibility, is_under, seen, under_values

_repository = models.Repository
_sample = models.UsageSample
_REPOSITORIES: Final = (
    sa.select(_repository.id, _repository.name)
    .where(_repository.state == "active")
    .order_by(_repository.name)
)
_KEYS: Final = (int, int, int)  # day, bytes, repository
_BELOW: Final = _REPOSITORIES.where(is_under(_repository.name))


@dataclass(frozen=True, slots=True)
class Usage:
    """What one repository, or all below a prefix, hold. ``sampled_at`` is None if it was computed now."""

    name: str
    repositories: int
    tags: int
    manifests: int
    blobs: int
    logical_bytes: int
    unique_bytes: int
    exclusive_bytes: int
    sampled_at: datetime | None = None

    @property
    def shared_bytes(self) -> int:
        """How much is held by others as well."""
        return self.unique_bytes - self.exclusive_bytes


def usage(
    database: Database,
    prefix: str | None = None,
    *,
    depth: int | None = None,
    visible: Visibility | None = None,
) -> tuple[Usage, ...]:
    """Return what is held now by each repository that is *prefix* or below it, the greatest first.

    With *depth* they are put together by so many components of their names; 0 is all of them in one. What
    several of one group hold counts once, and is exclusive if nobody outside the group holds it.

    Raises:
        NotFound: no repository is there.
        UsageError: *depth* is negative.
    """
    if depth is not None and depth < 0:
        raise UsageError(f"depth: {depth}: give 0 or more")
    with database.read() as connection:
        rows = _repositories(connection, prefix, visible)
        if not rows and prefix is not None:
            raise NotFound(f"{prefix}: no such repository, and none below it")
        groups: dict[str, list[int]] = {}
        for number, name in rows:
            groups.setdefault(_group(name, prefix, depth), []).append(number)
        ids = [number for number, _ in rows]
        single: dict[int, Measured] = {}
        for start in range(0, len(ids), SOME):
            single |= measure(connection, ids[start : start + SOME])
        found = []
        for name, group in groups.items():
            parts = [single[number] for number in group]
            together = None
            if len(parts) > 1:
                ranges = [prefix, name if depth else None]
                together = _together(connection, tuple(each for each in ranges if each is not None), visible)
            found.append(_of_group(name, parts, together))
    return tuple(sorted(found, key=lambda each: (-each.unique_bytes, each.name)))


def sampled_usage(
    database: Database,
    prefix: str | None = None,
    *,
    after: str | None = None,
    limit: int = PAGE,
    visible: Visibility | None = None,
) -> Page[Usage]:
    """Return one page of what repositories held when they were last sampled, the greatest first.

    It is that of the newest day whose samples are complete; see ``regmeta usage record``. Empty if there is
    none. Repositories that came since are not in it.

    Raises:
        UsageError: *after* is no cursor of this list, or *limit* is out of range.
    """
    cursors.check_limit(limit)
    question = f"usage {prefix!r}"
    of: dict[str, Any] = {"page": limit + 1}
    keys = None
    if after is not None:
        keys = cursors.decode(question, after, _KEYS)
        of |= {"bytes": keys[1], "id": keys[2]}
    with database.read() as connection:
        day = keys[0] if keys is not None else sampled_day(connection)
        if day is None:
            return Page((), None)
        of |= {"day": day, **(under_values(prefix) if prefix is not None else {})}
        statement = _sampled(prefix is not None, after is not None)
        rows: Any = connection.execute(seen(statement, visible), of).all()
    items = tuple(
        Usage(
            row.name,
            1,
            row.tags,
            row.manifests,
            row.blobs,
            row.logical_bytes,
            row.unique_bytes,
            row.exclusive_bytes,
            row.sampled_at,
        )
        for row in rows[:limit]
    )
    following = cursors.following(
        question, rows, limit, lambda row: (day, row.unique_bytes, row.repository_id), _KEYS
    )
    return Page(items, following)


def _repositories(
    connection: Connection, prefix: str | None, visible: Visibility | None
) -> list[tuple[int, str]]:
    if prefix is None:
        rows: Any = connection.execute(seen(_REPOSITORIES, visible))
    else:
        rows = connection.execute(seen(_BELOW, visible), under_values(prefix))
    return [(number, name) for number, name in rows]


def _group(name: str, prefix: str | None, depth: int | None) -> str:
    if depth is None:
        return name
    if depth == 0:
        return prefix or "(all)"
    return "/".join(name.split("/")[:depth])


def _of_group(name: str, parts: list[Measured], together: tuple[int, int, int] | None) -> Usage:
    only = parts[0]
    blobs, unique, exclusive = together or (only.blobs, only.unique_bytes, only.exclusive_bytes)
    return Usage(
        name,
        len(parts),
        sum(part.tags for part in parts),
        sum(part.manifests for part in parts),
        blobs,
        sum(part.logical_bytes for part in parts),
        unique,
        exclusive,
    )


def _together(
    connection: Connection, ranges: tuple[str, ...], visible: Visibility | None
) -> tuple[int, int, int]:
    """Return how many blobs the repositories in all of some ranges of names hold, and their bytes.

    The last number is the bytes of those that nobody else holds.
    """
    of: dict[str, str] = {}
    for at, each in enumerate(ranges):
        of |= under_values(each, f"under_{at}")
    statement = _of_all(len(ranges)) if visible is None else _together_statement(len(ranges), visible)
    blobs, unique, exclusive = connection.execute(statement, of).one()
    return blobs, int(unique or 0), int(exclusive or 0)


@lru_cache
def _of_all(ranges: int) -> Any:
    return _together_statement(ranges, None)


def _together_statement(ranges: int, visible: Visibility | None) -> Any:
    inside, other = aliased(_repository), aliased(_repository)
    link, other_link = aliased(models.RepositoryBlob), aliased(models.RepositoryBlob)

    def belongs(repository: Any) -> sa.ColumnElement[bool]:
        within = (is_under(repository.name, f"under_{at}") for at in range(ranges))
        allowed = () if visible is None else (visible(repository),)
        return sa.and_(repository.state == "active", *within, *allowed)

    held = (
        sa.select(link.blob_id.label("id"))
        .join(inside, inside.id == link.repository_id)
        .where(belongs(inside))
        .distinct()
        .subquery()
    )
    is_elsewhere = sa.exists().where(
        other_link.blob_id == models.Blob.id, other.id == other_link.repository_id, sa.not_(belongs(other))
    )
    return (
        sa.select(
            sa.func.count(),
            sa.func.sum(models.Blob.size_bytes),
            sa.func.sum(sa.case((is_elsewhere, 0), else_=models.Blob.size_bytes)),
        )
        .select_from(held)
        .join(models.Blob, models.Blob.id == held.c.id)
    )


@lru_cache
def _sampled(has_prefix: bool, is_next: bool) -> Any:
    statement = (
        sa.select(
            _repository.name,
            _sample.repository_id,
            _sample.tags,
            _sample.manifests,
            _sample.blobs,
            _sample.logical_bytes,
            _sample.unique_bytes,
            _sample.exclusive_bytes,
            _sample.sampled_at,
        )
        .join(_repository, _repository.id == _sample.repository_id)
        .where(_sample.day == sa.bindparam("day"), _repository.state == "active")
        .order_by(_sample.unique_bytes.desc(), _sample.repository_id.desc())
        .limit(sa.bindparam("page"))
    )
    if has_prefix:
        statement = statement.where(is_under(_repository.name))
    if is_next:
        key = sa.tuple_(_sample.unique_bytes, _sample.repository_id)
        statement = statement.where(key < sa.tuple_(sa.bindparam("bytes"), sa.bindparam("id")))
    return statement
