"""Bytes before rows: when a commit begins to wait for the disk, every object that it names is durable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from regmeta.app import Writing, open_for_writing
from regmeta.settings import Settings
from tests.builders import AMD64, ARM64, LayoutBuilder
from tests.support.file_calls import FileCalls
from tests.support.registry import commit_one, import_all, keys_in, rows

STAGED = r"staging/[0-9a-f]{32}/\d+"


@pytest.fixture
def calls(writing: Writing, monkeypatch: pytest.MonkeyPatch) -> FileCalls:
    """What happens to files, and when a transaction changed what rows."""
    found = FileCalls(monkeypatch, writing.settings.store)
    changed: list[str] = []

    @event.listens_for(writing.database.engine, "before_cursor_execute")
    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        words = statement.split()
        if words[0] in ("INSERT", "DELETE", "UPDATE"):
            changed.append(f"{words[0]} {words[2 if words[0] != 'UPDATE' else 1]}")

    @event.listens_for(writing.database.engine, "commit")
    def committed(_connection: sa.Connection) -> None:
        found.note("commit", " ".join(changed))
        changed.clear()

    return found


def test_every_object_is_durable_before_the_commit(
    writing: Writing, builder: LayoutBuilder, layout: Path, calls: FileCalls
) -> None:
    builder.tag(builder.index([builder.image(platform=AMD64), builder.image(platform=ARM64)]), "v1")
    builder.tag(builder.image(), "v2")
    import_all(writing, builder.write(layout))
    commit = calls.position("commit", ".*INSERT blobs.*")
    keys = keys_in(writing.database, "blobs")
    assert len(keys) == 13
    for key in keys:
        [name] = [i for how in ("rename", "link") for i in calls.positions(how, STAGED, f"blobs/{key}")]
        flushed = calls.position("fsync", calls.calls[name][1])
        folder = [i for i in calls.positions("fsync", f"blobs/{key.rpartition('/')[0]}") if i > name]
        assert flushed < name < min(folder) < commit


def test_intents_are_committed_before_any_object_is_there(
    writing: Writing, builder: LayoutBuilder, layout: Path, calls: FileCalls
) -> None:
    """I2: a crash in between leaves intents without objects, never objects without intents."""
    commit_one(writing, builder, builder.image(), layout)
    reserved = calls.position("commit", "INSERT intents")
    named = calls.positions("rename", STAGED, "blobs/.*") + calls.positions("link", STAGED, "blobs/.*")
    assert reserved < min(named)


def test_snapshot_is_durable_before_the_outbox_forgets(
    writing: Writing, builder: LayoutBuilder, layout: Path, calls: FileCalls
) -> None:
    """I10, and the older snapshot goes last."""
    for _ in range(2):
        calls.calls.clear()
        commit_one(writing, builder, builder.image(), layout)
    cleared = calls.position("commit", "DELETE layout_outbox")
    [name] = [i for how in ("rename", "link") for i in calls.positions(how, STAGED, "layouts/app/.*")]
    written = calls.position("fsync", calls.calls[name][1])
    folder = [i for i in calls.positions("fsync", "layouts/app") if i > name]
    removed = calls.position("unlink", "layouts/app/.*")
    assert written < name < min(folder) < cleared < removed


def test_nothing_is_asked_of_the_file_system_between_the_first_lock_and_the_commit(
    writing: Writing, builder: LayoutBuilder, layout: Path, calls: FileCalls
) -> None:
    @event.listens_for(writing.database.engine, "before_cursor_execute")
    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("INSERT INTO repositories "):
            calls.note("first lock")

    commit_one(writing, builder, builder.image(), layout)
    start = calls.position("first lock")
    assert calls.calls[start + 1][0] == "commit"


def test_sqlite_waits_for_the_disk_at_every_commit(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_for_writing(settings) as writing:
        if not writing.database.is_sqlite:
            found = rows(writing.database, "SHOW synchronous_commit")
            assert found == [("off",)]  # the test's server; regmeta leaves it to the server's settings
            return
        with writing.database.read() as connection:
            pragmas = {
                name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "trusted_schema")
            }
    assert int(str(pragmas.pop("busy_timeout"))) >= 10_000
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "trusted_schema": 0}
