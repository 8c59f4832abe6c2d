"""Whether an SQLite file is sound: its own check, and pages that nothing names.

Where a schema has views, ``PRAGMA integrity_check`` of releases up to 3.40 at least takes the first one for
a table without pages, and leaves unnamed pages out. So these are counted, where ``dbstat`` is built in.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, Final

import sqlalchemy as sa

_LOCK_BYTE: Final = 2**30
"""The page at this offset belongs to nothing (file format, "The Lock-Byte Page")."""

Ask = Callable[[str], Any]
"""Runs a statement on one connection, and returns its rows."""


def damage_of(ask: Ask, limit: int, *, quick: bool = False) -> list[str]:
    """Return what is wrong with the file, at most about *limit* lines, or nothing. Reads all of it.

    A *quick* check does not compare indexes with their tables.
    """
    found = [str(line) for (line,) in ask(f"PRAGMA {'quick' if quick else 'integrity'}_check({limit})")]
    if found != ["ok"]:
        return found
    unnamed = _unnamed_pages(ask)
    return [f"{unnamed} pages are never used"] if unnamed else []


def _unnamed_pages(ask: Ask) -> int:
    def number(statement: str) -> int:
        [(value,)] = ask(statement)
        return int(value)

    if number("PRAGMA auto_vacuum"):
        return 0  # of its pages that point to others nobody counts
    try:
        named = number("SELECT count(DISTINCT pageno) FROM dbstat")
    except (sqlite3.OperationalError, sa.exc.OperationalError):
        return 0
    pages, page_bytes = number("PRAGMA page_count"), number("PRAGMA page_size")
    unused = number("PRAGMA freelist_count") + (pages * page_bytes > _LOCK_BYTE)
    return pages - named - unused
