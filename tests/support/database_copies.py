"""``regmeta db copy`` in tests: a run to its end, or to a point of it."""

from __future__ import annotations

from contextlib import nullcontext

import msgspec
import pytest

from regmeta import failpoints
from regmeta.app import database_copy
from regmeta.maintain.database_copy.run import Copied
from regmeta.maintain.progress import NoProgress
from regmeta.settings import Settings


class Stopped(Exception):
    """What a test stops a run by."""


def copy(settings: Settings, url: str) -> Copied:
    """Copy all rows to the database at *url*."""
    return database_copy.copy(settings, url, lambda: nullcontext(NoProgress()))


def at(settings: Settings, url: str) -> Settings:
    """Return the settings of the same registry with its rows at *url*."""
    return msgspec.structs.replace(settings, database=url)


def stop_at(settings: Settings, url: str, point: str, number: int = 1) -> None:
    """Copy until a point is reached for the *number*-th time."""
    left = number

    def handler(name: str) -> None:
        nonlocal left
        left -= name == point
        if name == point and left == 0:
            raise Stopped(point)

    with failpoints.armed(handler), pytest.raises(Stopped):
        copy(settings, url)
