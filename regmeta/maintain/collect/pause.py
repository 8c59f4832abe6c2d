"""A pause of all collectors, while the store gives errors: a store that is away is not asked again and again.

==============  =======================================================  ===============================
step            durable effect                                           a crash right after leaves
==============  =======================================================  ===============================
``pause``       until when and why nobody deletes; one pause more        the pause
``resume``      no pauses                                                --
==============  =======================================================  ===============================

Each pause without a success since the last one is twice as long. Times are by the database's clock.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Final

import sqlalchemy as sa

from regmeta import db
from regmeta.db import Database
from regmeta.errors import StoreUnavailable
from regmeta.ingest.retry import retried
from regmeta.maintain.collect.backoff import in_short
from regmeta.maintain.collect.hold import CollectionPaused
from regmeta.models import StoreIdentity

FIRST: Final = timedelta(seconds=5)
LONGEST: Final = timedelta(minutes=15)

_LOCK: Final = sa.select(StoreIdentity.pauses, StoreIdentity.paused_until).with_for_update()
_PAUSE: Final = sa.update(StoreIdentity).values(
    paused_until=sa.bindparam("until"), pause_reason=sa.bindparam("reason"), pauses=StoreIdentity.pauses + 1
)
_PAUSES: Final = sa.select(StoreIdentity.pauses)
_RESUME: Final = (
    sa.update(StoreIdentity)
    # Another collector may have begun a pause just now.
    .where(StoreIdentity.pauses > 0, StoreIdentity.paused_until <= sa.bindparam("now"))
    .values(paused_until=None, pause_reason=None, pauses=0)
)


def pause(database: Database, reason: str) -> CollectionPaused:
    """Let no collector delete anything for some time; returns what to raise.

    While there is a pause already it is not made longer: collectors that fail together count once.
    """
    return retried(partial(_pause, database, in_short(reason)))


@contextmanager
def pausing(database: Database) -> Iterator[None]:
    """Ask the store for what is not about one object: if it does not answer, all collectors pause.

    Raises:
        CollectionPaused: it did not, now or a short time ago.
    """
    try:
        yield
    except CollectionPaused:
        raise
    except StoreUnavailable as error:
        raise pause(database, str(error)) from error


def resume(database: Database) -> None:
    """Note that the store does what it is asked to, so that the next pause is a short one."""
    with database.read() as connection:
        pauses = connection.execute(_PAUSES).scalar()
    if pauses:
        retried(partial(_resume, database))


def length(pauses: int, chance: Callable[[], float] = random.random) -> timedelta:
    """Return how long to pause after so many pauses; at least half of what doubles with each."""
    return min(FIRST * (1 << min(pauses, 20)), LONGEST) * (0.5 + 0.5 * chance())


def _pause(database: Database, reason: str) -> CollectionPaused:
    with database.transaction("collection_paused") as connection:
        pauses, paused_until = connection.execute(_LOCK).one()
        now = db.clock(connection)
        if paused_until is None or paused_until <= now:
            paused_until = now + length(pauses)
            connection.execute(_PAUSE, {"until": paused_until, "reason": reason})
    return CollectionPaused(database.location, paused_until, reason)


def _resume(database: Database) -> None:
    with database.transaction("collection_resumed") as connection:
        connection.execute(_RESUME, {"now": db.clock(connection)})
