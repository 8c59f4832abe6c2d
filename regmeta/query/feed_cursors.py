"""How far a consumer of the feed has come, as a text that it keeps.

On SQLite writers come one after the other, so the greatest id says it. On PostgreSQL an id is given out
before its transaction commits, and so are the numbers of transactions: neither orders commits. What does is
what a snapshot of the database shows. So a position there consists of two snapshots: everything that *seen*
shows was given out, and of what *until* shows in addition all up to an id (see :mod:`regmeta.query.feed`).
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from regmeta.errors import Refused, UsageError

FORMAT: Final = 1
MAX_LENGTH: Final = 65_536  # [characters]; one of a thousand transactions at work has some 10,000
_AGAIN: Final = "read the feed again, --from beginning or --from now"


class CursorRefused(Refused):
    """A cursor cannot be followed: events behind it are lost, or it is of another life of the database."""

    def __init__(self, why: str) -> None:
        super().__init__(f"--after: {why}; {_AGAIN}")


@dataclass(frozen=True, slots=True)
class Moment:
    """Which events one snapshot shows.

    Those up to ``head``, except those of transactions that were at work, or that came later: they have a
    number in ``running``, or one that is not below ``next_transaction``. On SQLite none has a number.
    """

    head: int
    oldest_transaction: int = 0  # all that are numbered lower have ended
    next_transaction: int = 0
    running: tuple[int, ...] = ()

    def packed(self) -> list[int]:
        """Return it as integers, most of them small."""
        oldest = self.oldest_transaction
        return [self.head, oldest, self.next_transaction - oldest, *(each - oldest for each in self.running)]

    @classmethod
    def unpacked(cls, values: Any) -> Moment:
        """Return what was packed.

        Raises:
            ValueError: nothing was.
        """
        if not isinstance(values, list) or len(values) < 3:
            raise ValueError
        head, oldest, length, *running = map(_natural, values)
        return cls(head, oldest, oldest + length, tuple(oldest + each for each in running))


@dataclass(frozen=True, slots=True)
class Position:
    """How far a consumer has come. With no ``until`` nothing is left of the last moment that it looked at."""

    database_id: UUID
    epoch: int
    seen: Moment | None  # None: it began at the beginning
    until: Moment | None
    id: int
    pruned_id: int  # up to which id events had been deleted when it began with ``until``

    def encoded(self) -> str:
        """Return the cursor."""
        values = [
            FORMAT,
            self.database_id.hex,
            self.epoch,
            None if self.seen is None else self.seen.packed(),
            None if self.until is None else self.until.packed(),
            self.id,
            self.pruned_id,
        ]
        return (
            base64.urlsafe_b64encode(json.dumps(values, separators=(",", ":")).encode()).decode().rstrip("=")
        )


def decode(cursor: str) -> Position:
    """Return the position that a cursor holds.

    Raises:
        UsageError: it is no cursor of the feed.
    """
    try:
        if len(cursor) > MAX_LENGTH or not cursor.isascii():
            raise ValueError
        content = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        version, database_id, epoch, seen, until, number, pruned_id = json.loads(content.decode())
        if version != FORMAT or not isinstance(database_id, str):
            raise ValueError
        return Position(
            UUID(hex=database_id),
            _natural(epoch),
            None if seen is None else Moment.unpacked(seen),
            None if until is None else Moment.unpacked(until),
            _natural(number),
            _natural(pruned_id),
        )
    except (ValueError, TypeError, binascii.Error, RecursionError):
        raise UsageError(
            f"--after {cursor[:80]!r}: no cursor of the feed; give one that it returned"
        ) from None


def _natural(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError
    return value
