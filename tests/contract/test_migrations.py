"""Revisions run up, down and up again with rows, and give the schema that the models describe."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from regmeta import errors
from regmeta.app import migrations_folder, open_for_reading, open_for_writing
from regmeta.db import SCHEMA_HEAD, Database, Server
from regmeta.maintain import schema
from regmeta.models import Base
from regmeta.settings import Settings
from tests.support import ddl, seed
from tests.support.registry import change, rows, scalar, settings_of

FOLDER = migrations_folder()
REVISIONS = [revision for revision, _ in reversed(schema.history(FOLDER))]  # oldest first


def tables(database: Database) -> set[str]:
    with database.read() as connection:
        found = sa.inspect(connection).get_table_names()
    return {name for name in found if not name.endswith("_fts") and not ddl.is_shadow(name)}


def fill(database: Database) -> None:
    with database.transaction("test") as connection:
        seed.seed(connection)


def row_counts(database: Database) -> dict[str, int]:
    found = sorted(tables(database) - {ddl.VERSION_TABLE})
    return {table: scalar(database, f"SELECT count(*) FROM {table}") for table in found}


# --- revisions --------------------------------------------------------------------------------


def test_there_is_one_head_and_it_is_what_this_release_needs() -> None:
    assert schema.history(FOLDER)[0][0] == SCHEMA_HEAD
    assert len(REVISIONS) == len(set(REVISIONS))
    versions = Path(FOLDER) / "versions"
    assert len(list(versions.glob("*.py"))) == len(REVISIONS), "a file that no head leads to"


def test_seed_fills_every_table(database: Database) -> None:
    fill(database)
    found = row_counts(database)
    assert found.keys() == Base.metadata.tables.keys()
    assert all(found.values()), found


def test_up_to_head_says_so(empty: Database) -> None:
    assert schema.current(empty) is None
    schema.upgrade(empty, FOLDER)
    assert schema.current(empty) == SCHEMA_HEAD
    empty.check_schema()
    schema.upgrade(empty, FOLDER)
    assert schema.current(empty) == SCHEMA_HEAD


def test_down_to_base_with_rows_leaves_nothing_and_up_again_takes_rows(database: Database) -> None:
    before = ddl.schema_of(database)
    fill(database)
    schema.downgrade(database, FOLDER, "base")
    assert tables(database) == {ddl.VERSION_TABLE}
    assert ddl.schema_of(database) == {}
    assert schema.current(database) is None
    schema.upgrade(database, FOLDER)
    assert ddl.differences(before, ddl.schema_of(database)) == []
    assert not any(row_counts(database).values())
    fill(database)


@pytest.mark.parametrize("revision", REVISIONS)
def test_each_revision_goes_down_and_up_again_with_rows(database: Database, revision: str) -> None:
    """Rows that both schemas can hold survive, and keep their constraints."""
    fill(database)
    head = ddl.schema_of(database)
    schema.downgrade(database, FOLDER, revision)
    at_revision = ddl.schema_of(database)
    below = REVISIONS[REVISIONS.index(revision) - 1] if revision != REVISIONS[0] else "base"
    before = row_counts(database)
    schema.downgrade(database, FOLDER, below)
    kept = {table: count for table, count in before.items() if table in tables(database)}
    schema.upgrade(database, FOLDER, revision)
    assert ddl.differences(at_revision, ddl.schema_of(database)) == []
    after = row_counts(database)
    assert {table: after[table] for table in kept} == kept
    schema.upgrade(database, FOLDER)
    assert ddl.differences(head, ddl.schema_of(database)) == []
    if database.is_sqlite:
        with database.read() as connection:
            assert connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall() == []


def test_foreign_keys_are_on_again_after_a_migration(empty: Database) -> None:
    schema.upgrade(empty, FOLDER)
    with pytest.raises(errors.ConstraintViolated):
        change(
            empty,
            "INSERT INTO repository_blobs (repository_id, blob_id, linked_at) VALUES (1, 1, 1)",
        )


# --- opening ----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["postgresql"])
def test_migration_may_take_longer_than_a_statement(database_url: str) -> None:
    """An index of a large table takes minutes; what comes after it on the connection is bounded again."""
    with closing(Database(database_url, server=Server(statement_timeout_s=0.2))) as database:
        with database.schema_connection() as connection:
            connection.exec_driver_sql("SELECT pg_sleep(0.5)")
        with pytest.raises(errors.Contention, match="timeout"), database.transaction("test") as connection:
            connection.exec_driver_sql("SELECT pg_sleep(5)")


@pytest.mark.parametrize("found", ["0000", "9999", None])
def test_schema_behind_ahead_or_gone_is_refused(settings: Settings, found: str | None) -> None:
    with closing(Database(settings.database)) as database:
        if found is None:
            change(database, "DELETE FROM alembic_version")
        else:
            change(database, "UPDATE alembic_version SET version_num = :found", found=found)
        for opened in (open_for_reading, open_for_writing):
            with pytest.raises(errors.SchemaMismatch, match=found or "no regmeta schema") as caught:
                opened(settings).__enter__()
            assert caught.value.exit_code == 6


def test_database_without_a_schema_is_refused(empty_database_url: str, registry_home: Path) -> None:
    settings = settings_of(registry_home, empty_database_url)
    for opened in (open_for_reading, open_for_writing):
        with pytest.raises(errors.SchemaMismatch, match="regmeta init") as caught:
            opened(settings).__enter__()
        assert caught.value.exit_code == 6


def test_file_that_is_not_there_is_refused_and_not_made(registry_home: Path) -> None:
    settings = settings_of(registry_home, f"sqlite:///{registry_home}/none.db")
    for opened in (open_for_reading, open_for_writing):
        with pytest.raises(errors.SchemaMismatch, match=r"none\.db") as caught:
            opened(settings).__enter__()
        assert caught.value.exit_code == 6
    assert not (registry_home / "none.db").exists()


def test_unknown_revision_is_refused(database: Database) -> None:
    with pytest.raises(errors.UsageError, match="nowhere"):
        schema.upgrade(database, FOLDER, "nowhere")
    with pytest.raises(errors.UsageError, match="-1"):
        schema.downgrade(database, FOLDER, "-1")
    change(database, "UPDATE alembic_version SET version_num = 'nowhere'")
    with pytest.raises(errors.SchemaMismatch):
        schema.upgrade(database, FOLDER)


# --- what goes wrong ---------------------------------------------------------------------------


def test_two_migrators_at_once_both_succeed(empty_database_url: str) -> None:
    command = [sys.executable, "-m", "tests.support.migrate", empty_database_url, FOLDER, "head"]
    processes = [
        subprocess.Popen(
            command,
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    for process in processes:
        _, complaints = process.communicate(timeout=60)
        assert process.returncode == 0, complaints
    with closing(Database(empty_database_url)) as database:
        database.check_schema()
        fill(database)


def interrupted(folder: Path, revision: str, body: str, *, first: bool = False) -> str:
    """Copy the revisions, with one more that goes wrong in the middle."""
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    if first:
        [path] = (folder / "versions").glob("0001_*.py")
        text = path.read_text()
        path.write_text(text.replace("\n\ndef downgrade", f"\n    {body}\n\n\ndef downgrade", 1))
    else:
        (folder / "versions" / f"{revision}_more.py").write_text(
            "import sqlalchemy as sa\nfrom alembic import op\n"
            f"revision = {revision!r}\ndown_revision = {SCHEMA_HEAD!r}\n"
            "def upgrade():\n"
            "    op.create_table('more', sa.Column('id', sa.Integer()))\n"
            "    op.execute(\"UPDATE repositories SET state = 'deleted'\")\n"
            "    op.execute('DROP INDEX uq_tags_live')\n"
            f"    {body}\n"
            "def downgrade():\n"
            "    op.execute('DROP INDEX ix_manifests_digest')\n"
            "    raise InterruptedError('in the middle')\n"
        )
    return str(folder)


def test_interrupted_revision_leaves_the_old_schema_and_its_rows(database: Database, tmp_path: Path) -> None:
    fill(database)
    before = ddl.schema_of(database)
    folder = interrupted(tmp_path / "migrations", "9001", "raise InterruptedError('in the middle')")
    with pytest.raises(InterruptedError):
        schema.upgrade(database, folder)
    assert schema.current(database) == SCHEMA_HEAD
    assert ddl.differences(before, ddl.schema_of(database)) == []
    assert scalar(database, "SELECT count(*) FROM repositories WHERE state = 'active'") == 2
    database.check_schema()


def test_interrupted_downgrade_leaves_the_new_schema(database: Database, tmp_path: Path) -> None:
    folder = interrupted(tmp_path / "migrations", "9001", "pass")
    schema.upgrade(database, folder)
    before = ddl.schema_of(database)
    with pytest.raises(InterruptedError):
        schema.downgrade(database, folder, SCHEMA_HEAD)
    assert schema.current(database) == "9001"
    assert ddl.differences(before, ddl.schema_of(database)) == []


def test_interrupted_first_revision_leaves_no_table(empty: Database, tmp_path: Path) -> None:
    folder = interrupted(tmp_path / "migrations", "", "raise InterruptedError('in the middle')", first=True)
    with pytest.raises(InterruptedError):
        schema.upgrade(empty, folder)
    assert tables(empty) <= {ddl.VERSION_TABLE}
    assert schema.current(empty) is None
    schema.upgrade(empty, FOLDER)
    empty.check_schema()


@pytest.mark.parametrize("backend", ["sqlite"])
def test_revision_that_breaks_foreign_keys_is_undone(database: Database, tmp_path: Path) -> None:
    """They are off while a revision runs, so they are checked before it is committed."""
    fill(database)
    folder = interrupted(tmp_path / "migrations", "9001", "op.execute('DELETE FROM blobs')")
    with pytest.raises(RuntimeError, match="foreign keys"):
        schema.upgrade(database, folder)
    assert schema.current(database) == SCHEMA_HEAD
    assert scalar(database, "SELECT count(*) FROM blobs") == 4


def test_rows_of_before_get_what_search_and_bases_need(database: Database) -> None:
    """0005 derives columns and texts for the rows that there are, as an ingest does for new ones."""
    fill(database)
    derived = (
        "SELECT name, leaf FROM repositories ORDER BY id",
        "SELECT id, chain_digest FROM manifests ORDER BY id",
        "SELECT manifest_id, origin, name, text_key FROM labels ORDER BY manifest_id, origin, name",
        "SELECT id, folded FROM label_texts ORDER BY id",
        "SELECT name, folded FROM tag_names ORDER BY name",
    )
    before = [rows(database, statement) for statement in derived]
    assert all(before)
    schema.downgrade(database, FOLDER, "0004")
    schema.upgrade(database, FOLDER)
    assert [rows(database, statement) for statement in derived] == before
    found = "name GLOB '*tea*'" if database.is_sqlite else "name LIKE '%tea%'"
    table = "repositories_fts" if database.is_sqlite else "repositories"
    assert rows(database, f"SELECT name FROM {table} WHERE {found}") == [("team/app",)]
