"""Conditions that names and texts are said by something that is live and may be seen.

They are part of what limits candidates: what is dead or hidden takes no place among them. Each is written as
``(SELECT ... LIMIT 1) IS NOT NULL``, which is asked row by row and ends at the first hit: PostgreSQL would
make an EXISTS a hash of all tags.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from regmeta.models import Label, Manifest, Repository, Tag
from regmeta.query.visibility import Visibility, seen


def is_live_name(of: Any, visible: Visibility | None) -> sa.ColumnElement[bool]:
    """Return the condition that a live tag of a repository that may be seen has the name *of.name*."""
    tags = sa.select(Tag.id).where(
        Tag.name == of.name, Tag.ended_at.is_(None), _is_readable(Tag.repository_id, visible)
    )
    return _is_any(tags.correlate_except(Tag))


def is_live_text(of: Any, visible: Visibility | None) -> sa.ColumnElement[bool]:
    """Return the condition that an image of a repository that may be seen says the text *of.id*."""
    said = (
        sa.select(Label.manifest_id)
        .join(Manifest, Manifest.id == Label.manifest_id)
        .where(
            Label.text_key == of.id,
            Manifest.deleted_at.is_(None),
            _is_readable(Manifest.repository_id, visible),
        )
    )
    return _is_any(said.correlate_except(Label, Manifest))


def _is_readable(repository_id: Any, visible: Visibility | None) -> sa.ColumnElement[bool]:
    # Not joined: each tag or image is followed to its repository, never the other way round.
    found = sa.select(Repository.id).where(Repository.id == repository_id, Repository.state == "active")
    return _is_any(seen(found, visible).correlate_except(Repository))


def _is_any(found: Any) -> sa.ColumnElement[bool]:
    return found.limit(sa.literal_column("1")).scalar_subquery().is_not(None)  # type: ignore[no-any-return]
