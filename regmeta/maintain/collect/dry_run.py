"""What a run of the collector would take now, found out by reading alone.

One transaction of one moment: no lock, no write, beside anything. Manifests are judged by the function that
the run judges by (:func:`regmeta.maintain.collect.judge.judge`), told which others would be gone by then; so
cascades are followed until nothing more goes. A blob goes when every manifest that names it does, no lease
stands, and no repository keeps its access to it.

What is not foreseen: what others write meanwhile, rows that cannot be deleted, and repositories that
somebody works on when their turn comes. A policy for untagged manifests is asked about the rows as they are
now.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import db
from regmeta.db import Database
from regmeta.ingest.reserve import chunks
from regmeta.maintain.collect import tasks
from regmeta.maintain.collect.dead_objects import IS_DUE
from regmeta.maintain.collect.hold import check_may_delete
from regmeta.maintain.collect.judge import judge
from regmeta.maintain.collect.manifests import CHILDREN, HELD_BLOBS, HOLDERS, REFERRERS
from regmeta.maintain.collect.older import SOME_SNAPSHOTS, check_not_older
from regmeta.maintain.collect.terms import Terms
from regmeta.models import Blob, GcTask, Manifest, Repository, RepositoryBlob, Tombstone
from regmeta.oci.digest import Digest
from regmeta.store import BlobStore

_ids: Final[Any] = sa.bindparam("ids", expanding=True)
_REPOSITORIES: Final = (
    sa.select(Repository.id, Repository.name)
    .where(sa.exists().where(GcTask.repository_id == Repository.id, GcTask.kind == "manifest", tasks.IS_DUE))
    .order_by(Repository.id)
)
_TO_PURGE: Final = (
    sa.select(Repository.id, Repository.name, Repository.state, Repository.deleted_at)
    .join(GcTask, sa.and_(GcTask.kind == "repository", GcTask.target_id == Repository.id))
    .where(tasks.IS_DUE, Repository.state != "active")
    .order_by(Repository.id)
)
_HELD_MANIFESTS: Final = sa.select(Manifest.id, Manifest.digest, Manifest.lease_until).where(
    Manifest.repository_id == sa.bindparam("of")
)
_LINKED: Final = sa.select(RepositoryBlob.blob_id).where(RepositoryBlob.repository_id == sa.bindparam("of"))
_MANIFESTS: Final = (
    sa.select(GcTask.target_id)
    .where(GcTask.kind == "manifest", GcTask.repository_id == sa.bindparam("of"), tasks.IS_DUE)
    .order_by(GcTask.id)
)
_BLOBS: Final = sa.select(GcTask.target_id).where(GcTask.kind == "blob", tasks.IS_DUE)
_holders = HOLDERS.subquery()
_COUNT_HOLDERS: Final = sa.select(_holders.c.blob_id, sa.func.count()).group_by(_holders.c.blob_id)
_FACTS: Final = sa.select(Blob.id, Blob.digest, Blob.size_bytes, Blob.lease_until).where(Blob.id.in_(_ids))
_LINKS: Final = sa.select(
    RepositoryBlob.blob_id, RepositoryBlob.repository_id, RepositoryBlob.linked_at
).where(RepositoryBlob.blob_id.in_(_ids))
_OBJECTS: Final = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(Tombstone.size_bytes), 0)).where(
    IS_DUE
)


@dataclass(frozen=True, slots=True)
class DoomedManifest:
    """A manifest that would go, and why."""

    repository: str
    digest: Digest
    why: str


@dataclass(frozen=True, slots=True)
class DoomedBlob:
    """A blob that would become a tombstone: its object is deleted by a later run."""

    digest: Digest
    size_bytes: int


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a run would do now."""

    manifests: tuple[DoomedManifest, ...]  # by repository
    blobs: tuple[DoomedBlob, ...]
    size_bytes: int  # of these blobs
    objects: int  # of tombstones that are due: these would be deleted at once
    objects_size_bytes: int  # of those whose size is known


@dataclass(slots=True)
class _Plan:
    connection: Connection
    now: datetime
    terms: Terms
    manifests: list[DoomedManifest] = field(default_factory=list)
    # Of blobs: how many manifests that name one would go, and from which repositories.
    freed: Counter[int] = field(default_factory=Counter)
    freed_in: defaultdict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    purged: set[int] = field(default_factory=set)  # repositories of which all goes that is not leased
    emptied: set[int] = field(default_factory=set)  # of these, those in which nothing is leased


def plan_collection(database: Database, store: BlobStore, terms: Terms) -> DryRun:
    """Return what :func:`regmeta.maintain.collect.run.collect` would do if it ran at this moment.

    Raises:
        IdentityMismatch, CollectionHeld, CollectionPaused, DatabaseIsOlder: it would do nothing.
        StoreUnavailable: the store does not say whose it is, or cannot list its snapshots.
    """
    check_may_delete(database, store)
    check_not_older(database, store, at_most=SOME_SNAPSHOTS)
    with database.read() as connection:
        plan = _Plan(connection, db.clock(connection), terms)
        for deleted in connection.execute(_TO_PURGE, {"now": plan.now}).all():
            _purge(plan, deleted)
        for row in connection.execute(_REPOSITORIES, {"now": plan.now}).all():
            if row.id not in plan.purged:
                _repository(plan, (row.id, row.name))
        blobs = sorted(_blobs(plan), key=lambda blob: blob.digest)
        due: Any = connection.execute(_OBJECTS, {"now": plan.now}).one()
    size_bytes = sum(blob.size_bytes for blob in blobs)
    objects, objects_size_bytes = due
    if terms.lifetimes.tombstone <= timedelta():  # they are deleted by the run that makes them
        objects, objects_size_bytes = objects + len(blobs), objects_size_bytes + size_bytes
    return DryRun(tuple(plan.manifests), tuple(blobs), size_bytes, objects, int(objects_size_bytes))


