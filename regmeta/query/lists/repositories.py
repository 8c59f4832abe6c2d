"""The repositories that can be read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, Literal, get_args

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.orm import aliased

from regmeta import db
from regmeta.db import Database
from regmeta.models import Favorite, Manifest, PullStatistic, Repository, Tag, UsageSample
from regmeta.query.catalog import PAGE
from regmeta.query.lists import paging
from regmeta.query.lists.filters import exact, named, repository_contains, shape_of
from regmeta.query.lists.paging import Asked, Key, Part, Shape
from regmeta.query.results import Page
from regmeta.query.statistics.days import day_of
from regmeta.query.statistics.sampled import NEWEST_DAY, sampled_day
from regmeta.query.stored import raw_time, time_or_none
from regmeta.query.visibility import Visibility, is_under, seen

RepositorySort = Literal["name", "created", "updated", "size", "tags", "manifests", "pulls", "stars"]

PULL_DAYS: Final = 30
"""Pulls are counted of today and the days before it, this many in all (UTC)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryFilter:
    """Which repositories; what is None does not matter. All that is set must hold.

    *name* is a pattern of the whole name (see :mod:`regmeta.oci.globs`), *contains* a piece of it, *under* a
    repository's name: that one and all below it. *has_tag* is a tag that it has now. Times are from *_from*
    on and before *_until*; *starred_by* and *bookmarked_by* are names of users.
    """

    name: str | None = None
    contains: str | None = None
    under: str | None = None
    has_tag: str | None = None
    created_from: datetime | None = None
    created_until: datetime | None = None
    updated_from: datetime | None = None
    updated_until: datetime | None = None
    starred_by: str | None = None
    bookmarked_by: str | None = None


@dataclass(frozen=True, slots=True)
class RepositoryItem:
    """One repository in a list. Tags and manifests are counted now.

    ``size_bytes`` counts each blob once; it is of the newest day on which all repositories were sampled, and
    None of one that was not. ``pulls`` are those of the last 30 days, and only counted in a list by pulls.
    A time that a damaged row holds is None.
    """

    name: str
    tags: int
    manifests: int
    size_bytes: int | None
    stars: int
    pulls: int | None
    created_at: datetime | None
    updated_at: datetime | None


_day: Final[Any] = sa.bindparam("day", type_=sa.Integer())
_tags = (
    sa.select(sa.func.count())
    .select_from(Tag)
    .where(Tag.repository_id == Repository.id, Tag.ended_at.is_(None))
    .scalar_subquery()
)
_manifests = (
    sa.select(sa.func.count())
    .select_from(Manifest)
    .where(Manifest.repository_id == Repository.id, Manifest.deleted_at.is_(None))
    .scalar_subquery()
)
_stars = (
    sa.select(sa.func.count())
    .select_from(Favorite)
    .where(Favorite.repository_id == Repository.id, Favorite.kind == "star")
    .scalar_subquery()
)
_sample = aliased(UsageSample)
_size = (
    sa.select(_sample.unique_bytes)
    .where(
        _sample.repository_id == Repository.id,
        _sample.day == NEWEST_DAY.scalar_subquery(),
    )
    .scalar_subquery()
)
_recent = (
    sa.select(
        PullStatistic.repository_id,
        sa.cast(sa.func.sum(PullStatistic.pulls), sa.BigInteger).label("pulls"),
    )
    .where(PullStatistic.day > _day - PULL_DAYS, PullStatistic.day <= _day)
    .group_by(PullStatistic.repository_id)
    .subquery("recent")
)
_starred = (
    sa.select(Favorite.repository_id, sa.func.count().label("stars"))
    .where(Favorite.kind == "star")
    .group_by(Favorite.repository_id)
    .subquery("starred")
)
_pulls = sa.func.coalesce(_recent.c.pulls, sa.literal_column("0"))
_id = Key(Repository.id)
_SORTS: Final[dict[str, tuple[Key, ...]]] = {
    "name": (Key(Repository.name, str),),
    "created": (Key(Repository.created_at), _id),
    "updated": (Key(Repository.updated_at), _id),
    # By the samples' own id, so that their index has both keys.
    "size": (Key(UsageSample.unique_bytes, is_nullable=True), Key(UsageSample.repository_id)),
    "tags": (Key(UsageSample.tags, is_nullable=True), _id),
    "manifests": (Key(UsageSample.manifests, is_nullable=True), _id),
    "pulls": (Key(_pulls), _id),
    "stars": (Key(sa.func.coalesce(_starred.c.stars, sa.literal_column("0"))), _id),
}
_SAMPLED: Final = frozenset({"size", "tags", "manifests"})


