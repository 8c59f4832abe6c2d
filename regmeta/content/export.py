"""Images as an OCI image layout. Every byte is verified on its way out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import models
from regmeta.content.streams import open_blob
from regmeta.db import Database
from regmeta.oci import layout
from regmeta.oci.descriptor import REF_NAME, Descriptor
from regmeta.oci.names import Reference
from regmeta.query import tree
from regmeta.query.catalog import repository_id, resolve_in
from regmeta.query.moments import IMAGE_OF_TAG, WAS_LIVE, collected
from regmeta.store import BlobStore
from regmeta.store.exports import LayoutExport

_MANIFEST: Final = sa.select(
    models.Manifest.id,
    models.Manifest.digest,
    models.Manifest.media_type,
    models.Manifest.size_bytes,
    sa.bindparam("tag", type_=sa.Text()).label("tag"),
).where(models.Manifest.id == sa.bindparam("of"))
_TAGGED: Final = (
    sa.select(
        models.Manifest.id,
        models.Manifest.digest,
        models.Manifest.media_type,
        models.Manifest.size_bytes,
        models.Tag.name.label("tag"),
    )
    .join(models.Tag, models.Tag.manifest_id == models.Manifest.id)
    .where(models.Tag.repository_id == sa.bindparam("of"), models.Tag.ended_at.is_(None))
    .order_by(models.Tag.name)
)
_TAGGED_AT: Final = (
    sa.select(
        models.Manifest.id,
        models.Tag.manifest_digest.label("digest"),
        models.Manifest.media_type,
        models.Manifest.size_bytes,
        models.Tag.name.label("tag"),
    )
    .select_from(models.Tag)
    .outerjoin(models.Manifest, IMAGE_OF_TAG)
    .where(models.Tag.repository_id == sa.bindparam("of"), WAS_LIVE)
    .order_by(models.Tag.name)
)


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written."""

    images: int
    blobs: int
    size_bytes: int


def export(
    database: Database,
    store: BlobStore,
    reference: Reference,
    target: LayoutExport,
    progress: Callable[[int], None] | None = None,
    at: datetime | None = None,
) -> ExportReport:
    """Write an image, or all tagged images of a repository, to *target*; with an error it stays away.

    The rows are read at one moment. A blob that is collected meanwhile ends the export with an error. With
    *at* what is written is what the reference meant then.

    Raises:
        NotFound: the reference means nothing here, or one of its images at that time was collected since.
        DamagedBlob: bytes do not verify; names the digest.
        StoreUnavailable: the store cannot be read, or *target* cannot be written.
    """
    with database.read() as connection:
        images = _images(connection, reference, at)
        blobs = tree.blobs(connection, [row.id for row in images])
    with target:
        for blob in blobs:
            with open_blob(store, blob) as stream:
                target.add(blob.digest, blob.size_bytes, stream, progress)
        target.finish(layout.index_content(_descriptor(row) for row in images))
    return ExportReport(len(images), len(blobs), sum(blob.size_bytes for blob in blobs))


def _images(connection: Connection, reference: Reference, at: datetime | None) -> Sequence[Any]:
    if reference.tag is None and reference.digest is None:
        of = repository_id(connection, reference.repository, at)
        if at is None:
            return connection.execute(_TAGGED, {"of": of}).all()
        rows = connection.execute(_TAGGED_AT, {"of": of, "at": at}).all()
        for row in rows:
            if row.id is None:  # half of what a repository was is not what it was
                raise collected(f"{reference}:{row.tag}", row.digest, at)
        return rows
    manifest_id, _ = resolve_in(connection, reference, at)
    row = connection.execute(_MANIFEST, {"of": manifest_id, "tag": reference.tag}).one()
    return [row]


def _descriptor(row: Any) -> Descriptor:
    named = {} if row.tag is None else {REF_NAME: row.tag}
    return Descriptor(row.media_type, row.digest, row.size_bytes, named)
