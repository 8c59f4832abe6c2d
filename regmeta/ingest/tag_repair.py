"""Putting a tag back that points at nothing, or at another manifest than it says.

The digest that stands in the interval decides, since it was written with it; unless nothing here has it, and
the manifest that the interval points at is whole. Where neither is left, the tag goes back to the last
interval of its history whose manifest is, if nobody has deleted that. That a tag is immutable does not keep
it damaged.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.ingest.statements import Change, queue_manifests, record_events
from regmeta.models import Manifest, Tag
from regmeta.oci.digest import Digest

_TICK: Final = timedelta(microseconds=1)
_TAG: Final = sa.select(
    Tag.id, Tag.repository_id, Tag.name, Tag.manifest_digest, Tag.manifest_id, Tag.started_at, Tag.ended_at
).where(Tag.id == sa.bindparam("of"), Tag.repository_id == sa.bindparam("repository"))
_MANIFEST: Final = sa.select(Manifest.id).where(
    Manifest.repository_id == sa.bindparam("repository"), Manifest.digest == sa.bindparam("wanted")
)
_NAMED: Final = sa.select(Manifest.digest, Manifest.content).where(
    Manifest.repository_id == sa.bindparam("repository"), Manifest.id == sa.bindparam("of")
)
_NEXT_START: Final = (
    sa.select(Tag.started_at)
    .where(
        Tag.repository_id == sa.bindparam("repository"),
        Tag.name == sa.bindparam("tag"),
        sa.or_(
            Tag.started_at > sa.bindparam("at"),
            sa.and_(Tag.started_at == sa.bindparam("at"), Tag.id > sa.bindparam("of")),
        ),
    )
    .order_by(Tag.started_at, Tag.id)
    .limit(1)
)
_EARLIER: Final = (
    sa.select(Tag.manifest_digest, Manifest.id)
    .join(
        Manifest,
        sa.and_(Manifest.repository_id == Tag.repository_id, Manifest.digest == Tag.manifest_digest),
    )
    .where(
        Tag.repository_id == sa.bindparam("repository"),
        Tag.name == sa.bindparam("tag"),
        Tag.ended_at.is_not(None),
        Tag.id != sa.bindparam("of"),
        Manifest.deleted_at.is_(None),
    )
    .order_by(Tag.started_at.desc(), Tag.id.desc())
    .limit(1)
)


def restore_tag(
    connection: Connection, change: Change, repository_id: int, tag_id: int, window: timedelta
) -> str | None:
    """Put one interval right, under its repository's lock; say what was done, None if nothing could be.

    The rows before and after it in the tag's history stay as they are. What it pointed at by mistake is
    looked at by the collector a *window* later: nothing else may keep it.
    """
    of: dict[str, Any] = {"repository": repository_id, "of": tag_id}
    tag: Any = connection.execute(_TAG, of).first()
    if tag is None:
        return None
    done = _trim(connection, tag, {**of, "tag": tag.name, "at": tag.started_at})
    found = connection.execute(_MANIFEST, {"repository": repository_id, "wanted": tag.manifest_digest})
    manifest_id = found.scalar()
    if manifest_id is not None:
        if manifest_id != tag.manifest_id:
            _set(connection, tag_id, manifest_id=manifest_id)
            if tag.manifest_id is not None:
                queue_manifests(connection, change, repository_id, [tag.manifest_id], "untagged", window)
            done = f"points at {tag.manifest_digest} again"
        return done
    named: Any = connection.execute(_NAMED, {**of, "of": tag.manifest_id}).first()
    if named is not None:
        # The interval's digest is of nothing here. If the manifest that it points at is whole, it is the
        # digest that went wrong, and the tag must not lose its image over it.
        if not named.digest.matches(bytes(named.content)):
            return None
        _set(connection, tag_id, manifest_digest=named.digest)
        return f"says {named.digest} again"
    if tag.ended_at is not None:
        _set(connection, tag_id, manifest_id=None)
        return f"{tag.manifest_digest} is not here any more"
    return _go_back(connection, change, tag, {**of, "tag": tag.name})


def _trim(connection: Connection, tag: Any, parameters: dict[str, Any]) -> str | None:
    """End an interval where the next one starts."""
    next_start = connection.execute(_NEXT_START, parameters).scalar()
    if next_start is None or tag.ended_at is None or tag.ended_at <= next_start:
        return None  # a live one is never ended over the times of others
    if next_start <= tag.started_at:
        return None
    _set(connection, tag.id, ended_at=next_start)
    return "ends where the next interval starts"


def _go_back(connection: Connection, change: Change, tag: Any, parameters: dict[str, Any]) -> str | None:
    earlier: Any = connection.execute(_EARLIER, parameters).first()
    if earlier is None:
        return None
    digest: Digest = earlier.manifest_digest
    at = max(change.stamp.now, tag.started_at + _TICK)
    _set(connection, tag.id, ended_at=at, ended_by=change.actor, manifest_id=None)
    connection.execute(
        sa.insert(Tag),
        {
            "repository_id": tag.repository_id,
            "name": tag.name,
            "manifest_digest": digest,
            "manifest_id": earlier.id,
            "started_at": at,
            "started_by": change.actor,
        },
    )
    event = change.event(
        "tag.moved", tag.repository_id, tag=tag.name, digest=digest, previous=tag.manifest_digest
    )
    record_events(connection, [event])
    return f"went back to {digest}, the last of its history that is here"


def _set(connection: Connection, tag_id: int, **values: Any) -> None:
    connection.execute(sa.update(Tag).where(Tag.id == tag_id).values(**values))
