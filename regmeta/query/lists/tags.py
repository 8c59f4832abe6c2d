"""The tags of a repository, or of all, with what they point at."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, Literal, get_args

import sqlalchemy as sa

from regmeta.db import Database
from regmeta.errors import UsageError
from regmeta.models import Manifest, Repository, Tag
from regmeta.oci import media_types
from regmeta.oci.digest import Digest
from regmeta.query.catalog import PAGE, platform, repository_id
from regmeta.query.lists import images, paging
from regmeta.query.lists.filters import begins, exact, named, tag_contains
from regmeta.query.lists.images import ImageFilter
from regmeta.query.lists.paging import Asked, Key, Part, Shape
from regmeta.query.moments import IMAGE_OF_TAG, WAS_LIVE
from regmeta.query.results import Page
from regmeta.query.stored import digest_or_none, raw_digest, raw_time, time_or_none
from regmeta.query.visibility import Visibility, seen

TagSort = Literal["name", "tagged", "pushed", "created", "size", "pulled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TagFilter(ImageFilter):
    """Which tags: by their own name and time, and by what they point at (see :class:`ImageFilter`).

    *name* is a pattern of the whole name (see :mod:`regmeta.oci.globs`), *contains* a piece of it without
    regard to case, *begins* its beginning. Here *pulled* counts pulls by this tag of what it points at now.
    """

    name: str | None = None
    contains: str | None = None
    begins: str | None = None
    tagged_from: datetime | None = None
    tagged_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class TagItem:
    """One tag in a list. The size is unknown for an index, which has those of its images.

    Of an image that *is_here* no more, only the digest is known. ``created_at`` is what the image says of
    itself, None if nothing. ``started_at`` is since when the tag points at it. A digest or a time that a
    damaged row holds is None.
    """

    repository: str
    name: str
    digest: Digest | None
    kind: str | None
    media_type: str | None
    artifact_type: str | None
    platform: str | None
    size_bytes: int | None
    created_at: datetime | None
    pushed_at: datetime | None
    pulled_at: datetime | None
    started_at: datetime | None
    started_by: str
    is_here: bool = True


_pulled = images.pulled_at(Tag.name)
_columns = sa.select(
    Tag.name.label("name"),
    raw_digest(Tag.manifest_digest),
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
    raw_time(Tag.started_at),
    Tag.started_by,
    Manifest.id,
).select_from(Tag)
_live = _columns.join(Manifest, Manifest.id == Tag.manifest_id).where(Tag.ended_at.is_(None))
_OF_ONE: Final = _live.where(Tag.repository_id == sa.bindparam("of"))
# IN leads from tags to their repositories only: SQLite, with statistics, would else read all of these first.
_OF_ALL: Final = (
    _live.join(Repository, Repository.id.in_([Tag.repository_id]))
    .where(Repository.state == "active")
    .add_columns(Repository.name.label("repository"))
)
_AT: Final = _columns.outerjoin(Manifest, IMAGE_OF_TAG).where(
    Tag.repository_id == sa.bindparam("of"), WAS_LIVE
)
_name = Key(Tag.name, str)
_SORTS: Final[dict[str, tuple[Key, ...]]] = {
    "name": (_name,),
    "tagged": (Key(Tag.started_at), _name),
    "pushed": (Key(Manifest.pushed_at), _name),
    "created": (Key(Manifest.image_created_at, is_nullable=True), _name),
    "size": (Key(Manifest.total_size_bytes, is_nullable=True), _name),
    "pulled": (Key(_pulled, is_nullable=True), _name),
}
_NAMED: Final = frozenset({"name", "contains", "begins"})
"""Filters that need nothing but the name, and so can ask about the past."""


def tags(
    database: Database,
    repository: str | None = None,
    where: TagFilter | None = None,
    *,
    sort: TagSort = "name",
    descending: bool = False,
    after: str | None = None,
    limit: int = PAGE,
    total: bool = False,
    at: datetime | None = None,
    visible: Visibility | None = None,
) -> Page[TagItem]:
    """Return one page of the tags of a repository, or of all repositories: those that are live, or were
    *at* a time.

    Sorts: *name*; *tagged*, since when it points where it does; *pushed* and *created*, when its image was
    and says it was made; *size*; *pulled*, when its image was pulled last by this tag. In one repository a
    page by *name* or *tagged* reads the rows it shows, as does one by *name* of all; the others cost time
    in proportion to the tags there are. Of the past there is one repository, by name, filtered by name.

    Raises:
        NotFound: there is no such repository, or was none.
        UsageError: *after* is of another list, or a filter, order or limit is none.
    """
    where = where or TagFilter()
    paging.check_choice("sort", sort, get_args(TagSort))
    shape, values = images.shape_of_images(where)
    if at is not None:
        if repository is None or sort != "name" or any(name not in _NAMED for name, _ in shape):
            raise UsageError(
                "--at: the past is listed of one repository, by name, with filters of names only"
            )
        values["at"] = at
    question = paging.question(f"tags {repository} {at is None}", sort, descending, where)
    keys = _keys(sort, repository is None)
    accept = exact(where.name)
    asked = Asked(question, keys, descending, after, paging.check_limit(limit), values, accept)

    def statement(part: Part | None) -> Any:
        form = _statement(
            repository is None, at is not None, sort, descending, part, shape, database.is_sqlite
        )
        return seen(form, visible) if repository is None else form

    with database.read() as connection:
        if repository is not None:
            values["of"] = repository_id(connection, repository, at, visible)
        rows = asked.rows(connection, statement)
        count = paging.counted(connection, statement(None), values, accept) if total else None
    return asked.page(rows, lambda row: _item(row, repository), count)


def _keys(sort: str, is_everywhere: bool) -> tuple[Key, ...]:
    keys = _SORTS[sort]
    return (*keys, Key(Tag.repository_id)) if is_everywhere else keys


@lru_cache(maxsize=256)
def _statement(
    is_everywhere: bool,
    is_past: bool,
    sort: str,
    descending: bool,
    part: Part | None,
    shape: Shape,
    is_sqlite: bool,
) -> Any:
    """Return the statement for one page, or without *part* the one for all."""
    base = _AT if is_past else _OF_ALL if is_everywhere else _OF_ONE
    base = base.where(*images.conditions(shape, _pulled, is_everywhere=is_everywhere))
    for name, form in shape:
        if name == "name":
            base = base.where(named(Tag.name, form))
        elif name == "contains":
            base = base.where(tag_contains(Tag.name, is_everywhere, bool(form), is_sqlite))
        elif name == "begins":
            base = base.where(begins(Tag.name))
        elif name == "tagged_from":
            base = base.where(Tag.started_at >= sa.bindparam(name))
        elif name == "tagged_until":
            base = base.where(Tag.started_at < sa.bindparam(name))
    return base if part is None else paging.paged(base, _keys(sort, is_everywhere), part, descending)


def _item(row: Any, repository: str | None) -> TagItem:
    name, digest, kind, media_type, artifact_type, os, architecture, variant, size_bytes, *more = row
    created_at, pushed_at, pulled_at, started_at, started_by, manifest_id, *_ = more
    return TagItem(
        row.repository if repository is None else repository,
        name,
        digest_or_none(digest),
        kind,
        media_type,
        media_types.telling_artifact_type(artifact_type),
        platform(os, architecture, variant),
        size_bytes,
        time_or_none(created_at),
        time_or_none(pushed_at),
        time_or_none(pulled_at),
        time_or_none(started_at),
        started_by,
        manifest_id is not None,
    )
