"""Beside any number of writers: put back what the rows lack of what the store knows. Nothing is deleted.

Per repository, its newest snapshot is compared with the rows:

=================================  =======================================================================
snapshot                           effect
=================================  =======================================================================
older than the rows                none: what it names and they lack was removed
of the rows' revision              manifests and tags that the rows lack are put back
newer (an old copy of the          manifests that the rows lack are put back, and tags of names that they
database was restored)             never had; the revision is raised above the snapshot's
of a repository without a row      the repository is made
=================================  =======================================================================

A tag that the rows have stays as it is, and one that differs is reported. A manifest that was deleted by its
digest stays deleted, unless an index that is put back lists it. What is decided from rows read
before the repository's lock is done only if its revision is the same under the lock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import uuid4

import sqlalchemy as sa

from regmeta.db import Database, stamp
from regmeta.errors import Locked, LostReservation, RepositoryNotActive
from regmeta.ingest import adopt
from regmeta.ingest.adopt import RepositoryRow
from regmeta.ingest.commit import commit
from regmeta.ingest.plan import CommitResult
from regmeta.ingest.retry import retried
from regmeta.ingest.statements import AlreadyCommitted, Change, record_events
from regmeta.ingest.unit_of_work import Writer
from regmeta.maintain.rebuild.listing import SNAPSHOTS, ObjectMap, list_snapshots, sort_records
from regmeta.maintain.rebuild.lost import keep, plan_of
from regmeta.maintain.rebuild.objects import Objects
from regmeta.maintain.rebuild.report import Problem, Progress, Report
from regmeta.maintain.rebuild.snapshot import RepositorySnapshot, newest_readable
from regmeta.maintain.rebuild.trees import Piece, Trees, children_first, needs
from regmeta.models import LayoutOutbox, Manifest, Repository, StoreIdentity, Tag
from regmeta.oci.digest import Digest
from regmeta.store import BlobStore

TRIES: Final = 20

_REPOSITORIES: Final = sa.select(Repository.name, LayoutOutbox.revision).outerjoin(
    LayoutOutbox, LayoutOutbox.repository_id == Repository.id
)
_ROW: Final = sa.select(Repository.id, Repository.state, Repository.revision, Repository.deleted_at).where(
    Repository.name == sa.bindparam("of")
)
_MANIFESTS: Final = sa.select(Manifest.digest, Manifest.deleted_at).where(
    Manifest.repository_id == sa.bindparam("of")
)
_TAGS: Final = sa.select(Tag.name, Tag.manifest_digest, Tag.ended_at).where(
    Tag.repository_id == sa.bindparam("of")
)


class _Moved(Exception):
    """The repository changed since it was looked at; nothing has happened."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """What the rows say of one repository, of one moment."""

    epoch: int
    state: str = ""  # there is no row
    revision: int = 0
    manifests: frozenset[Digest] = frozenset()
    deleted: frozenset[Digest] = frozenset()  # of these, those that somebody deleted
    deleted_at: datetime | None = None
    tags: dict[str, Digest] = field(default_factory=dict)  # live ones
    ended: frozenset[str] = frozenset()  # names that were tags once
    is_old_copy: bool = False  # what its newest snapshot says otherwise is about to be hidden

    @property
    def version(self) -> tuple[int, int]:
        """What a snapshot of these rows would be called."""
        return (self.epoch, self.revision)


@dataclass(slots=True)
class _Objects:
    """The store's listing, made when it is first needed."""

    store: BlobStore
    listed: ObjectMap | None = None

    def choice(self) -> Objects:
        """Return a choice that knows no rows yet.

        Raises:
            StoreUnavailable: the listing is not whole.
        """
        if self.listed is None:
            self.listed = ObjectMap(self.store)
        return Objects(self.store, self.listed)


