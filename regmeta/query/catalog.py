"""One repository, one tag, and what a reference means; ``query.lists`` has what there is of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import models
from regmeta.db import Database
from regmeta.errors import NotFound
from regmeta.oci.digest import Digest
from regmeta.oci.names import Reference
from regmeta.query import results
from regmeta.query.moments import WAS_LIVE, repository_id_at, resolve_at, text
from regmeta.query.visibility import Visibility, seen

PAGE: Final = 100

_live = models.Tag.ended_at.is_(None)
_is_here = models.Manifest.deleted_at.is_(None)
_tag_count = (
    sa.select(sa.func.count())
    .select_from(models.Tag)
    .where(models.Tag.repository_id == models.Repository.id, _live)
    .scalar_subquery()
)
_manifest_count = (
    sa.select(sa.func.count())
    .select_from(models.Manifest)
    .where(models.Manifest.repository_id == models.Repository.id, _is_here)
    .scalar_subquery()
)
_REPOSITORY: Final = sa.select(
    models.Repository.id,
    models.Repository.name,
    models.Repository.state,
    models.Repository.revision,
    _tag_count.label("tags"),
    _manifest_count.label("manifests"),
    models.Repository.created_at,
    models.Repository.updated_at,
    sa.exists().where(models.LayoutOutbox.repository_id == models.Repository.id).label("behind"),
    models.Repository.deleted_at,
).where(models.Repository.name == sa.bindparam("repository"))
_UNTAGGED: Final = (
    sa.select(sa.func.count())
    .select_from(models.Manifest)
    .where(
        models.Manifest.repository_id == sa.bindparam("of"),
        _is_here,
        ~sa.exists().where(models.Tag.manifest_id == models.Manifest.id, _live),
    )
)
_BLOBS: Final = (
    sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(models.Blob.size_bytes), 0))
    .select_from(models.RepositoryBlob)
    .join(models.Blob, models.Blob.id == models.RepositoryBlob.blob_id)
    .where(models.RepositoryBlob.repository_id == sa.bindparam("of"))
)
_REPOSITORY_ID: Final = sa.select(models.Repository.id).where(
    models.Repository.name == sa.bindparam("repository"), models.Repository.state == "active"
)
_HISTORY: Final = (
    sa.select(
        models.Tag.manifest_digest,
        models.Tag.started_at,
        models.Tag.started_by,
        models.Tag.ended_at,
        models.Tag.ended_by,
        sa.exists().where(
            models.Manifest.repository_id == models.Tag.repository_id,
            models.Manifest.digest == models.Tag.manifest_digest,
            _is_here,
        ),
    )
    .where(models.Tag.repository_id == sa.bindparam("of"), models.Tag.name == sa.bindparam("tag"))
    .order_by(models.Tag.started_at.desc())
)
_TAGS_OF: Final = (
    sa.select(models.Tag.manifest_id, models.Tag.name)
    .where(models.Tag.manifest_id.in_(sa.bindparam("ids", expanding=True)), _live)
    .order_by(models.Tag.name)
)
_TAGS_OF_AT: Final = (
    sa.select(models.Tag.manifest_id, models.Tag.name)
    .where(models.Tag.manifest_id.in_(sa.bindparam("ids", expanding=True)), WAS_LIVE)
    .order_by(models.Tag.name)
)
_RESOLVE_TAG: Final = (
    sa.select(models.Tag.manifest_id, models.Tag.manifest_digest)
    .join(models.Repository, models.Repository.id == models.Tag.repository_id)
    .where(
        models.Repository.name == sa.bindparam("repository"),
        models.Tag.name == sa.bindparam("tag"),
        _live,
    )
)
_RESOLVE_DIGEST: Final = (
    sa.select(models.Manifest.id, models.Manifest.digest)
    .join(models.Repository, models.Repository.id == models.Manifest.repository_id)
    .where(
        models.Repository.name == sa.bindparam("repository"),
        models.Repository.state == "active",
        models.Manifest.digest == sa.bindparam("of"),
        _is_here,
    )
)


def repository(
    database: Database, name: str, *, visible: Visibility | None = None
) -> results.RepositoryDetails:
    """Return one repository with its totals.

    Raises:
        NotFound: there is none of this name.
    """
    with database.read() as connection:
        row = connection.execute(seen(_REPOSITORY, visible), {"repository": name}).first()
        if row is None:
            raise NotFound(f"{name}: no such repository")
        blobs, size_bytes = connection.execute(_BLOBS, {"of": row.id}).one()
        return results.RepositoryDetails(
            row.name,
            row.state,
            row.revision,
            row.tags,
            row.manifests,
            connection.execute(_UNTAGGED, {"of": row.id}).scalar_one(),
            blobs,
            int(size_bytes),
            row.created_at,
            row.updated_at,
            bool(row.behind),
            row.deleted_at,
        )


def tag(
    database: Database,
    repository: str,
    name: str,
    at: datetime | None = None,
    *,
    visible: Visibility | None = None,
) -> results.TagDetails:
    """Return one tag and its history; at a time, what was known of it then.

    Raises:
        NotFound: there is no such repository, or the tag never was.
    """
    with database.read() as connection:
        of = repository_id(connection, repository, at, visible)
        rows = connection.execute(_HISTORY, {"of": of, "tag": name}).all()
    history = [results.TagInterval(*row[:5], is_here=bool(row[5])) for row in rows]
    if at is not None:
        history = [_as_of(item, at) for item in history if item.started_at <= at]
    if not history:
        raise NotFound(f"{repository}:{name}: no such tag" + ("" if at is None else f" at {text(at)}"))
    newest = history[0]
    digest = newest.digest if newest.ended_at is None else None
    return results.TagDetails(repository, name, digest, tuple(history))


def resolve(
    database: Database,
    reference: Reference,
    at: datetime | None = None,
    *,
    visible: Visibility | None = None,
) -> Digest:
    """Return the digest that a reference means, or meant at a time: that of its tag, or its own.

    Raises:
        NotFound: names the reference, and the digest of an image that was collected since.
    """
    with database.read() as connection:
        return resolve_in(connection, reference, at, visible)[1]


def resolve_in(
    connection: Connection,
    reference: Reference,
    at: datetime | None = None,
    visible: Visibility | None = None,
) -> tuple[int, Digest]:
    """Return the id and the digest of the manifest that a reference means; see :func:`resolve`."""
    if at is not None:
        return resolve_at(connection, reference, at, visible)
    row: Any
    if reference.digest is not None:
        of: dict[str, Any] = {"repository": reference.repository, "of": reference.digest}
        row = connection.execute(seen(_RESOLVE_DIGEST, visible), of).first()
    else:
        of = {"repository": reference.repository, "tag": reference.tag or "latest"}
        row = connection.execute(seen(_RESOLVE_TAG, visible), of).first()
    if row is None:
        what = "manifest" if reference.digest is not None else "tag"
        raise NotFound(f"{reference}: no such {what}")
    return row[0], row[1]


def repository_id(
    connection: Connection, name: str, at: datetime | None = None, visible: Visibility | None = None
) -> int:
    """Return the id of a repository that can be read, or could be at a time.

    Raises:
        NotFound: there is none of this name, or was none.
    """
    if at is not None:
        return repository_id_at(connection, name, at, visible)
    found = connection.execute(seen(_REPOSITORY_ID, visible), {"repository": name}).scalar()
    if found is None:
        raise NotFound(f"{name}: no such repository")
    return found


def tags_of(
    connection: Connection, manifest_ids: Iterable[int], at: datetime | None = None
) -> dict[int, tuple[str, ...]]:
    """Return the tags of manifests that are live, or were at a time, by name."""
    statement = _TAGS_OF if at is None else _TAGS_OF_AT
    names: dict[int, tuple[str, ...]] = {}
    row: Any
    for row in connection.execute(statement, {"ids": list(manifest_ids), **_when(at)}):
        manifest_id, name = row
        names[manifest_id] = (*names.get(manifest_id, ()), name)
    return names


@lru_cache(maxsize=1024)
def platform(os: str | None, architecture: str | None, variant: str | None) -> str | None:
    """Return a platform as people write it, None if nothing is known of it."""
    parts = [part for part in (os, architecture, variant) if part]
    return "/".join(parts) or None


def _when(at: datetime | None) -> dict[str, Any]:
    return {} if at is None else {"at": at}


def _as_of(interval: results.TagInterval, at: datetime) -> results.TagInterval:
    """Return an interval as it was known at a time: what ended later had not ended."""
    if interval.ended_at is None or interval.ended_at <= at:
        return interval
    return replace(interval, ended_at=None, ended_by=None)
