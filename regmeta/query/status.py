"""What is stored, what is under way, what is not flushed. Looks at rows only and clears nothing up."""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa

from regmeta import db, models
from regmeta.db import SCHEMA_HEAD, Database
from regmeta.errors import SchemaMismatch
from regmeta.query import results

_IDENTITY: Final = sa.select(
    models.StoreIdentity.store_id,
    models.StoreIdentity.database_id,
    models.StoreIdentity.epoch,
    models.StoreIdentity.hold_reason,
)
_OPEN: Final = (
    sa.select(
        models.Intent.owner,
        models.Intent.host,
        sa.func.count(),
        sa.func.min(models.Intent.created_at, type_=models.base.UtcTime()),
        sa.func.max(models.Intent.expires_at, type_=models.base.UtcTime()),
    )
    .group_by(models.Intent.owner, models.Intent.host)
    .order_by(models.Intent.owner)
)
_BEHIND: Final = (
    sa.select(models.Repository.name)
    .join(models.LayoutOutbox, models.LayoutOutbox.repository_id == models.Repository.id)
    .order_by(models.Repository.name)
)
_COUNTS: Final = sa.select(
    *(
        sa.select(sa.func.count()).select_from(model).where(condition).scalar_subquery()
        for model, condition in (
            (models.Repository, models.Repository.state == "active"),
            (models.Tag, models.Tag.ended_at.is_(None)),
            (models.Manifest, models.Manifest.deleted_at.is_(None)),
            (models.Blob, sa.true()),
        )
    ),
    sa.select(sa.func.coalesce(sa.func.sum(models.Blob.size_bytes), 0)).scalar_subquery(),
    *(
        sa.select(sa.func.count()).select_from(model).where(condition).scalar_subquery()
        for model, condition in (
            (models.Blob, models.Blob.state == "damaged"),
            (models.IndexMember, models.IndexMember.absence.is_not(None)),
            (models.Tombstone, sa.true()),
            (models.GcTask, sa.true()),
            (models.Event, sa.true()),
        )
    ),
)
_LAST_COMMIT: Final = sa.select(sa.func.max(models.Ingest.committed_at, type_=models.base.UtcTime()))


def status(database: Database, store_location: str) -> results.Status:
    """Return the state of the registry, of one moment.

    Raises:
        SchemaMismatch: the database belongs to no store yet.
    """
    with database.read() as connection:
        now = db.clock(connection)
        identity = connection.execute(_IDENTITY).first()
        if identity is None:
            raise SchemaMismatch(f"{database.location} was never tied to a store: run 'regmeta init'")
        counts: Any = connection.execute(_COUNTS).one()
        (repositories, tags, manifests, blobs, size, damaged, absent, tombstones, tasks, events) = counts
        return results.Status(
            database=database.location,
            store=store_location,
            schema=SCHEMA_HEAD,
            store_id=identity.store_id,
            database_id=identity.database_id,
            epoch=identity.epoch,
            repositories=repositories,
            tags=tags,
            manifests=manifests,
            blobs=blobs,
            blob_bytes=int(size),
            damaged_blobs=damaged,
            absent_children=absent,
            open_ingests=tuple(
                results.OpenIngest(*row, is_expired=row[4] < now) for row in connection.execute(_OPEN)
            ),
            snapshots_behind=tuple(connection.execute(_BEHIND).scalars()),
            tombstones=tombstones,
            gc_tasks=tasks,
            collection_hold=identity.hold_reason,
            events=events,
            last_commit_at=connection.execute(_LAST_COMMIT).scalar(),
        )
