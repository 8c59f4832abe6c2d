"""The doctor lists what is wrong and what to do, however much is broken, and changes nothing."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from regmeta.app import open_for_writing
from regmeta.app.health import examine
from regmeta.db import Database
from regmeta.maintain.doctor import engine, files, software
from regmeta.maintain.doctor.check import Check
from regmeta.settings import Settings
from regmeta.store.health import Mount, PathFacts, Space, look_at, mount_of
from tests.builders import make_layout
from tests.support.copies import files_of, forget_index, is_file
from tests.support.registry import change, dump, import_all, open_parts, settings_of

TEST_SERVER = {"fsync", "full_page_writes", "synchronous_commit"}
"""What the tests' server is set up without, to be fast."""
OF_TESTS = TEST_SERVER | {"rights", "autovacuum"}
"""And what it is without to be the same each time; and tests connect as a superuser."""


def examined(settings: Settings, *, pages: bool = False) -> dict[str, Check]:
    """Return the checks by name; what the tests' server is without is left out."""
    found = examine(settings, pages=pages)
    assert all(check.advice for check in found if check.level != "ok"), found
    assert all(check.found for check in found)
    return {check.name: check for check in found if is_file(settings) or check.name not in OF_TESTS}


def wrong(settings: Settings) -> dict[str, str]:
    """Return what is not ok."""
    return {check.name: check.level for check in examined(settings).values() if check.level != "ok"}


def sql(settings: Settings, *statements: str) -> None:
    database, store = open_parts(settings)
    with closing(store), closing(database):
        for statement in statements:
            change(database, statement)


@pytest.fixture
def tmp_path(disk_path: Path) -> Path:
    """On a disk: a registry in memory is a finding."""
    return disk_path


@pytest.fixture
def filled(settings: Settings, layout: Path) -> Settings:
    make_layout(layout, 2)
    with open_for_writing(settings) as writing:
        import_all(writing, layout)
    if is_file(settings):
        database_path(settings).chmod(0o600)  # as init makes it
    return settings


def test_sound_registry_has_no_problem(filled: Settings) -> None:
    found = examined(filled, pages=True)
    assert {name: check for name, check in found.items() if check.level != "ok"} == {}
    assert {
        "python",
        "sqlalchemy",
        "schema",
        "identity",
        "snapshots",
        "store space",
        "staging",
    } <= found.keys()
    if is_file(filled):
        assert {"journal_mode", "pragmas", "wal-reset bug", "pages", "database file system"} <= found.keys()
    else:
        assert {"postgresql", "time-outs", "encoding", "collation", "role", "driver"} <= found.keys()


def test_nothing_is_changed(filled: Settings) -> None:
    database, store = open_parts(filled)
    with closing(store), closing(database):
        before = dump(database), files_of(filled)
        examine(filled, pages=True)
        assert (dump(database), files_of(filled)) == before


def test_server_that_is_not_durable_is_a_problem(filled: Settings) -> None:
    if is_file(filled):
        pytest.skip("SQLite has other settings")
    found = {check.name: check for check in examine(filled)}
    assert {name: found[name].level for name in TEST_SERVER} == dict.fromkeys(TEST_SERVER, "problem")
    assert found["fsync"].advice == "set fsync = on in postgresql.conf and reload"


# --- rows -------------------------------------------------------------------------------------

ROWS = {
    "schema": ("problem", "UPDATE alembic_version SET version_num = '0001'", "db upgrade"),
    "identity": ("problem", "UPDATE store_identity SET epoch = 7", "regmeta restore"),
    "collection": ("warning", "UPDATE store_identity SET hold_reason = 'rebuilt'", "verify --mark"),
    "adoption": (
        "warning",
        "INSERT INTO adoptions (location, kind, actor, started_at, completed_at)"
        " VALUES ('/srv/old', 'docker', 'adopt:a', 1, 2)",
        "regmeta adopt finalize /srv/old",
    ),
    "ingests": (
        "warning",
        "INSERT INTO intents (key, digest, owner, host, created_at, expires_at)"
        " SELECT 'k', digest, store_id, 'h', 1, 2 FROM blobs, store_identity LIMIT 1",
        "regmeta recover",
    ),
    "snapshots": (
        "warning",
        "INSERT INTO layout_outbox (repository_id, revision, queued_at)"
        " SELECT id, revision, 86400000000 FROM repositories",
        "regmeta recover",
    ),
    "dead objects": (
        "warning",
        "INSERT INTO tombstones (key, reason, created_at, not_before) VALUES ('k', 'r', 1, 2)",
        "gc run",
    ),
    "collector's tasks": (
        "warning",
        "INSERT INTO gc_tasks (kind, target_id, reason, created_at, not_before)"
        " VALUES ('blob', 99, 'r', 1, 2)",
        "gc run",
    ),
    "tasks that fail": (
        "warning",
        "INSERT INTO gc_tasks (kind, target_id, reason, created_at, not_before, attempts, last_error)"
        " VALUES ('blob', 99, 'r', 1, 9000000000000000, 5, 'disk is full')",
        "correct",
    ),
    "dead objects that stay": (
        "warning",
        "INSERT INTO tombstones (key, reason, created_at, not_before, attempts, last_error)"
        " VALUES ('k', 'r', 1, 9000000000000000, 9, 'disk is full')",
        "correct",
    ),
    "damaged blobs": ("problem", "UPDATE blobs SET state = 'damaged'", "import the images again"),
    "last commit": ("warning", "UPDATE ingests SET committed_at = 9000000000000000", "clock"),
}


