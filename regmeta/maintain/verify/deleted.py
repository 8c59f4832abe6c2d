"""What somebody deleted and something still needs: nothing that can be read leads to what cannot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from regmeta.db import Database
from regmeta.maintain.verify.findings import Finding, Kind
from regmeta.maintain.verify.pages import raw, reading, shown
from regmeta.models import IndexMember, Manifest, Repository, Tag

_index = aliased(Manifest)
_deleted = (
    sa.select(Manifest.id, Repository.name.label("repository"), raw(Manifest.digest))
    .join(Repository, Repository.id == Manifest.repository_id)
    .where(Manifest.deleted_at.is_not(None))
    .order_by(Manifest.id)
)
_TAGGED: Final = _deleted.add_columns(Tag.name.label("tag")).join(
    Tag, sa.and_(Tag.manifest_id == Manifest.id, Tag.ended_at.is_(None))
)
_LISTED: Final = (
    _deleted.add_columns(sa.type_coerce(_index.digest, sa.LargeBinary).label("index"))
    .join(IndexMember, IndexMember.child_id == Manifest.id)
    .join(_index, sa.and_(_index.id == IndexMember.index_id, _index.deleted_at.is_(None)))
)
_REPOSITORIES: Final = (
    sa.select(Repository.id, Repository.name, Repository.state, sa.func.count().label("tags"))
    .join(Tag, sa.and_(Tag.repository_id == Repository.id, Tag.ended_at.is_(None)))
    .where(Repository.state != "active")
    .group_by(Repository.id, Repository.name, Repository.state)
    .order_by(Repository.id)
)


def check_deleted(database: Database) -> Iterator[Finding]:
    """Look for deleted manifests that are tagged or listed, and for deleted repositories with tags."""
    with reading(database) as connection:
        tagged: Any = connection.execute(_TAGGED).all()
        listed: Any = connection.execute(_LISTED).all()
        repositories = connection.execute(_REPOSITORIES).all()
    for row in tagged:
        detail = f"was deleted by its digest, and the live tag {row.tag} names it"
        yield Finding(Kind.DELETED_IN_USE, f"{row.repository}@{shown(row.digest)}", detail, row.id)
    for row in listed:
        detail = f"was deleted by its digest, and the index {shown(row.index)}, which is here, lists it"
        yield Finding(Kind.DELETED_IN_USE, f"{row.repository}@{shown(row.digest)}", detail, row.id)
    for of in repositories:
        detail = f"the repository is {of.state}, and {of.tags} of its tags are live"
        yield Finding(Kind.REPOSITORY_STATE, of.name, detail, of.id)
