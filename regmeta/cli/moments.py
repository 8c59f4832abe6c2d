"""Times on the command line: ``--at``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from regmeta.db import Database

At = Annotated[
    str | None,
    typer.Option(
        "--at",
        metavar="TIME",
        help="As it was then: 2026-11-24T08:00:00Z, or a length of time ago, as 90m, 2h or 3d.",
        show_default=False,
    ),
]


def parse(text: str | None) -> datetime | timedelta | None:
    """Read a time with its zone, or how long ago it was; None if nothing was said.

    Raises:
        UsageError: it is neither.
    """
    if text is None:
        return None
    from regmeta.errors import UsageError
    from regmeta.settings import duration

    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        try:
            return duration(text)
        except UsageError:
            raise UsageError(
                f"{text!r} is no time: write 2026-11-24T08:00:00Z, or 90m, 2h or 3d for so long ago"
            ) from None
    if found.tzinfo is None:
        raise UsageError(
            f"{text!r} has no time zone: write {found.isoformat()}Z for UTC, or +02:00 behind it"
        )
    try:
        return found.astimezone(UTC)
    except OverflowError:
        raise UsageError(f"{text!r} is no time: too long ago, or too far away") from None


def resolved(database: Database, when: datetime | timedelta | None) -> datetime | None:
    """Return the time that was meant: how long ago counts by the database's clock."""
    if when is None:
        return None
    from regmeta.query.moments import moment

    return moment(database, when)
