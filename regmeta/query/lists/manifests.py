"""The manifests of a repository, or of all."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, Literal, get_args

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from regmeta.db import Database
from regmeta.errors import UsageError
from regmeta.models import IndexMember, Manifest, Repository, Tag
from regmeta.oci import media_types
from regmeta.oci.digest import Digest
from regmeta.query.catalog import PAGE, platform, repository_id, tags_of
from regmeta.query.lists import images, paging
from regmeta.query.lists.images import ImageFilter
from regmeta.query.lists.paging import Asked, Key, Part, Shape
from regmeta.query.moments import WAS_HERE
from regmeta.query.results import Page
from regmeta.query.stored import digest_or_none, raw_digest, raw_time, time_or_none
from regmeta.query.visibility import Visibility, seen

ManifestSort = Literal["pushed", "id", "created", "size", "pulled"]
ManifestKind = Literal["image", "index"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestFilter(ImageFilter):
    """Which manifests: by what they are (see :class:`ImageFilter`) and by what points at them.

    *tagged* asks for a live tag, *has_referrers* whether manifests of the repository name it as their
    subject, *in_index* whether an index lists it.
    """

    kind: ManifestKind | None = None
    tagged: bool | None = None
    subject: Digest | None = None
    has_referrers: bool | None = None
    in_index: bool | None = None


@dataclass(frozen=True, slots=True)
class ManifestItem:
    """One manifest in a list, with its live tags. The size is unknown for an index, which has those of its
    images.

    A digest or a time that a damaged row holds is None.
    """

    repository: str
    id: int
    digest: Digest | None
    kind: str
    media_type: str
    artifact_type: str | None
    platform: str | None
    size_bytes: int | None
    created_at: datetime | None
    pushed_at: datetime | None
    pulled_at: datetime | None
    pushed_by: str
    subject: Digest | None
    tags: tuple[str, ...]


_pulled = images.pulled_at()
_columns = sa.select(
    Manifest.id,
    raw_digest(Manifest.digest),
    Manifest.kind,
    Manifest.media_type,
    Manifest.artifact_type,
    Manifest.os,
    Manifest.architecture,
    Manifest.variant,
    Manifest.total_size_bytes,
    raw_time(Manifest.image_created_at),
    raw_time(Manifest.pushed_at),
    _pulled,
    Manifest.pushed_by,
    raw_digest(Manifest.subject_digest),
)
_here = _columns.where(Manifest.deleted_at.is_(None))
_OF_ONE: Final = _here.where(Manifest.repository_id == sa.bindparam("of"))
# IN leads from manifests to their repositories only: SQLite, with statistics, else begins with these.
_OF_ALL: Final = (
    _here.join(Repository, Repository.id.in_([Manifest.repository_id]))
    .where(Repository.state == "active")
    .add_columns(Repository.name.label("repository"))
)
_AT: Final = _columns.where(Manifest.repository_id == sa.bindparam("of"), WAS_HERE)
_id = Key(Manifest.id)
# In one repository ids follow no index. As a sum they keep a database from reading those of all others.
_id_of_one = Key(Manifest.__table__.c.id + sa.literal_column("0"))
_SORTS: Final[dict[str, tuple[Key, ...]]] = {
    "pushed": (Key(Manifest.pushed_at), _id),
    "id": (_id,),
    "created": (Key(Manifest.image_created_at, is_nullable=True), _id),
    "size": (Key(Manifest.total_size_bytes, is_nullable=True), _id),
    "pulled": (Key(_pulled, is_nullable=True), _id),
}


def manifests(
    database: Database,
    repository: str | None = None,
    where: ManifestFilter | None = None,
    *,
    sort: ManifestSort = "pushed",
    descending: bool = False,
    after: str | None = None,
    limit: int = PAGE,
    total: bool = False,
    at: datetime | None = None,
    visible: Visibility | None = None,
) -> Page[ManifestItem]:
    """Return one page of the manifests of a repository, or of all: those that are here, or were *at* a time.

    Sorts: *pushed*, when it first came, which is the order of arrival; *id*, the same as the database
    numbered it; *created*, when it says it was made; *size*; *pulled*, when it was pulled last by any name.
    A page by *pushed*, or of all by *id*, reads the rows it shows; the others cost time in proportion to
    the manifests there are. Of the past there is one repository without filters, by *pushed* or *id*, and
    what was collected since is not in it.

    Raises:
        NotFound: there is no such repository, or was none.
        UsageError: *after* is of another list, or a filter, order or limit is none.
    """
    where = where or ManifestFilter()
    paging.check_choice("sort", sort, get_args(ManifestSort))
    paging.check_choice("kind", where.kind, get_args(ManifestKind))
    shape, values = images.shape_of_images(where)
    if at is not None:
        if repository is None or sort not in ("pushed", "id") or shape:
            raise UsageError("--at: the past is listed of one repository, by pushed or id, without filters")
        values["at"] = at
    question = paging.question(f"manifests {repository} {at is None}", sort, descending, where)
    keys = _keys(sort, repository is None)
    asked = Asked(question, keys, descending, after, paging.check_limit(limit), values)

    def statement(part: Part | None) -> Any:
        form = _statement(repository is None, at is not None, sort, descending, part, shape)
        return seen(form, visible) if repository is None else form

    with database.read() as connection:
        if repository is not None:
            values["of"] = repository_id(connection, repository, at, visible)
        rows = asked.rows(connection, statement)
        names = _names(connection, [row.id for row in rows[:limit]], at)
        count = paging.counted(connection, statement(None), values, None) if total else None
    return asked.page(rows, lambda row: _item(row, repository, names.get(row.id, ())), count)


def _names(
    connection: sa.Connection, ids: list[int], at: datetime | None, size: int = 5000
) -> dict[int, tuple[str, ...]]:
    """Return the tags of manifests, in statements of a bounded number of values."""
    found: dict[int, tuple[str, ...]] = {}
    for start in range(0, len(ids), size):
        found |= tags_of(connection, ids[start : start + size], at)
    return found


def _keys(sort: str, is_everywhere: bool) -> tuple[Key, ...]:
    return (_id_of_one,) if sort == "id" and not is_everywhere else _SORTS[sort]


@lru_cache(maxsize=256)
def _statement(
    is_everywhere: bool, is_past: bool, sort: str, descending: bool, part: Part | None, shape: Shape
) -> Any:
    """Return the statement for one page, or without *part* the one for all."""
    base = _AT if is_past else _OF_ALL if is_everywhere else _OF_ONE
    base = base.where(*images.conditions(shape, _pulled, is_everywhere=is_everywhere))
    for name, form in shape:
        if name in _OWN:
            condition = _OWN[name]
            base = base.where(~condition if form is False else condition)
    return base if part is None else paging.paged(base, _keys(sort, is_everywhere), part, descending)


_referrer, _index = aliased(Manifest), aliased(Manifest)
_OWN: Final[dict[str, Any]] = {
    "kind": Manifest.kind == sa.bindparam("kind"),
    "subject": Manifest.subject_digest == sa.bindparam("subject"),
    "tagged": sa.exists().where(Tag.manifest_id == Manifest.id, Tag.ended_at.is_(None)),
    "has_referrers": sa.exists().where(
        _referrer.repository_id == Manifest.repository_id,
        _referrer.subject_digest == Manifest.digest,
        _referrer.deleted_at.is_(None),
    ),
    "in_index": sa.exists().where(
        IndexMember.child_id == Manifest.id, _index.id == IndexMember.index_id, _index.deleted_at.is_(None)
    ),
}


def _item(row: Any, repository: str | None, names: tuple[str, ...]) -> ManifestItem:
    manifest_id, digest, kind, media_type, artifact_type, os, architecture, variant, size_bytes, *more = row
    created_at, pushed_at, pulled_at, pushed_by, subject, *_ = more
    return ManifestItem(
        row.repository if repository is None else repository,
        manifest_id,
        digest_or_none(digest),
        kind,
        media_type,
        media_types.telling_artifact_type(artifact_type),
        platform(os, architecture, variant),
        size_bytes,
        time_or_none(created_at),
        time_or_none(pushed_at),
        time_or_none(pulled_at),
        pushed_by,
        digest_or_none(subject),
        names,
    )
