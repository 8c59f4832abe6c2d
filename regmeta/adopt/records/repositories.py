"""How far each repository of a source is: written when a piece of it is done, so that a run goes on there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import db
from regmeta.adopt.defects import TRIED_AGAIN, Found
from regmeta.db import Database
from regmeta.ingest.inserting import Conflict, inserting, many, upserted
from regmeta.ingest.reserve import chunks
from regmeta.ingest.retry import retried
from regmeta.models import Adoption, AdoptionDefect, AdoptionRepository
from regmeta.models.base import UtcTime

AT_ONCE: Final = 1000
LONGEST: Final = 500  # [characters] of a subject or of what is said

_COLUMNS: Final[Any] = sa.select(
    AdoptionRepository.id,
    AdoptionRepository.source,
    AdoptionRepository.destination,
    AdoptionRepository.fingerprint,
    AdoptionRepository.cursor,
    AdoptionRepository.state,
    AdoptionRepository.passes,
    AdoptionRepository.tags,
    AdoptionRepository.manifests,
    AdoptionRepository.checked_at,
    sa.exists()
    .where(
        AdoptionDefect.repository_id == AdoptionRepository.id, AdoptionDefect.kind.in_(sorted(TRIED_AGAIN))
    )
    .label("is_to_be_tried_again"),
)
_ONE: Final = _COLUMNS.where(
    AdoptionRepository.adoption_id == sa.bindparam("adoption"),
    AdoptionRepository.source == sa.bindparam("source"),
)
_PAGE: Final = (
    _COLUMNS.where(
        AdoptionRepository.adoption_id == sa.bindparam("adoption"),
        AdoptionRepository.source > sa.bindparam("after"),
    )
    .order_by(AdoptionRepository.source)
    .limit(sa.bindparam("limit"))
)
_TAKEN: Final = (
    sa.select(Adoption.location)
    .join(AdoptionRepository, AdoptionRepository.adoption_id == Adoption.id)
    .where(
        AdoptionRepository.destination == sa.bindparam("destination"),
        AdoptionRepository.adoption_id != sa.bindparam("adoption"),
    )
    .limit(1)
)
_SET_DESTINATION: Final = (
    sa.update(AdoptionRepository)
    .where(
        AdoptionRepository.adoption_id == sa.bindparam("adoption"),
        AdoptionRepository.source == sa.bindparam("source"),
    )
    .values(
        destination=sa.bindparam("destination"),
        fingerprint="",
        cursor=None,
        state="partial",
        checked_at=sa.bindparam("now", type_=UtcTime()),
    )
)
# Two runs at once write one after the other.
_LOCK: Final = (
    sa.select(Adoption.id).where(Adoption.id == sa.bindparam("adoption")).with_for_update(key_share=True)
)
_ROW: Final = Conflict(
    ("adoption_id", "source"),
    taken=(
        "destination",
        "fingerprint",
        "cursor",
        "state",
        "passes",
        "tags",
        "manifests",
        "checked_at",
    ),
)
_DEFECT: Final = Conflict(
    ("repository_id", "kind", "subject", "image"), taken=("detail", "outcome", "seen_in", "found_at")
)
_SEEN_AGAIN: Final = (
    sa.update(AdoptionDefect)
    .where(
        AdoptionDefect.repository_id == sa.bindparam("of"),
        AdoptionDefect.image.in_(sa.bindparam("images", expanding=True)),
        AdoptionDefect.outcome == "brought",  # what is here was not left out
    )
    .values(seen_in=sa.bindparam("pass_"))
)
_FORGET: Final = sa.delete(AdoptionDefect).where(
    AdoptionDefect.repository_id == sa.bindparam("of"), AdoptionDefect.seen_in < sa.bindparam("pass_")
)


@dataclass(frozen=True, slots=True)
class KnownRepository:
    """A repository of a source, as its row says it."""

    id: int
    source: str
    destination: str
    fingerprint: str
    cursor: str | None
    state: str
    passes: int
    tags: int
    manifests: int
    checked_at: datetime
    is_to_be_tried_again: bool  # something is wrong with it that may pass without a change there

    @property
    def is_claimed_only(self) -> bool:
        """Whether a run has begun with it, and no piece of it was done."""
        return self.state == "partial" and not self.fingerprint and self.cursor is None


@dataclass(frozen=True, slots=True)
class Step:
    """What is known of a repository when a piece of it is done: all up to *cursor*, or all that there is."""

    source: str
    destination: str
    fingerprint: str
    passes: int
    tags: int
    manifests: int
    cursor: str | None = None  # None: it is done
    found: Sequence[Found] = ()
    unchanged: Sequence[str] = ()  # images that are here: what was odd about them still is
    seen_at: datetime | None = None  # when its row was written as far as this run knows


def known(database: Database, adoption_id: int, source: str) -> KnownRepository | None:
    """Return what is known of a repository, None if no piece of it was ever done."""
    with database.read() as connection:
        return _row(connection, adoption_id, source)


def every(database: Database, adoption_id: int) -> Iterator[KnownRepository]:
    """Give all repositories of a source in the order of their names there, some read at a time."""
    after = ""
    while True:
        parameters = {"adoption": adoption_id, "after": after, "limit": AT_ONCE}
        with database.read() as connection:
            some = [KnownRepository(*row) for row in connection.execute(_PAGE, parameters)]
        if not some:
            return
        yield from some
        after = some[-1].source


def claim(database: Database, adoption_id: int, source: str, destination: str) -> KnownRepository | str:
    """Note that a repository goes to *destination*, before anything is brought there; return its row.

    A repository here is filled from one source only. If another one was first, its location is returned.

    Raises:
        Unavailable, Locked: nothing was written.
    """

    def work() -> KnownRepository | str:
        with database.transaction("adoption_claims") as connection:
            given = {"adoption": adoption_id, "source": source, "destination": destination}
            row = _row(connection, adoption_id, source)
            if row is not None and row.destination == destination:
                return row
            if row is None:
                values = {
                    "adoption_id": adoption_id,
                    "source": source,
                    "destination": destination,
                    "fingerprint": "",
                    "cursor": None,
                    "state": "partial",
                    "checked_at": db.clock(connection),
                }
                # Of two that claim one place at once, the second waits here for the first.
                connection.execute(inserting(connection, AdoptionRepository).on_conflict_do_nothing(), values)
            taken: str | None = connection.execute(_TAKEN, given).scalar()
            if taken is not None:
                return taken
            if row is not None:
                connection.execute(_SET_DESTINATION, {**given, "now": db.clock(connection)})
            claimed = _row(connection, adoption_id, source)
            assert claimed is not None
            return claimed

    return retried(work)


def note(database: Database, adoption_id: int, step: Step) -> datetime | None:
    """Write what is known now, in one transaction; return its time, to be the next step's *seen_at*.

    With the last piece, what was mended is forgotten.

    Where another run has written since *seen_at*, the two may have listed different things, and each has
    brought or removed by its own list: no fingerprint is noted, so that the next run looks at all of it.
    Then nothing is returned: so it stays for the rest of this run.

    Raises:
        Unavailable, Locked: nothing was written.
    """

    def work() -> datetime | None:
        with database.transaction("adoption_step") as connection:
            now = db.clock(connection)
            connection.execute(_LOCK, {"adoption": adoption_id})
            before = _row(connection, adoption_id, step.source)
            is_alone = step.seen_at == (None if before is None else before.checked_at)
            fingerprint = step.fingerprint if is_alone else ""
            repository_id = _note(connection, adoption_id, step, fingerprint, now)
            _note_defects(connection, repository_id, step, now)
            return now if is_alone else None

    return retried(work)


def _row(connection: Connection, adoption_id: int, source: str) -> KnownRepository | None:
    row = connection.execute(_ONE, {"adoption": adoption_id, "source": source}).one_or_none()
    return None if row is None else KnownRepository(*row)


def _note(connection: Connection, adoption_id: int, step: Step, fingerprint: str, now: datetime) -> int:
    values = {
        "adoption_id": adoption_id,
        "source": step.source,
        "destination": step.destination,
        "fingerprint": fingerprint,
        "cursor": step.cursor,
        "state": "done" if step.cursor is None else "partial",
        "passes": step.passes,
        "tags": step.tags,
        "manifests": step.manifests,
        "checked_at": now,
    }
    insert = upserted(inserting(connection, AdoptionRepository), _ROW)
    return int(connection.execute(insert.returning(AdoptionRepository.id), values).scalar_one())


def _note_defects(connection: Connection, repository_id: int, step: Step, now: datetime) -> None:
    rows = {
        (each.defect.kind, _short(each.defect.subject), _short(each.image)): {
            "repository_id": repository_id,
            "kind": each.defect.kind,
            "subject": _short(each.defect.subject),
            "image": _short(each.image),
            "detail": _short(each.defect.detail),
            "outcome": "brought" if each.is_brought else "left out",
            "seen_in": step.passes,
            "found_at": now,
        }
        for each in step.found
    }
    if rows:
        values = [rows[key] for key in sorted(rows)]
        connection.execute(*many(connection, AdoptionDefect, values, conflict=_DEFECT))
    for some in chunks(step.unchanged):
        parameters = {"of": repository_id, "images": some, "pass_": step.passes}
        connection.execute(_SEEN_AGAIN, parameters)
    if step.cursor is None:
        connection.execute(_FORGET, {"of": repository_id, "pass_": step.passes})


def _short(text: str) -> str:
    """Return a text that a row may hold."""
    printable = text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
    return printable if len(printable) <= LONGEST else f"{printable[: LONGEST - 1]}…"
