"""Marking blobs as damaged: not served, not skipped, and healed by the next ingest of their digest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from uuid import UUID

import sqlalchemy as sa

from regmeta.db import Database
from regmeta.ingest.retry import retried
from regmeta.ingest.store_moves import IS_MOVING, is_store
from regmeta.models import Blob, StoreIdentity

_MARK: Final = (
    sa.update(Blob)
    .where(Blob.id == sa.bindparam("of"), Blob.key == sa.bindparam("at"), Blob.state == "live", is_store())
    .values(state="damaged")
)
_RELEASE: Final = (
    sa.update(StoreIdentity)
    .where(StoreIdentity.id == 1, StoreIdentity.hold_reason.is_not(None), ~IS_MOVING)
    .values(hold_reason=None)
    .returning(StoreIdentity.id)
)


def mark_damaged(database: Database, blobs: Iterable[tuple[int, str]], store_id: UUID | None = None) -> int:
    """Set blobs (id, key) that are live under that very key to *damaged*; returns how many were.

    One that was healed meanwhile has another key and stays as it is; so do all where *store_id*, in which
    they were looked at, is the registry's store no more.
    """
    wanted = [{"of": blob_id, "at": key, "of_store": store_id} for blob_id, key in sorted(blobs)]

    def once() -> int:
        marked = 0
        with database.transaction("mark_damaged") as connection:
            for parameters in wanted:
                marked += connection.execute(_MARK, parameters).rowcount
        return marked

    return retried(once) if wanted else 0


def release_hold(database: Database) -> bool:
    """Let collection go on after a restore or a rebuild; tells whether there was a hold."""

    def once() -> bool:
        with database.transaction("release_hold") as connection:
            return connection.execute(_RELEASE).first() is not None

    return retried(once)
