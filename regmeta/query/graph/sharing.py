"""How much room it saves that a blob is stored once, however many repositories hold it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import sqlalchemy as sa

from regmeta import models
from regmeta.db import Database
from regmeta.oci.digest import Digest
from regmeta.query.cursors import check_limit
from regmeta.query.visibility import Visibility

LIMIT: Final = 20
Order = Literal["saved", "repositories"]


@dataclass(frozen=True, slots=True)
class SharedBlob:
    """A blob that more than one repository holds; ``saved_bytes`` is what its copies would take."""

    digest: Digest
    size_bytes: int
    repositories: int
    saved_bytes: int


@dataclass(frozen=True, slots=True)
class Dedup:
    """What repositories hold, manifests included.

    ``logical_bytes`` counts a blob once for each repository that holds it, ``unique_bytes`` once;
    ``saved_bytes`` is the difference.
    """

    blobs: int
    shared_blobs: int
    logical_bytes: int
    unique_bytes: int
    saved_bytes: int
    most: tuple[SharedBlob, ...]


def _held(visible: Visibility | None) -> Any:
    """Return each blob that is held, with the number of its repositories: the whole of the edges is read."""
    readable: list[Any] = [models.Repository.state == "active"]
    if visible is not None:
        readable.append(visible(models.Repository))
    counted = (
        sa.select(models.RepositoryBlob.blob_id, sa.func.count().label("repositories"))
        .join(models.Repository, models.Repository.id == models.RepositoryBlob.repository_id)
        .where(*readable)
        .group_by(models.RepositoryBlob.blob_id)
        .subquery("counted")
    )
    return (
        sa.select(models.Blob.id, models.Blob.digest, models.Blob.size_bytes, counted.c.repositories)
        .join(counted, counted.c.blob_id == models.Blob.id)
        .subquery("held")
    )


def _statements(visible: Visibility | None) -> tuple[Any, dict[Order, Any]]:
    held = _held(visible)
    logical = held.c.size_bytes * held.c.repositories
    saved = (held.c.size_bytes * (held.c.repositories - 1)).label("saved")
    totals = sa.select(
        sa.func.count(),
        sa.func.count().filter(held.c.repositories > 1),
        sa.func.coalesce(sa.func.sum(logical), 0),
        sa.func.coalesce(sa.func.sum(held.c.size_bytes), 0),
    ).select_from(held)
    shared = (
        sa.select(held.c.digest, held.c.size_bytes, held.c.repositories, saved)
        .where(held.c.repositories > 1)
        .limit(sa.bindparam("page"))
    )
    return totals, {
        "saved": shared.order_by(saved.desc(), held.c.id),
        "repositories": shared.order_by(held.c.repositories.desc(), saved.desc(), held.c.id),
    }


_ALL: Final = _statements(None)


def dedup(
    database: Database,
    *,
    order: Order = "saved",
    limit: int = LIMIT,
    visible: Visibility | None = None,
) -> Dedup:
    """Return how much room is saved by sharing, and the blobs that save most or that most repositories hold.

    A report, not a look-up: it reads which repository holds which blob, all of it and twice. That is seconds
    for ten millions of them; daily samples of the same numbers are in the usage statistics.

    Raises:
        UsageError: *limit* is out of range.
    """
    check_limit(limit)
    totals, lists = _ALL if visible is None else _statements(visible)
    with database.read() as connection:
        blobs, shared, logical, unique = connection.execute(totals).one()
        rows = connection.execute(lists[order], {"page": limit})
        most = tuple(SharedBlob(digest, size, many, int(saved)) for digest, size, many, saved in rows)
    return Dedup(blobs, shared, int(logical), int(unique), int(logical) - int(unique), most)