@pytest.mark.inconsistent
@pytest.mark.parametrize("name", sorted(ROWS))
def test_what_rows_tell_is_found_and_nothing_else(filled: Settings, name: str) -> None:
    level, statement, advice = ROWS[name]
    sql(filled, statement)
    found = examined(filled)
    assert {check.name: check.level for check in found.values() if check.level != "ok"} == {name: level}
    assert advice in found[name].advice
    if "attempts" in statement:
        assert "disk is full" in found[name].found
    if name == "snapshots":
        assert "1970-01-02 00:00:00Z: app" in found[name].found


@pytest.mark.inconsistent
def test_rows_that_cannot_be_read_are_a_problem(filled: Settings) -> None:
    sql(filled, "UPDATE blobs SET state = 'damaged'", f"UPDATE blobs SET digest = {blob_literal(filled)}")
    found = examined(filled)
    assert (found["damaged blobs"].level, found["last commit"].level) == ("problem", "ok")
    assert "not a stored digest: 7a7a" in found["damaged blobs"].found
    sql(filled, "UPDATE ingests SET committed_at = 9223372036854775807")
    found = examined(filled)
    assert found["last commit"].level == "problem"
    assert "holds no time" in found["last commit"].found


def blob_literal(settings: Settings) -> str:
    """Return digests of an algorithm that there is not, one for each row."""
    return "CAST('zz' || id AS BLOB)" if is_file(settings) else "convert_to('zz' || id, 'UTF8')"


@pytest.mark.inconsistent
def test_database_of_no_store_is_a_problem(filled: Settings) -> None:
    sql(filled, "DELETE FROM store_identity")
    assert examined(filled)["identity"].advice == "run 'regmeta init'"


# --- what is not there, or something else -----------------------------------------------------


def break_store(settings: Settings) -> None:
    shutil.move(settings.store, f"{settings.store}-away")


def empty_store(settings: Settings) -> None:
    break_store(settings)
    Path(settings.store).mkdir()


def file_for_store(settings: Settings) -> None:
    break_store(settings)
    Path(settings.store).write_text("?")


def garbage_record(settings: Settings) -> None:
    Path(settings.store, "store.json").write_text("{")


def folder_for_record(settings: Settings) -> None:
    path = Path(settings.store, "store.json")
    path.unlink()
    path.mkdir()


STORES: dict[str, tuple[Callable[[Settings], None], set[str]]] = {
    "missing": (break_store, {"store", "identity"}),
    "empty": (empty_store, {"store", "identity"}),
    "a file": (file_for_store, {"store", "identity"}),
    "garbage in its record": (garbage_record, {"identity"}),
    "a folder for its record": (folder_for_record, {"identity"}),
}


@pytest.mark.inconsistent
@pytest.mark.parametrize("what", sorted(STORES))
def test_store_that_is_broken_is_a_problem_and_rows_are_still_looked_at(filled: Settings, what: str) -> None:
    breaks, expected = STORES[what]
    breaks(filled)
    found = examined(filled)
    assert {check.name for check in found.values() if check.level == "problem"} == expected
    assert found["last commit"].level == "ok"


@pytest.mark.inconsistent
def test_store_of_another_database_is_a_problem(filled: Settings, tmp_path: Path) -> None:
    record = Path(filled.store, "store.json")
    text = record.read_text()
    store_id = text.partition('"store_id": "')[2][:36]
    record.write_text(text.replace(store_id, "00000000-0000-4000-8000-000000000000"))
    found = examined(filled)["identity"]
    assert (found.level, "correct 'database' or 'store'" in found.advice) == ("problem", True)


sqlite_only = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


