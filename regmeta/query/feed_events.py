"""One event, from a row of which another program may have damaged something."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from regmeta.errors import IntegrityError, InvalidDigest
from regmeta.models.base import UtcTime
from regmeta.oci.digest import Digest

_TIME: Final = UtcTime()


@dataclass(frozen=True, slots=True)
class Event:
    """One committed change.

    One of a row that *is_damaged* lacks what cannot be read; it is shown, since its consumer would else stand
    still there for good.
    """

    id: int
    at: datetime | None
    kind: str
    repository: str
    tag: str | None
    digest: Digest | None
    previous: Digest | None
    actor: str
    ingest_id: UUID | None
    is_damaged: bool = False


def event_of(row: Any) -> Event:
    """Return the event of a row, with what can be read of it."""
    damage: list[str] = []
    return Event(
        row.id,
        _time(row.at, damage),
        row.kind,
        row.name,
        row.tag,
        _digest(row.digest, damage),
        _digest(row.previous, damage),
        row.actor,
        row.ingest_id,
        is_damaged=bool(damage),
    )


def _time(value: Any, damage: list[str]) -> datetime | None:
    try:
        return _TIME.process_result_value(value, None)  # type: ignore[arg-type]
    except IntegrityError as error:
        damage.append(str(error))
        return None


def _digest(value: Any, damage: list[str]) -> Digest | None:
    try:
        return None if value is None else Digest.from_bytes(bytes(value))
    except (InvalidDigest, TypeError, ValueError) as error:
        damage.append(str(error))
        return None
