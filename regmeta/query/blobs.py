"""One blob: where its bytes are and who uses it."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from regmeta import models
from regmeta.db import Database
from regmeta.errors import NotFound
from regmeta.oci.digest import Digest
from regmeta.query import results

_BLOB: Final = sa.select(
    models.Blob.id,
    models.Blob.digest,
    models.Blob.size_bytes,
    models.Blob.state,
    models.Blob.key,
    models.Blob.created_at,
    models.Blob.lease_until,
).where(models.Blob.digest == sa.bindparam("of"))
_naming = (
    sa.select(models.Manifest.repository_id, models.Manifest.id.label("manifest_id"))
    .join(models.ManifestBlob, models.ManifestBlob.manifest_id == models.Manifest.id)
    .where(models.ManifestBlob.blob_id == sa.bindparam("blob"))
    .union(
        sa.select(models.Manifest.repository_id, models.Manifest.id).where(
            models.Manifest.blob_id == sa.bindparam("blob")
        ),
        sa.select(models.Manifest.repository_id, models.Manifest.id)
        .join(models.IndexMember, models.IndexMember.index_id == models.Manifest.id)
        .where(models.IndexMember.blob_id == sa.bindparam("blob")),
    )
    .subquery("naming")
)
_USES: Final = (
    sa.select(models.Repository.name, sa.func.count(_naming.c.manifest_id))
    .select_from(models.RepositoryBlob)
    .join(models.Repository, models.Repository.id == models.RepositoryBlob.repository_id)
    .outerjoin(_naming, _naming.c.repository_id == models.Repository.id)
    .where(models.RepositoryBlob.blob_id == sa.bindparam("blob"))
    .group_by(models.Repository.name)
    .order_by(models.Repository.name)
)


def blob(database: Database, digest: Digest) -> results.Blob:
    """Return what is known of a blob; a manifest's own bytes are one as well.

    Raises:
        NotFound: there is none of this digest.
    """
    with database.read() as connection:
        row = connection.execute(_BLOB, {"of": digest}).first()
        if row is None:
            raise NotFound(f"{digest}: no such blob")
        uses = connection.execute(_USES, {"blob": row.id})
        return results.Blob(*row[1:], tuple(results.BlobUse(*use) for use in uses))