def database_path(settings: Settings) -> Path:
    return Path(settings.database.removeprefix("sqlite:///"))


@sqlite_only
@pytest.mark.inconsistent
def test_missing_database_is_a_problem_and_the_store_is_still_looked_at(filled: Settings) -> None:
    database_path(filled).unlink()
    found = examined(filled)
    assert {check.name for check in found.values() if check.level == "problem"} == {"database file"}
    assert "regmeta rebuild --lost-database" in found["database file"].advice
    assert found["staging"].level == "ok"
    assert not database_path(filled).exists()


@sqlite_only
@pytest.mark.inconsistent
@pytest.mark.parametrize("content", [b"", b"garbage" * 1000])
def test_garbage_for_a_database_is_a_problem(filled: Settings, content: bytes) -> None:
    database_path(filled).write_bytes(content)
    found = examined(filled)
    bad = {check.name for check in found.values() if check.level == "problem"}
    assert bad == ({"schema", "journal_mode"} if content == b"" else {"database"})
    assert found["staging"].level == "ok"


@sqlite_only
def test_restore_that_was_interrupted_is_a_warning(filled: Settings) -> None:
    Path(f"{database_path(filled)}.restoring").touch()
    assert wrong(filled) == {"restore": "warning"}


@sqlite_only
@pytest.mark.inconsistent
def test_folder_for_a_database_is_a_problem(filled: Settings) -> None:
    database_path(filled).unlink()
    database_path(filled).mkdir()
    assert examined(filled)["database file"].level == "problem"


@sqlite_only
@pytest.mark.inconsistent
def test_damaged_pages_are_found_when_asked_for(filled: Settings) -> None:
    forget_index(database_path(filled))
    assert "pages" not in examined(filled)
    assert examined(filled, pages=True)["pages"].level == "problem"


@sqlite_only
def test_database_without_write_ahead_log_is_a_problem(filled: Settings) -> None:
    with closing(sqlite3.connect(database_path(filled))) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    assert wrong(filled) == {"journal_mode": "problem"}


@pytest.mark.parametrize(
    "url", ["postgresql://postgres@127.0.0.1:1/none", "postgresql://postgres@/none?host=/nowhere"]
)
def test_server_that_is_down_is_a_problem(tmp_path: Path, url: str) -> None:
    (tmp_path / "store" / "blobs").mkdir(parents=True)
    found = examined(settings_of(tmp_path, url))
    assert {check.name for check in found.values() if check.level == "problem"} == {"database"}
    assert found["database"].advice == "start the server, or correct 'database' in the settings"
    assert "***" not in found["database"].found or "postgres" in found["database"].found


def test_url_of_no_database_is_a_problem(tmp_path: Path) -> None:
    found = examined(settings_of(tmp_path, "mysql://x@y/z"))
    assert found["database"].level == "problem"


def test_wrong_collation_is_a_problem(filled: Settings) -> None:
    if is_file(filled):
        pytest.skip("SQLite compares bytes")
    sql(filled, "DROP VIEW v_tags, v_tag_history")
    sql(filled, 'ALTER TABLE tags ALTER COLUMN name TYPE varchar COLLATE "default"')
    found = examined(filled)["collation"]
    assert (found.level, "tags.name (default)" in found.found) == ("problem", True)


# --- the connection, the clock, the environment -----------------------------------------------


def test_connection_with_other_pragmas_is_a_problem(
    filled: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_file(filled):
        pytest.skip("a server has no pragmas")
    monkeypatch.setattr("regmeta.db.PRAGMAS", ("synchronous=NORMAL", "busy_timeout=100"))
    found = examined(filled)["pragmas"]
    assert found.level == "problem"
    for name in (
        "synchronous is 1, not FULL",
        "foreign_keys is 0",
        "trusted_schema is 1",
        "busy_timeout is 100",
    ):
        assert name in found.found


def test_clocks_that_differ_are_a_warning(filled: Settings) -> None:
    with closing(Database(filled.database)) as database:
        [near] = engine.check_clock(database, datetime.now(UTC))
        [far] = engine.check_clock(database, datetime.now(UTC) + timedelta(seconds=300))
    assert (near.level, far.level) == ("ok", "warning")
    assert "by 300 s" in far.found or "by 299 s" in far.found


def test_failpoint_in_the_environment_is_a_warning(filled: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGMETA_FAILPOINT", "a.b=kill")
    assert wrong(filled) == {"failpoint": "warning"}


def test_wal_reset_bug_names_the_lock_that_keeps_it_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 45, 0))
    [local] = software.check_wal_reset("/r/regmeta.db.lock", "local")
    [network] = software.check_wal_reset("/r/regmeta.db.lock", "network")
    assert (local.level, "/r/regmeta.db.lock" in local.found) == ("ok", True)
    assert (network.level, "network" in network.found) == ("problem", True)
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 51, 3))
    [fixed] = software.check_wal_reset("/r/regmeta.db.lock", "network")
    assert fixed.level == "ok"


