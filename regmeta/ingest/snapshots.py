"""After the commit: the store's own copy of which repository holds what under which tag.

=================  ====================================  =====================================  ==========
step               durable effect                        a crash right after leaves             repaired by
=================  ====================================  =====================================  ==========
(commit)           a row in ``layout_outbox``            an old snapshot, and a row that says   the next
                                                         so                                     writer
write snapshot     ``layouts/<repository>/_<epoch>-      the same; the snapshot is newer than   the next
                   <revision>.<uuid>.json``              the row knows, which harms nothing     writer
show layout        none that is relied on                a stale ``_layout``                    the next
                                                                                                writer
clear the row      the row is gone                       older snapshots beside the new one     the next
                                                                                                snapshot
remove older ones  they are gone                         --                                     --
=================  ====================================  =====================================  ==========

A snapshot has a name of its own, so a late writer of an old revision overwrites nothing; a rebuild takes
the greatest (epoch, revision). The name starts with an underscore since ``foo/1-2.x.json`` is a legal
repository name and ``foo/_1-2.x.json`` is not.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import db, errors
from regmeta.db import Database
from regmeta.ingest.immutable import locks_of
from regmeta.ingest.reserve import chunks
from regmeta.ingest.store_moves import is_store
from regmeta.models import (
    Blob,
    LayoutOutbox,
    Manifest,
    Repository,
    RepositoryBlob,
    StoreIdentity,
    Tag,
    TagLock,
)
from regmeta.oci import layout, media_types
from regmeta.oci.descriptor import REF_NAME, Descriptor
from regmeta.oci.digest import Digest
from regmeta.store import BlobStore, Staging

_log = logging.getLogger(__name__)

SMALL_REPOSITORY_ENTRIES: Final = 1000
COALESCE_S: Final = 5.0  # [s] a larger repository's snapshot is written at most this often
REPOSITORY_ANNOTATION: Final = "io.regmeta.repository"
REVISION_ANNOTATION: Final = "io.regmeta.revision"
STATE_ANNOTATION: Final = "io.regmeta.state"
CREATED_ANNOTATION: Final = "io.regmeta.created"
UPDATED_ANNOTATION: Final = "io.regmeta.updated"
LOCKS_ANNOTATION: Final = "io.regmeta.locks"  # where there are some: [[pattern, time, actor], ...] as JSON
_NAME: Final = re.compile(r"_(\d+)-(\d+)\.[0-9a-f]{32}\.json")

_REPOSITORY: Final = sa.select(
    Repository.name,
    Repository.state,
    Repository.revision,
    Repository.created_at,
    Repository.updated_at,
    sa.select(StoreIdentity.epoch).scalar_subquery(),
    sa.exists().where(TagLock.repository_id == Repository.id),
).where(Repository.id == sa.bindparam("of"))
# A deleted repository shows nothing of what it may be brought back with.
_IS_ACTIVE: Final = sa.exists().where(
    Repository.id == RepositoryBlob.repository_id, Repository.state == "active"
)
_TAGGED: Final = (
    sa.select(Tag.name, Manifest.digest, Manifest.media_type, Manifest.size_bytes, Manifest.artifact_type)
    .join(Manifest, Manifest.id == Tag.manifest_id)
    .where(Tag.repository_id == sa.bindparam("of"), Tag.ended_at.is_(None))
    .order_by(Tag.name)
)
_UNTAGGED: Final = (
    sa.select(Manifest.digest, Manifest.media_type, Manifest.size_bytes, Manifest.artifact_type)
    .where(
        Manifest.repository_id == sa.bindparam("of"),
        Manifest.deleted_at.is_(None),
        ~sa.exists().where(Tag.manifest_id == Manifest.id, Tag.ended_at.is_(None)),
    )
    .order_by(Manifest.id)
)
_OBJECTS: Final = (
    sa.select(Blob.digest, Blob.key)
    .join(RepositoryBlob, RepositoryBlob.blob_id == Blob.id)
    .where(
        RepositoryBlob.repository_id == sa.bindparam("of"), _IS_ACTIVE, Blob.state == sa.bindparam("wanted")
    )
)
_THESE: Final = (
    sa.select(Blob.digest, Blob.key)
    .join(RepositoryBlob, RepositoryBlob.blob_id == Blob.id)
    .where(
        RepositoryBlob.repository_id == sa.bindparam("of"),
        _IS_ACTIVE,
        Blob.state == "live",
        Blob.digest.in_(sa.bindparam("digests", expanding=True)),
    )
)
# A row that is locked is being written by a later commit, or cleared by another: its process may stand still
# in the middle of that, and nobody has to wait for it.
_BEHIND: Final = (
    sa.select(LayoutOutbox.repository_id)
    .where(LayoutOutbox.repository_id == sa.bindparam("of"), LayoutOutbox.revision <= sa.bindparam("up_to"))
    .with_for_update(skip_locked=True)
)
_CLEAR: Final = sa.delete(LayoutOutbox).where(
    LayoutOutbox.repository_id.in_(_BEHIND),
    is_store(),  # a snapshot in the store of before is none of the registry's
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One repository at one revision."""

    repository: str
    version: tuple[int, int]  # epoch, revision
    content: bytes
    entries: int


