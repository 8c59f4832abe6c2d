"""Releases of what regmeta stands on."""

from __future__ import annotations

import platform
import sqlite3
from collections.abc import Iterator
from importlib import metadata

from regmeta.db import OLDEST_SQLITE, WAL_RESET_FIXED_IN
from regmeta.maintain.doctor.check import Check, ok, problem


def check_software(*, uses_sqlite: bool) -> Iterator[Check]:
    """Look at Python and the libraries of the database that is used."""
    yield ok("python", f"Python {platform.python_version()} on {platform.system()} {platform.release()}")
    yield ok(
        "sqlalchemy", f"SQLAlchemy {metadata.version('SQLAlchemy')}, Alembic {metadata.version('alembic')}"
    )
    if uses_sqlite:
        yield _sqlite()
        return
    try:
        yield ok("driver", f"psycopg {metadata.version('psycopg')}")
    except metadata.PackageNotFoundError:
        yield problem("driver", "psycopg is not installed", "pip install 'regmeta[postgres]'")


def _sqlite() -> Check:
    found = f"SQLite {sqlite3.sqlite_version}"
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        return problem("sqlite", found, "use a Python whose SQLite is 3.40 or newer")
    return ok("sqlite", found)


def check_wal_reset(lock_path: str, lock_locality: str | None) -> Iterator[Check]:
    """Look whether this SQLite has the WAL-reset bug, and whether what keeps it away can work."""
    version, fixed = sqlite3.sqlite_version, ".".join(map(str, WAL_RESET_FIXED_IN))
    if sqlite3.sqlite_version_info >= WAL_RESET_FIXED_IN:
        yield ok("wal-reset bug", f"fixed in SQLite {version}")
        return
    found = f"SQLite {version} has it (fixed in {fixed}); {lock_path} keeps commits and checkpoints apart"
    if lock_locality == "network":
        yield problem(
            "wal-reset bug",
            f"{found}, but lies on a network file system, where locks are not to be trusted",
            f"move the database to a local disk, or use a Python whose SQLite is {fixed} or newer",
        )
    else:
        yield ok("wal-reset bug", found)
