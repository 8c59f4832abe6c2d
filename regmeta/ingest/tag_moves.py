"""Moving tags inside a transaction that holds their repository's lock.

A tag is a chain of intervals. The new one starts where the old one ends, at max(database clock after the
lock, start of the last one + 1 us): neither a clock that goes back nor two moves in one tick can make an
interval that ends before it starts.

An immutable tag is made once: what would move or end one that is live is refused, after the lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.ingest.immutable import TagTerms, refuse_immutable
from regmeta.ingest.plan import TagChange
from regmeta.ingest.reserve import chunks
from regmeta.ingest.statements import Change, queue_manifests, record_events
from regmeta.models import Tag
from regmeta.models.base import UtcTime
from regmeta.oci.digest import Digest

_TICK: Final = timedelta(microseconds=1)
_LIVE: Final = sa.select(Tag.id, Tag.name, Tag.manifest_digest, Tag.manifest_id, Tag.started_at).where(
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
_END: Final = (
    sa.update(Tag)
    .where(Tag.id == sa.bindparam("of"))
    .values(ended_at=sa.bindparam("at"), ended_by=sa.bindparam("by"))
)


def move_tags(
    connection: Connection,
    change: Change,
    repository: tuple[int, str],
    targets: Mapping[str, Digest],
    manifest_ids: Mapping[Digest, int],
    terms: TagTerms,
) -> list[TagChange]:
    """Point tags at manifests; a tag that points there already is left as it is. Returns what changed.

    The caller lets the names be found, last of all (``ingest.searchable``).

    Raises:
        ImmutableTag: names those that may not be moved; nothing has happened.
    """
    repository_id, name = repository
    live = _live(connection, repository_id, targets)
    moved = [
        tag
        for tag, digest in sorted(targets.items())
        if tag not in live or live[tag].manifest_digest != digest
    ]
    refuse_immutable(connection, repository, [tag for tag in moved if tag in live], terms)
    last_ends = _last_ends(connection, repository_id, [tag for tag in moved if tag not in live])
    now = change.stamp.now
    ends, starts, changes = [], [], []
    for tag in moved:
        previous = live.get(tag)
        at = max(now, previous.started_at + _TICK if previous else last_ends.get(tag, now))
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
    live = sorted(_live(connection, repository_id, tags).values(), key=lambda row: str(row.name))
    refuse_immutable(connection, repository, [row.name for row in live], terms)
    now = change.stamp.now
    ends = [{"of": row.id, "at": max(now, row.started_at + _TICK), "by": change.actor} for row in live]
    _write(connection, ends, [])
    changes = [TagChange(name, row.name, None, row.manifest_digest) for row in live]
    displaced = [row.manifest_id for row in live]
    _afterwards(connection, change, repository_id, changes, displaced, terms.garbage_delay)
    return changes


def _live(connection: Connection, repository_id: int, tags: Iterable[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for some in chunks(sorted(tags)):
        rows = connection.execute(_LIVE, {"repository": repository_id, "names": some})
        found.update({row.name: row for row in rows})
    return found


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
        connection.execute(sa.insert(Tag), starts)


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
