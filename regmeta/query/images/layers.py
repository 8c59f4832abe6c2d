"""The layers of one image, in their order from the base up."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import models
from regmeta.db import Database
from regmeta.errors import IntegrityError
from regmeta.oci import manifest as oci_manifest
from regmeta.oci.descriptor import Platform
from regmeta.oci.digest import Digest
from regmeta.oci.manifest import Manifest
from regmeta.oci.names import Reference
from regmeta.query.catalog import platform as platform_text
from regmeta.query.catalog import resolve_in
from regmeta.query.images.choose import image_of
from regmeta.query.images.results import ImageLayers, LayerDetails
from regmeta.query.tree import StoredBlob
from regmeta.query.visibility import Visibility

_MANIFEST: Final = sa.select(
    models.Manifest.digest,
    models.Manifest.media_type,
    models.Manifest.content,
    models.Manifest.os,
    models.Manifest.architecture,
    models.Manifest.variant,
).where(models.Manifest.id == sa.bindparam("of"))
_EDGES: Final = (
    sa.select(models.ManifestBlob.position, models.ManifestBlob.chain_digest, models.Blob.state)
    .select_from(models.ManifestBlob)
    .outerjoin(models.Blob, models.Blob.id == models.ManifestBlob.blob_id)
    .where(models.ManifestBlob.manifest_id == sa.bindparam("of"))
)
_CONFIG: Final = (
    sa.select(
        models.Manifest.digest,
        models.Manifest.config_media_type,
        models.Blob.digest,
        models.Blob.size_bytes,
        models.Blob.key,
        models.Blob.state,
    )
    .select_from(models.Manifest)
    .join(
        models.ManifestBlob,
        sa.and_(models.ManifestBlob.manifest_id == models.Manifest.id, models.ManifestBlob.position == 0),
    )
    .join(models.Blob, models.Blob.id == models.ManifestBlob.blob_id)
    .where(models.Manifest.id == sa.bindparam("of"))
)


def layers(
    database: Database,
    reference: Reference,
    *,
    platform: Platform | None = None,
    at: datetime | None = None,
    visible: Visibility | None = None,
) -> ImageLayers:
    """Return the layers of an image; below an index, of its image for *platform*.

    Raises:
        NotFound: the reference means nothing here, or there is no image for this platform.
        UsageError: an index of several images, and no platform.
        IntegrityError: its row is damaged.
    """
    with database.read() as connection:
        root, _ = resolve_in(connection, reference, at, visible)
        chosen, shown = image_of(connection, root, reference, platform)
        return layers_in(connection, chosen, reference.repository, shown)


def layers_in(connection: Connection, manifest_id: int, repository: str, platform: str | None) -> ImageLayers:
    """Return the layers of an image manifest. *platform* is what its index says of it.

    Raises:
        IntegrityError: its row is damaged.
    """
    of = {"of": manifest_id}
    row: Any = connection.execute(_MANIFEST, of).one()
    edges = {edge.position: edge for edge in connection.execute(_EDGES, of)}
    document = oci_manifest.parse(row.content, row.digest, row.media_type, verified=True)
    if not isinstance(document, Manifest) or len(edges) != len(document.blobs):
        raise IntegrityError(f"{repository}@{row.digest}: its rows do not fit its manifest")
    found = tuple(
        LayerDetails(
            position,
            layer.media_type,
            layer.digest,
            layer.size_bytes,
            edges[position].chain_digest,
            edges[position].state or "absent",
        )
        for position, layer in enumerate(document.layers, 1)
    )
    return ImageLayers(
        repository,
        row.digest,
        platform or platform_text(row.os, row.architecture, row.variant),
        document.config.digest,
        found,
        sum(layer.size_bytes for layer in found),
        sum({layer.digest: layer.size_bytes for layer in found}.values()),
    )


def config_in(connection: Connection, manifest_id: int) -> tuple[Digest, str | None, StoredBlob]:
    """Return an image's digest, its configuration's media type and where that is stored.

    Raises:
        IntegrityError: no row says where.
    """
    row: Any = connection.execute(_CONFIG, {"of": manifest_id}).first()
    if row is None:
        raise IntegrityError(f"manifest {manifest_id}: no row says where its configuration is")
    return row[0], row[1], StoredBlob(*row[2:])
