"""Keeping the feed of changes from growing for ever, and readable after its rows moved to another server.

=========  =====================================  =====================================  ============
step       durable effect                         a crash right after leaves             repaired
=========  =====================================  =====================================  ============
one batch  the oldest events are gone, and        some events that are old enough        the next run
           ``store_identity`` says up to which
=========  =====================================  =====================================  ============

The mark and the rows go in one transaction: a consumer that had not come so far is refused, and never reads
on over a gap (``query.feed``).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import db
from regmeta.db import Database
from regmeta.errors import UsageError
from regmeta.ingest.retry import retried
from regmeta.models import Event, StoreIdentity
from regmeta.models.base import UtcTime

BATCH: Final = 5_000  # [events] of one transaction

_OLDEST: Final = (
    sa.select(
        Event.id,
        Event.transaction_id,
        (Event.occurred_at < sa.bindparam("before", type_=UtcTime())).label("is_old"),
    )
    .where(Event.id > sa.bindparam("behind"))
    .order_by(Event.id)
    .limit(sa.bindparam("batch"))
)
_DELETE: Final = sa.delete(Event).where(
    Event.id > sa.bindparam("behind"),
    Event.id <= sa.bindparam("upto"),
    # What has become visible since is neither counted nor old.
    Event.id.in_(sa.bindparam("ids", expanding=True)),
)
_MARK: Final = sa.select(
    StoreIdentity.feed_pruned_transaction, StoreIdentity.feed_pruned_id
).with_for_update()


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What was deleted: how many events, and of before when."""

    events: int
    before: datetime


def prune_events(database: Database, older: timedelta, *, batch: int = BATCH) -> PruneReport:
    """Delete the events that are older than *older*, the oldest first, and remember how far.

    It stops at the first event that is not, so what is left has no gap. Safe beside writers, consumers and
    itself: consumers that had not come so far are refused from then on.

    Raises:
        UsageError: *older* is not a length of time.
        Unavailable, Locked: the database did not do it; what was deleted is, run it again for the rest.
    """
    if older < timedelta():
        raise UsageError(f"--older {older}: not a length of time")
    with database.read() as connection:
        try:
            before = db.clock(connection) - older
        except OverflowError:
            raise UsageError(f"--older {older}: too long ago") from None
    deleted = behind = 0
    while True:
        behind, count = retried(lambda behind=behind: _prune(database, before, behind, batch))  # type: ignore[misc]
        deleted += count
        if count < batch:
            return PruneReport(deleted, before)


def _prune(database: Database, before: datetime, behind: int, batch: int) -> tuple[int, int]:
    """Delete one batch; returns its last id and how many they were."""
    with database.transaction("prune_events") as connection:
        # Two that prune do so one after the other: the mark only grows.
        pruned_transaction, pruned_id = connection.execute(_MARK).one()
        of = {"before": before, "behind": behind, "batch": batch}
        old = []
        for row in connection.execute(_OLDEST, of):
            if not row.is_old:
                break
            old.append(row)
        if not old:
            return behind, 0
        last = old[-1].id
        connection.execute(_DELETE, {"behind": behind, "upto": last, "ids": [row.id for row in old]})
        greatest = max(row.transaction_id or 0 for row in old)
        connection.execute(
            sa.update(StoreIdentity).values(
                feed_pruned_transaction=max(pruned_transaction, greatest),
                feed_pruned_id=max(pruned_id, last),
            )
        )
        return last, len(old)


def forget_transactions(connection: Connection) -> None:
    """Make events of another server's transactions old ones, of no transaction: by id, before all others.

    A server that a dump is loaded into numbers its transactions anew, so that the old numbers may be those of
    transactions to come. Only where no consumer goes on: with a new database id.
    """
    connection.execute(sa.update(Event).where(Event.transaction_id.is_not(None)).values(transaction_id=None))
    connection.execute(sa.update(StoreIdentity).values(feed_pruned_transaction=0))
