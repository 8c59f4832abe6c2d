"""What is here of a repository: who set its tags, which manifests it has and which blobs those need."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import sqlalchemy as sa

from regmeta import db
from regmeta.db import Database
from regmeta.ingest.plan import ADOPTED
from regmeta.ingest.reserve import chunks
from regmeta.models import Blob, IndexMember, Manifest, ManifestBlob, Repository, Tag
from regmeta.oci.digest import Digest

PAGE: Final = 100  # manifests, with their bytes

_IS: Final = (Repository.name == sa.bindparam("repository"), Repository.state == "active")
_STATE: Final = sa.select(Repository.state).where(Repository.name == sa.bindparam("repository"))
_NAMED: Final[Any] = (
    sa.select(Tag.name, Tag.manifest_digest, Tag.started_by, Tag.ended_at, Tag.ended_by)
    .join(Repository, Repository.id == Tag.repository_id)
    .where(*_IS, Tag.name.in_(sa.bindparam("names", expanding=True)))
    .order_by(Tag.name, Tag.started_at, Tag.id)
)
_LIVE: Final[Any] = (
    sa.select(Tag.name, Tag.manifest_digest, Tag.started_by)
    .join(Repository, Repository.id == Tag.repository_id)
    .where(*_IS, Tag.ended_at.is_(None))
    .order_by(Tag.name)
)
_HELD: Final = (
    sa.select(Manifest.digest)
    .join(Repository, Repository.id == Manifest.repository_id)
    .where(
        *_IS,
        Manifest.digest.in_(sa.bindparam("digests", expanding=True)),
        Manifest.deleted_at.is_(None),
        Manifest.lease_until > sa.bindparam("after_"),
        ~sa.exists().where(IndexMember.index_id == Manifest.id, IndexMember.absence.is_not(None)),
    )
)
_MANIFESTS: Final[Any] = (
    sa.select(
        Manifest.id,
        Manifest.digest,
        Manifest.content,
        Manifest.pushed_by,
        Blob.key,
        Blob.size_bytes,
        Blob.state,
    )
    .join(Repository, Repository.id == Manifest.repository_id)
    .join(Blob, Blob.id == Manifest.blob_id)
    .where(*_IS, Manifest.deleted_at.is_(None), Manifest.id > sa.bindparam("after_id"))
    .order_by(Manifest.id)
    .limit(PAGE)
)
_BLOBS: Final[Any] = (
    sa.select(Blob.digest, Blob.key, Blob.size_bytes, Blob.state)
    .where(
        Blob.id.in_(
            sa.select(ManifestBlob.blob_id).where(
                ManifestBlob.manifest_id.in_(sa.bindparam("ids", expanding=True)),
                ManifestBlob.blob_id.is_not(None),
            )
        )
    )
    .order_by(Blob.digest)
)
_CHILDREN: Final = (
    sa.select(IndexMember.child_digest)
    .join(Manifest, Manifest.id == IndexMember.index_id)
    .join(Repository, Repository.id == Manifest.repository_id)
    .where(*_IS, IndexMember.child_id.is_not(None))
    .distinct()
)


@dataclass(frozen=True, slots=True)
class TagHere:
    """Where a tag points here, None for nowhere now; *is_ours*: it was an adoption that made it so."""

    digest: Digest | None
    is_ours: bool


@dataclass(frozen=True, slots=True)
class ManifestHere:
    """A manifest's row, and the object of its bytes."""

    id: int
    digest: Digest
    content: bytes
    pushed_by: str
    key: str
    size_bytes: int
    state: str


@dataclass(frozen=True, slots=True)
class BlobHere:
    """A blob that manifests name."""

    digest: Digest
    key: str
    size_bytes: int
    state: str


def tags_named(database: Database, repository: str, names: Sequence[str]) -> dict[str, TagHere]:
    """Return those of *names* that are tags here, or were; one statement for up to 500."""
    found: dict[str, TagHere] = {}
    if not names:
        return found
    with database.read() as connection:
        for some in chunks(names):
            rows = connection.execute(_NAMED, {"repository": repository, "names": some})
            for name, digest, started_by, ended_at, ended_by in rows:
                # In the order of time: the last one stands.
                by = started_by if ended_at is None else ended_by or ""
                found[name] = TagHere(digest if ended_at is None else None, by.startswith(ADOPTED))
    return found


def is_deleted(database: Database, repository: str) -> bool:
    """Tell whether somebody has deleted a repository here."""
    with database.read() as connection:
        return connection.execute(_STATE, {"repository": repository}).scalar() in ("deleted", "purging")


def live_tags(database: Database, repository: str) -> dict[str, TagHere]:
    """Return all tags that a repository has now."""
    with database.read() as connection:
        rows = connection.execute(_LIVE, {"repository": repository})
        return {name: TagHere(digest, by.startswith(ADOPTED)) for name, digest, by in rows}


def held(database: Database, repository: str, digests: Collection[Digest], for_: timedelta) -> set[Digest]:
    """Return those of *digests* that are manifests here, without a gap, and leased for longer than *for_*."""
    found: set[Digest] = set()
    if not digests:
        return found
    with database.read() as connection:
        after = db.clock(connection) + for_
        for some in chunks(sorted(digests)):
            parameters = {"repository": repository, "digests": some, "after_": after}
            found.update(connection.execute(_HELD, parameters).scalars())
    return found


def manifests(database: Database, repository: str) -> Iterator[list[ManifestHere]]:
    """Give the manifests of a repository, some at a time."""
    after = 0
    while True:
        with database.read() as connection:
            parameters = {"repository": repository, "after_id": after}
            some = [ManifestHere(*row) for row in connection.execute(_MANIFESTS, parameters)]
        if not some:
            return
        yield some
        after = some[-1].id


def blobs(database: Database, manifest_ids: Sequence[int]) -> Mapping[Digest, BlobHere]:
    """Return the blobs that manifests name."""
    found: dict[Digest, BlobHere] = {}
    with database.read() as connection:
        for some in chunks(manifest_ids):
            for row in connection.execute(_BLOBS, {"ids": some}):
                found[row.digest] = BlobHere(*row)
    return found


def listed_children(database: Database, repository: str) -> set[Digest]:
    """Return the manifests that indexes of a repository list and that are here."""
    with database.read() as connection:
        return set(connection.execute(_CHILDREN, {"repository": repository}).scalars())
