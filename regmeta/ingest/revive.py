"""Hiding manifests, and bringing them back, inside a transaction that holds their repository's lock."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.ingest.reserve import chunks
from regmeta.ingest.statements import Change, queue_manifests, record_events
from regmeta.models import Manifest
from regmeta.models.base import UtcTime
from regmeta.oci.digest import Digest
from regmeta.query.tree import below

_until: Final[Any] = sa.bindparam("until", type_=UtcTime())
_REVIVE: Final = (
    sa.update(Manifest)
    .where(Manifest.id.in_(sa.select(below().c.id)), Manifest.deleted_at.is_not(None))
    .values(
        deleted_at=None,
        lease_until=sa.case((Manifest.lease_until < _until, _until), else_=Manifest.lease_until),
    )
    .returning(Manifest.id, Manifest.digest)
)
_HIDE: Final = (
    sa.update(Manifest)
    .where(Manifest.id.in_(sa.bindparam("ids", expanding=True)), Manifest.deleted_at.is_(None))
    .values(deleted_at=sa.bindparam("at", type_=UtcTime()))
)


def hide(
    connection: Connection,
    change: Change,
    repository_id: int,
    manifests: Mapping[int, Digest],
    window: timedelta,
) -> None:
    """Let no reader find manifests (digests by id), from the time of *change* on.

    The caller has ended their tags, and no index that is not among them and is here lists one. The collector
    looks at them a *window* later.
    """
    for some in chunks(sorted(manifests)):
        connection.execute(_HIDE, {"ids": some, "at": change.stamp.now})
    queue_manifests(connection, change, repository_id, manifests, "deleted", window)
    record_events(
        connection,
        [change.event("manifest.deleted", repository_id, digest=digest) for digest in manifests.values()],
    )


def revive(
    connection: Connection,
    change: Change,
    repository_id: int,
    manifest_ids: Collection[int],
    delay: timedelta,
) -> list[Digest]:
    """Let manifests that were deleted be found again, and all that they list; returns what came back.

    What is below a manifest that is here is here: so a whole tree comes back or nothing of it does. They are
    leased for *delay*, and then the collector looks at them again: what else may put them before it, as the
    end of an index that listed them, takes none of them sooner.
    """
    revived: dict[int, Digest] = {}
    until = change.stamp.now + delay
    for some in chunks(sorted(manifest_ids)):
        revived.update(connection.execute(_REVIVE, {"roots": some, "until": until}).all())
    queue_manifests(connection, change, repository_id, revived, "restored", delay)
    found = sorted(revived.values())
    record_events(
        connection, [change.event("manifest.restored", repository_id, digest=digest) for digest in found]
    )
    return found