def repositories(
    database: Database,
    where: RepositoryFilter | None = None,
    *,
    sort: RepositorySort = "name",
    descending: bool = False,
    after: str | None = None,
    limit: int = PAGE,
    total: bool = False,
    visible: Visibility | None = None,
) -> Page[RepositoryItem]:
    """Return one page of the repositories.

    Sorts: *name*, *created*, *updated*; *size*, *tags* and *manifests*, as they were on the newest day on
    which all repositories were sampled (those that came since are last), and then these three are shown as
    they were; *pulls*, of the last 30 days; *stars*.
    All pages by what was sampled, or by *pulls*, are about the day of the first. A page by *name*, *updated*
    or *size* reads the rows it shows; by *created*, *tags* or *manifests* it costs time in proportion to the
    repositories there are, by *pulls* and *stars* to the pulls of those days and to all stars as well.

    Raises:
        UsageError: *after* is of another list, or a filter, order or limit is none.
    """
    where = where or RepositoryFilter()
    paging.check_choice("sort", sort, get_args(RepositorySort))
    shape, values = shape_of(where)
    question = paging.question("repositories", sort, descending, where)
    keys, accept = _SORTS[sort], exact(where.name)
    asked = Asked(question, keys, descending, after, paging.check_limit(limit), values, accept)

    def statement(part: Part | None) -> Any:
        return seen(_statement(sort, descending, part, shape, database.is_sqlite), visible)

    with database.read() as connection:
        if sort in _SAMPLED or sort == "pulls":
            day = _day_of(connection, sort) if after is None else paging.start(question, after, keys, 1)[0]
            asked = replace(asked, pinned=(day,))
            values["day"] = day
        rows = asked.rows(connection, statement)
        count = paging.counted(connection, statement(None), values, accept) if total else None
    return asked.page(rows, lambda row: _item(row, sort), count)


def _day_of(connection: Connection, sort: str) -> int:
    """Return the day that a list is about: of the newest samples, or today."""
    if sort in _SAMPLED:
        return sampled_day(connection) or 0
    return day_of(db.clock(connection))


@lru_cache(maxsize=256)
def _statement(sort: str, descending: bool, part: Part | None, shape: Shape, is_sqlite: bool) -> Any:
    """Return the statement for one page, or without *part* the one for all."""
    is_sampled = sort in _SAMPLED and part is not None and not part.startswith("nulls")
    # Of the day that all pages are about: those that come after the sampled ones have no size on it.
    size: Any = _size
    if sort in _SAMPLED:
        size = UsageSample.unique_bytes if is_sampled else sa.null()
    columns = sa.select(
        Repository.name.label("name"),
        # The largest repositories have the most to count, and their samples say it.
        UsageSample.tags if is_sampled else _tags,
        UsageSample.manifests if is_sampled else _manifests,
        size,
        _stars,
        _pulls if sort == "pulls" else sa.null(),
        raw_time(Repository.created_at),
        raw_time(Repository.updated_at),
    )
    keys = _SORTS[sort]
    of_day = sa.and_(UsageSample.repository_id == Repository.id, UsageSample.day == _day)
    source: Any = Repository
    if is_sampled:
        source = sa.join(UsageSample, Repository, of_day)
    elif part is not None and sort in _SAMPLED:
        # A join cannot say it to an index; that there is no sample can be looked up.
        columns = columns.where(~sa.exists().where(of_day))
        keys = (Key(sa.null(), is_nullable=True), _id)
    elif sort == "pulls":
        source = sa.outerjoin(Repository, _recent, _recent.c.repository_id == Repository.id)
    elif sort == "stars":
        source = sa.outerjoin(Repository, _starred, _starred.c.repository_id == Repository.id)
    base = columns.select_from(source).where(Repository.state == "active")
    for name, form in shape:
        if name == "name":
            base = base.where(named(Repository.name, form))
        elif name == "contains":
            base = base.where(repository_contains(bool(form), is_sqlite))
        else:
            base = base.where(_CONDITIONS[name])
    return base if part is None else paging.paged(base, keys, part, descending)


def _favored(kind: str, user: str) -> sa.ColumnElement[bool]:
    of = sa.select(Favorite.repository_id).where(
        Favorite.user_name == sa.bindparam(user, type_=Favorite.user_name.type), Favorite.kind == kind
    )
    return Repository.id.in_(of)


_CONDITIONS: Final[dict[str, sa.ColumnElement[bool]]] = {
    "under": is_under(Repository.name),
    "has_tag": sa.exists().where(
        Tag.repository_id == Repository.id, Tag.name == sa.bindparam("has_tag"), Tag.ended_at.is_(None)
    ),
    "created_from": Repository.created_at >= sa.bindparam("created_from"),
    "created_until": Repository.created_at < sa.bindparam("created_until"),
    "updated_from": Repository.updated_at >= sa.bindparam("updated_from"),
    "updated_until": Repository.updated_at < sa.bindparam("updated_until"),
    "starred_by": _favored("star", "starred_by"),
    "bookmarked_by": _favored("bookmark", "bookmarked_by"),
}


def _item(row: Any, sort: str) -> RepositoryItem:
    name, tags, manifests, size_bytes, stars, pulls, created_at, updated_at = row[:8]
    return RepositoryItem(
        name,
        tags,
        manifests,
        size_bytes,
        stars,
        pulls if sort == "pulls" else None,
        time_or_none(created_at),
        time_or_none(updated_at),
    )
