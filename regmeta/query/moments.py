"""What there was at a moment of the past, as far as its rows are here.

A tag's intervals say what it was at any time since the database was made; its image is known for as long as
it is not collected. A manifest that was deleted by its digest, and a repository that was deleted, were there
until then, and can be read at an earlier moment until they are collected. Of something that was deleted and
came back it is not known that it was away.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import db, models
from regmeta.db import Database
from regmeta.errors import NotFound
from regmeta.models.base import UtcTime
from regmeta.oci.digest import Digest
from regmeta.oci.names import Reference
from regmeta.query.visibility import Visibility, seen

_at: Final[Any] = sa.bindparam("at", type_=UtcTime())
WAS_LIVE: Final = sa.and_(
    models.Tag.started_at <= _at, sa.or_(models.Tag.ended_at.is_(None), models.Tag.ended_at > _at)
)
"""That a tag's interval covers ``at``; at the moment it ends it does not."""
WAS_HERE: Final = sa.and_(
    models.Manifest.pushed_at <= _at,
    sa.or_(models.Manifest.deleted_at.is_(None), models.Manifest.deleted_at > _at),
)
"""That a manifest could be found at ``at``."""
IMAGE_OF_TAG: Final = sa.and_(
    models.Manifest.repository_id == models.Tag.repository_id,
    models.Manifest.digest == models.Tag.manifest_digest,
)
"""The manifest that an interval means, also one that was collected and has come again."""
_WAS_READABLE: Final = sa.and_(
    models.Repository.name == sa.bindparam("repository"),
    models.Repository.created_at <= _at,
    sa.or_(models.Repository.state == "active", models.Repository.deleted_at > _at),
)
_REPOSITORY_ID: Final = sa.select(models.Repository.id).where(_WAS_READABLE)
_RESOLVE_TAG: Final = (
    sa.select(models.Manifest.id, models.Tag.manifest_digest)
    .select_from(models.Tag)
    .join(models.Repository, models.Repository.id == models.Tag.repository_id)
    .outerjoin(models.Manifest, IMAGE_OF_TAG)
    .where(_WAS_READABLE, models.Tag.name == sa.bindparam("tag"), WAS_LIVE)
)
_RESOLVE_DIGEST: Final = (
    sa.select(models.Manifest.id)
    .join(models.Repository, models.Repository.id == models.Manifest.repository_id)
    .where(_WAS_READABLE, models.Manifest.digest == sa.bindparam("of"), WAS_HERE)
)


def moment(database: Database, when: datetime | timedelta) -> datetime:
    """Return a time, or the one that is a length of time ago by the database's clock."""
    if isinstance(when, datetime):
        return when
    with database.read() as connection:
        return db.clock(connection) - when


def resolve_at(
    connection: Connection, reference: Reference, at: datetime, visible: Visibility | None = None
) -> tuple[int, Digest]:
    """Return the id and the digest of the manifest that a reference meant at a time.

    Raises:
        NotFound: it meant nothing then, or its image was collected since: then it names the digest.
    """
    where: dict[str, Any] = {"repository": reference.repository, "at": at}
    if reference.digest is not None:
        found = connection.execute(seen(_RESOLVE_DIGEST, visible), {**where, "of": reference.digest}).scalar()
        if found is None:
            raise NotFound(f"{reference}: no such manifest at {text(at)}, or it was collected since")
        return found, reference.digest
    tag = reference.tag or "latest"
    row: Any = connection.execute(seen(_RESOLVE_TAG, visible), {**where, "tag": tag}).first()
    if row is None:
        raise NotFound(f"{reference}: no such tag at {text(at)}")
    if row.id is None:
        raise collected(f"{reference}", row.manifest_digest, at)
    return row.id, row.manifest_digest


def repository_id_at(
    connection: Connection, name: str, at: datetime, visible: Visibility | None = None
) -> int:
    """Return the id of a repository that could be read at a time.

    Raises:
        NotFound: there was none of this name, or it was emptied since.
    """
    found = connection.execute(seen(_REPOSITORY_ID, visible), {"repository": name, "at": at}).scalar()
    if found is None:
        raise NotFound(f"{name}: no such repository at {text(at)}")
    return found


def collected(where: str, digest: Digest, at: datetime) -> NotFound:
    """Return the error for what is known by its digest only."""
    return NotFound(f"{where}: was {digest} at {text(at)}; the image was collected since")


def text(at: datetime) -> str:
    """Return a time as messages show it."""
    return f"{at:%Y-%m-%d %H:%M:%SZ}"
