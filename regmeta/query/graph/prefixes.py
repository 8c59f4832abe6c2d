"""What has a digest that begins so: for people, who write the first few digits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from regmeta import models
from regmeta.db import Database
from regmeta.errors import UsageError
from regmeta.oci.digest import Digest, stored_ranges
from regmeta.query.cursors import check_limit
from regmeta.query.held import is_no_deleted_manifest
from regmeta.query.stored import digest_or_none, raw_digest
from regmeta.query.visibility import Visibility

LIMIT: Final = 20
SHORTEST: Final = 2  # hex digits; fewer mean too much to be looked through

_GRAMMAR: Final = re.compile(r"(?:(sha256|sha512):)?([0-9a-f]*)")


@dataclass(frozen=True, slots=True)
class Found:
    """Some content whose digest begins as asked: an *image*, an *index*, or another *blob*.

    ``repository`` is one of those that hold it. The size of an image is that of its manifest.
    """

    digest: Digest
    kind: str
    size_bytes: int
    repository: str
    created_at: datetime


def _statement(visible: Visibility | None) -> sa.Select[Any]:
    """Return what walks a range of digests: each blob is looked up in manifests and repositories."""
    readable: list[Any] = [models.Repository.state == "active"]
    if visible is not None:
        readable.append(visible(models.Repository))
    manifests = (
        sa.select(models.Manifest)
        .join(models.Repository, models.Repository.id == models.Manifest.repository_id)
        .where(models.Manifest.digest == models.Blob.digest, models.Manifest.deleted_at.is_(None), *readable)
        .order_by(models.Manifest.id)
        .limit(1)
    )
    links = (
        sa.select(models.Repository.name)
        .select_from(models.RepositoryBlob)
        .join(models.Repository, models.Repository.id == models.RepositoryBlob.repository_id)
        .where(
            models.RepositoryBlob.blob_id == models.Blob.id,
            *readable,
            is_no_deleted_manifest(),
        )
        .order_by(models.RepositoryBlob.repository_id)
        .limit(1)
    )
    kind = manifests.with_only_columns(models.Manifest.kind).scalar_subquery()
    holder = manifests.with_only_columns(models.Repository.name).scalar_subquery()
    walked = (
        sa.select(
            raw_digest(models.Blob.digest).label("digest"),
            models.Blob.digest.label("place"),
            kind.label("kind"),
            models.Blob.size_bytes,
            sa.func.coalesce(holder, links.scalar_subquery()).label("repository"),
            models.Blob.created_at,
        )
        .where(
            models.Blob.digest >= sa.bindparam("low", type_=sa.LargeBinary()),
            models.Blob.digest < sa.bindparam("high", type_=sa.LargeBinary()),
        )
        .subquery("walked")
    )
    return (
        sa.select(
            walked.c.digest, walked.c.kind, walked.c.size_bytes, walked.c.repository, walked.c.created_at
        )
        .where(walked.c.repository.is_not(None))
        .order_by(walked.c.place)
        .limit(sa.bindparam("page"))
    )


_ALL: Final = _statement(None)


def digests(
    database: Database, prefix: str, *, limit: int = LIMIT, visible: Visibility | None = None
) -> list[Found]:
    """Return what has a digest that begins with *prefix*, in the order of digests, *limit* of them.

    The prefix is ``sha256:ab...`` or ``sha512:ab...``, or the hex digits alone, of which there are at least
    two; upper case will do. Each digest comes once, in however many repositories it is.

    Raises:
        UsageError: it is no beginning of a digest, too short a one, or *limit* is out of range.
    """
    check_limit(limit)
    found: list[Found] = []
    statement = _ALL if visible is None else _statement(visible)
    with database.read() as connection:
        for low, high in _ranges(prefix):
            asked = {"low": low, "high": high, "page": limit - len(found)}
            for row in connection.execute(statement, asked):
                of = digest_or_none(row.digest)  # None: a damaged row, which doctor reports
                if of is not None:
                    found.append(
                        Found(of, row.kind or "blob", row.size_bytes, row.repository, row.created_at)
                    )
            if len(found) >= limit:
                break
    return found


def _ranges(prefix: str) -> list[tuple[bytes, bytes]]:
    """Return for each algorithm that may be meant what digests that begin so are at least, and less than."""
    said = _GRAMMAR.fullmatch(prefix.lower())
    if said is None or len(said[2]) < SHORTEST:
        raise UsageError(
            f"{prefix[:80]!r}: no beginning of a digest: write sha256: or sha512: or nothing, and at least"
            f" {SHORTEST} hex digits"
        )
    ranges = stored_ranges(said[2], said[1])
    if not ranges:
        raise UsageError(f"{prefix[:80]!r}...: longer than a digest")
    return ranges