def reconcile(
    writer: Writer, store: BlobStore, progress: Progress, *, rows_epoch: int | None = None
) -> Report:
    """Put back what the rows lack. Safe beside writers, collectors and itself.

    *rows_epoch* is for who has just put an old copy in the database's place: the epoch that its rows are of.
    Then every snapshot of a later epoch is newer than they are.

    Raises:
        Unavailable: a listing or the database failed; what was put back before stays.
    """
    report = Report()
    with writer.database.read() as connection:
        known = {row.name: row.revision for row in connection.execute(_REPOSITORIES)}
    listed = list_snapshots(store)
    report.problems += [Problem("", name, "no snapshot of ours has this name") for name in listed.strange]
    if not listed.versions and known:
        report.problems.append(
            Problem("", store.location, f"lists no snapshot, the rows have {len(known)} repositories")
        )
        return report
    for name in sorted(known.keys() - listed.versions.keys()):
        if known[name] is None:  # and not in the outbox either
            report.problems.append(Problem(name, name, "the store lists no snapshot of it"))
    objects = _Objects(store)
    progress.started(len(listed.versions))
    for repository in listed.versions:
        report.repositories += 1
        _repository(writer, objects, repository, report, progress, rows_epoch)
        progress.finished(repository)
    return report


def _repository(
    writer: Writer,
    objects: _Objects,
    repository: str,
    report: Report,
    progress: Progress,
    rows_epoch: int | None,
) -> None:
    for _ in range(TRIES):
        # Listed each time: writers replace snapshots. Before the rows are read, so that a snapshot which is
        # newer than they are was not made from them.
        listed = sort_records(objects.store.list_records(f"{SNAPSHOTS}/{repository}"))
        snapshot, problems = newest_readable(objects.store, listed, repository)
        if snapshot is None:
            report.problems += problems
            return
        found = _read_rows(writer.database, repository, rows_epoch)
        if rows_epoch is None and snapshot.version[0] > found.epoch:
            problems.append(
                Problem(repository, snapshot.record, f"of an epoch to come; now is {found.epoch}")
            )
        elif not found.state or snapshot.version >= found.version:
            try:
                _put_back(writer, objects, snapshot, found, problems, report, progress)
            except (_Moved, LostReservation):
                continue
            except RepositoryNotActive as error:
                problems.append(Problem(repository, repository, str(error)))
        report.problems += problems
        return
    raise Locked(f"{repository}: it changed {TRIES} times while it was looked at; run it again")


def _read_rows(database: Database, repository: str, rows_epoch: int | None) -> _Rows:
    with database.read() as connection:
        now = connection.execute(sa.select(StoreIdentity.epoch)).scalar_one()
        epoch = now if rows_epoch is None else rows_epoch
        row = connection.execute(_ROW, {"of": repository}).first()
        is_old_copy = rows_epoch is not None
        if row is None:
            return _Rows(epoch, is_old_copy=is_old_copy)
        of = {"of": row.id}
        tags = connection.execute(_TAGS, of).all()
        listed: Any = connection.execute(_MANIFESTS, of).all()
        manifests: dict[Digest, datetime | None] = dict(listed)
        return _Rows(
            epoch,
            row.state,
            row.revision,
            frozenset(manifests),
            frozenset(digest for digest, deleted_at in manifests.items() if deleted_at is not None),
            row.deleted_at,
            {tag.name: tag.manifest_digest for tag in tags if tag.ended_at is None},
            frozenset(tag.name for tag in tags if tag.ended_at is not None),
            is_old_copy,
        )


