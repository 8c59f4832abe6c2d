"""Clearing up after processes that have ended. Run by commands that write, before they do; never by reads.

==================  ==========================================  ================================  ========
step                durable effect                              a crash right after leaves        repaired
==================  ==========================================  ================================  ========
give up a move      no mark of ``store copy``, whose process    --                                --
                    has ended before it switched
take back intents   one transaction: tombstones in place of     staging folders without intents   the next
                    the intents of owners that have gone, and                                     run
                    of intents that have expired; nothing in
                    their place if the rows are an old copy
remove folders      their staging folders are gone              --                                --
write snapshots     see ``ingest.snapshots``                    see there                         the next
                                                                                                  run
==================  ==========================================  ================================  ========

An owner has gone if the lock of its staging folder can be taken, or if it was on this host and has no
staging folder: the folder is made before the first intent and removed after the last. Whether another
host's process lives cannot be known, so its intents are left alone until they expire. A process that was only
frozen finds its keys taken back at the fence of its commit, and starts again with new ones: safety does
not rest on being right here.

Rows that somebody put back by hand may hold intents of ingests that were committed after the copy was made:
their objects are what acknowledged images consist of. So an intent becomes a tombstone only where no snapshot
of the store is newer than the rows. Else it goes without one, as in ``restore``, and ``rebuild`` may adopt
its object; what nobody adopts the sweep finds.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa

from regmeta import db
from regmeta.errors import StoreUnavailable
from regmeta.ingest.reserve import bury
from regmeta.ingest.retry import retried
from regmeta.ingest.unit_of_work import Writer
from regmeta.maintain.collect.older import DatabaseIsOlder, check_not_older
from regmeta.maintain.store_copy.fence import lift_dead
from regmeta.models import DatabaseClock, Intent
from regmeta.models.base import UtcTime
from regmeta.store import BlobStore

_log = logging.getLogger(__name__)

_OWNERS: Final = sa.select(
    Intent.owner,
    Intent.host,
    (sa.func.min(Intent.expires_at) < sa.type_coerce(DatabaseClock(), UtcTime())).label("has_expired"),
).group_by(Intent.owner, Intent.host)
_OF_GONE: Final = (
    sa.delete(Intent).where(Intent.owner.in_(sa.bindparam("owners", expanding=True))).returning(Intent.key)
)
# One that is locked is just being committed, or given back: by a process that may stand still in the middle
# of it, and nobody has to wait for that.
_EXPIRED: Final = (
    sa.select(Intent.id)
    .where(Intent.expires_at < sa.bindparam("now"))
    .order_by(Intent.id)
    .with_for_update(skip_locked=True)
)
_TAKE_BACK: Final = sa.delete(Intent).where(Intent.id.in_(_EXPIRED)).returning(Intent.key)


@dataclass(frozen=True, slots=True)
class RecoverReport:
    """What was cleared up."""

    stagings_removed: int
    intents_taken_back: int
    snapshots_written: int


def recover(writer: Writer, store: BlobStore) -> RecoverReport:
    """Clear up after processes that have ended. Safe beside any number of writers, and of itself.

    Raises:
        Unavailable, Locked: the store or the database did not do it; the next run does the rest.
    """
    with store.abandoned_stagings() as abandoned:
        lift_dead(writer.database, store, writer.host, abandoned)
        with writer.database.read() as connection:
            owners = connection.execute(_OWNERS).all()
        gone = {*abandoned, *_vanished(owners, writer, store)}
        taken_back = 0
        if gone or any(row.has_expired for row in owners):
            taken_back = _take_back(writer, store, gone)
    written = writer.snapshots.flush_outbox()
    return RecoverReport(len(abandoned), taken_back, written)


def _vanished(owners: Sequence[Any], writer: Writer, store: BlobStore) -> set[UUID]:
    return {
        row.owner
        for row in owners
        if row.host == writer.host
        and row.owner != writer.staging.owner
        and not store.staging_exists(row.owner)
    }


def _take_back(writer: Writer, store: BlobStore, owners: Collection[UUID]) -> int:
    is_older = False
    try:
        check_not_older(writer.database, store)
    except DatabaseIsOlder as error:
        _log.warning("intents go without a tombstone: %s", error)
        is_older = True
    except StoreUnavailable as error:  # nobody knows: they may stay for as long as they like
        _log.warning("intents are left for the next writer: %s", error)
        return 0
    return retried(lambda: _end_intents(writer, owners, are_dead=not is_older))


def _end_intents(writer: Writer, owners: Collection[UUID], *, are_dead: bool) -> int:
    with writer.database.transaction("recover") as connection:
        now = db.clock(connection)
        keys = [*connection.execute(_OF_GONE, {"owners": list(owners)}).scalars()] if owners else []
        keys += connection.execute(_TAKE_BACK, {"now": now}).scalars()
        if are_dead:
            bury(connection, keys, "abandoned", now, writer.lifetimes.tombstone)
        return len(keys)
