"""Each source: begun once, completed by each run that gets to its end, finalized once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from regmeta import db
from regmeta.db import Database
from regmeta.errors import Refused
from regmeta.ingest.inserting import inserting
from regmeta.ingest.retry import retried
from regmeta.models import Adoption, AdoptionRepository

_COLUMNS: Final[Any] = sa.select(
    Adoption.id,
    Adoption.location,
    Adoption.kind,
    Adoption.prefix,
    Adoption.actor,
    Adoption.started_at,
    Adoption.completed_at,
    Adoption.finalized_at,
)
_OF: Final = _COLUMNS.where(Adoption.location == sa.bindparam("of"))
_ALL: Final = _COLUMNS.order_by(Adoption.id)
_BY_ID: Final = sa.update(Adoption).where(Adoption.id == sa.bindparam("of"))
_LOOK_AGAIN: Final = (
    sa.update(AdoptionRepository)
    .where(AdoptionRepository.adoption_id == sa.bindparam("of"))
    .values(fingerprint="", cursor=None)
)


@dataclass(frozen=True, slots=True)
class KnownAdoption:
    """One source, as its row says it."""

    id: int
    location: str
    kind: str
    prefix: str
    actor: str
    started_at: datetime
    completed_at: datetime | None
    finalized_at: datetime | None


def start(
    database: Database, location: str, kind: str, prefix: str, actor: str, *, reopen: bool
) -> KnownAdoption:
    """Note that *location* is being taken over; one that is known goes on. Others may do the same meanwhile.

    Raises:
        Refused: it went below another prefix before, or is finalized and not to be *reopened*.
    """

    def work() -> KnownAdoption:
        with database.transaction("adoption_begins") as connection:
            values = {
                "location": location,
                "kind": kind,
                "prefix": prefix,
                "actor": actor,
                "started_at": db.clock(connection),
            }
            insert = inserting(connection, Adoption)
            connection.execute(insert.on_conflict_do_nothing(index_elements=["location"]), values)
            found = KnownAdoption(*connection.execute(_OF, {"of": location}).one())
            if found.prefix != prefix:
                below = found.prefix or "the top"
                raise Refused(
                    f"{location}: its repositories go below {below} since {found.started_at:%F %TZ}"
                )
            if found.finalized_at is not None:
                if not reopen:
                    raise Refused(
                        f"{location}: was finalized at {found.finalized_at:%F %TZ}:"
                        " what is there now is looked at again with --reopen"
                    )
                connection.execute(_BY_ID.values(finalized_at=None, completed_at=None), {"of": found.id})
                # Its leases have ended: all is looked at again, whether it has changed there or not.
                connection.execute(_LOOK_AGAIN, {"of": found.id})
            return found

    return retried(work)


def complete(database: Database, adoption_id: int) -> None:
    """Note that a run has looked at everything."""

    def work() -> None:
        with database.transaction("adoption_completes") as connection:
            connection.execute(_BY_ID.values(completed_at=db.clock(connection)), {"of": adoption_id})

    retried(work)


def finish(database: Database, adoption_id: int) -> None:
    """Note that it is finalized."""

    def work() -> None:
        with database.transaction("adoption_finalized") as connection:
            connection.execute(_BY_ID.values(finalized_at=db.clock(connection)), {"of": adoption_id})

    retried(work)


def known(database: Database, location: str) -> KnownAdoption | None:
    """Return what is known of a source, None if it was never begun."""
    with database.read() as connection:
        row = connection.execute(_OF, {"of": location}).one_or_none()
    return None if row is None else KnownAdoption(*row)


def every(database: Database) -> list[KnownAdoption]:
    """Return all sources, in the order in which they were begun."""
    with database.read() as connection:
        return [KnownAdoption(*row) for row in connection.execute(_ALL)]
