"""What was deleted and can be brought back, and until when at least."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from regmeta import models
from regmeta.db import Database
from regmeta.models.base import UtcTime
from regmeta.oci.digest import Digest
from regmeta.query.catalog import PAGE, repository_id

_tags_ended = (
    sa.select(sa.func.count())
    .select_from(models.Tag)
    .where(
        models.Tag.repository_id == models.Repository.id, models.Tag.ended_at == models.Repository.deleted_at
    )
    .scalar_subquery()
)
_manifests = (
    sa.select(sa.func.count())
    .select_from(models.Manifest)
    .where(models.Manifest.repository_id == models.Repository.id, models.Manifest.deleted_at.is_(None))
    .scalar_subquery()
)


def _until(kind: str, target: sa.ColumnElement[int]) -> sa.ColumnElement[datetime]:
    return (
        sa.select(sa.func.max(models.GcTask.not_before, type_=UtcTime()))
        .where(models.GcTask.kind == kind, models.GcTask.target_id == target)
        .scalar_subquery()
    )


_REPOSITORIES: Final = (
    sa.select(
        models.Repository.name,
        models.Repository.state,
        _tags_ended,
        _manifests,
        models.Repository.deleted_at,
        _until("repository", models.Repository.__table__.c.id),
    )
    .where(models.Repository.name > sa.bindparam("after"), models.Repository.deleted_at.is_not(None))
    .order_by(models.Repository.name)
    .limit(sa.bindparam("page"))
)
_MANIFESTS: Final = (
    sa.select(
        models.Manifest.id,
        models.Manifest.digest,
        models.Manifest.kind,
        models.Manifest.deleted_at,
        _until("manifest", models.Manifest.__table__.c.id),
    )
    .where(
        models.Manifest.repository_id == sa.bindparam("of"),
        models.Manifest.id > sa.bindparam("after"),
        models.Manifest.deleted_at.is_not(None),
    )
    .order_by(models.Manifest.id)
    .limit(sa.bindparam("page"))
)
_TAGS: Final = (
    sa.select(models.Tag.manifest_id, models.Tag.name)
    .join(models.Manifest, models.Manifest.id == models.Tag.manifest_id)
    .where(
        models.Manifest.id.in_(sa.bindparam("ids", expanding=True)),
        models.Tag.ended_at == models.Manifest.deleted_at,
    )
    .order_by(models.Tag.name)
)


@dataclass(frozen=True, slots=True)
class DeletedRepository:
    """One that can be brought back with *tags*, while it is *deleted*; one that is *purging* cannot.

    Nothing of it is removed before *until*.
    """

    name: str
    state: str
    tags: int
    manifests: int
    deleted_at: datetime
    until: datetime | None


@dataclass(frozen=True, slots=True)
class DeletedManifest:
    """One that can be brought back, with the tags that its deletion ended; until *until* at least."""

    id: int
    digest: Digest
    kind: str
    deleted_at: datetime
    until: datetime | None
    tags: tuple[str, ...]


def deleted_repositories(
    database: Database, *, after: str = "", limit: int = PAGE
) -> list[DeletedRepository]:
    """Return one page of deleted repositories of which something is left, by name, behind *after*."""
    with database.read() as connection:
        rows = connection.execute(_REPOSITORIES, {"after": after, "page": limit})
        return [DeletedRepository(*row) for row in rows]


def deleted_manifests(
    database: Database, repository: str, *, after: int = 0, limit: int = PAGE
) -> list[DeletedManifest]:
    """Return one page of a repository's deleted manifests, in the order in which they came, behind *after*.

    Raises:
        NotFound: there is no such repository, or it was deleted itself.
    """
    with database.read() as connection:
        of = repository_id(connection, repository)
        rows: Any = connection.execute(_MANIFESTS, {"of": of, "after": after, "page": limit}).all()
        names: dict[int, list[str]] = {}
        for manifest_id, name in connection.execute(_TAGS, {"ids": [row.id for row in rows]}):
            if manifest_id is not None:
                names.setdefault(manifest_id, []).append(name)
        return [
            DeletedManifest(
                row.id, row.digest, row.kind, row.deleted_at, row[4], tuple(names.get(row.id, ()))
            )
            for row in rows
        ]
