"""One event, from a row of which another program may have damaged something."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from regmeta.errors import IntegrityError, InvalidDigest
from regmeta.oci.digest import Digest
from regmeta.query.stored import digest_of, time_of

T = TypeVar("T")


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
        _read(time_of, row.at, damage),
        row.kind,
        row.name,
        row.tag,
        _read(digest_of, row.digest, damage),
        _read(digest_of, row.previous, damage),
        row.actor,
        row.ingest_id,
        is_damaged=bool(damage),
    )


def _read(read: Callable[[Any], T | None], value: Any, damage: list[str]) -> T | None:
    try:
        return read(value)
    except (IntegrityError, InvalidDigest) as error:
        damage.append(str(error))
        return None
