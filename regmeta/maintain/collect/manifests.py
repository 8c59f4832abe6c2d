"""Dead manifests of one repository, under its lock: edges, then manifests, then blobs, in id order."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
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
from regmeta.maintain.collect.judge import Judgement, judge
from regmeta.maintain.collect.terms import Terms
from regmeta.models import IndexMember, Label, Manifest, ManifestBlob, Repository, Tag
from regmeta.oci.digest import Digest

_LOCK: Final = (
    sa.select(Repository.name).where(Repository.id == sa.bindparam("of")).with_for_update(skip_locked=True)
)
_ids: Final[Any] = sa.bindparam("ids", expanding=True)
_LOCK_MANIFESTS: Final = (
    sa.select(Manifest.id).where(Manifest.id.in_(_ids)).order_by(Manifest.id).with_for_update()
)
CHILDREN: Final = sa.select(IndexMember.child_id).where(
    IndexMember.index_id.in_(_ids), IndexMember.child_id.is_not(None)
)
REFERRERS: Final = sa.select(Manifest.id).where(
    Manifest.repository_id == sa.bindparam("repository"),
    Manifest.subject_digest.in_(sa.bindparam("digests", expanding=True)),
)
_NAMES: Final = tuple(
    sa.select(manifest_id.label("manifest_id"), blob_id.label("blob_id")).where(blob_id.is_not(None))
    for manifest_id, blob_id in (
        (Manifest.id, Manifest.blob_id),
        (ManifestBlob.manifest_id, ManifestBlob.blob_id),
        (IndexMember.index_id, IndexMember.blob_id),
    )
)
HELD_BLOBS: Final = sa.union(*(names.where(names.selected_columns.manifest_id.in_(_ids)) for names in _NAMES))
"""Pairs of manifest and blob: each blob that some manifests (``ids``) name, once for each of them."""
HOLDERS: Final = sa.union(*(names.where(names.selected_columns.blob_id.in_(_ids)) for names in _NAMES))
"""The same pairs, of some blobs (``ids``)."""
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
    failed: Mapping[int, str] = field(default_factory=dict)  # ids of tasks, and why


def collect_manifests(
    connection: Connection, repository_id: int, actor: str, terms: Terms
) -> Collected | None:
    """Delete the due manifests of one repository that nothing keeps; None if another holds its lock.

    Writers of other repositories go on; one of this repository waits until the transaction ends.
    """
    name = connection.execute(_LOCK, {"of": repository_id}).scalar()
    if name is None:
        return None
    change = Change(db.stamp(connection), actor, uuid4())
    claimed = tasks.claim_manifests(connection, repository_id, change.stamp.now)
    done, failed = tasks.apart(
        connection, claimed, lambda some: _work(connection, change, (repository_id, name), some, terms)
    )
    manifests, blobs = (sum(numbers) for numbers in zip(*done, strict=True)) if done else (0, 0)
    return Collected(len(claimed), manifests, blobs, failed)


def _work(
    connection: Connection,
    change: Change,
    repository: tuple[int, str],
    claimed: Mapping[int, int],
    terms: Terms,
) -> tuple[int, int]:
    """Decide about the targets of some tasks; returns how many manifests and blobs went."""
    judged = _judge(connection, claimed, repository, change.stamp.now, terms)
    dead = {manifest: row.digest for manifest, row in judged.dead.items()}
    done = set(claimed) - judged.put_off.keys()
    tasks.settle(
        connection,
        tasks.of_targets(claimed, done),
        {claimed[manifest]: until for manifest, until in judged.put_off.items()},
    )
    blobs = 0
    if dead:
        blobs = delete_manifests(connection, change, repository[0], dead, terms.lifetimes)
    return len(dead), blobs


def _judge(
    connection: Connection, claimed: Collection[int], repository: tuple[int, str], now: datetime, terms: Terms
) -> Judgement:
    """Judge manifests whose repository's lock is held."""
    judged = Judgement()
    for some in chunks(sorted(claimed)):
        # A lease is renewed without the repository's lock: locked first, it is read in a new statement.
        connection.execute(_LOCK_MANIFESTS, {"ids": some}).all()
        part = judge(connection, repository, some, now, terms)
        judged.dead.update(part.dead)
        judged.put_off.update(part.put_off)
    return judged


def delete_manifests(
    connection: Connection,
    change: Change,
    repository_id: int,
    dead: Mapping[int, Digest],
    lifetimes: Lifetimes,
) -> int:
    """Delete manifests (digests by id) that nothing keeps; their repository's lock is held.

    Returns how many blobs went with them.
    """
    ids = sorted(dead)
    held: Any = connection.execute(HELD_BLOBS, {"ids": ids})
    blob_ids = sorted({blob for _, blob in held})
    children: Any = connection.execute(CHILDREN, {"ids": ids}).scalars()
    freed: set[int] = set(children)
    for digests in chunks(list(dead.values())):
        parameters: dict[str, Any] = {"repository": repository_id, "digests": digests}
        freed.update(connection.execute(REFERRERS, parameters).scalars())
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
