"""Moving tags inside a transaction that holds their repository's lock.

A tag is a chain of intervals. The new one starts where the old one ends, at max(database clock after the
lock, start of the last one + 1 us): neither a clock that goes back nor two moves in one tick can make an
interval that ends before it starts. Who knows that the tag was moved earlier, elsewhere, takes the place of
the clock in that, where the interval that ends is its own.

An immutable tag is made once: what would move or end one that is live is refused, after the lock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import db
from regmeta.ingest.immutable import TagTerms, refuse_immutable
from regmeta.ingest.inserting import many
from regmeta.ingest.plan import TagChange
from regmeta.ingest.reserve import chunks
from regmeta.ingest.statements import Change, queue_manifests, record_events
from regmeta.models import Tag
from regmeta.models.base import UtcTime
from regmeta.oci.digest import Digest
from regmeta.query.history import LOCKS

_TICK: Final = timedelta(microseconds=1)
_LIVE: Final = sa.select(
    Tag.id, Tag.name, Tag.manifest_digest, Tag.manifest_id, Tag.started_at, Tag.started_by
).where(
    Tag.repository_id == sa.bindparam("repository"),
    Tag.name.in_(sa.bindparam("names", expanding=True)),
    Tag.ended_at.is_(None),
)
_LAST_ENDS: Final = (
    sa.select(Tag.name, sa.func.max(Tag.ended_at, type_=UtcTime()))
    .where(
        Tag.repository_id == sa.bindparam("repository"),
        Tag.name.in_(sa.bindparam("names", expanding=True)),
    )
    .group_by(Tag.name)
)
_LAST_END: Final = (
    sa.select(Tag.name, Tag.ended_at)
    .where(Tag.repository_id == sa.bindparam("repository"), Tag.name == sa.bindparam("called"))
    .order_by(Tag.started_at.desc(), Tag.id.desc())
    .limit(1)
)
_END: Final = (
    sa.update(Tag)
    .where(Tag.id == sa.bindparam("of"))
    .values(ended_at=sa.bindparam("at"), ended_by=sa.bindparam("by"))
)


@dataclass(frozen=True, slots=True)
class Known:
    """What the rows say of tags, read behind the repository's lock; None was not asked for."""

    live: Mapping[str, Any]
    locks: Sequence[str] | None = None
    last_ends: Mapping[str, datetime] | None = None


class Question:
    """What has to be known of tags before they are moved, to be asked together with other things."""

    def __init__(self, connection: Connection, repository_id: int, tags: Collection[str], terms: TagTerms):
        names = sorted(tags)
        self.asked: list[db.Asked] = [
            (_LIVE, {"repository": repository_id, "names": some}) for some in chunks(names)
        ]
        # Only some moves need the rest. It is asked for where it rides along, and not where it is a
        # statement more.
        rides = bool(names) and db.is_pipelined(connection)
        self._locks = rides and terms.immutable is not None
        self._last_end = rides and len(names) == 1
        if self._locks:
            self.asked.append((LOCKS, {"of": repository_id}))
        if self._last_end:
            self.asked.append((_LAST_END, {"repository": repository_id, "called": names[0]}))

    def answered(self, results: Sequence[sa.CursorResult[Any]]) -> Known:
        """Return what the results of what was *asked* say."""
        left = list(results)
        last_ends = locks = None
        if self._last_end:
            last_ends = {row.name: row.ended_at for row in left.pop() if row.ended_at is not None}
        if self._locks:
            locks = left.pop().scalars().all()
        return Known({row.name: row for result in left for row in result}, locks, last_ends)


