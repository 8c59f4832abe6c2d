"""What repositories hold now: a few statements for some hundred of them, each through an index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.models import Blob, Manifest, RepositoryBlob, Tag

SOME: Final = 200
"""How many repositories are measured by one call, as a rule."""

_ids: Final[Any] = sa.bindparam("ids", expanding=True)
_elsewhere = RepositoryBlob.__table__.alias("elsewhere")
_MANIFESTS: Final = (
    sa.select(
        Manifest.repository_id,
        sa.func.count(),
        sa.func.sum(Manifest.size_bytes + sa.func.coalesce(Manifest.total_size_bytes, 0)),
    )
    .where(Manifest.repository_id.in_(_ids), Manifest.deleted_at.is_(None))
    .group_by(Manifest.repository_id)
)
_TAGS: Final = (
    sa.select(Tag.repository_id, sa.func.count())
    .where(Tag.repository_id.in_(_ids), Tag.ended_at.is_(None))
    .group_by(Tag.repository_id)
)
_BLOBS: Final = (
    sa.select(
        RepositoryBlob.repository_id,
        sa.func.count(),
        sa.func.sum(Blob.size_bytes),
        sa.func.sum(
            sa.case(
                (
                    sa.exists().where(
                        _elsewhere.c.blob_id == RepositoryBlob.blob_id,
                        _elsewhere.c.repository_id != RepositoryBlob.repository_id,
                    ),
                    0,
                ),
                else_=Blob.size_bytes,
            )
        ),
    )
    .join(Blob, Blob.id == RepositoryBlob.blob_id)
    .where(RepositoryBlob.repository_id.in_(_ids))
    .group_by(RepositoryBlob.repository_id)
)


@dataclass(frozen=True, slots=True)
class Measured:
    """What one repository holds; see :class:`regmeta.models.UsageSample`."""

    tags: int = 0
    manifests: int = 0
    blobs: int = 0
    logical_bytes: int = 0
    unique_bytes: int = 0
    exclusive_bytes: int = 0


def measure(connection: Connection, repository_ids: Sequence[int]) -> dict[int, Measured]:
    """Return what each of these repositories holds."""
    of = {"ids": list(repository_ids)}
    counted: Any = connection.execute(_TAGS, of).all()
    tags = dict(counted)
    manifests: Any = {number: rest for number, *rest in connection.execute(_MANIFESTS, of)}
    blobs: Any = {number: rest for number, *rest in connection.execute(_BLOBS, of)}
    found = {}
    for number in repository_ids:
        count, logical = manifests.get(number, (0, 0))
        links, unique, exclusive = blobs.get(number, (0, 0, 0))
        found[number] = Measured(
            tags.get(number, 0), int(count), int(links), int(logical), int(unique), int(exclusive)
        )
    return found
