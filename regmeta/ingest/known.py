"""What many tags of many repositories are here: the question of a sync, which fetches only the rest."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.db import Database
from regmeta.ingest.reserve import chunks
from regmeta.ingest.skip import ANY_DAMAGED
from regmeta.models import IndexMember, Manifest, Repository, Tag
from regmeta.models.base import Name
from regmeta.oci.descriptor import Platform
from regmeta.oci.digest import Digest

PAIRS_AT_ONCE: Final = 2000  # two parameters each; SQLite takes 32,766
_NO_PLATFORM: Final = {None, "", "unknown"}

_roots = (
    sa.select(Manifest.id.label("root"), Manifest.id.label("id"))
    .where(Manifest.id.in_(sa.bindparam("roots", expanding=True)))
    .cte("below", recursive=True)
)
_below: Final = _roots.union(
    sa.select(_roots.c.root, IndexMember.child_id).join(
        _roots, sa.and_(IndexMember.index_id == _roots.c.id, IndexMember.child_id.is_not(None))
    )
)
_ABSENT: Final = (
    sa.select(
        _below.c.root,
        IndexMember.absence,
        IndexMember.os,
        IndexMember.architecture,
        IndexMember.variant,
        IndexMember.os_version,
    )
    .join(IndexMember, IndexMember.index_id == _below.c.id)
    .where(IndexMember.absence.is_not(None))
    .order_by(_below.c.root, IndexMember.index_id, IndexMember.position)
)


@dataclass(frozen=True, slots=True)
class KnownTag:
    """What a live tag is.

    *is_safe* is false while any blob of the database is damaged: then nothing is relied on, since an ingest
    heals it. *absent* are the platforms of the children that its tree lacks, at any depth; None where an
    entry says none. An entry without a platform that a policy left out is not among them: it goes with one
    that has a platform (an attestation), and comes when that one is wanted.
    """

    digest: Digest
    is_safe: bool
    absent: tuple[Platform | None, ...] = ()


def known_tags(database: Database, pairs: Collection[tuple[str, str]]) -> Mapping[tuple[str, str], KnownTag]:
    """Return those of *pairs* (repository, tag) that are live tags of active repositories, of one moment.

    Two statements for up to 2,000 pairs, one where no tag is an index. Thread-safe; writes nothing.

    Raises:
        DatabaseUnavailable: it could not be found out; that is never an answer.
    """
    found: dict[tuple[str, str], KnownTag] = {}
    with database.read() as connection:
        for some in chunks(sorted(set(pairs)), PAIRS_AT_ONCE):
            rows = connection.execute(_of(some)).all()
            absent = _absent(connection, [row.manifest_id for row in rows if row.kind == "index"])
            for name, tag, digest, manifest_id, _, is_damaged in rows:
                missing = tuple(absent.get(manifest_id, ()))
                found[name, tag] = KnownTag(digest, not is_damaged, missing)
    return found


def _of(pairs: Sequence[tuple[str, str]]) -> Any:
    asked = (
        sa.values(sa.column("repository", Name), sa.column("tag", Name), name="asked")
        .data(list(pairs))
        .cte("asked")
    )
    # The table of pairs comes first and each is looked up: nothing is read of other tags.
    return (
        sa.select(
            Repository.name,
            Tag.name,
            Tag.manifest_digest,
            Manifest.id.label("manifest_id"),
            Manifest.kind,
            ANY_DAMAGED,
        )
        .select_from(asked)
        .join(Repository, Repository.name == asked.c.repository)
        .join(Tag, sa.and_(Tag.repository_id == Repository.id, Tag.name == asked.c.tag))
        .join(Manifest, Manifest.id == Tag.manifest_id)
        .where(Repository.state == "active", Tag.ended_at.is_(None))
    )


def _absent(connection: Connection, roots: Sequence[int]) -> dict[int, list[Platform | None]]:
    """Return the platforms of absent children by the id of their root."""
    found: dict[int, list[Platform | None]] = {}
    if not roots:
        return found
    for row in connection.execute(_ABSENT, {"roots": sorted(set(roots))}):
        says_none = {row.os, row.architecture} <= _NO_PLATFORM
        if says_none and row.absence == "policy":
            continue
        platform = None if says_none else Platform(row.os, row.architecture, row.variant, row.os_version)
        found.setdefault(row.root, []).append(platform)
    return found
