"""How often images were pulled, when last, which ones most; and who pushed them.

Rows are one per image, tag by which it was pulled, and day. So a pull is counted once, whatever tags its
image has. A question about one repository reads its rows of the days that are asked for, and all of its rows
if it was not pulled on any of them; one about the whole registry all rows of those days.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import models
from regmeta.db import Database
from regmeta.oci.digest import Digest
from regmeta.oci.names import Reference
from regmeta.query.catalog import repository_id
from regmeta.query.cursors import check_limit
from regmeta.query.statistics.days import date_of, last_days
from regmeta.query.stored import raw_time, time_or_none
from regmeta.query.visibility import Visibility, seen

DAYS: Final = 30
TOP: Final = 20

_row = models.PullStatistic
_pulls = sa.func.sum(_row.pulls)
_last = sa.func.max(raw_time(_row.last_pulled_at))
_of: Final[Any] = sa.bindparam("of")
_WHO: Final = (
    sa.select(
        models.Manifest.pushed_by,
        sa.func.count(),
        sa.func.max(raw_time(models.Manifest.pushed_at)),
    )
    .where(models.Manifest.repository_id == _of, models.Manifest.deleted_at.is_(None))
    .group_by(models.Manifest.pushed_by)
    .order_by(sa.func.count().desc(), models.Manifest.pushed_by)
    .limit(sa.bindparam("page"))
)


@dataclass(frozen=True, slots=True)
class DayPulls:
    """How often on one day of UTC."""

    day: date
    pulls: int


@dataclass(frozen=True, slots=True)
class Pulls:
    """The pulls of a repository, a tag or a digest in some days up to today; days without any are there too.

    ``last_pulled_at`` is that of all time; None if it never was, as far as statistics were kept.
    """

    name: str
    pulls: int
    last_pulled_at: datetime | None
    days: tuple[DayPulls, ...]


@dataclass(frozen=True, slots=True)
class TopRepository:
    """A repository, and how often it was pulled in some days."""

    repository: str
    pulls: int
    last_pulled_at: datetime | None


@dataclass(frozen=True, slots=True)
class TopImage:
    """An image of a repository, and how often it was pulled in some days."""

    repository: str
    digest: Digest
    pulls: int
    last_pulled_at: datetime | None


@dataclass(frozen=True, slots=True)
class Pusher:
    """Who pushed manifests of a repository that are still here: how many, and when last.

    A time that a damaged row hides is None, here and of pulls.
    """

    actor: str
    manifests: int
    last_pushed_at: datetime | None


def pulls(
    database: Database, reference: Reference, *, days: int = DAYS, visible: Visibility | None = None
) -> Pulls:
    """Return the pulls of a repository (a reference without tag and digest), of a tag, or of a digest.

    Those of a tag are those by its name, whatever it pointed at; those of a digest are by any tag or none.
    What was never pulled has none, whether it exists or not.

    Raises:
        NotFound: there is no such repository.
        UsageError: *days* is out of range.
    """
    with database.read() as connection:
        first, last = last_days(connection, days)
        of: dict[str, Any] = {"of": repository_id(connection, reference.repository, None, visible)}
        if reference.digest is not None:
            of["digest"] = reference.digest
        elif reference.tag is not None:
            of["tag"] = reference.tag
        shape = reference.digest is not None, reference.digest is None and reference.tag is not None
        wanted = list(range(first, last + 1))
        rows: Any = connection.execute(_by_day(*shape), {**of, "days": wanted}).all()
        last_pulled_at = max((at for *_, raw in rows if (at := time_or_none(raw)) is not None), default=None)
        if last_pulled_at is None:
            last_pulled_at = time_or_none(connection.execute(_last_of(*shape), of).scalar())
    found = {day: int(count) for day, count, _ in rows}
    by_day = tuple(DayPulls(date_of(day), found.get(day, 0)) for day in wanted)
    return Pulls(str(reference), sum(found.values()), last_pulled_at, by_day)


def top_repositories(
    database: Database, *, days: int = DAYS, limit: int = TOP, visible: Visibility | None = None
) -> tuple[TopRepository, ...]:
    """Return the repositories that were pulled most in so many days up to today.

    Raises:
        UsageError: *days* or *limit* is out of range.
    """
    check_limit(limit)
    with database.read() as connection:
        rows = _top(connection, _top_statement(by_image=False), days, limit, visible)
    return tuple(TopRepository(name, int(count), time_or_none(at)) for name, count, at in rows)


def top_images(
    database: Database, *, days: int = DAYS, limit: int = TOP, visible: Visibility | None = None
) -> tuple[TopImage, ...]:
    """Return the images that were pulled most in so many days up to today; they may have gone since.

    Raises:
        UsageError: *days* or *limit* is out of range.
    """
    check_limit(limit)
    with database.read() as connection:
        rows = _top(connection, _top_statement(by_image=True), days, limit, visible)
    return tuple(TopImage(name, digest, int(count), time_or_none(at)) for name, count, at, digest in rows)


def pushers(
    database: Database, repository: str, *, limit: int = TOP, visible: Visibility | None = None
) -> tuple[Pusher, ...]:
    """Return who pushed most of a repository's manifests that are here.

    Raises:
        NotFound: there is no such repository.
        UsageError: *limit* is out of range.
    """
    check_limit(limit)
    with database.read() as connection:
        of = repository_id(connection, repository, None, visible)
        rows: Any = connection.execute(_WHO, {"of": of, "page": limit}).all()
    return tuple(Pusher(actor, count, time_or_none(at)) for actor, count, at in rows)


def _top(connection: Connection, statement: Any, days: int, limit: int, visible: Visibility | None) -> Any:
    first, last = last_days(connection, days)
    return connection.execute(seen(statement, visible), {"first": first, "last": last, "page": limit}).all()


@lru_cache
def _by_day(by_digest: bool, by_tag: bool) -> Any:
    # Each day is one range of the index on (day, repository), or of the key of the digest.
    statement = sa.select(_row.day, _pulls, _last).where(_row.day.in_(sa.bindparam("days", expanding=True)))
    return _narrowed(statement, by_digest, by_tag).group_by(_row.day)


@lru_cache
def _last_of(by_digest: bool, by_tag: bool) -> Any:
    return _narrowed(sa.select(_last), by_digest, by_tag)


def _narrowed(statement: sa.Select[*tuple[Any, ...]], by_digest: bool, by_tag: bool) -> Any:
    statement = statement.where(_row.repository_id == _of)
    if by_digest:
        statement = statement.where(_row.digest == sa.bindparam("digest"))
    if by_tag:
        statement = statement.where(_row.tag == sa.bindparam("tag"))
    return statement


@lru_cache
def _top_statement(*, by_image: bool) -> Any:
    """Return the top by pulls; sums are made before names are looked up."""
    what = [_row.repository_id, _row.digest] if by_image else [_row.repository_id]
    sums = (
        sa.select(*what, _pulls.label("pulls"), _last.label("last"))
        .where(_row.day.between(sa.bindparam("first"), sa.bindparam("last")))
        .group_by(*what)
        .subquery()
    )
    columns = [models.Repository.name, sums.c.pulls, sums.c.last]
    order = [sums.c.pulls.desc(), models.Repository.name]
    if by_image:
        columns.append(sums.c.digest)
        order.append(sums.c.digest)
    return (
        sa.select(*columns)
        .join(models.Repository, models.Repository.id == sums.c.repository_id)
        .where(models.Repository.state == "active")
        .order_by(*order)
        .limit(sa.bindparam("page"))
    )