def _put_back(
    writer: Writer,
    objects: _Objects,
    snapshot: RepositorySnapshot,
    found: _Rows,
    problems: list[Problem],
    report: Report,
    progress: Progress,
) -> None:
    """Plan what the rows lack, and write it if the repository is still as it was."""
    is_equal = snapshot.version == found.version
    state = _state_after(snapshot, found)
    if state != snapshot.state:
        detail = f"is {state}, the snapshot says {snapshot.state}; left as it is"
        problems.append(Problem(snapshot.repository, snapshot.repository, detail))
    lacking = [digest for digest in snapshot.manifests if digest not in found.manifests]
    tags = _tags_to_add(snapshot, found, problems)
    if is_equal and not lacking and not tags:
        return
    choice = objects.choice()
    if lacking and objects.listed is not None and not len(objects.listed):
        problems.append(Problem(snapshot.repository, objects.store.location, "lists no object at all"))
        return
    trees = Trees(choice, snapshot.repository, objects.store.location, problems)
    choice.learn(writer.database, lacking)
    named = {digest: tag for tag, digest in snapshot.tags.items()}
    read = [trees.read(snapshot.manifests[d], [named[d]] if d in named else []) for d in lacking]
    manifests = children_first(planned for planned in read if planned is not None)
    choice.learn(writer.database, {digest for planned in manifests for digest, _ in needs(planned.document)})
    here = (found.manifests - found.deleted) | {planned.document.digest for planned in manifests}
    piece = trees.piece(manifests, here)
    addable = {tag: snapshot.manifests[digest] for tag, digest in tags.items() if digest in here}
    piece.images += trees.tags(addable)
    if is_equal and not manifests and not addable:
        if _read_rows(writer.database, snapshot.repository, found.epoch).revision != found.revision:
            raise _Moved
        return
    if len(manifests) < len(lacking) or (found.is_old_copy and problems):
        keep(writer, objects.store, snapshot)
    result = _commit(writer, piece, snapshot, found, state)
    [(repository_id, _)] = result.repositories
    writer.snapshots.flush_quietly(repository_id, now=True)
    report.changed += 1
    report.manifests += result.new_manifests
    report.blobs += result.new_blobs
    report.tags += len(result.tags_changed)
    progress.advanced(result.new_manifests)


def _tags_to_add(snapshot: RepositorySnapshot, found: _Rows, problems: list[Problem]) -> dict[str, Digest]:
    """Return the tags that the rows lack; report those that they have otherwise."""
    is_equal = snapshot.version == found.version
    add = {}
    for tag, digest in snapshot.tags.items():
        where = f"{snapshot.repository}:{tag}"
        if tag in found.tags:
            if found.tags[tag] != digest:
                detail = f"is {found.tags[tag]}, the snapshot says {digest}; left as it is"
                problems.append(Problem(snapshot.repository, where, detail))
        elif tag in found.ended and not is_equal:
            detail = f"was removed, the snapshot says {digest}; left as it is"
            problems.append(Problem(snapshot.repository, where, detail))
        elif digest in found.deleted:
            detail = f"the snapshot says {digest}, which was deleted; left as it is"
            problems.append(Problem(snapshot.repository, where, detail))
        else:
            add[tag] = digest
    return add


def _commit(
    writer: Writer, piece: Piece, snapshot: RepositorySnapshot, found: _Rows, state: str
) -> CommitResult:
    plan = plan_of(writer, piece, uuid4())

    def once() -> CommitResult:
        try:
            with writer.database.transaction("reconcile") as connection:
                result = commit(connection, plan)
                [(repository_id, _)] = result.repositories
                revision = adopt.revision_of(connection, repository_id)
                if revision != found.revision + 1:
                    raise _Moved
                created_at = None if found.state else snapshot.created_at
                deleted_at = found.deleted_at if state == "deleted" else None
                row = RepositoryRow(
                    state,
                    max(revision, snapshot.version[1] + 1),
                    created_at,
                    deleted_at=deleted_at,
                    locks=snapshot.locks if snapshot.version > found.version else (),
                )
                adopt.put_back_repository(connection, repository_id, row)
                change = Change(stamp(connection), writer.actor, plan.ingest_id)
                if result.revived and state == "deleted":  # by the lock, which was not meant
                    record_events(connection, [change.event("repository.deleted", repository_id)])
                adopt.queue_unreached(connection, change, repository_id, writer.lifetimes.lease)
                return result
        except AlreadyCommitted as earlier:
            return earlier.result

    return retried(once)


def _state_after(snapshot: RepositorySnapshot, found: _Rows) -> str:
    """Return what a repository's state is to be; the lock has revived one that was deleted."""
    if not found.state or (found.state == "deleted" and snapshot.version > found.version):
        return "active" if snapshot.state == "active" else "deleted"
    return found.state
