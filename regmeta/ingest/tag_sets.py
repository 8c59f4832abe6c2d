"""All tags of a repository at once, inside a transaction that holds its lock: to delete and to undelete it.

In sets, since the lock must not be held for a statement a tag: a repository may have hundreds of thousands.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.ingest.statements import Change, queue_manifests_of
from regmeta.models import Manifest, Tag
from regmeta.models.base import UtcTime

_TICK: Final = timedelta(microseconds=1)

_of: Final[Any] = sa.bindparam("of")
_at: Final[Any] = sa.bindparam("at", type_=UtcTime())
_LAST_CHANGE: Final = sa.select(
    sa.func.max(Tag.started_at, type_=UtcTime()), sa.func.max(Tag.ended_at, type_=UtcTime())
).where(Tag.repository_id == _of)
_END: Final = (
    sa.update(Tag)
    .where(Tag.repository_id == _of, Tag.ended_at.is_(None))
    .values(ended_at=_at, ended_by=sa.bindparam("by"))
)
_ENDED_THEN: Final = (Tag.repository_id == _of, Tag.ended_at == _at)
_RESTART: Final = sa.insert(Tag).from_select(
    ["repository_id", "name", "manifest_digest", "manifest_id", "started_at", "started_by"],
    sa.select(
        Tag.repository_id,
        Tag.name,
        Tag.manifest_digest,
        Tag.manifest_id,
        sa.bindparam("now", type_=UtcTime()),
        sa.bindparam("by", type_=sa.Text()),
    )
    .join(Manifest, Manifest.id == Tag.manifest_id)
    .where(*_ENDED_THEN, Manifest.deleted_at.is_(None)),
)
_COUNT: Final = (
    sa.select(sa.func.count(), sa.func.count(Manifest.id))
    .select_from(Tag)
    .outerjoin(Manifest, sa.and_(Manifest.id == Tag.manifest_id, Manifest.deleted_at.is_(None)))
    .where(*_ENDED_THEN)
)


def later_than_all(now: datetime, moments: Iterable[datetime | None]) -> datetime:
    """Return a time, from *now* on, that is later than all *moments*: what ends then is known by it."""
    return max([now, *(moment + _TICK for moment in moments if moment is not None)])


def end_all_tags(connection: Connection, change: Change, repository_id: int, window: timedelta) -> datetime:
    """End every live tag of a repository at one moment, and return it: no other interval ends at it.

    What loses its tag is looked at by the collector a *window* later.
    """
    at = later_than_all(change.stamp.now, connection.execute(_LAST_CHANGE, {"of": repository_id}).one())
    connection.execute(_END, {"of": repository_id, "at": at, "by": change.actor})
    lost = sa.select(Tag.manifest_id).where(*_ENDED_THEN, Tag.manifest_id.is_not(None)).distinct()
    parameters = {"of": repository_id, "at": at}
    queue_manifests_of(connection, change, repository_id, lost, parameters, "untagged", at + window)
    return at


def restart_tags(
    connection: Connection, change: Change, repository_id: int, ended_at: datetime
) -> tuple[int, int]:
    """Let the tags that ended at a moment start again now, in a repository that has had no live one since.

    Returns how many there were, and how many of them came back: those whose manifests are here.
    """
    of = {"of": repository_id, "at": ended_at}
    ended, restarted = connection.execute(_COUNT, of).one()
    connection.execute(_RESTART, {**of, "now": max(change.stamp.now, ended_at), "by": change.actor})
    return ended, restarted
