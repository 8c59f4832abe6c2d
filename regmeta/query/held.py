"""Which repositories let the bytes of a digest be found that are no manifest there."""

from __future__ import annotations

import sqlalchemy as sa

from regmeta.models import Blob, Manifest, Repository


def is_no_deleted_manifest() -> sa.ColumnElement[bool]:
    """Return the condition that a blob is not what is left of a manifest that was deleted in a repository.

    Its bytes are kept for a while, and are found no more than the manifest is. ``Blob`` and ``Repository``
    are those of the statements around it.
    """
    deleted = (
        sa.select(Manifest.id)
        .where(
            Manifest.repository_id == Repository.id,
            Manifest.digest == Blob.digest,
            Manifest.deleted_at.is_not(None),
        )
        .correlate(Blob, Repository)
    )
    return ~deleted.exists()
