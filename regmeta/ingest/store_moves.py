"""What a writer must notice of a move of all objects to another store (``regmeta store copy``).

The row of ``store_identity`` says which store is the registry's, and in its hold on collection whether it
is being moved right now. A writer publishes to the store that it was opened with; so a key of its own may
get into rows only while that one is still the registry's and no move is at its end (:func:`of_store`). That
is decided in the very statement that deletes the writer's intents, after the move has taken back all that
there were: whoever stood still between any two steps finds his keys lost, as after ``recover``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa

from regmeta.errors import IdentityMismatch, Locked
from regmeta.models import StoreIdentity

_BEGINNING: Final = "objects are being moved to another store: "
_TEXT: Final = _BEGINNING + "{location} (move {move} by process {owner} on {host})"
_MARK: Final = re.compile(
    re.escape(_BEGINNING) + r"(?P<location>.*) \(move (?P<move>[0-9a-f-]{36})"
    r" by process (?P<owner>[0-9a-f-]{36}) on (?P<host>.*)\)",
    re.DOTALL,
)
STORE_NOW: Final = (
    sa.select(StoreIdentity.store_id).scalar_subquery().label("store_id"),
    sa.select(StoreIdentity.hold_reason).scalar_subquery().label("hold_reason"),
)
"""What to select for :func:`require_store`, beside something else."""
IS_MOVING: Final = (
    sa.func.coalesce(sa.func.substr(StoreIdentity.hold_reason, 1, len(_BEGINNING)), "") == _BEGINNING
)
"""Of ``store_identity``: a move is at its end, or was killed there."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Who moves all objects, and where to: the hold on collection while a move is at its end."""

    location: str
    move: UUID
    owner: UUID
    host: str

    @property
    def text(self) -> str:
        """Return what stands in the row."""
        return _TEXT.format(location=self.location, move=self.move, owner=self.owner, host=self.host)


def mark_of(hold: str | None) -> Mark | None:
    """Return the move that a hold on collection tells of, None if it is for another reason."""
    match = _MARK.fullmatch(hold or "")
    if match is None:
        return None
    return Mark(match["location"], UUID(match["move"]), UUID(match["owner"]), match["host"])


def of_store() -> Any:
    """Return the condition that ``of_store`` is the registry's store and that no move is at its end.

    An ``of_store`` of NULL is always: of a writer that is not told which store it has.
    """
    given: Any = sa.bindparam("of_store", type_=StoreIdentity.store_id.type)
    return sa.or_(given.is_(None), sa.exists().where(StoreIdentity.store_id == given, ~IS_MOVING))


def is_store() -> Any:
    """Return the condition that ``of_store`` is the registry's store, moving or not; NULL is always."""
    given: Any = sa.bindparam("of_store", type_=StoreIdentity.store_id.type)
    return sa.or_(given.is_(None), sa.exists().where(StoreIdentity.store_id == given))


def require_store(mine: UUID | None, found: UUID | None, hold: str | None) -> None:
    """Refuse to begin what would be in vain, or to adopt what is only in the store of before.

    Raises:
        IdentityMismatch: the registry's objects are in another store now.
        Locked: they are being moved, and a new one would come too late.
    """
    if mine is None:
        return
    if found is not None and found != mine:
        raise IdentityMismatch(
            f"the registry's objects were moved from the store {mine} to the store {found}"
            " ('regmeta store copy'): set REGMETA_STORE to that one, and start again"
        )
    mark = mark_of(hold)
    if mark is not None:
        raise Locked(
            f"the registry's objects are being moved to {mark.location} by a process on {mark.host}: try"
            " again when that has ended; where it was killed, run 'regmeta store copy' again, or --abandon it"
        )
