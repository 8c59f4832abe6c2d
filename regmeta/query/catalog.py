"""Which repositories, tags and manifests there are, and what a reference means."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import models
from regmeta.db import Database
from regmeta.errors import NotFound
from regmeta.oci import media_types
from regmeta.oci.digest import Digest
from regmeta.oci.names import Reference
from regmeta.query import results
from regmeta.query.moments import IMAGE_OF_TAG, WAS_HERE, WAS_LIVE, repository_id_at, resolve_at, text

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
_REPOSITORIES: Final = (
    sa.select(
        models.Repository.name,
        models.Repository.state,
        _tag_count,
        _manifest_count,
        models.Repository.updated_at,
    )
    .where(models.Repository.name > sa.bindparam("after"), models.Repository.state == "active")
    .order_by(models.Repository.name)
    .limit(sa.bindparam("page"))
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
_TAG_COLUMNS: Final = sa.select(
    models.Tag.name,
    models.Tag.manifest_digest,
    models.Manifest.kind,
    models.Manifest.media_type,
    models.Manifest.os,
    models.Manifest.architecture,
    models.Manifest.variant,
    models.Manifest.total_size_bytes,
    models.Tag.started_at,
    models.Tag.started_by,
    models.Manifest.id,
).select_from(models.Tag)
_TAGS_PAGE: Final = (models.Tag.repository_id == sa.bindparam("of"), models.Tag.name > sa.bindparam("after"))
_TAGS: Final = (
    _TAG_COLUMNS.join(models.Manifest, models.Manifest.id == models.Tag.manifest_id)
    .where(*_TAGS_PAGE, _live)
    .order_by(models.Tag.name)
    .limit(sa.bindparam("page"))
)
_TAGS_AT: Final = (
    _TAG_COLUMNS.outerjoin(models.Manifest, IMAGE_OF_TAG)
    .where(*_TAGS_PAGE, WAS_LIVE)
    .order_by(models.Tag.name)
    .limit(sa.bindparam("page"))
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
_MANIFESTS_PAGE: Final = (
    sa.select(
        models.Manifest.id,
        models.Manifest.digest,
        models.Manifest.kind,
        models.Manifest.media_type,
        models.Manifest.artifact_type,
        models.Manifest.os,
        models.Manifest.architecture,
        models.Manifest.variant,
        models.Manifest.total_size_bytes,
        models.Manifest.pushed_at,
    )
    .where(
        models.Manifest.repository_id == sa.bindparam("of"),
        models.Manifest.id > sa.bindparam("after"),
    )
    .order_by(models.Manifest.id)
    .limit(sa.bindparam("page"))
)
_MANIFESTS: Final = _MANIFESTS_PAGE.where(_is_here)
_MANIFESTS_AT: Final = _MANIFESTS_PAGE.where(WAS_HERE)
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


def repositories(database: Database, *, after: str = "", limit: int = PAGE) -> list[results.Repository]:
    """Return one page of repositories, by name, from the one behind *after* on."""
    with database.read() as connection:
        rows = connection.execute(_REPOSITORIES, {"after": after, "page": limit})
        return [results.Repository(*row) for row in rows]


def repository(database: Database, name: str) -> results.RepositoryDetails:
    """Return one repository with its totals.

    Raises:
        NotFound: there is none of this name.
    """
    with database.read() as connection:
        row = connection.execute(_REPOSITORY, {"repository": name}).first()
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


def tags(
    database: Database, repository: str, *, after: str = "", limit: int = PAGE, at: datetime | None = None
) -> list[results.Tag]:
    """Return one page of a repository's tags, by name: those that are live, or that were at a time.

    Raises:
        NotFound: there is no such repository, or was none.
    """
    with database.read() as connection:
        of = repository_id(connection, repository, at)
        statement = _TAGS if at is None else _TAGS_AT
        rows = connection.execute(statement, {"of": of, "after": after, "page": limit, **_when(at)})
        return [
            results.Tag(
                row.name,
                row.manifest_digest,
                row.kind,
                row.media_type,
                platform(row.os, row.architecture, row.variant),
                row.total_size_bytes,
                row.started_at,
                row.started_by,
                is_here=row.id is not None,
            )
            for row in rows
        ]


def tag(database: Database, repository: str, name: str, at: datetime | None = None) -> results.TagDetails:
    """Return one tag and its history; at a time, what was known of it then.

    Raises:
        NotFound: there is no such repository, or the tag never was.
    """
    with database.read() as connection:
        of = repository_id(connection, repository, at)
        rows = connection.execute(_HISTORY, {"of": of, "tag": name}).all()
    history = [results.TagInterval(*row[:5], is_here=bool(row[5])) for row in rows]
    if at is not None:
        history = [_as_of(item, at) for item in history if item.started_at <= at]
    if not history:
        raise NotFound(f"{repository}:{name}: no such tag" + ("" if at is None else f" at {text(at)}"))
    newest = history[0]
    digest = newest.digest if newest.ended_at is None else None
    return results.TagDetails(repository, name, digest, tuple(history))


def manifests(
    database: Database, repository: str, *, after: int = 0, limit: int = PAGE, at: datetime | None = None
) -> list[results.Manifest]:
    """Return one page of a repository's manifests, in the order in which they came, behind id *after*.

    At a time: those that were there then and are not collected.

    Raises:
        NotFound: there is no such repository, or was none.
    """
    with database.read() as connection:
        of = repository_id(connection, repository, at)
        statement = _MANIFESTS if at is None else _MANIFESTS_AT
        parameters = {"of": of, "after": after, "page": limit, **_when(at)}
        rows = connection.execute(statement, parameters).all()
        names = tags_of(connection, [row.id for row in rows], at)
        return [
            results.Manifest(
                row.id,
                row.digest,
                row.kind,
                row.media_type,
                media_types.telling_artifact_type(row.artifact_type),
                platform(row.os, row.architecture, row.variant),
                row.total_size_bytes,
                row.pushed_at,
                names.get(row.id, ()),
            )
            for row in rows
        ]


def resolve(database: Database, reference: Reference, at: datetime | None = None) -> Digest:
    """Return the digest that a reference means, or meant at a time: that of its tag, or its own.

    Raises:
        NotFound: names the reference, and the digest of an image that was collected since.
    """
    with database.read() as connection:
        return resolve_in(connection, reference, at)[1]


def resolve_in(
    connection: Connection, reference: Reference, at: datetime | None = None
) -> tuple[int, Digest]:
    """Return the id and the digest of the manifest that a reference means; see :func:`resolve`."""
    if at is not None:
        return resolve_at(connection, reference, at)
    row: Any
    if reference.digest is not None:
        of: dict[str, Any] = {"repository": reference.repository, "of": reference.digest}
        row = connection.execute(_RESOLVE_DIGEST, of).first()
    else:
        of = {"repository": reference.repository, "tag": reference.tag or "latest"}
        row = connection.execute(_RESOLVE_TAG, of).first()
    if row is None:
        what = "manifest" if reference.digest is not None else "tag"
        raise NotFound(f"{reference}: no such {what}")
    return row[0], row[1]


def repository_id(connection: Connection, name: str, at: datetime | None = None) -> int:
    """Return the id of a repository that can be read, or could be at a time.

    Raises:
        NotFound: there is none of this name, or was none.
    """
    if at is not None:
        return repository_id_at(connection, name, at)
    found = connection.execute(_REPOSITORY_ID, {"repository": name}).scalar()
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
