"""Which images need a blob."""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa

from regmeta.db import Database
from regmeta.maintain.verify.pages import raw, reading, shown
from regmeta.models import IndexMember, Manifest, ManifestBlob, Repository, Tag

AT_MOST: Final = 5

_blob: Final[Any] = sa.bindparam("blob")
_union = (
    sa.select(Manifest.id)
    .where(Manifest.blob_id == _blob)
    .union(
        sa.select(ManifestBlob.manifest_id).where(ManifestBlob.blob_id == _blob),
        sa.select(IndexMember.index_id).where(IndexMember.blob_id == _blob),
    )
    .subquery()
)
_naming = sa.select(_union.c.id).cte("above", recursive=True)
_above = _naming.union(sa.select(IndexMember.index_id).join(_naming, IndexMember.child_id == _naming.c.id))
_TAGGED: Final = (
    sa.select(Repository.name, Tag.name)
    .join(Tag, Tag.repository_id == Repository.id)
    .join(_above, _above.c.id == Tag.manifest_id)
    .where(Tag.ended_at.is_(None))
    .order_by(Repository.name, Tag.name)
    .limit(AT_MOST)
)
_NAMED: Final = (
    sa.select(Repository.name, raw(Manifest.digest))
    .join(Manifest, Manifest.repository_id == Repository.id)
    .join(_above, _above.c.id == Manifest.id)
    .order_by(Repository.name, Manifest.id)
    .limit(AT_MOST)
)


def users_of(database: Database, blob_id: int) -> tuple[str, ...]:
    """Return up to five references of images that need a blob: tags, or digests where there are none."""
    with reading(database) as connection:
        tagged: Any = connection.execute(_TAGGED, {"blob": blob_id}).all()
        if tagged:
            return tuple(f"{repository}:{tag}" for repository, tag in tagged)
        named: Any = connection.execute(_NAMED, {"blob": blob_id}).all()
        return tuple(f"{repository}@{shown(digest)}" for repository, digest in named)
