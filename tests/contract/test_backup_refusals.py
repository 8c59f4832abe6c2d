"""What is not to be restored is refused with its class, and nothing has changed."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest

from regmeta import errors
from regmeta.app import backups, open_for_writing
from regmeta.db import Database
from regmeta.maintain.rebuild.report import Progress
from regmeta.settings import Settings
from regmeta.store.database_files import RESTORING
from regmeta.store.filesystem import FilesystemStore
from tests.builders import LayoutBuilder
from tests.support.copies import (
    files_of,
    fill,
    findings_of,
    finish_restore,
    finish_restore_alone,
    forget_index,
    go_on,
    identity_of,
    is_file,
    load_dump,
    restore,
    use_client_programs,
)
from tests.support.points import ROOT
from tests.support.postgres import Postgres
from tests.support.registry import settings_of


@pytest.fixture(autouse=True)
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    use_client_programs(monkeypatch)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return tmp_path / "copy"


@pytest.fixture
def filled(settings: Settings, builder: LayoutBuilder, layout: Path, copy: Path) -> Settings:
    """A registry with a copy of it, and something newer."""
    with open_for_writing(settings) as writing:
        fill(writing, builder, layout)
        backups.backup(settings, str(copy))
        go_on(writing, builder, layout)
    return settings


def refused(settings: Settings, copy: Path, error: type[errors.Error], match: str) -> None:
    """A restore is refused, and no file has changed."""
    before = files_of(settings)
    with pytest.raises(error, match=match):
        backups.restore_file(settings, str(copy), progress)
    assert files_of(settings) == before


def progress() -> AbstractContextManager[Progress]:
    raise AssertionError("a restore that is refused has no progress")


sqlite_only = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


@sqlite_only
@pytest.mark.parametrize(
    ("content", "error", "match"),
    [
        (b"", errors.InvalidSource, "not a copy of a registry's database"),
        (b"garbage" * 1000, errors.InvalidSource, "not an SQLite database"),
        (b"SQLite format 3\0" + b"\xff" * 8000, errors.InputError, "not an SQLite database"),
    ],
)
def test_garbage_is_refused(
    filled: Settings, copy: Path, content: bytes, error: type[errors.Error], match: str
) -> None:
    copy.write_bytes(content)
    refused(filled, copy, error, match)


@sqlite_only
def test_copy_with_pages_that_nothing_names_is_refused(filled: Settings, copy: Path) -> None:
    forget_index(copy)
    refused(filled, copy, errors.IntegrityError, "damaged")


@sqlite_only
@pytest.mark.parametrize("cut", ["half", "page"])
def test_damaged_copy_is_refused(filled: Settings, copy: Path, cut: str) -> None:
    content = copy.read_bytes()
    half = len(content) // 8192 * 4096
    copy.write_bytes(content[:half] if cut == "half" else content[:-8192] + b"\xa5" * 8192)
    refused(filled, copy, errors.IntegrityError, "damaged")


@sqlite_only
def test_missing_copy_is_refused(filled: Settings, copy: Path, tmp_path: Path) -> None:
    refused(filled, copy.with_name("none"), errors.InvalidSource, "no such file")
    refused(filled, tmp_path, errors.InvalidSource, "not a file")


@sqlite_only
def test_database_itself_is_no_copy(filled: Settings) -> None:
    path = Path(filled.database.removeprefix("sqlite:///"))
    refused(filled, path, errors.UsageError, "is the database itself")


@sqlite_only
def test_what_an_interrupted_restore_left_is_no_copy_and_stays(filled: Settings, copy: Path) -> None:
    path = Path(filled.database.removeprefix("sqlite:///") + RESTORING)
    path.write_bytes(copy.read_bytes())
    refused(filled, path, errors.UsageError, "what an interrupted restore left")
    assert path.read_bytes() == copy.read_bytes()


@sqlite_only
def test_copy_of_an_open_database_is_refused(filled: Settings, copy: Path) -> None:
    """Files copied by hand: what is in the log would be lost."""
    copy.with_name("copy-wal").write_bytes(b"commits")
    refused(filled, copy, errors.InvalidSource, "not a closed copy")


@sqlite_only
@pytest.mark.parametrize(
    ("revision", "match"),
    [("0001", r"upgrade a copy of it first with 'REGMETA_DATABASE=.*regmeta db upgrade'"), ("9999", "newer")],
)
def test_copy_of_another_schema_is_refused(filled: Settings, copy: Path, revision: str, match: str) -> None:
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
        connection.commit()
        connection.execute("PRAGMA journal_mode = DELETE")
    refused(filled, copy, errors.SchemaMismatch, match)


@sqlite_only
def test_copy_of_another_registry_is_refused(filled: Settings, copy: Path) -> None:
    path = Path(filled.store, "store.json")
    record = json.loads(path.read_text())
    other = {**record, "store_id": "00000000-0000-4000-8000-000000000000"}
    path.write_text(json.dumps(other))
    refused(filled, copy, errors.IdentityMismatch, "is of the store")
    path.write_text(json.dumps(record))


@sqlite_only
def test_store_that_says_nothing_is_refused(filled: Settings, copy: Path) -> None:
    path = Path(filled.store, "store.json")
    path.rename(path.with_name("hidden.json"))
    refused(filled, copy, errors.IdentityMismatch, "is no store, or is not mounted")
    path.with_name("hidden.json").rename(path)


@pytest.mark.parametrize("folder", ["layouts", "blobs"])
def test_store_that_lists_nothing_is_not_read_as_empty(filled: Settings, copy: Path, folder: str) -> None:
    path = Path(filled.store, folder)
    path.rename(path.with_name("unmounted"))
    path.mkdir()
    if not is_file(filled):
        load_dump(filled, copy)
    before = identity_of(filled)
    with pytest.raises(errors.StoreUnavailable, match="is it mounted"):
        finish_restore(filled, copy)
    assert identity_of(filled) == before
    assert list(Path(filled.home).glob("*.restoring*")) == []
    path.rmdir()
    path.with_name("unmounted").rename(path)
    restore(filled, copy)


def test_living_process_is_not_restored_under(filled: Settings, copy: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from regmeta.app import open_for_writing;"
        " from tests.support.registry import settings_of\n"
        f"with open_for_writing(settings_of(Path({filled.home!r}), {filled.database!r})):\n"
        "    print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        before = identity_of(filled)
        with pytest.raises(errors.Locked, match=r"end it first|end every process"):
            finish_restore(filled, copy)
        assert identity_of(filled) == before
        process.communicate("")
    restore(filled, copy)


def test_staging_folder_that_is_held_is_not_restored_under(filled: Settings, copy: Path) -> None:
    if not is_file(filled):
        load_dump(filled, copy)
    before = identity_of(filled)
    refusal = r"another process works on it \(staging/"
    with (
        closing(FilesystemStore(filled.store)) as store,
        closing(store.open_staging()),
        pytest.raises(errors.Locked, match=refusal),
    ):
        finish_restore(filled, copy)
    assert identity_of(filled) == before
    finish_restore_alone(filled, copy)


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_session_of_the_server_is_not_restored_under(filled: Settings, copy: Path) -> None:
    """It may be of a process on another host, whose staging folder cannot be looked at."""
    load_dump(filled, copy)
    before = identity_of(filled)
    with closing(Database(filled.database)) as other, other.read() as connection:
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
        which = rf"1 other session.*process {pid} \(regmeta\) from this host"
        with pytest.raises(errors.Locked, match=which):
            finish_restore_alone_of_others(filled, copy)
    assert identity_of(filled) == before
    finish_restore_alone(filled, copy)


def finish_restore_alone_of_others(settings: Settings, copy: Path) -> None:
    """Restore when none but the one session that a test holds is there."""
    for _ in range(200):
        try:
            finish_restore(settings, copy)
        except errors.Locked as error:
            if "1 other session" in str(error):
                raise
            time.sleep(0.02)


@sqlite_only
def test_reader_that_has_the_database_open_is_not_restored_under(filled: Settings, copy: Path) -> None:
    """When it closes, SQLite would remove the log of the database that has its name then."""
    path = filled.database.removeprefix("sqlite:///")
    script = (
        f"import sqlite3, sys; c = sqlite3.connect({path!r}); c.execute('SELECT 1 FROM tags').fetchall();"
        " print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        refused(filled, copy, errors.Locked, "is open in another process")
        process.communicate("")
    restore(filled, copy)


def test_database_that_was_is_refused_by_its_identity(
    filled: Settings, copy: Path, request: pytest.FixtureRequest
) -> None:
    """A process that was frozen on another host opens what it knew, and may not write."""
    if is_file(filled):
        done = restore(filled, copy)
        assert done.moved_aside is not None
        retired = settings_of(Path(filled.home), f"sqlite:///{done.moved_aside}")
        with (
            pytest.raises(errors.IdentityMismatch, match="belongs to the database"),
            open_for_writing(retired),
        ):
            pass
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    name = postgres.create(migrated=False)
    new = settings_of(Path(filled.home), postgres.url(name))
    restore(new, copy)
    assert findings_of(new) == []
    with pytest.raises(errors.IdentityMismatch, match="belongs to the database"), open_for_writing(filled):
        pass
    # So that what the fixture checks at the end is the registry again.
    backups.backup(new, str(copy.with_name("new")))
    postgres.drop(name)
    restore(filled, copy.with_name("new"))


def test_file_and_server_are_not_mixed_up(filled: Settings, copy: Path) -> None:
    if is_file(filled):
        with pytest.raises(errors.UsageError, match="--loaded"):
            backups.restore_loaded(filled, progress)
    else:
        with pytest.raises(errors.UsageError, match="--loaded"):
            backups.restore_file(filled, str(copy), progress)
