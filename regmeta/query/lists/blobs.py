"""The blobs that a repository may read, or all that are stored."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, Literal, get_args

import sqlalchemy as sa

from regmeta.db import Database
from regmeta.models import Blob, Repository, RepositoryBlob
from regmeta.oci.digest import Digest
from regmeta.query.catalog import PAGE, repository_id
from regmeta.query.lists import paging
from regmeta.query.lists.filters import shape_of
from regmeta.query.lists.paging import Asked, Key, Part, Shape
from regmeta.query.results import Page
from regmeta.query.stored import digest_or_none, raw_digest, raw_time, time_or_none
from regmeta.query.visibility import Visibility

BlobSort = Literal["digest", "size", "created"]
BlobState = Literal["live", "damaged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobFilter:
    """Which blobs; what is None does not matter. *used* asks whether a repository may read it.

    Sizes include both ends; times are from *created_from* on and before *created_until*.
    """

    min_bytes: int | None = None
    max_bytes: int | None = None
    created_from: datetime | None = None
    created_until: datetime | None = None
    state: BlobState | None = None
    used: bool | None = None


@dataclass(frozen=True, slots=True)
class BlobItem:
    """One blob in a list: ``created_at`` is when it was stored. What a damaged row holds is None."""

    digest: Digest | None
    size_bytes: int
    state: str
    created_at: datetime | None
    is_used: bool


_is_used = sa.exists().where(RepositoryBlob.blob_id == Blob.id)
_columns = sa.select(
    raw_digest(Blob.digest), Blob.size_bytes, Blob.state, raw_time(Blob.created_at), _is_used.label("is_used")
)
_OF_ONE: Final = _columns.where(
    Blob.id.in_(sa.select(RepositoryBlob.blob_id).where(RepositoryBlob.repository_id == sa.bindparam("of")))
)
_SORTS: Final[dict[str, tuple[Key, ...]]] = {
    "digest": (Key(Blob.digest, str, is_digest=True),),
    "size": (Key(Blob.size_bytes), Key(Blob.id)),
    "created": (Key(Blob.created_at), Key(Blob.id)),
}
_CONDITIONS: Final[dict[str, Any]] = {
    "min_bytes": Blob.size_bytes >= sa.bindparam("min_bytes"),
    "max_bytes": Blob.size_bytes <= sa.bindparam("max_bytes"),
    "created_from": Blob.created_at >= sa.bindparam("created_from"),
    "created_until": Blob.created_at < sa.bindparam("created_until"),
    "state": Blob.state == sa.bindparam("state"),
    "used": _is_used,
}


def blobs(
    database: Database,
    repository: str | None = None,
    where: BlobFilter | None = None,
    *,
    sort: BlobSort = "digest",
    descending: bool = False,
    after: str | None = None,
    limit: int = PAGE,
    total: bool = False,
    visible: Visibility | None = None,
) -> Page[BlobItem]:
    """Return one page of the blobs that a repository may read, or of all that are stored.

    Who sees some repositories only sees the blobs that one of them may read. Sorts: *digest*, *size* and
    *created*, when it was stored. Of all, a page by *digest* or *size* reads the rows it shows; the others,
    and those of one repository, cost time in proportion to the blobs there are.

    Raises:
        NotFound: there is no such repository.
        UsageError: *after* is of another list, or a filter, order or limit is none.
    """
    where = where or BlobFilter()
    paging.check_choice("sort", sort, get_args(BlobSort))
    paging.check_choice("state", where.state, get_args(BlobState))
    shape, values = shape_of(where)
    question = paging.question(f"blobs {repository}", sort, descending, where)
    asked = Asked(question, _SORTS[sort], descending, after, paging.check_limit(limit), values)

    def statement(part: Part | None) -> Any:
        form = _statement(repository is None, sort, descending, part, shape)
        return form if repository is not None or visible is None else form.where(_may_be_read(visible))

    with database.read() as connection:
        if repository is not None:
            values["of"] = repository_id(connection, repository, None, visible)
        rows = asked.rows(connection, statement)
        count = paging.counted(connection, statement(None), values, None) if total else None
    return asked.page(rows, _item, count)


def _may_be_read(visible: Visibility) -> Any:
    return sa.exists().where(
        RepositoryBlob.blob_id == Blob.id,
        Repository.id == RepositoryBlob.repository_id,
        Repository.state == "active",
        visible(Repository),
    )


@lru_cache(maxsize=256)
def _statement(is_everywhere: bool, sort: str, descending: bool, part: Part | None, shape: Shape) -> Any:
    """Return the statement for one page, or without *part* the one for all."""
    base = _columns if is_everywhere else _OF_ONE
    for name, form in shape:
        condition = _CONDITIONS[name]
        base = base.where(~condition if form is False else condition)
    return base if part is None else paging.paged(base, _SORTS[sort], part, descending)


def _item(row: Any) -> BlobItem:
    return BlobItem(digest_or_none(row[0]), row[1], row[2], time_or_none(row[3]), bool(row[4]))
