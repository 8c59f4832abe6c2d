"""Tags against manifests, and the intervals of each tag among each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import sqlalchemy as sa

from regmeta.db import Database
from regmeta.maintain.verify.findings import Finding, Kind
from regmeta.maintain.verify.pages import raw, reading, shown
from regmeta.models import Manifest, Repository, Tag

_WRONG: Final = (
    sa.select(
        Tag.id,
        Repository.name.label("repository"),
        Tag.name,
        raw(Tag.manifest_digest),
        Tag.ended_at,
        raw(Manifest.digest),
    )
    .join(Repository, Repository.id == Tag.repository_id)
    .outerjoin(Manifest, Manifest.id == Tag.manifest_id)
    .where(
        sa.or_(
            sa.and_(Tag.ended_at.is_(None), Manifest.id.is_(None)),
            Manifest.digest != Tag.manifest_digest,
            Manifest.repository_id != Tag.repository_id,
        )
    )
    .order_by(Tag.id)
)
_following = sa.func.lead(Tag.started_at).over(
    partition_by=(Tag.repository_id, Tag.name), order_by=(Tag.started_at, Tag.id)
)
_intervals = sa.select(
    Tag.id, Tag.repository_id, Tag.name, Tag.started_at, Tag.ended_at, _following.label("next_at")
).subquery()
_OVERLAPPING: Final = (
    sa.select(_intervals.c.id, Repository.name.label("repository"), _intervals.c.name)
    .join(Repository, Repository.id == _intervals.c.repository_id)
    .where(
        sa.or_(
            _intervals.c.ended_at <= _intervals.c.started_at,
            _intervals.c.ended_at > _intervals.c.next_at,
            sa.and_(_intervals.c.ended_at.is_(None), _intervals.c.next_at.is_not(None)),
        )
    )
    .order_by(_intervals.c.id)
)


def check_tags(database: Database) -> Iterator[Finding]:
    """Look for tags that point at nothing, or at another manifest, and for intervals that overlap."""
    with reading(database) as connection:
        wrong: Any = connection.execute(_WRONG).all()
        overlapping = connection.execute(_OVERLAPPING).all()
    for row in wrong:
        actual = "nothing" if row.digest is None else shown(row.digest)
        state = "" if row.ended_at is None else " (an interval that has ended)"
        detail = f"says {shown(row.manifest_digest)}, and points at {actual}{state}"
        yield Finding(Kind.TAG_DRIFT, f"{row.repository}:{row.name}", detail, row.id)
    for row in overlapping:
        yield Finding(
            Kind.TAG_DRIFT,
            f"{row.repository}:{row.name}",
            "an interval overlaps the next one, or ends before it starts",
            row.id,
        )
