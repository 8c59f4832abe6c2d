"""What an index lists, and which indexes list a manifest. Both are within one repository."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from regmeta import models
from regmeta.db import Database
from regmeta.oci.digest import Digest
from regmeta.oci.names import Reference
from regmeta.query import catalog, cursors
from regmeta.query.catalog import PAGE
from regmeta.query.results import Page
from regmeta.query.visibility import Visibility

_child = aliased(models.Manifest)
_CHILDREN: Final = (
    sa.select(
        models.IndexMember.position,
        models.IndexMember.child_digest,
        _child.kind,
        models.IndexMember.absence,
        models.IndexMember.media_type,
        models.IndexMember.size_bytes,
        models.IndexMember.os,
        models.IndexMember.architecture,
        models.IndexMember.variant,
        models.IndexMember.os_version,
    )
    .outerjoin(_child, _child.id == models.IndexMember.child_id)
    .where(
        models.IndexMember.index_id == sa.bindparam("index"),
        models.IndexMember.position > sa.bindparam("behind"),
    )
    .order_by(models.IndexMember.position)
    .limit(sa.bindparam("page"))
)
_COUNT: Final = (
    sa.select(sa.func.count())
    .select_from(models.IndexMember)
    .where(models.IndexMember.index_id == sa.bindparam("index"))
)
_MANIFEST: Final = sa.select(models.Manifest.id).where(
    models.Manifest.repository_id == sa.bindparam("of"), models.Manifest.digest == sa.bindparam("digest")
)
_INDEXES: Final = sa.select(
    models.Manifest.id, models.Manifest.digest, models.Manifest.media_type, models.Manifest.pushed_at
).where(
    models.Manifest.repository_id == sa.bindparam("of"),
    models.Manifest.deleted_at.is_(None),
    models.Manifest.id > sa.bindparam("behind"),
)
_PARENTS: Final = (
    _INDEXES.join(models.IndexMember, models.IndexMember.index_id == models.Manifest.id)
    .where(models.IndexMember.child_id == sa.bindparam("child"))
    .distinct()
    .order_by(models.Manifest.id)
    .limit(sa.bindparam("page"))
)
_PARENTS_OF_ABSENT: Final = (
    _INDEXES.join(models.IndexMember, models.IndexMember.index_id == models.Manifest.id)
    .where(models.IndexMember.child_digest == sa.bindparam("digest"), models.IndexMember.absence.is_not(None))
    .distinct()
    .order_by(models.Manifest.id)
    .limit(sa.bindparam("page"))
)


@dataclass(frozen=True, slots=True)
class Child:
    """One entry of an index, in its ``position``; what it says of itself may be wrong.

    ``kind`` is *image*, *index*, *blob* for content of another type, or *absent*, and then ``absence`` says
    why: *sparse* or *policy*. The size is that of the child's manifest.
    """

    position: int
    digest: Digest
    kind: str
    media_type: str
    platform: str | None
    os_version: str | None
    size_bytes: int
    absence: str | None


@dataclass(frozen=True, slots=True)
class Parent:
    """An index that lists a manifest."""

    digest: Digest
    media_type: str
    tags: tuple[str, ...]
    pushed_at: datetime


def children(
    database: Database,
    reference: Reference,
    *,
    after: str | None = None,
    limit: int = PAGE,
    total: bool = False,
    visible: Visibility | None = None,
) -> Page[Child]:
    """Return one page of what an index lists, in its order; an image lists nothing.

    Raises:
        NotFound: the reference means nothing here.
        UsageError: *after* is not the cursor of this list, or *limit* is out of range.
    """
    cursors.check_limit(limit)
    with database.read() as connection:
        index, digest = catalog.resolve_in(connection, reference, visible=visible)
        question = f"children {reference.repository}@{digest}"
        behind = -1 if after is None else cursors.decode(question, after, [int])[0]
        asked = {"index": index, "behind": behind, "page": limit + 1}
        rows = connection.execute(_CHILDREN, asked).all()
        in_all = connection.execute(_COUNT, {"index": index}).scalar_one() if total else None
    items = tuple(
        Child(
            row.position,
            row.child_digest,
            "absent" if row.absence else row.kind or "blob",
            row.media_type,
            catalog.platform(row.os, row.architecture, row.variant),
            row.os_version,
            row.size_bytes,
            row.absence,
        )
        for row in rows[:limit]
    )
    following = cursors.following(question, rows, limit, lambda row: [row.position], [int])
    return Page(items, following, in_all)


def parents(
    database: Database,
    repository: str,
    digest: Digest,
    *,
    after: str | None = None,
    limit: int = PAGE,
    visible: Visibility | None = None,
) -> Page[Parent]:
    """Return one page of the indexes of a repository that list a manifest, in the order in which they came.

    The manifest need not be here: an index may list what is absent.

    Raises:
        NotFound: there is no such repository.
        UsageError: *after* is not the cursor of this list, or *limit* is out of range.
    """
    cursors.check_limit(limit)
    question = f"parents {repository}@{digest}"
    behind = 0 if after is None else cursors.decode(question, after, [int])[0]
    with database.read() as connection:
        of = catalog.repository_id(connection, repository, visible=visible)
        child = connection.execute(_MANIFEST, {"of": of, "digest": digest}).scalar()
        asked: dict[str, Any] = {"of": of, "behind": behind, "page": limit + 1}
        rows: list[Any]
        if child is not None:
            rows = list(connection.execute(_PARENTS, {**asked, "child": child}))
        else:
            rows = list(connection.execute(_PARENTS_OF_ABSENT, {**asked, "digest": digest}))
        kept = rows[:limit]
        tags = catalog.tags_of(connection, [row.id for row in kept]) if kept else {}
    items = tuple(Parent(row.digest, row.media_type, tags.get(row.id, ()), row.pushed_at) for row in kept)
    return Page(items, cursors.following(question, rows, limit, lambda row: [row.id], [int]))
