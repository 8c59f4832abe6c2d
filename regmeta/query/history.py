"""What tags were: every interval of one tag, every change of a repository's tags, and what is locked.

Read from the intervals themselves, which stand until their repository is purged. The newest comes first; a
page starts behind the ``key`` of the last line of the one before.
"""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from regmeta import models
from regmeta.db import Database
from regmeta.errors import NotFound, UsageError
from regmeta.models.base import UtcTime
from regmeta.query import results
from regmeta.query.catalog import PAGE, repository_id
from regmeta.query.moments import IMAGE_OF_TAG

_KEY: Final = re.compile(r"(\d{1,18})-(\d{1,18})", re.ASCII)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_THE_NEWEST: Final = (datetime.max.replace(tzinfo=UTC), 0)

_of: Final[Any] = sa.bindparam("of")
_before: Final[Any] = sa.bindparam("before", type_=UtcTime())
_before_id: Final[Any] = sa.bindparam("before_id")
_other: Final = aliased(models.Tag)
_last_ended = (
    sa.select(sa.func.max(_other.ended_at, type_=UtcTime()))
    .where(_other.manifest_id == models.Manifest.id)
    .scalar_subquery()
)
_IS_USED: Final = sa.or_(
    sa.exists().where(_other.manifest_id == models.Manifest.id, _other.ended_at.is_(None)),
    sa.exists().where(models.IndexMember.child_id == models.Manifest.id),
)
_VALUES: Final = (
    sa.select(
        models.Tag.id,
        models.Tag.manifest_digest,
        models.Tag.started_at,
        models.Tag.started_by,
        models.Tag.ended_at,
        models.Tag.ended_by,
        models.Manifest.id.label("manifest_id"),
        models.Manifest.deleted_at,
        models.Manifest.lease_until,
        _last_ended.label("last_ended_at"),
        _IS_USED.label("is_used"),
    )
    .select_from(models.Tag)
    .outerjoin(models.Manifest, IMAGE_OF_TAG)
    .where(
        models.Tag.repository_id == _of,
        models.Tag.name == sa.bindparam("tag"),
        sa.or_(
            models.Tag.started_at < _before,
            sa.and_(models.Tag.started_at == _before, models.Tag.id < _before_id),
        ),
    )
    .order_by(models.Tag.started_at.desc(), models.Tag.id.desc())
    .limit(sa.bindparam("page"))
)
_SAME_TAG: Final = sa.and_(_other.repository_id == models.Tag.repository_id, _other.name == models.Tag.name)
_started = sa.select(
    models.Tag.started_at.label("at"),
    models.Tag.id.label("id"),
    models.Tag.name.label("name"),
    models.Tag.manifest_digest.label("digest"),
    models.Tag.started_by.label("by"),
    sa.select(_other.manifest_digest)
    .where(_SAME_TAG, _other.ended_at == models.Tag.started_at)
    .limit(1)
    .scalar_subquery()
    .label("previous"),
).where(models.Tag.repository_id == _of)
_removed = sa.select(
    models.Tag.ended_at,
    models.Tag.id,
    models.Tag.name,
    sa.null(),
    models.Tag.ended_by,
    models.Tag.manifest_digest,
).where(
    models.Tag.repository_id == _of,
    models.Tag.ended_at.is_not(None),
    ~sa.exists().where(_SAME_TAG, _other.started_at == models.Tag.ended_at),
)
_changes = sa.union_all(_started, _removed).subquery("changes")
_CHANGES: Final = (
    sa.select(_changes)
    .where(
        sa.or_(_changes.c.at < _before, sa.and_(_changes.c.at == _before, _changes.c.id < _before_id)),
    )
    .order_by(_changes.c.at.desc(), _changes.c.id.desc())
    .limit(sa.bindparam("page"))
)
_EVER: Final = sa.select(models.Tag.id).where(
    models.Tag.repository_id == _of, models.Tag.name == sa.bindparam("tag")
)
LOCKS: Final = (
    sa.select(models.TagLock.pattern, models.TagLock.created_at, models.TagLock.created_by)
    .where(models.TagLock.repository_id == _of)
    .order_by(models.TagLock.pattern)
)


def values_of(
    database: Database,
    repository: str,
    tag: str,
    window: timedelta,
    *,
    after: str | None = None,
    limit: int = PAGE,
) -> list[results.TagValue]:
    """Return one page of all that a tag was; *window* is how long history is kept.

    Raises:
        NotFound: there is no such repository, or the tag never was.
        UsageError: *after* is no key.
    """
    before, before_id = _parsed(after)
    with database.read() as connection:
        of: dict[str, Any] = {"of": repository_id(connection, repository), "tag": tag}
        page = {**of, "before": before, "before_id": before_id, "page": limit}
        rows = connection.execute(_VALUES, page).all()
        if not rows and connection.execute(_EVER, of).first() is None:
            raise NotFound(f"{repository}:{tag}: no such tag, now or before")
    return [_value(row, window) for row in rows]


def changes(
    database: Database, repository: str, *, after: str | None = None, limit: int = PAGE
) -> list[results.TagChange]:
    """Return one page of all changes of a repository's tags.

    Costs time in proportion to all that there were.

    Raises:
        NotFound: there is no such repository.
        UsageError: *after* is no key.
    """
    before, before_id = _parsed(after)
    with database.read() as connection:
        of = repository_id(connection, repository)
        page = {"of": of, "before": before, "before_id": before_id, "page": limit}
        rows = connection.execute(_CHANGES, page).all()
    return [
        results.TagChange(
            _key(row.at, row.id), row.at, row.name, _kind(row), row.digest, row.previous, row.by
        )
        for row in rows
    ]


def locks(database: Database, repository: str) -> list[results.TagLock]:
    """Return the locks on a repository's tags, by pattern.

    Raises:
        NotFound: there is no such repository.
    """
    with database.read() as connection:
        of = repository_id(connection, repository)
        rows: Any = connection.execute(LOCKS, {"of": of})
        return [results.TagLock(pattern, "lock", at, by) for pattern, at, by in rows]


def _value(row: Any, window: timedelta) -> results.TagValue:
    image: Literal["here", "deleted", "collected"] = "here"
    kept_until = None
    if row.manifest_id is None:
        image = "collected"
    else:
        if row.deleted_at is not None:
            image = "deleted"
        if not row.is_used or row.deleted_at is not None:
            ends = [moment + window for moment in (row.last_ended_at, row.deleted_at) if moment is not None]
            kept_until = max([row.lease_until, *ends])
    return results.TagValue(
        _key(row.started_at, row.id),
        row.manifest_digest,
        row.started_at,
        row.started_by,
        row.ended_at,
        row.ended_by,
        image,
        kept_until,
    )


def _kind(row: Any) -> Literal["created", "moved", "removed"]:
    if row.digest is None:
        return "removed"
    return "created" if row.previous is None else "moved"


def _key(at: datetime, number: int) -> str:
    return f"{(at - _EPOCH) // _MICROSECOND}-{number}"


def _parsed(key: str | None) -> tuple[datetime, int]:
    if key is None:
        return _THE_NEWEST
    found = _KEY.fullmatch(key)
    if found is not None:
        with suppress(OverflowError):
            return _EPOCH + timedelta(microseconds=int(found[1])), int(found[2])
    raise UsageError(f"--after {key!r}: give the key of the last line of the page before (see --json)")
