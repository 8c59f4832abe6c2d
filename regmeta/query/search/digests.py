"""Manifests and blobs by the start of their digest."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.errors import NotFound
from regmeta.models import Blob, Manifest, Repository, RepositoryBlob, Tag
from regmeta.query.catalog import repository_id
from regmeta.query.held import is_no_deleted_manifest
from regmeta.query.search.found import CANDIDATES, DigestHit, Found, Match, first
from regmeta.query.search.questions import DigestPrefix
from regmeta.query.stored import digest_or_none, raw_digest
from regmeta.query.visibility import Visibility, seen

SHOWN: Final = 10  # repositories of a blob, tags of a manifest

_MANIFESTS: Final = (
    sa.select(
        Manifest.id,
        Manifest.kind,
        Manifest.size_bytes,
        raw_digest(Manifest.digest).label("digest"),
        Repository.name.label("repository"),
    )
    .join(Repository, Repository.id == Manifest.repository_id)
    .where(
        Manifest.digest >= sa.bindparam("low", type_=sa.LargeBinary()),
        Manifest.digest < sa.bindparam("high", type_=sa.LargeBinary()),
        Manifest.deleted_at.is_(None),
        Repository.state == "active",
    )
    .order_by(Manifest.digest, Manifest.id)
    .limit(sa.bindparam("page"))
)
_MANIFESTS_IN: Final = _MANIFESTS.where(Manifest.repository_id == sa.bindparam("in_one"))
_TAGS: Final = (
    sa.select(Tag.manifest_id, Tag.name)
    .where(Tag.manifest_id.in_(sa.bindparam("ids", expanding=True)), Tag.ended_at.is_(None))
    .limit(CANDIDATES)
)


def find_digests(
    connection: Connection, prefix: DigestPrefix, limit: int, visible: Visibility | None
) -> Found[DigestHit]:
    """Return manifests, by digest and repository, then blobs that are no manifest, by digest.

    Where more repositories hold one digest than are wanted, they are those with the lowest ids.
    """
    in_one = None
    if prefix.repository is not None:
        try:
            in_one = repository_id(connection, prefix.repository, visible=visible)
        except NotFound:
            return Found()
    hits: list[DigestHit] = []
    for find in (_manifests, _blobs):
        for low, high in prefix.ranges():
            if len(hits) <= limit:
                of: dict[str, Any] = {"low": low, "high": high, "page": limit + 1 - len(hits)}
                if in_one is not None:
                    of["in_one"] = in_one
                hits += find(connection, prefix, of, visible)
    return first(hits, limit)


def _manifests(
    connection: Connection, prefix: DigestPrefix, of: dict[str, Any], visible: Visibility | None
) -> list[DigestHit]:
    statement = _MANIFESTS_IN if "in_one" in of else _MANIFESTS
    found: Any = connection.execute(seen(statement, visible), of).all()
    rows = sorted(found, key=lambda row: (bytes(row.digest), str(row.repository)))
    tags = _tags(connection, [row.id for row in rows])
    hits = []
    for row in rows:
        digest = digest_or_none(row.digest)
        if digest is not None:
            match: Match = "exact" if digest.hex == prefix.hex else "prefix"
            named = tuple(tags.get(row.id, ())[:SHOWN])
            hits.append(DigestHit(row.kind, digest, row.size_bytes, (row.repository,), named, match))
    return hits


def _tags(connection: Connection, ids: list[int]) -> dict[int, list[str]]:
    names: dict[int, list[str]] = {}
    found: Any = connection.execute(_TAGS, {"ids": ids}).all() if ids else []
    for manifest_id, name in sorted(tuple(row) for row in found):
        names.setdefault(manifest_id, []).append(name)
    return names


def _blobs(
    connection: Connection, prefix: DigestPrefix, of: dict[str, Any], visible: Visibility | None
) -> list[DigestHit]:
    in_one = "in_one" in of
    statement = _blobs_statement(in_one) if visible is None else _made_for(in_one, visible)
    found: Any = connection.execute(statement, of).all()
    hits = []
    for row in found:
        digest = digest_or_none(row.digest)
        if digest is not None:
            match: Match = "exact" if digest.hex == prefix.hex else "prefix"
            repositories = tuple(sorted(str(row.repositories).split(",")))
            hits.append(DigestHit("blob", digest, row.size_bytes, repositories, (), match))
    return hits


@lru_cache(maxsize=2)
def _blobs_statement(in_one: bool) -> sa.Select[Any]:
    return _made_for(in_one, None)


def _made_for(in_one: bool, visible: Visibility | None) -> sa.Select[Any]:
    """Return the statement of blobs that somebody may read, and of the first repositories that hold each."""
    holders = (
        sa.select(Repository.name)
        .join(RepositoryBlob, RepositoryBlob.repository_id == Repository.id)
        .where(RepositoryBlob.blob_id == Blob.id, Repository.state == "active", is_no_deleted_manifest())
        .correlate(Blob)
    )
    manifests = (
        sa.select(Manifest.id)
        .join(Repository, Repository.id == Manifest.repository_id)
        .where(Manifest.blob_id == Blob.id, Manifest.deleted_at.is_(None), Repository.state == "active")
        .correlate(Blob)
    )
    wanted = sa.select(Blob.size_bytes, raw_digest(Blob.digest).label("digest")).where(
        Blob.digest >= sa.bindparam("low", type_=sa.LargeBinary()),
        Blob.digest < sa.bindparam("high", type_=sa.LargeBinary()),
    )
    if in_one:
        one: Any = sa.bindparam("in_one")
        holders = holders.where(RepositoryBlob.repository_id == one)
        manifests = manifests.where(Manifest.repository_id == one)
        links = sa.select(RepositoryBlob.blob_id).where(RepositoryBlob.repository_id == one)
        wanted = wanted.where(Blob.id.in_(links))
    holders, manifests = seen(holders, visible), seen(manifests, visible)
    some = holders.order_by(RepositoryBlob.repository_id).limit(SHOWN).subquery()
    names = sa.select(sa.func.aggregate_strings(some.c.name, ",")).correlate(Blob).scalar_subquery()
    return (
        wanted.add_columns(names.label("repositories"))
        .where(holders.exists(), ~manifests.exists())
        .order_by(Blob.digest)
        .limit(sa.bindparam("page"))
    )
