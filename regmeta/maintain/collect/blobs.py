"""Blobs that no manifest names: their rows become tombstones."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import db
from regmeta.ingest.plan import Lifetimes
from regmeta.ingest.reserve import bury_sized, chunks
from regmeta.ingest.statements import Change, queue_blobs, queue_snapshot
from regmeta.maintain.collect import tasks
from regmeta.models import Blob, IndexMember, Manifest, ManifestBlob, Repository, RepositoryBlob
from regmeta.query.collection import IS_NOT_NAMED

SOON: Final = timedelta(minutes=1)  # when another transaction was at it
TICK: Final = timedelta(milliseconds=2)  # later than now by either database's clock

_ids: Final[Any] = sa.bindparam("ids", expanding=True)
_repositories: Final[Any] = sa.bindparam("repositories", expanding=True)


def _unlink(is_held: sa.ColumnElement[bool]) -> Any:
    return (
        sa.delete(RepositoryBlob)
        .where(
            RepositoryBlob.repository_id.in_(_repositories),
            RepositoryBlob.blob_id.in_(_ids),
            # A mount is one row, and lives for as long as a lease without a manifest that names the blob.
            RepositoryBlob.linked_at <= sa.bindparam("before"),
            ~sa.exists().where(
                Manifest.repository_id == RepositoryBlob.repository_id,
                Manifest.blob_id == RepositoryBlob.blob_id,
            ),
            ~is_held,
            ~sa.exists().where(
                IndexMember.blob_id == RepositoryBlob.blob_id,
                IndexMember.index_id == Manifest.id,
                Manifest.repository_id == RepositoryBlob.repository_id,
            ),
        )
        .returning(RepositoryBlob.repository_id)
    )


# Of a base layer there may be a million holders in other repositories: to look through them for one of this
# repository would cost more the larger the registry is. So there it goes through the repository's manifests.
POPULAR_HOLDERS: Final = 100
_POPULAR: Final = sa.select(Blob.id).where(
    Blob.id.in_(_ids),
    sa.select(ManifestBlob.manifest_id)
    .where(ManifestBlob.blob_id == Blob.id)
    .order_by(ManifestBlob.manifest_id)
    .limit(1)
    .offset(POPULAR_HOLDERS)
    .scalar_subquery()
    .is_not(None),
)
_UNLINK: Final = _unlink(
    sa.exists().where(
        ManifestBlob.blob_id == RepositoryBlob.blob_id,
        ManifestBlob.manifest_id == Manifest.id,
        Manifest.repository_id == RepositoryBlob.repository_id,
    )
)
_UNLINK_POPULAR: Final = _unlink(
    sa.exists().where(
        Manifest.repository_id == RepositoryBlob.repository_id,
        # Said, since of two levels up it is not found out: else it is the blob of any link at all.
        sa.exists()
        .where(ManifestBlob.manifest_id == Manifest.id, ManifestBlob.blob_id == RepositoryBlob.blob_id)
        .correlate(Manifest, RepositoryBlob),
    )
)
# Two collectors may each take the last manifest but one that names a blob, in different repositories, and
# still see the other's. So they meet at the blob's row: who comes later sees that the other's has gone. A
# commit that relies on the blob is not held up.
_MEET: Final = sa.select(Blob.id).where(Blob.id.in_(_ids)).order_by(Blob.id).with_for_update(key_share=True)
_LOCK_BLOBS: Final = (
    sa.select(Blob.id)
    .where(Blob.id.in_(_ids), IS_NOT_NAMED)
    .order_by(Blob.id)
    .with_for_update(skip_locked=True)
)
_DELETE: Final = (
    sa.delete(Blob)
    .where(
        Blob.id.in_(_ids),
        Blob.lease_until <= sa.bindparam("now"),
        IS_NOT_NAMED,
        ~sa.exists().where(RepositoryBlob.blob_id == Blob.id),
    )
    .returning(Blob.id, Blob.key, Blob.size_bytes)
)
_LEFT: Final = sa.select(Blob.id, Blob.lease_until).where(Blob.id.in_(_ids), IS_NOT_NAMED)
# Of those only that no manifest names: links to a base layer are in use, in any number of repositories,
# and to look at them would hold up each of these.
_LINKED: Final = (
    sa.select(RepositoryBlob.repository_id)
    .join(Blob, Blob.id == RepositoryBlob.blob_id)
    .where(RepositoryBlob.blob_id.in_(_ids), IS_NOT_NAMED)
    .distinct()
)
_LOCK_REPOSITORIES: Final = (
    sa.select(Repository.id)
    .where(Repository.id.in_(_repositories))
    .order_by(Repository.id)
    .with_for_update(skip_locked=True)
)


def unlink_blobs(
    connection: Connection, repository_ids: Sequence[int], blob_ids: Sequence[int], before: datetime
) -> set[int]:
    """Take access to blobs from repositories, whose locks are held, that have no manifest naming them.

    Returns the repositories that lost one: their layouts still link its object.
    """
    changed: set[int] = set()
    for some in chunks(blob_ids):
        popular = set(connection.execute(_POPULAR, {"ids": some}).scalars())
        rare = [number for number in some if number not in popular]
        for statement, ids in ((_UNLINK, rare), (_UNLINK_POPULAR, sorted(popular))):
            if ids:
                parameters: dict[str, Any] = {"repositories": repository_ids, "ids": ids, "before": before}
                changed.update(connection.execute(statement, parameters).scalars())
    return changed


def delete_blobs(
    connection: Connection, change: Change, blob_ids: Collection[int], lifetimes: Lifetimes
) -> int:
    """Turn blobs that no manifest and no repository names into tombstones; returns how many.

    Those that only a lease or a mount keeps, or that another transaction is at, get a task for later. A
    commit that relies on a blob has its row locked, and one that comes later finds it gone and goes back to
    ``reserve``; the foreign keys refuse whatever this overlooks.
    """
    now, count = change.stamp.now, 0
    for some in chunks(sorted(blob_ids)):
        connection.execute(_MEET, {"ids": some}).all()
        locked = connection.execute(_LOCK_BLOBS, {"ids": some}).scalars().all()
        # A new statement, so that it sees what was committed until the rows were locked.
        gone: Any = connection.execute(_DELETE, {"ids": locked, "now": now}).all()
        bury_sized(connection, {key: size for _, key, size in gone}, "collected", now, lifetimes.tombstone)
        count += len(gone)
        left: Any = connection.execute(_LEFT, {"ids": some}).all()
        queue_blobs(
            connection,
            change,
            {blob: max(until, now + max(min(SOON, lifetimes.lease), TICK)) for blob, until in left},
            "leased",
        )
    return count


@dataclass(frozen=True, slots=True)
class CollectedBlobs:
    """What one transaction did."""

    targets: frozenset[int]  # blobs that were looked at
    blobs: int
    repositories: frozenset[int]  # that lost access to one
    failed: Mapping[int, str]  # ids of tasks, and why


def collect_blobs(
    connection: Connection, due_at: datetime, actor: str, lifetimes: Lifetimes
) -> CollectedBlobs:
    """Work off tasks for blobs that were due at *due_at*."""
    change = Change(db.stamp(connection), actor, uuid4())
    claimed = tasks.claim_blobs(connection, due_at)
    done, failed = tasks.apart(connection, claimed, lambda some: _work(connection, change, some, lifetimes))
    changed = frozenset(repository_id for _, changed in done for repository_id in changed)
    return CollectedBlobs(frozenset(claimed), sum(blobs for blobs, _ in done), changed, failed)


def _work(
    connection: Connection, change: Change, claimed: Mapping[int, int], lifetimes: Lifetimes
) -> tuple[int, set[int]]:
    """Decide about the targets of some tasks; returns how many went, and which repositories lost one."""
    now, blob_ids = change.stamp.now, sorted(claimed)
    # Before new tasks for the same blobs are written.
    tasks.settle(connection, list(claimed.values()), {})
    changed: set[int] = set()
    for some in chunks(blob_ids):
        linked = sorted(connection.execute(_LINKED, {"ids": some}).scalars())
        for of in chunks(linked):
            locked = connection.execute(_LOCK_REPOSITORIES, {"repositories": of}).scalars().all()
            changed |= unlink_blobs(connection, locked, some, now - lifetimes.lease)
    for repository_id in sorted(changed):
        queue_snapshot(connection, repository_id)
    blobs = delete_blobs(connection, change, blob_ids, lifetimes)
    return blobs, changed
