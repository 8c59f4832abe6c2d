"""Dead manifests of one repository, under its lock: edges, then manifests, then blobs, in id order."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import db
from regmeta.errors import Contention
from regmeta.ingest.plan import Lifetimes
from regmeta.ingest.reserve import chunks
from regmeta.ingest.statements import Change, queue_manifests, queue_snapshot, record_events
from regmeta.maintain.collect import tasks
from regmeta.maintain.collect.blobs import delete_blobs, unlink_blobs
from regmeta.maintain.collect.reachable import IS_KEPT
from regmeta.models import IndexMember, Label, Manifest, ManifestBlob, Repository, Tag
from regmeta.models.base import UtcTime
from regmeta.oci.digest import Digest

_LOCK: Final = (
    sa.select(Repository.id).where(Repository.id == sa.bindparam("of")).with_for_update(skip_locked=True)
)
_ids: Final[Any] = sa.bindparam("ids", expanding=True)
_LOCK_MANIFESTS: Final = (
    sa.select(Manifest.id).where(Manifest.id.in_(_ids)).order_by(Manifest.id).with_for_update()
)
_WHAT_KEEPS: Final = sa.select(
    Manifest.id,
    Manifest.digest,
    Manifest.lease_until,
    Manifest.deleted_at,
    IS_KEPT.label("is_kept"),
    sa.select(sa.func.max(Tag.ended_at, type_=UtcTime()))
    .where(Tag.manifest_id == Manifest.id)
    .scalar_subquery()
    .label("last_tagged_at"),
).where(Manifest.id.in_(_ids))
_CHILDREN: Final = sa.select(IndexMember.child_id).where(
    IndexMember.index_id.in_(_ids), IndexMember.child_id.is_not(None)
)
_REFERRERS: Final = sa.select(Manifest.id).where(
    Manifest.repository_id == sa.bindparam("repository"),
    Manifest.subject_digest.in_(sa.bindparam("digests", expanding=True)),
)
_HELD_BLOBS: Final = (
    sa.select(Manifest.blob_id)
    .where(Manifest.id.in_(_ids))
    .union(
        sa.select(ManifestBlob.blob_id).where(
            ManifestBlob.manifest_id.in_(_ids), ManifestBlob.blob_id.is_not(None)
        ),
        sa.select(IndexMember.blob_id).where(
            IndexMember.index_id.in_(_ids), IndexMember.blob_id.is_not(None)
        ),
    )
)
_FORGET_TAGS: Final = (
    sa.update(Tag).where(Tag.manifest_id.in_(_ids), Tag.ended_at.is_not(None)).values(manifest_id=None)
)
_EDGES: Final = tuple(
    sa.delete(model).where(column.in_(_ids))
    for model, column in (
        (Label, Label.manifest_id),
        (ManifestBlob, ManifestBlob.manifest_id),
        (IndexMember, IndexMember.index_id),
    )
)
_DELETE: Final = (
    sa.delete(Manifest)
    .where(Manifest.id.in_(_ids), Manifest.lease_until <= sa.bindparam("now"))
    .returning(Manifest.id)
)


@dataclass(frozen=True, slots=True)
class Collected:
    """What one transaction did."""

    tasks: int
    manifests: int
    blobs: int


def collect_manifests(
    connection: Connection, repository_id: int, actor: str, lifetimes: Lifetimes
) -> Collected | None:
    """Delete the due manifests of one repository that nothing keeps; None if another holds its lock.

    Writers of other repositories go on; one of this repository waits until the transaction ends.
    """
    if connection.execute(_LOCK, {"of": repository_id}).first() is None:
        return None
    change = Change(db.stamp(connection), actor, uuid4())
    now = change.stamp.now
    claimed = tasks.claim_manifests(connection, repository_id, now)
    dead, put_off = _judge(connection, claimed, now, lifetimes.history)
    done = set(claimed) - put_off.keys()
    tasks.settle(
        connection,
        tasks.of_targets(claimed, done),
        {claimed[manifest]: until for manifest, until in put_off.items()},
    )
    blobs = 0
    if dead:
        blobs = _delete(connection, change, repository_id, dead, lifetimes)
    return Collected(len(claimed), len(dead), blobs)


def _judge(
    connection: Connection, claimed: Collection[int], now: datetime, history: timedelta
) -> tuple[dict[int, Digest], dict[int, datetime]]:
    """Return which manifests nothing keeps, and until when others are kept by time alone."""
    dead: dict[int, Digest] = {}
    put_off: dict[int, datetime] = {}
    for some in chunks(sorted(claimed)):
        # A lease is renewed without the repository's lock: locked first, it is read in a new statement.
        connection.execute(_LOCK_MANIFESTS, {"ids": some}).all()
        for row in connection.execute(_WHAT_KEEPS, {"ids": some}):
            until = row.lease_until
            if row.last_tagged_at is not None:
                until = max(until, row.last_tagged_at + history)
            if row.deleted_at is not None:
                until = max(until, row.deleted_at + history)
            if row.is_kept:
                continue  # what stops keeping it writes a task
            if until > now:
                put_off[row.id] = until
            else:
                dead[row.id] = row.digest
    return dead, put_off


def _delete(
    connection: Connection,
    change: Change,
    repository_id: int,
    dead: dict[int, Digest],
    lifetimes: Lifetimes,
) -> int:
    ids = sorted(dead)
    blob_ids = connection.execute(_HELD_BLOBS, {"ids": ids}).scalars().all()
    children: Any = connection.execute(_CHILDREN, {"ids": ids}).scalars()
    freed: set[int] = set(children)
    for digests in chunks(list(dead.values())):
        parameters: dict[str, Any] = {"repository": repository_id, "digests": digests}
        freed.update(connection.execute(_REFERRERS, parameters).scalars())
    _delete_rows(connection, ids, change.stamp.now)
    queue_manifests(
        connection, change, repository_id, freed - dead.keys(), "what kept it was collected", timedelta()
    )
    unlink_blobs(connection, [repository_id], blob_ids, change.stamp.now - lifetimes.lease)
    blobs = delete_blobs(connection, change, blob_ids, lifetimes)
    record_events(
        connection,
        [change.event("manifest.removed", repository_id, digest=dead[manifest]) for manifest in ids],
    )
    queue_snapshot(connection, repository_id)
    return blobs


def _delete_rows(connection: Connection, ids: Sequence[int], now: datetime) -> None:
    connection.execute(_FORGET_TAGS, {"ids": ids})
    for delete in _EDGES:
        connection.execute(delete, {"ids": ids})
    gone = connection.execute(_DELETE, {"ids": ids, "now": now}).scalars().all()
    if len(gone) != len(ids):  # leased a moment ago: nothing of this transaction happens
        raise Contention(f"{len(ids) - len(gone)} manifests were leased while they were collected")