def move_tags(
    connection: Connection,
    change: Change,
    repository: tuple[int, str],
    targets: Mapping[str, Digest],
    manifest_ids: Mapping[Digest, int],
    terms: TagTerms,
    known: Known | None = None,
    since: Mapping[str, datetime] = MappingProxyType({}),
) -> list[TagChange]:
    """Point tags at manifests; a tag that points there already is left as it is. Returns what changed.

    The caller lets the names be found, last of all (``ingest.searchable``). *known* is the answer to a
    :class:`Question` about these tags that was asked behind the lock. *since* says of tags that they were
    moved earlier than now.

    Raises:
        ImmutableTag: names those that may not be moved; nothing has happened.
    """
    repository_id, name = repository
    if known is None:
        known = _known(connection, repository_id, targets, terms)
    live = known.live
    moved = [
        tag
        for tag, digest in sorted(targets.items())
        if tag not in live or live[tag].manifest_digest != digest
    ]
    refuse_immutable(connection, repository, [tag for tag in moved if tag in live], terms, known.locks)
    last_ends = known.last_ends
    if last_ends is None:
        last_ends = _last_ends(connection, repository_id, [tag for tag in moved if tag not in live])
    now = change.stamp.now
    ends, starts, changes = [], [], []
    for tag in moved:
        previous = live.get(tag)
        # What somebody else has set here was so until now, whatever was so elsewhere.
        is_mine = previous is None or previous.started_by == change.actor
        moved_at = min(now, since.get(tag, now)) if is_mine else now
        at = max(moved_at, previous.started_at + _TICK if previous else last_ends.get(tag, moved_at))
        if previous:
            ends.append({"of": previous.id, "at": at, "by": change.actor})
        starts.append(
            {
                "repository_id": repository_id,
                "name": tag,
                "manifest_digest": targets[tag],
                "manifest_id": manifest_ids[targets[tag]],
                "started_at": at,
                "started_by": change.actor,
            }
        )
        changes.append(TagChange(name, tag, targets[tag], previous.manifest_digest if previous else None))
    _write(connection, ends, starts)
    displaced = [live[tag].manifest_id for tag in moved if tag in live]
    _afterwards(connection, change, repository_id, changes, displaced, terms.garbage_delay)
    return changes


def end_tags(
    connection: Connection,
    change: Change,
    repository: tuple[int, str],
    tags: Iterable[str],
    terms: TagTerms,
) -> list[TagChange]:
    """End the live intervals of tags; one that is not live is left out of the answer.

    Raises:
        ImmutableTag: names those that may not be removed; nothing has happened.
    """
    repository_id, name = repository
    known = _known(connection, repository_id, list(tags), terms)
    live = sorted(known.live.values(), key=lambda row: str(row.name))
    refuse_immutable(connection, repository, [row.name for row in live], terms, known.locks)
    now = change.stamp.now
    ends = [{"of": row.id, "at": max(now, row.started_at + _TICK), "by": change.actor} for row in live]
    _write(connection, ends, [])
    changes = [TagChange(name, row.name, None, row.manifest_digest) for row in live]
    displaced = [row.manifest_id for row in live]
    _afterwards(connection, change, repository_id, changes, displaced, terms.garbage_delay)
    return changes


def _known(connection: Connection, repository_id: int, tags: Collection[str], terms: TagTerms) -> Known:
    question = Question(connection, repository_id, tags, terms)
    return question.answered(db.together(connection, *question.asked))


def _last_ends(connection: Connection, repository_id: int, tags: Sequence[str]) -> dict[str, datetime]:
    """Return when the last interval of each tag ended; tags that never were are left out."""
    found: dict[str, datetime] = {}
    for some in chunks(tags):
        rows = connection.execute(_LAST_ENDS, {"repository": repository_id, "names": some})
        found.update({name: ended_at for name, ended_at in rows if ended_at is not None})
    return found


def _write(connection: Connection, ends: list[dict[str, Any]], starts: list[dict[str, Any]]) -> None:
    if ends:
        connection.execute(_END, ends)
    if starts:
        connection.execute(*many(connection, Tag, starts))


def _afterwards(
    connection: Connection,
    change: Change,
    repository_id: int,
    changes: list[TagChange],
    displaced: list[int],
    garbage_delay: timedelta,
) -> None:
    """Tell the feed, and let the collector look at what lost a tag."""
    record_events(
        connection,
        [
            change.event(
                "tag.removed" if item.digest is None else "tag.moved" if item.previous else "tag.created",
                repository_id,
                tag=item.tag,
                digest=item.digest,
                previous=item.previous,
            )
            for item in changes
        ],
    )
    queue_manifests(connection, change, repository_id, displaced, "untagged", garbage_delay)