# --- file systems -----------------------------------------------------------------------------


def facts(**others: object) -> PathFacts:
    values: dict[str, object] = {
        "path": "/r",
        "kind": "folder",
        "permissions": 0o700,
        "owner_id": 5,
        "device": 1,
        "may_write": True,
        "is_read_only": False,
        "has_links": True,
        "mount": Mount("/", "ext4"),
        "space": Space(100 * 2**30, 50 * 2**30, 1000, 500),
    }
    return PathFacts(**(values | others))  # type: ignore[arg-type]


def levels(checks: Iterator[Check]) -> dict[str, str]:
    return {check.name: check.level for check in checks if check.level != "ok"}


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ({}, {}),
        *[
            ({"mount": Mount("/m", name)}, {"store file system": "warning"})
            for name in ("nfs4", "cifs", "overlay", "tmpfs", "9p", "fuse.sshfs", "fuseblk")
        ],
        ({"mount": None}, {"store file system": "warning"}),
        ({"is_read_only": True}, {"store writable": "problem"}),
        ({"space": Space(100 * 2**30, 4 * 2**30, 0, 0)}, {"store space": "warning"}),
        ({"space": Space(10 * 2**30, 2**29 * 2 - 1, 0, 0)}, {"store space": "warning"}),
        ({"space": Space(1000 * 2**30, 9 * 2**30, 0, 0)}, {"store space": "problem"}),
        ({"space": Space(100 * 2**30, 50 * 2**30, 1000, 40)}, {"store inodes": "warning"}),
        ({"space": Space(100 * 2**30, 50 * 2**30, 1000, 9)}, {"store inodes": "problem"}),
    ],
)
def test_file_system_is_judged(others: dict[str, object], expected: dict[str, str]) -> None:
    assert levels(files.check_file_system("store", facts(**others))) == expected


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ({}, {}),
        ({"permissions": 0o644}, {"database permissions": "warning"}),
        ({"permissions": 0o602}, {"database permissions": "problem"}),
        ({"owner_id": 6}, {"database permissions": "warning"}),
        ({"may_write": False}, {"database writable": "problem"}),
    ],
)
def test_permissions_are_judged(others: dict[str, object], expected: dict[str, str]) -> None:
    assert levels(files.check_permissions("database", facts(**others), 5, private=True)) == expected


def test_staging_on_another_file_system_is_a_problem() -> None:
    assert levels(files.check_same_file_system(facts(device=2), facts())) == {"staging": "problem"}
    assert levels(files.check_same_file_system(facts(), facts(has_links=False))) == {"hard links": "warning"}


@sqlite_only
def test_permissions_of_a_real_registry_are_found(filled: Settings) -> None:
    database_path(filled).chmod(0o644)
    Path(filled.store).chmod(0o777)
    assert wrong(filled) == {"database permissions": "warning", "store permissions": "problem"}
    Path(filled.store).chmod(0o700)


def test_mount_is_the_last_and_deepest_one() -> None:
    mounts = (
        "22 1 8:1 / / rw - ext4 /dev/a rw\n"
        "30 22 0:40 / /data rw shared:1 - nfs4 host:/x rw\n"
        "31 22 0:41 / /data\\040two rw - tmpfs tmpfs rw\n"
        "32 22 0:42 / /data rw master:2 shared:3 - xfs /dev/b rw\n"
        "nonsense\n"
    )
    assert mount_of("/data/x", mounts) == Mount("/data", "xfs")
    assert mount_of("/data two", mounts) == Mount("/data two", "tmpfs")
    assert mount_of("/database", mounts) == Mount("/", "ext4")
    assert mount_of("/x", "") is None


@pytest.mark.skipif(os.getuid() != 0, reason="mounting needs root")
def test_store_on_a_real_tmpfs_is_a_warning(tmp_path: Path) -> None:
    point = tmp_path / "point"
    point.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(point)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount here: {mounted.stderr.decode()}")
    try:
        found = look_at(str(point))
        assert found is not None
        assert found.mount == Mount(str(point), "tmpfs")
        judged = levels(files.check_file_system("store", found))
        assert judged == {"store file system": "warning", "store space": "warning"}
    finally:
        subprocess.run(["umount", str(point)], check=True)
