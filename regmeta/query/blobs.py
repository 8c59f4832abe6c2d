"""One blob: where its bytes are and who uses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.orm import aliased

from regmeta import models
from regmeta.db import Database
from regmeta.errors import NotFound
from regmeta.models.base import BigId
from regmeta.oci.digest import Digest
from regmeta.query import cursors, results
from regmeta.query.catalog import PAGE, tags_of
from regmeta.query.results import Page
from regmeta.query.visibility import Visibility, seen

_ITSELF: Final = -1  # the place of a manifest in itself, before that of its configuration
_BLOB: Final = sa.select(
    models.Blob.id,
    models.Blob.digest,
    models.Blob.size_bytes,
    models.Blob.state,
    models.Blob.key,
    models.Blob.created_at,
    models.Blob.lease_until,
).where(models.Blob.digest == sa.bindparam("of"))
_HELD: Final = (
    sa.select(models.RepositoryBlob.repository_id)
    .join(models.Repository, models.Repository.id == models.RepositoryBlob.repository_id)
    .where(models.RepositoryBlob.blob_id == sa.bindparam("blob"), models.Repository.state == "active")
    .limit(1)
)
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
_HOLDERS: Final = (
    sa.select(models.Repository.id, models.Repository.name)
    .join(models.RepositoryBlob, models.RepositoryBlob.repository_id == models.Repository.id)
    .where(
        models.RepositoryBlob.blob_id == sa.bindparam("blob"),
        models.RepositoryBlob.repository_id > sa.bindparam("behind"),
        models.Repository.state == "active",
    )
    .order_by(models.RepositoryBlob.repository_id)
    .limit(sa.bindparam("page"))
)
_HOLDERS_COUNT: Final = (
    sa.select(sa.func.count())
    .select_from(models.RepositoryBlob)
    .join(models.Repository, models.Repository.id == models.RepositoryBlob.repository_id)
    .where(models.RepositoryBlob.blob_id == sa.bindparam("blob"), models.Repository.state == "active")
)


@dataclass(frozen=True, slots=True)
class BlobUser:
    """A manifest that uses a blob: as its *config*, a *layer*, a *member* of an index, or as *itself*.

    ``position`` is the layer's, from 1 at the base, or the member's, from 0; the first of some.
    """

    repository: str
    digest: Digest
    kind: str
    use: str
    position: int | None
    tags: tuple[str, ...]


def blob(database: Database, digest: Digest, *, visible: Visibility | None = None) -> results.Blob:
    """Return what is known of a blob; a manifest's own bytes are one as well.

    All its repositories are listed: of a blob that very many hold, ask for pages (:func:`blob_repositories`).

    Raises:
        NotFound: there is none of this digest.
    """
    with database.read() as connection:
        row = _blob(connection, digest, visible)
        uses = connection.execute(seen(_USES, visible), {"blob": row.id})
        return results.Blob(
            row.digest,
            row.size_bytes,
            row.state,
            row.key,
            row.created_at,
            row.lease_until,
            tuple(results.BlobUse(*use) for use in uses),
        )


def blob_repositories(
    database: Database,
    digest: Digest,
    *,
    after: str | None = None,
    limit: int = PAGE,
    total: bool = False,
    visible: Visibility | None = None,
) -> Page[str]:
    """Return one page of the repositories that hold a blob, in the order in which they were made.

    Raises:
        NotFound: there is none of this digest.
        UsageError: *after* is not the cursor of this list, or *limit* is out of range.
    """
    cursors.check_limit(limit)
    question = f"repositories of blob {digest}"
    behind = 0 if after is None else cursors.decode(question, after, [int])[0]
    with database.read() as connection:
        of = {"blob": _blob(connection, digest, visible).id}
        asked = {**of, "behind": behind, "page": limit + 1}
        rows = connection.execute(seen(_HOLDERS, visible), asked).all()
        in_all = connection.execute(seen(_HOLDERS_COUNT, visible), of).scalar_one() if total else None
    following = cursors.following(question, rows, limit, lambda row: [row.id], [int])
    return Page(tuple(row.name for row in rows[:limit]), following, in_all)


def blob_users(
    database: Database,
    digest: Digest,
    *,
    after: str | None = None,
    limit: int = PAGE,
    visible: Visibility | None = None,
) -> Page[BlobUser]:
    """Return one page of the manifests that use a blob, in the order in which they came.

    A manifest that uses it in two ways is listed once for each, and once if it has the same layer twice. A
    repository may hold a blob that none of its manifests uses: see :func:`blob_repositories`.

    Raises:
        NotFound: there is none of this digest.
        UsageError: *after* is not the cursor of this list, or *limit* is out of range.
    """
    cursors.check_limit(limit)
    question = f"users of blob {digest}"
    behind, place = (0, _ITSELF) if after is None else cursors.decode(question, after, [int, int])
    statement = _ALL_USERS if visible is None else _users(visible)
    with database.read() as connection:
        of = _blob(connection, digest, visible).id
        asked = {"blob": of, "behind": behind, "place": place, "page": limit + 1}
        rows = connection.execute(statement, asked).all()
        kept = rows[:limit]
        tags = tags_of(connection, {row.id for row in kept}) if kept else {}
    items = tuple(
        BlobUser(
            row.name,
            row.digest,
            row.kind,
            row.use,
            None if row.place == _ITSELF else row.place,
            tags.get(row.id, ()),
        )
        for row in kept
    )
    return Page(items, cursors.following(question, rows, limit, lambda row: [row.id, row.place], [int, int]))


def _blob(connection: Connection, digest: Digest, visible: Visibility | None) -> Any:
    row = connection.execute(_BLOB, {"of": digest}).first()
    if row is not None and visible is not None:
        held = connection.execute(seen(_HELD, visible), {"blob": row.id}).first()
        row = None if held is None else row
    if row is None:
        raise NotFound(f"{digest}: no such blob")
    return row


def _users(visible: Visibility | None) -> Any:
    """Return the statement for manifests that use a blob.

    Each way of use has its own index, which has manifests in the order of their ids; each gives at most one
    page, and these are merged.
    """
    part, earlier, member = models.ManifestBlob, aliased(models.ManifestBlob), models.IndexMember
    sooner = aliased(models.IndexMember)
    parts = (
        _way(visible, part.role, part.manifest_id, part.position)
        .join(part, part.manifest_id == models.Manifest.id)
        .where(
            part.blob_id == sa.bindparam("blob"),
            ~sa.exists().where(
                earlier.manifest_id == part.manifest_id,
                earlier.position < part.position,
                earlier.role == part.role,
                earlier.blob_id == part.blob_id,
            ),
        )
    )
    members = (
        _way(visible, sa.literal("member"), member.index_id, member.position)
        .join(member, member.index_id == models.Manifest.id)
        .where(
            member.blob_id == sa.bindparam("blob"),
            ~sa.exists().where(
                sooner.index_id == member.index_id,
                sooner.position < member.position,
                sooner.blob_id == member.blob_id,
            ),
        )
    )
    itself = _way(visible, sa.literal("itself"), models.Manifest.id, sa.literal(_ITSELF)).where(
        models.Manifest.blob_id == sa.bindparam("blob")
    )
    merged = sa.union_all(*(sa.select(way.subquery()) for way in (parts, members, itself))).subquery("merged")
    return sa.select(merged).order_by(merged.c.id, merged.c.place).limit(sa.bindparam("page"))


def _way(visible: Visibility | None, use: Any, manifest_id: Any, place: Any) -> Any:
    """Return what all ways of use have in common: one page of them, in the order of an index."""
    behind = sa.tuple_(sa.bindparam("behind", type_=BigId), sa.bindparam("place", type_=sa.Integer))
    return seen(
        sa.select(
            models.Manifest.id,
            models.Repository.name,
            models.Manifest.digest,
            models.Manifest.kind,
            use.label("use"),
            place.label("place"),
        )
        .select_from(models.Manifest)
        .join(models.Repository, models.Repository.id == models.Manifest.repository_id)
        .where(
            models.Repository.state == "active",
            models.Manifest.deleted_at.is_(None),
            sa.tuple_(manifest_id, place) > behind,
        )
        .order_by(manifest_id, place)
        .limit(sa.bindparam("page")),
        visible,
    )


_ALL_USERS: Final = _users(None)
