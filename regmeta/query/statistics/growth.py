"""How much room was taken, day by day, from the samples that ``regmeta usage record`` wrote."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from regmeta import models
from regmeta.db import Database
from regmeta.query.statistics.days import date_of, last_days
from regmeta.query.visibility import Visibility, is_under, seen, under_values

DAYS = 30

_repository = models.Repository
_sample = models.UsageSample


@dataclass(frozen=True, slots=True)
class GrowthPoint:
    """What repositories held on one day.

    Bytes are sums over repositories: what several of them hold is in ``unique_bytes`` once for each, and in
    ``exclusive_bytes`` not at all. For one repository both are exact.
    """

    day: date
    repositories: int
    tags: int
    manifests: int
    logical_bytes: int
    unique_bytes: int
    exclusive_bytes: int


def growth(
    database: Database, prefix: str | None = None, *, days: int = DAYS, visible: Visibility | None = None
) -> tuple[GrowthPoint, ...]:
    """Return what the repositories that are *prefix* or below it held on each of so many days up to today.

    Days without a sample are left out, and so are repositories that are deleted now. It reads the samples in
    question: for the whole registry one for each repository and day.

    Raises:
        UsageError: *days* is out of range.
    """
    with database.read() as connection:
        first, last = last_days(connection, days)
        of: dict[str, Any] = {"first": first, "last": last}
        if prefix is not None:
            of |= under_values(prefix)
        rows: Any = connection.execute(seen(_by_day(prefix is not None), visible), of).all()
    return tuple(GrowthPoint(date_of(day), *map(int, numbers)) for day, *numbers in rows)


@lru_cache
def _by_day(has_prefix: bool) -> Any:
    statement = (
        sa.select(
            _sample.day,
            sa.func.count(),
            sa.func.sum(_sample.tags),
            sa.func.sum(_sample.manifests),
            sa.func.sum(_sample.logical_bytes),
            sa.func.sum(_sample.unique_bytes),
            sa.func.sum(_sample.exclusive_bytes),
        )
        .join(_repository, _repository.id == _sample.repository_id)
        .where(
            _sample.day.between(sa.bindparam("first"), sa.bindparam("last")), _repository.state == "active"
        )
        .group_by(_sample.day)
        .order_by(_sample.day)
    )
    if has_prefix:
        statement = statement.where(is_under(_repository.name))
    return statement
