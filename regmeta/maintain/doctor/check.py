"""What a check says."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa

from regmeta.errors import Error

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: *found* says what it is, *advice* what to do if it is not ok."""

    name: str
    level: Level
    found: str
    advice: str = ""


def ok(name: str, found: str) -> Check:
    """Say that it is as it should be."""
    return Check(name, "ok", found)


def warning(name: str, found: str, advice: str) -> Check:
    """Say that it works, and may not for long."""
    return Check(name, "warning", found, advice)


def problem(name: str, found: str, advice: str) -> Check:
    """Say that something is wrong or not safe."""
    return Check(name, "problem", found, advice)


def guarded(name: str, advice: str, look: Callable[[], Iterable[Check]]) -> list[Check]:
    """Make checks; if they cannot be made that is what is found."""
    try:
        return list(look())
    except Error as error:
        return [problem(name, str(error), advice)]
    except (sa.exc.SQLAlchemyError, ValueError, TypeError, OverflowError) as error:
        # Rows that no release of ours has written: they do not even convert.
        return [problem(name, f"cannot be read: {error}".splitlines()[0], advice)]
