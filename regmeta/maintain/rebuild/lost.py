"""The rows of a lost database, from the store alone.

Every transaction carries an ingest id that its content decides, so that a second run, or two at once, write
nothing twice: the one of a repository's last transaction says that the repository is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Final
from uuid import UUID, uuid5

from regmeta.db import Database, stamp
from regmeta.errors import LostReservation, Refused
from regmeta.ingest import adopt
from regmeta.ingest.adopt import RepositoryRow
from regmeta.ingest.commit import CommitPlan, commit
from regmeta.ingest.immutable import TagTerms
from regmeta.ingest.plan import CommitResult, PlannedManifest
from regmeta.ingest.retry import retried
from regmeta.ingest.statements import AlreadyCommitted, Change
from regmeta.ingest.unit_of_work import Writer
from regmeta.maintain.rebuild import identity
from regmeta.maintain.rebuild.listing import ObjectMap, SnapshotList
from regmeta.maintain.rebuild.objects import Objects
from regmeta.maintain.rebuild.report import Problem, Progress, Report
from regmeta.maintain.rebuild.snapshot import RepositorySnapshot, newest_readable
from regmeta.maintain.rebuild.trees import Piece, Trees, children_first
from regmeta.maintain.setup import Identity
from regmeta.oci.digest import Digest
from regmeta.oci.manifest import Index
from regmeta.store import BlobStore

SOURCE: Final = "rebuild"
PIECE_MANIFESTS: Final = 500
PIECE_BYTES: Final = 64 * 1024 * 1024  # [bytes] of manifests


class _Overtaken(Exception):
    """Another process did the rest of this rebuild."""


@dataclass(frozen=True, slots=True)
class _Rebuild:
    """What all repositories share."""

    writer: Writer
    store: BlobStore
    tied: Identity
    listed: SnapshotList
    objects: Objects
    progress: Progress
    report: Report

    @property
    def database(self) -> Database:
        """Where the rows go."""
        return self.writer.database


def rebuild_lost(
    writer: Writer, store: BlobStore, tied: Identity, listed: SnapshotList, progress: Progress
) -> Report:
    """Make all rows, let the store name the new database, and write snapshots of the new epoch.

    Interrupted at any point and run again, it goes on. No other process may work on the store; nobody can
    open the database before the end.

    Raises:
        Unavailable: the store or the database did not do it; nothing was switched.
    """
    report = Report()
    if identity.is_unfinished(writer.database):
        objects = Objects(store, ObjectMap(store))
        run = _Rebuild(writer, store, tied, listed, objects, progress, report)
        report.problems += [
            Problem("", record, "no snapshot of ours has this name") for record in listed.strange
        ]
        progress.started(len(listed.versions))
        with suppress(_Overtaken):
            for repository in listed.versions:
                _repository(run, repository)
                progress.finished(repository)
        identity.complete(writer.database)
    identity.switch(store, writer.staging, tied)
    writer.snapshots.flush_outbox()
    return report


def _repository(run: _Rebuild, repository: str) -> None:
    run.report.repositories += 1
    snapshot, problems = newest_readable(run.store, run.listed, repository)
    if snapshot is None:
        problems.append(Problem(repository, repository, "no snapshot of it can be read: it cannot come back"))
        run.report.problems += problems
        return
    last_id = uuid5(run.tied.database_id, f"{repository} {snapshot.version}")
    with run.database.read() as connection:
        noted = adopt.noted_problems(connection, last_id)
    if noted is not None:  # done by an earlier run
        run.report.problems += [Problem(*problem) for problem in noted]
        return
    trees = Trees(run.objects, repository, run.store.location, problems)
    here: set[Digest] = set()
    last: Sequence[PlannedManifest] = ()
    for some, is_last in _pieces(trees, snapshot):
        here.update(planned.document.digest for planned in some)
        if is_last:
            last = some
        else:
            _commit(run, trees.piece(some, here), _id_of(run, repository, some))
        run.progress.advanced(len(some))
    piece = trees.piece(last, here)
    piece.images += trees.tags(
        {tag: snapshot.manifests[digest] for tag, digest in snapshot.tags.items() if digest in here}
    )
    if len(here) < len(snapshot.manifests):
        keep(run.writer, run.store, snapshot)
    # What a purge had left to remove is not known any more, so there is nothing to be purged.
    state = "active" if snapshot.state == "active" else "deleted"
    row = RepositoryRow(
        state, snapshot.version[1], snapshot.created_at, snapshot.updated_at, locks=snapshot.locks
    )
    _commit(run, piece, last_id, row, problems)
    run.report.changed += 1
    run.report.problems += problems


def plan_of(writer: Writer, piece: Piece, ingest_id: UUID) -> CommitPlan:
    """Return the plan of a commit that adopts: no key has an intent, and no tag is held to be immutable.

    What a snapshot says was acknowledged once: to put it back is no change.
    """
    return CommitPlan(
        ingest_id,
        writer.staging.owner,
        writer.actor,
        SOURCE,
        piece.images,
        {},
        writer.lifetimes,
        TagTerms(writer.lifetimes.garbage, immutable=None),
        adopted=piece.adopted,
        lost=piece.lost,
        store_id=writer.store_id,
    )


def keep(writer: Writer, store: BlobStore, snapshot: RepositorySnapshot) -> None:
    """Keep a snapshot that names what cannot come back now: the next one will not, and removes it."""
    content = store.read_record(snapshot.record)
    epoch, revision = snapshot.version
    if content is not None:
        writer.staging.write_record(f"layouts/{snapshot.repository}/_kept-{epoch}-{revision}.json", content)


def _pieces(trees: Trees, snapshot: RepositorySnapshot) -> Iterator[tuple[Sequence[PlannedManifest], bool]]:
    """Give the manifests of a repository in pieces, children before parents; the last one may be empty."""
    tags: dict[Digest, list[str]] = {}
    for tag, digest in snapshot.tags.items():
        tags.setdefault(digest, []).append(tag)
    piece: list[PlannedManifest] = []
    size_bytes = 0
    for planned in _ordered(trees, snapshot, tags):
        if len(piece) == PIECE_MANIFESTS or size_bytes > PIECE_BYTES:
            yield piece, False
            piece, size_bytes = [], 0
        piece.append(planned)
        size_bytes += len(planned.document.content)
    yield piece, True


def _ordered(
    trees: Trees, snapshot: RepositorySnapshot, tags: dict[Digest, list[str]]
) -> Iterator[PlannedManifest]:
    """Give images as they are read, then indexes: those are few, and wait in memory."""
    indexes = []
    for digest, descriptor in snapshot.manifests.items():
        planned = trees.read(descriptor, tags.get(digest, ()))
        if planned is None:
            continue
        if isinstance(planned.document, Index):
            indexes.append(planned)
        else:
            yield planned
    yield from children_first(indexes)


def _id_of(run: _Rebuild, repository: str, manifests: Sequence[PlannedManifest]) -> UUID:
    digests = "".join(str(planned.document.digest) for planned in manifests)
    return uuid5(run.tied.database_id, f"{repository} {sha256(digests.encode()).hexdigest()}")


def _commit(
    run: _Rebuild,
    piece: Piece,
    ingest_id: UUID,
    row: RepositoryRow | None = None,
    problems: Sequence[Problem] = (),
) -> None:
    writer = run.writer
    plan = plan_of(writer, piece, ingest_id)

    def once() -> CommitResult:
        try:
            with run.database.transaction("rebuild") as connection:
                if not identity.stays_unfinished(connection):
                    raise _Overtaken
                result = commit(connection, plan)
                if row is not None:
                    [(repository_id, _)] = result.repositories
                    change = Change(stamp(connection), writer.actor, ingest_id)
                    adopt.put_back_repository(connection, repository_id, row)
                    adopt.queue_unreached(connection, change, repository_id, writer.lifetimes.lease)
                    noted = [(item.repository, item.subject, item.detail) for item in problems]
                    adopt.note_problems(connection, ingest_id, result, noted)
                return result
        except AlreadyCommitted as earlier:
            return earlier.result

    try:
        result = retried(once)
    except LostReservation as error:
        raise Refused(f"another process works on the new database: {error}") from error
    run.report.manifests += result.new_manifests
    run.report.blobs += result.new_blobs
    run.report.tags += len(result.tags_changed)
