"""Repairs of rows: manifests derived again, tags put right, garbage queued, snapshots written."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import db
from regmeta.errors import DamagedBlob, InputError, NotFound
from regmeta.ingest.plan import PlannedManifest
from regmeta.ingest.rederive import rederive
from regmeta.ingest.retry import retried
from regmeta.ingest.revive import revive
from regmeta.ingest.snapshots import version_of
from regmeta.ingest.statements import (
    Change,
    queue_blobs,
    queue_manifests,
    queue_repository,
    queue_snapshot,
    record_events,
    set_repository_state,
)
from regmeta.ingest.tag_repair import restore_tag
from regmeta.ingest.unit_of_work import Writer
from regmeta.maintain.verify.manifests import with_config
from regmeta.models import Blob, Manifest, Repository, StoreIdentity, Tag
from regmeta.oci import image_config, manifest
from regmeta.oci.digest import Digest
from regmeta.oci.streams import read_up_to
from regmeta.store import BlobStore, ObjectMissing

_MANIFEST: Final = (
    sa.select(
        Manifest.repository_id,
        Repository.name,
        Manifest.digest,
        Manifest.media_type,
        Manifest.content,
        Blob.key,
    )
    .join(Repository, Repository.id == Manifest.repository_id)
    .outerjoin(Blob, Blob.digest == Manifest.digest)
    .where(Manifest.id == sa.bindparam("of"))
)
_TAG: Final = (
    sa.select(Repository.id, Repository.name)
    .join(Tag, Tag.repository_id == Repository.id)
    .where(Tag.id == sa.bindparam("of"))
)
_CONFIG: Final = sa.select(Blob.digest, Blob.id, Blob.key, Blob.state, Blob.size_bytes).where(
    Blob.digest == sa.bindparam("of")
)
_STATE: Final = sa.select(Repository.state).where(Repository.id == sa.bindparam("of"))
_REPOSITORY: Final = sa.select(
    Repository.name, Repository.revision, sa.select(StoreIdentity.epoch).scalar_subquery().label("epoch")
).where(Repository.id == sa.bindparam("of"))


class RowRepair:
    """Repairs rows, one finding at a time. Each tells in words what was done."""

    def __init__(self, writer: Writer, store: BlobStore) -> None:
        self._writer = writer
        self._store = store
        self._touched: set[int] = set()

    def manifest(self, manifest_id: int) -> str:
        """Derive a manifest's rows again from its bytes: those in its row, or its object's.

        Raises:
            NotFound: it has gone meanwhile.
            DamagedBlob: neither holds its bytes, or its configuration cannot be read.
            InputError: its bytes are no manifest.
        """
        with self._writer.database.read() as connection:
            row: Any = connection.execute(_MANIFEST, {"of": manifest_id}).first()
        if row is None:
            raise NotFound(f"manifest {manifest_id}: has gone")
        content = bytes(row.content)
        if not row.digest.matches(content):
            content = self._object(row.digest, row.key)
        try:
            document = manifest.parse(content, row.digest, row.media_type, verified=True)
        except InputError:
            # The type in the row may be what is wrong; most manifests say their own.
            document = manifest.parse(content, row.digest, verified=True)
        planned = PlannedManifest(document, image_config.UNKNOWN)
        if isinstance(document, manifest.Manifest):
            with self._writer.database.read() as connection:
                blob = connection.execute(_CONFIG, {"of": document.config.digest}).first()
            planned, is_known = with_config(planned, blob, self._store)
            if not is_known:
                raise DamagedBlob(f"{row.digest}: its configuration {document.config.digest} cannot be read")

        def once() -> None:
            with self._writer.database.transaction("rederive") as connection:
                change = self._locked(connection, row.repository_id)
                rederive(connection, change, row.repository_id, manifest_id, planned, self._writer.lifetimes)

        retried(once)
        self._touched.add(row.repository_id)
        return "rows derived again"

    def tag(self, tag_id: int) -> str | None:
        """Put an interval right; None if it cannot be."""
        with self._writer.database.read() as connection:
            row: Any = connection.execute(_TAG, {"of": tag_id}).first()
        if row is None:
            raise NotFound(f"tag {tag_id}: has gone")

        def once() -> str | None:
            with self._writer.database.transaction("restore_tag") as connection:
                change = self._locked(connection, row.id)
                window = self._writer.lifetimes.history
                return restore_tag(connection, change, row.id, tag_id, window)

        done: str | None = retried(once)
        self._touched.add(row.id)
        return done

    def revive(self, manifest_id: int) -> str:
        """Bring back a manifest that was deleted and is needed, with all that it lists.

        Raises:
            NotFound: it has gone meanwhile.
        """
        with self._writer.database.read() as connection:
            row: Any = connection.execute(_MANIFEST, {"of": manifest_id}).first()
        if row is None:
            raise NotFound(f"manifest {manifest_id}: has gone")

        def once() -> None:
            with self._writer.database.transaction("revive") as connection:
                change = self._locked(connection, row.repository_id)
                delay = self._writer.lifetimes.garbage
                revive(connection, change, row.repository_id, [manifest_id], delay)

        retried(once)
        self._touched.add(row.repository_id)
        return "is here again"

    def reactivate(self, repository_id: int) -> str | None:
        """Bring back a repository that was deleted and has live tags; None if it is being purged."""

        def once() -> str | None:
            with self._writer.database.transaction("reactivate") as connection:
                change = self._locked(connection, repository_id)
                state = connection.execute(_STATE, {"of": repository_id}).scalar_one()
                if state == "purging":
                    return None
                if state == "deleted":
                    set_repository_state(connection, repository_id, "active", None)
                    record_events(connection, [change.event("repository.restored", repository_id)])
                return "is active again"

        done = retried(once)
        self._touched.add(repository_id)
        return done

    def queue(self, row_id: int, subject: str) -> str:
        """Let the collector look at a manifest, a blob or a repository, as *subject* tells."""

        def once() -> None:
            with self._writer.database.transaction("queue") as connection:
                change = Change(db.stamp(connection), self._writer.actor, uuid4())
                if "@" not in subject and ":" not in subject:
                    queue_repository(connection, change, row_id, change.stamp.now)
                    return
                if "@" not in subject:
                    queue_blobs(connection, change, {row_id: change.stamp.now}, "found by verification")
                    return
                row: Any = connection.execute(_MANIFEST, {"of": row_id}).first()
                if row is not None:
                    queue_manifests(
                        connection,
                        change,
                        row.repository_id,
                        [row_id],
                        "found by verification",
                        timedelta(),
                    )

        retried(once)
        return "queued"

    def snapshot(self, repository_id: int) -> str | None:
        """Write a repository's snapshot and layout again; None if the store has a newer one."""
        with self._writer.database.read() as connection:
            row: Any = connection.execute(_REPOSITORY, {"of": repository_id}).first()
        if row is None:
            raise NotFound(f"repository {repository_id}: has gone")
        versions = [version_of(name) for name in self._store.list_records(f"layouts/{row.name}")]
        if any(version is not None and version > (row.epoch, row.revision) for version in versions):
            return None

        def once() -> None:
            with self._writer.database.transaction("requeue_snapshot") as connection:
                self._locked(connection, repository_id)

        retried(once)
        self._writer.snapshots.flush(repository_id, now=True)
        return "written again"

    def finish(self) -> None:
        """Write the snapshots of what was touched."""
        for repository_id in sorted(self._touched):
            self._writer.snapshots.flush_quietly(repository_id, now=True)
        self._touched.clear()

    def _locked(self, connection: Connection, repository_id: int) -> Change:
        # Not the lock of an ingest: that would bring a deleted repository back.
        queue_snapshot(connection, repository_id)
        return Change(db.stamp(connection), self._writer.actor, uuid4())

    def _object(self, digest: Digest, key: str | None) -> bytes:
        content = None
        if key is not None:
            with suppress(ObjectMissing), self._store.open(key) as stream:
                content = read_up_to(stream, manifest.MAX_MANIFEST_BYTES)
        if content is None or not digest.matches(content):
            raise DamagedBlob(f"{digest}: neither its row nor its object holds its bytes")
        return content
