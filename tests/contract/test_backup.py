"""A copy of the database is of one moment, whole and checked, while writers go on."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import threading
from contextlib import closing
from pathlib import Path

import pytest

from regmeta import errors, failpoints
from regmeta.app import backups, open_for_writing
from regmeta.db import SCHEMA_HEAD, Database
from regmeta.maintain.backup import copy_sqlite, read_sqlite_copy
from regmeta.settings import Settings
from regmeta.store.filesystem import FilesystemStore
from tests.builders import make_layout
from tests.support.consistency import findings
from tests.support.copies import forget_index, is_file, load_dump, use_client_programs
from tests.support.postgres import Postgres
from tests.support.registry import import_all, open_parts, scalar, settings_of

IMPORTS = 4
ROUNDS = 12


@pytest.fixture(autouse=True)
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    use_client_programs(monkeypatch)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return tmp_path / "copy"


def rows_beside_store(copied: Path, settings: Settings, request: pytest.FixtureRequest) -> list[str]:
    """Return where the rows of a copy and the objects of the living store disagree."""
    if is_file(settings):
        opened = copied.with_name("opened.db")
        shutil.copyfile(copied, opened)
        return against_store(f"sqlite:///{opened}", settings)
    postgres: Postgres = request.getfixturevalue("postgres")
    name = postgres.create(migrated=False)
    try:
        load_dump(settings_of(Path(settings.home), postgres.url(name)), copied)
        return against_store(postgres.url(name), settings)
    finally:
        postgres.drop(name)


def against_store(url: str, settings: Settings) -> list[str]:
    with closing(Database(url)) as database, closing(FilesystemStore(settings.store)) as store:
        assert scalar(database, "SELECT count(*) FROM manifests") > 0
        # The store went on: it has newer snapshots and objects, and no row of the copy is wrong for that.
        later = ("newest snapshot", "no row knows it")
        return [line for line in findings(database, store) if not any(word in line for word in later)]


@pytest.mark.slow
def test_copy_that_is_made_while_four_import_is_of_one_moment(
    settings: Settings, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    layouts = [[tmp_path / f"layout-{n}-{i}" for i in range(ROUNDS)] for n in range(IMPORTS)]
    for n, mine in enumerate(layouts):
        for i, layout in enumerate(mine):
            make_layout(layout, 3, seed=100 * n + i)
    started = threading.Event()
    failed: list[BaseException] = []

    def work(n: int) -> None:
        try:
            with open_for_writing(settings) as writing:
                for layout in layouts[n]:
                    import_all(writing, layout, f"app/{n % 2}")
                    started.set()
        except BaseException as error:  # noqa: BLE001 - shown by the test
            failed.append(error)
            started.set()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(IMPORTS)]
    for thread in threads:
        thread.start()
    started.wait()
    copies: list[Path] = []
    while any(thread.is_alive() for thread in threads):
        copies.append(tmp_path / f"copy-{len(copies)}")
        backups.backup(settings, str(copies[-1]))
    for thread in threads:
        thread.join()
    assert failed == []
    assert copies
    for copied in (copies[0], copies[-1]):
        assert rows_beside_store(copied, settings, request) == []


def test_copy_says_what_the_database_says(settings: Settings, layout: Path, copy: Path) -> None:
    make_layout(layout, 2)
    with open_for_writing(settings) as writing:
        import_all(writing, layout)
        made = backups.backup(settings, str(copy))
        database_id = scalar(writing.database, "SELECT database_id FROM store_identity")
    assert made.path == str(copy)
    assert made.size_bytes == copy.stat().st_size
    assert (made.schema, made.identity.epoch) == (SCHEMA_HEAD, 1)
    assert str(made.identity.database_id).replace("-", "") == str(database_id).replace("-", "")
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert [path.name for path in copy.parent.glob("copy*")] == ["copy"]


def test_copy_waits_for_no_writer_and_has_nothing_that_is_not_committed(
    settings: Settings, copy: Path
) -> None:
    if not is_file(settings):
        pytest.skip("pg_dump reads a snapshot of its own")
    copy.touch()
    database, store = open_parts(settings)
    with closing(store), closing(database), closing(Database(settings.database)) as other:
        with database.transaction("test") as connection:  # holds the write lock, and ours
            connection.exec_driver_sql("UPDATE store_identity SET epoch = epoch + 1")
            copy_sqlite(other, str(copy))
            connection.exec_driver_sql("UPDATE store_identity SET epoch = epoch - 1")
        assert read_sqlite_copy(str(copy)).identity.epoch == 1


def test_existing_file_is_not_overwritten(settings: Settings, copy: Path) -> None:
    copy.write_text("mine")
    with pytest.raises(errors.UsageError, match="is there already"):
        backups.backup(settings, str(copy))
    assert copy.read_text() == "mine"


def test_folder_that_is_not_there_is_unavailable(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(errors.StoreUnavailable, match="no/copy"):
        backups.backup(settings, str(tmp_path / "no" / "copy"))


@pytest.mark.skipif(os.getuid() != 0, reason="mounting needs root")
def test_full_disk_leaves_nothing(settings: Settings, tmp_path: Path) -> None:
    point = tmp_path / "full"
    point.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(point)]
    mounted = subprocess.run(mount, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount here: {mounted.stderr.decode()}")
    try:
        if is_file(settings):
            with pytest.raises(errors.StoreUnavailable, match=r"full/copy.*full"):
                backups.backup(settings, str(point / "copy"))
        else:
            (point / "filler").write_bytes(b"x" * 60_000)
            with pytest.raises(errors.DatabaseUnavailable, match=r"pg_dump: .*No space"):
                backups.backup(settings, str(point / "copy"))
        assert list(point.glob("copy*")) == []
    finally:
        subprocess.run(["umount", str(point)], check=True)


class Stop(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("point", ["backup.made", "backup.flushed", "backup.renamed"])
def test_copy_has_its_name_only_when_it_is_flushed(settings: Settings, copy: Path, point: str) -> None:
    def stop(name: str) -> None:
        if name == point:
            raise Stop

    with failpoints.armed(stop), pytest.raises(Stop):
        backups.backup(settings, str(copy))
    assert copy.exists() == (point == "backup.renamed")
    if not copy.exists():
        backups.backup(settings, str(copy))


def test_copy_is_flushed_before_it_has_its_name(settings: Settings, copy: Path) -> None:
    reached: list[str] = []
    with failpoints.armed(reached.append):
        backups.backup(settings, str(copy))
    named = [name for name in reached if name.startswith("backup.")]
    assert named == ["backup.made", "backup.flushed", "backup.renamed", "backup.folder_flushed"]


def test_damaged_database_gives_no_copy(settings: Settings, layout: Path, copy: Path) -> None:
    if not is_file(settings):
        pytest.skip("pages of a server are its own")
    make_layout(layout, 30)
    with open_for_writing(settings) as writing:
        import_all(writing, layout)
    original = Path(settings.database.removeprefix("sqlite:///"))
    kept = original.read_bytes()
    forget_index(original)
    with pytest.raises(errors.IntegrityError, match="damaged"):
        backups.backup(settings, str(copy))
    assert list(copy.parent.glob("copy*")) == []
    original.write_bytes(kept)


def test_missing_program_is_named(settings: Settings, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if is_file(settings):
        pytest.skip("SQLite needs no program")
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(errors.DatabaseUnavailable, match=r"pg_dump is not on PATH: install .*client"):
        backups.backup(settings, str(copy))
    assert list(copy.parent.glob("copy*")) == []


def test_password_is_no_argument_of_pg_dump(
    settings: Settings, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_file(settings):
        pytest.skip("SQLite has no password")
    real = shutil.which("pg_dump")
    programs = tmp_path / "programs"
    programs.mkdir()
    told = tmp_path / "told"
    script = programs / "pg_dump"
    script.write_text(
        f'#!/bin/sh\necho "$@" >{told}\necho "$PGPASSWORD $PGUSER" >>{told}\nexec {real} "$@"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    with_password = settings.database.replace("postgres@", "postgres:sec%2Fret@")
    backups.backup(settings_of(Path(settings.home), with_password), str(copy))
    arguments, variables = told.read_text().splitlines()
    assert "sec" not in arguments
    assert variables == "sec/ret postgres"


def test_server_that_is_away_is_unavailable(settings: Settings, copy: Path) -> None:
    if is_file(settings):
        pytest.skip("SQLite has no server")
    away = settings_of(Path(settings.home), "postgresql://postgres@127.0.0.1:1/none")
    with pytest.raises(errors.DatabaseUnavailable):
        backups.backup(away, str(copy))
    assert list(copy.parent.glob("copy*")) == []


def test_rows_are_left_as_they_are(settings: Settings, layout: Path, copy: Path) -> None:
    make_layout(layout, 1)
    with open_for_writing(settings) as writing:
        import_all(writing, layout)
    database, store = open_parts(settings)
    with closing(store), closing(database):
        before = scalar(database, "SELECT count(*) FROM events")
        backups.backup(settings, str(copy))
        assert scalar(database, "SELECT count(*) FROM events") == before
