"""Days of UTC, as rows count them: since 1970-01-01."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Final

from sqlalchemy.engine import Connection

from regmeta import db
from regmeta.errors import UsageError

LONGEST: Final = 3660  # [days] that one question covers

BEFORE_DAYS: Final = -1
"""Of pulls that another registry counted before this one did, of which no day and no tag is known."""

_FIRST: Final = date(1970, 1, 1)


def day_of(at: datetime) -> int:
    """Return the number of a moment's day."""
    return (at.astimezone(UTC).date() - _FIRST).days


def date_of(day: int) -> date:
    """Return the day of a number."""
    return _FIRST + timedelta(days=day)


def last_days(connection: Connection, days: int) -> tuple[int, int]:
    """Return the first and the last of so many days; the last is today, by the database's clock.

    Raises:
        UsageError: *days* is not from 1 to 3660.
    """
    if not 1 <= days <= LONGEST:
        raise UsageError(f"days: {days}: give a number from 1 to {LONGEST}")
    today = day_of(db.clock(connection))
    return today - days + 1, today