def _repository(plan: _Plan, repository: tuple[int, str]) -> None:
    """Judge the due manifests of a repository, then what those that go list and what refers to them."""
    connection = plan.connection
    gone: set[int] = set()
    due = connection.execute(_MANIFESTS, {"of": repository[0], "now": plan.now}).scalars()
    waiting = set(due)
    while waiting:
        dead: dict[int, Any] = {}
        for some in chunks(sorted(waiting)):
            found = judge(connection, repository, some, plan.now, plan.terms, gone).dead
            gone |= found.keys()
            dead.update(found)
        waiting = _freed_by(connection, repository[0], dead) - gone
        for row in sorted(dead.values(), key=lambda row: row.digest):
            plan.manifests.append(DoomedManifest(repository[1], row.digest, _why(row)))
    _free(plan, repository[0], gone)


def _purge(plan: _Plan, repository: Any) -> None:
    """Take all of a repository that was deleted, but what is leased and what that lists."""
    history = plan.terms.lifetimes.history
    if repository.state == "deleted" and (
        repository.deleted_at is None or repository.deleted_at + history > plan.now
    ):
        return  # revived and deleted again, or emptied already: the run puts it off, or forgets it
    plan.purged.add(repository.id)
    held: Any = plan.connection.execute(_HELD_MANIFESTS, {"of": repository.id})
    found = {row.id: row for row in held}
    kept: set[int] = set()
    waiting = {row.id for row in found.values() if row.lease_until > plan.now}
    while waiting:
        kept |= waiting
        below: set[int] = set()
        for some in chunks(sorted(waiting)):
            children: Any = plan.connection.execute(CHILDREN, {"ids": some}).scalars()
            below.update(children)
        waiting = below - kept
    gone = found.keys() - kept
    for row in sorted((found[number] for number in gone), key=lambda row: row.digest):
        plan.manifests.append(DoomedManifest(repository.name, row.digest, "its repository was deleted"))
    _free(plan, repository.id, gone)
    if not kept:
        plan.emptied.add(repository.id)
        for blob_id in plan.connection.execute(_LINKED, {"of": repository.id}).scalars():
            plan.freed_in[blob_id].add(repository.id)


def _free(plan: _Plan, repository_id: int, gone: AbstractSet[int]) -> None:
    """Note which blobs lose manifests of a repository."""
    for some in chunks(sorted(gone)):
        pairs: Any = plan.connection.execute(HELD_BLOBS, {"ids": some})
        for _, blob_id in pairs:
            plan.freed[blob_id] += 1
            plan.freed_in[blob_id].add(repository_id)


def _freed_by(connection: Connection, repository_id: int, dead: dict[int, Any]) -> set[int]:
    """Return what the run looks at again once these are gone."""
    freed: set[int] = set()
    for some in chunks(sorted(dead)):
        children: Any = connection.execute(CHILDREN, {"ids": some}).scalars()
        freed.update(children)
        digests = [dead[manifest_id].digest for manifest_id in some]
        parameters = {"repository": repository_id, "digests": digests}
        freed.update(connection.execute(REFERRERS, parameters).scalars())
    return freed


def _why(row: Any) -> str:
    if row.deleted_at is not None:
        return "deleted by its digest"
    if row.last_tagged_at is not None:
        return "its last tag was removed or moved"
    if row.subject_digest is not None:
        return "what it refers to is gone, or never came"
    return "no tag names it and no index lists it"


def _blobs(plan: _Plan) -> list[DoomedBlob]:
    """Return the blobs that would go: of manifests that go, and those that have a task themselves."""
    found: list[DoomedBlob] = []
    left: set[int] = set()  # put off by the transaction that takes their last manifest
    for some in chunks(sorted(plan.freed_in)):
        unnamed = _unnamed(plan, some)
        gone = _without_links(plan, unnamed, plan.freed_in)
        left |= unnamed
        found += gone
    due = set(plan.connection.execute(_BLOBS, {"now": plan.now}).scalars())
    for some in chunks(sorted(due - left)):
        found += _without_links(plan, _unnamed(plan, some), None)
    return found


def _unnamed(plan: _Plan, blob_ids: Collection[int]) -> set[int]:
    """Return those that no manifest would name."""
    counted: Any = plan.connection.execute(_COUNT_HOLDERS, {"ids": blob_ids}).all()
    holders: dict[int, int] = dict(counted)
    return {blob_id for blob_id in blob_ids if holders.get(blob_id, 0) == plan.freed[blob_id]}


def _without_links(plan: _Plan, blob_ids: set[int], freed_in: dict[int, set[int]] | None) -> list[DoomedBlob]:
    """Return those that no lease keeps and no repository's access to them.

    Access goes where it is older than a lease: in the repositories that lost a manifest which names the blob
    (*freed_in*), and in all of them if the blob itself is looked at.
    """
    before = plan.now - plan.terms.lifetimes.lease
    linked: set[int] = set()
    for blob_id, repository_id, linked_at in plan.connection.execute(_LINKS, {"ids": sorted(blob_ids)}):
        if repository_id in plan.emptied:
            continue
        if linked_at > before or (freed_in is not None and repository_id not in freed_in[blob_id]):
            linked.add(blob_id)
    rows = plan.connection.execute(_FACTS, {"ids": sorted(blob_ids - linked)})
    return [DoomedBlob(row.digest, row.size_bytes) for row in rows if row.lease_until <= plan.now]
