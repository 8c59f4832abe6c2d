"""What keeps a manifest or a blob, as conditions on its row: the collector and ``verify`` must mean the same.

Leases and the history of tags keep by time, and are looked at where they are.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from regmeta.models import Blob, IndexMember, Manifest, ManifestBlob, Tag

_subject = aliased(Manifest)

_KEEPERS: Final = (
    sa.exists().where(Tag.manifest_id == Manifest.id, Tag.ended_at.is_(None)),
    sa.exists().where(IndexMember.child_id == Manifest.id),
    # A referrer that was deleted itself goes before its subject.
    sa.exists().where(
        _subject.repository_id == Manifest.repository_id,
        _subject.digest == Manifest.subject_digest,
        Manifest.deleted_at.is_(None),
    ),
)
IS_KEPT: Final = sa.or_(*_KEEPERS)
"""Of a manifest: a live tag names it, an index lists it, or what it refers to is here."""
# Not "not any": PostgreSQL makes joins of these.
IS_NOT_KEPT: Final = sa.and_(*(~keeper for keeper in _KEEPERS))

IS_NOT_NAMED: Final = sa.and_(
    ~sa.exists().where(ManifestBlob.blob_id == Blob.id),
    ~sa.exists().where(IndexMember.blob_id == Blob.id),
    ~sa.exists().where(Manifest.blob_id == Blob.id),
)
"""Of a blob: no manifest holds it, no index lists it, and it is no manifest's own bytes."""
