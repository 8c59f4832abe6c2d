"""What refers to many manifests here: the question of a sync that looks for new signatures."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.orm import aliased

from regmeta.db import Database
from regmeta.ingest.known import PAIRS_AT_ONCE
from regmeta.ingest.reserve import chunks
from regmeta.ingest.skip import ANY_DAMAGED
from regmeta.models import IndexMember, Manifest, Repository
from regmeta.models.base import DigestType, Name
from regmeta.oci.digest import Digest

KnownReferrers = Mapping[tuple[str, Digest], Mapping[Digest, str | None]]
"""By repository and subject: the digests of what refers to it, and their artifact types."""


def known_referrers(database: Database, subjects: Collection[tuple[str, Digest]]) -> KnownReferrers:
    """Return what refers to *subjects* (repository, digest), and in turn to that, and is here whole.

    A referrer is kept for as long as its subject is, so this may be relied on for subjects that a live tag
    reaches. While any blob is damaged nothing is, since an ingest heals it. One statement for up to 2,000
    subjects. Thread-safe; writes nothing.

    Raises:
        DatabaseUnavailable: it could not be found out; that is never an answer.
    """
    found: dict[tuple[str, Digest], dict[Digest, str | None]] = {}
    with database.read() as connection:
        for some in chunks(sorted(set(subjects), key=str), PAIRS_AT_ONCE):
            for name, subject, digest, artifact_type in _rows(connection, some):
                found.setdefault((name, subject), {})[digest] = artifact_type
    return found


def _rows(connection: Connection, subjects: Sequence[tuple[str, Digest]]) -> Sequence[Any]:
    asked = (
        sa.values(sa.column("repository", Name), sa.column("subject", DigestType()), name="asked")
        .data(list(subjects))
        .cte("asked")
    )
    first, further = aliased(Manifest), aliased(Manifest)
    referring = (
        sa.select(
            first.repository_id.label("repository_id"),
            Repository.name.label("repository"),
            first.id.label("id"),
            first.digest.label("digest"),
            first.subject_digest.label("subject"),
            first.artifact_type.label("artifact_type"),
        )
        .select_from(asked)
        .join(Repository, Repository.name == asked.c.repository)
        .join(first, sa.and_(first.repository_id == Repository.id, first.subject_digest == asked.c.subject))
        .where(Repository.state == "active", first.deleted_at.is_(None))
        .cte("referring", recursive=True)
    )
    referring = referring.union(
        sa.select(
            further.repository_id,
            referring.c.repository,
            further.id,
            further.digest,
            further.subject_digest,
            further.artifact_type,
        )
        .join(
            referring,
            sa.and_(
                further.repository_id == referring.c.repository_id,
                further.subject_digest == referring.c.digest,
            ),
        )
        .where(further.deleted_at.is_(None))
    )
    is_incomplete = sa.exists().where(
        IndexMember.index_id == referring.c.id, IndexMember.absence.is_not(None)
    )
    return connection.execute(
        sa.select(
            referring.c.repository, referring.c.subject, referring.c.digest, referring.c.artifact_type
        ).where(~ANY_DAMAGED, ~is_incomplete)
    ).all()