class SnapshotWriter:
    """Writes the snapshots of one process. Any number of processes and threads may do so at once.

    Inside the process one thread at a time works on a repository: a thread does not give up waiting for
    another as it does for another process, and what two ingests added comes into the layout whichever
    snapshot is written first.
    """

    def __init__(
        self,
        database: Database,
        store: BlobStore,
        staging: Staging,
        *,
        show_layouts: bool,
        store_id: UUID | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._store_id = store_id
        self._store = store
        self._staging = staging
        self._show_layouts = show_layouts
        self._clock_s = clock_s
        self._large: dict[int, float] = {}  # repository id -> when its snapshot was last written
        self._postponed: dict[int, set[Digest]] = {}
        self._lock = threading.Lock()  # of the three tables here
        self._at_work: dict[int, threading.Lock] = {}

    def flush(
        self, repository_id: int, objects: Collection[Digest] | None = None, *, now: bool = False
    ) -> None:
        """Write a repository's snapshot and clear its row, unless it is large and was written just now.

        *objects* are the blobs that an ingest added, to be shown in the layout; without them all are.
        *now* writes it in any case.

        Raises:
            Error: it could not be written; the row stands, and the next writer does it.
        """
        with self._lock:
            if objects is not None:
                self._postponed.setdefault(repository_id, set()).update(objects)
            at_work = self._at_work.setdefault(repository_id, threading.Lock())
        with at_work:
            last_s = self._large.get(repository_id)
            with self._lock:
                if not now and last_s is not None and self._clock_s() - last_s < COALESCE_S:
                    # Said again: who was at work just now may have taken it for done.
                    if objects is not None:
                        self._postponed.setdefault(repository_id, set()).update(objects)
                    return
                shown = frozenset(self._postponed.get(repository_id, ()))
            self._flush(repository_id, None if objects is None else shown)
            with self._lock:
                # What others added meanwhile is for their own turn.
                left = self._postponed.pop(repository_id, set()) - shown
                if left:
                    self._postponed[repository_id] = left

    def _flush(self, repository_id: int, shown: Collection[Digest] | None) -> None:
        """Do it, while no other thread works on the repository; *shown* is None for all objects."""
        snapshot = self._write(repository_id)
        if self._show_layouts and self._store.layouts is not None:
            self._show(repository_id, snapshot, shown)
        with self._database.transaction("outbox", quiet=True) as connection:
            parameters = {"of": repository_id, "up_to": snapshot.version[1], "of_store": self._store_id}
            connection.execute(_CLEAR, parameters)
        self._remove_older(snapshot)
        if snapshot.entries > SMALL_REPOSITORY_ENTRIES:
            self._large[repository_id] = self._clock_s()

    def flush_quietly(
        self, repository_id: int, objects: Collection[Digest] | None = None, *, now: bool = False
    ) -> None:
        """Do the same, but only log what goes wrong: what was committed is committed."""
        try:
            self.flush(repository_id, objects, now=now)
        except errors.Error as error:
            _log.warning("a snapshot is left for the next writer: %s", error)

    def flush_postponed(self) -> None:
        """Write what was put off."""
        with self._lock:
            postponed = list(self._postponed)
        for repository_id in postponed:
            self.flush_quietly(repository_id, (), now=True)

    def flush_outbox(self) -> int:
        """Write every snapshot that is behind; returns how many that were."""
        with self._database.read() as connection:
            pending = connection.execute(sa.select(LayoutOutbox.repository_id)).scalars().all()
        for repository_id in pending:
            self.flush_quietly(repository_id, now=True)
        return len(pending)

    def _write(self, repository_id: int) -> Snapshot:
        with self._database.read() as connection:
            snapshot = take_snapshot(connection, repository_id)
        epoch, revision = snapshot.version
        name = f"layouts/{snapshot.repository}/_{epoch}-{revision}.{uuid4().hex}.json"
        self._staging.write_record(name, snapshot.content)
        return snapshot

    def _show(self, repository_id: int, snapshot: Snapshot, shown: Collection[Digest] | None) -> None:
        digests = None if shown is None else sorted(shown)
        assert self._store.layouts is not None
        findings = self._store.layouts.update(
            snapshot.repository,
            snapshot.version,
            snapshot.content,
            lambda: self._objects(repository_id, digests),
            whole=shown is None,
        )
        for finding in findings:
            _log.warning("the layout of %s is incomplete: %s", snapshot.repository, finding)

    def _objects(self, repository_id: int, digests: Sequence[Digest] | None) -> list[tuple[Digest, str]]:
        """Return what the rows name now, not what an ingest brought: another may have brought it first."""
        if digests is not None and not digests:
            return []
        with self._database.read() as connection:
            if digests is None:
                return objects_of(connection, repository_id)
            return [
                (digest, key)
                for some in chunks(digests)
                for digest, key in connection.execute(_THESE, {"of": repository_id, "digests": some})
            ]

    def _remove_older(self, snapshot: Snapshot) -> None:
        for name in self._store.list_records(f"layouts/{snapshot.repository}"):
            version = version_of(name)
            if version is not None and version < snapshot.version:
                self._store.delete_record(name)


def version_of(record_name: str) -> tuple[int, int] | None:
    """Return (epoch, revision) of a snapshot's name, None for anything else."""
    match = _NAME.fullmatch(record_name.rpartition("/")[2])
    return (int(match[1]), int(match[2])) if match else None


def take_snapshot(connection: Connection, repository_id: int) -> Snapshot:
    """Read one repository, of one moment: every tag, then every manifest that has none.

    Of one that was deleted it says just that.
    """
    of = {"of": repository_id}
    repository, tagged, untagged = db.together(connection, (_REPOSITORY, of), (_TAGGED, of), (_UNTAGGED, of))
    row: Any = repository.one()
    name, state, revision, created_at, updated_at, epoch, is_locked = row
    entries: list[Descriptor] = []
    if state == "active":
        entries += [_entry(entry, entry.name) for entry in tagged]
        entries += [_entry(entry, None) for entry in untagged]
    annotations = {
        REPOSITORY_ANNOTATION: name,
        REVISION_ANNOTATION: f"{epoch}-{revision}",
        STATE_ANNOTATION: state,
        CREATED_ANNOTATION: created_at.isoformat(timespec="microseconds"),
        UPDATED_ANNOTATION: updated_at.isoformat(timespec="microseconds"),
    }
    if is_locked:
        annotations[LOCKS_ANNOTATION] = _locks(connection, repository_id)
    content = layout.index_content(entries, annotations)
    return Snapshot(name, (epoch, revision), content, len(entries))


def objects_of(connection: Connection, repository_id: int, state: str = "live") -> list[tuple[Digest, str]]:
    """Return digest and key of every blob in a state that a repository may read; none if it was deleted."""
    rows = connection.execute(_OBJECTS, {"of": repository_id, "wanted": state})
    return [(digest, key) for digest, key in rows]


def _locks(connection: Connection, repository_id: int) -> str:
    locks = [
        [lock.pattern, lock.created_at.isoformat(timespec="microseconds"), lock.created_by]
        for lock in locks_of(connection, repository_id)
    ]
    return json.dumps(locks, ensure_ascii=False)


def _entry(row: Any, tag: str | None) -> Descriptor:
    return Descriptor(
        row.media_type,
        row.digest,
        row.size_bytes,
        {} if tag is None else {REF_NAME: tag},
        artifact_type=media_types.telling_artifact_type(row.artifact_type),
    )
