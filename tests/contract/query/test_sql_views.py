"""The views say what the tables hold, under names that stay; and the shell over them only reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from regmeta.app import Writing
from regmeta.cli.render import plain
from regmeta.db import Database
from regmeta.errors import UsageError
from regmeta.maintain.delete.repository import delete_repository
from regmeta.models import VIEWS
from regmeta.query import sql
from tests.builders import AMD64, ARM64, LayoutBuilder, digest_of
from tests.support import seed
from tests.support.registry import commit_one

COLUMNS = {
    "v_repositories": ["repository", "created_at", "updated_at"],
    "v_tags": [
        "repository", "tag", "digest", "kind", "media_type", "artifact_type", "os", "architecture", "variant",
        "size_bytes", "created_at", "pushed_at", "tagged_at", "tagged_by",
    ],
    "v_tag_history": [
        "repository", "tag", "digest", "started_at", "started_by", "ended_at", "ended_by",
    ],
    "v_images": [
        "repository", "digest", "kind", "media_type", "artifact_type", "config_media_type", "subject", "os",
        "architecture", "variant", "layers", "manifest_bytes", "size_bytes", "created_at", "pushed_at",
        "pushed_by",
    ],
    "v_layers": [
        "repository", "image", "position", "role", "digest", "size_bytes", "chain_digest",
    ],
    "v_index_members": [
        "repository", "index_digest", "position", "digest", "media_type", "os", "architecture", "variant",
        "absence",
    ],
    "v_labels": ["repository", "digest", "origin", "name", "value"],
    "v_blobs": ["digest", "size_bytes", "state", "created_at", "repositories"],
    "v_usage": [
        "repository", "tags", "manifests", "blobs", "logical_bytes", "unique_bytes", "exclusive_bytes",
    ],
    "v_usage_samples": [
        "repository", "day", "sampled_at", "tags", "manifests", "blobs", "logical_bytes", "unique_bytes",
        "exclusive_bytes",
    ],
    "v_pulls": ["repository", "digest", "tag", "day", "pulls", "last_pulled_at"],
    "v_favorites": ["user_name", "kind", "repository", "created_at"],
    "v_events": [
        "id", "occurred_at", "kind", "repository", "tag", "digest", "previous_digest", "actor",
    ],
}  # fmt: skip
"""A promise: a column may be added behind these, and none of them may go."""


def ask(database: Database, statement: str) -> list[tuple[Any, ...]]:
    return list(sql.run(database, statement).rows)


def test_no_column_of_a_view_goes_or_moves(database: Database) -> None:
    found: dict[str, list[str]] = {}
    for column in sql.views(database):
        found.setdefault(column.view, []).append(column.column)
    assert set(found) == set(VIEWS)
    for view, columns in COLUMNS.items():
        assert found[view][: len(columns)] == columns, view


@pytest.mark.parametrize("view", VIEWS)
def test_each_view_shows_the_rows_of_the_tables(database: Database, view: str) -> None:
    with database.transaction("test") as connection:
        seed.seed(connection)
    answer = sql.run(database, f"SELECT * FROM {view}")
    assert answer.rows
    for name, values in zip(answer.columns, zip(*answer.rows, strict=True), strict=True):
        if name.endswith(("digest", "subject")):
            assert all(value is None or ":" in str(value) for value in values), (name, values)
        if name.endswith("_at") or name == "day":
            assert all(value is None or str(value).startswith("2024-05-06") for value in values), values


def test_views_tell_of_an_image_what_is_true(writing: Writing, builder: LayoutBuilder, layout: Path) -> None:
    layer, shared = builder.layer(b"own"), builder.layer(b"shared")
    amd64 = builder.image([shared, layer], annotations={"team": "a"}, platform=AMD64)
    arm64 = builder.image([shared], platform=ARM64)
    index = builder.index([amd64, arm64])
    commit_one(writing, builder, index, layout, tag="v1")
    commit_one(writing, builder, arm64, layout, repository="other", tag="v2")

    database = writing.database
    assert ask(database, "SELECT repository, tag, digest, kind FROM v_tags ORDER BY tag") == [
        ("app", "v1", str(digest_of(index)), "index"),
        ("other", "v2", str(digest_of(arm64)), "image"),
    ]
    layers = ask(
        database,
        "SELECT digest, size_bytes FROM v_layers WHERE role = 'layer'"
        f" AND image = '{digest_of(amd64)}' ORDER BY position",
    )
    assert layers == [(shared["digest"], shared["size"]), (layer["digest"], layer["size"])]
    members = ask(database, "SELECT digest, architecture FROM v_index_members ORDER BY position")
    assert members == [(str(digest_of(amd64)), "amd64"), (str(digest_of(arm64)), "arm64")]
    assert ask(database, "SELECT name, value FROM v_labels WHERE origin = 'annotation'") == [("team", "a")]
    usage = {
        row[0]: row[1:]
        for row in ask(database, "SELECT repository, unique_bytes, exclusive_bytes FROM v_usage")
    }
    in_other = arm64["size"] + sum(
        row[0]
        for row in ask(
            database,
            f"SELECT size_bytes FROM v_layers WHERE image = '{digest_of(arm64)}' AND repository = 'other'",
        )
    )
    assert usage["other"] == (in_other, 0)
    unique, exclusive = usage["app"]
    assert unique - exclusive == in_other

    delete_repository(writing.writer, "other")
    assert ask(database, "SELECT DISTINCT repository FROM v_tags") == [("app",)]
    assert ask(database, "SELECT repository FROM v_repositories") == [("app",)]


REFUSED = [
    "DELETE FROM tags",
    "UPDATE repositories SET name = 'x'",
    "DROP VIEW v_tags",
    "CREATE TABLE more (id integer)",
    "INSERT INTO tag_names (name, folded) VALUES ('x', 'x')",
    "SELECT 1; DELETE FROM tags",
    "SELECT 1; COMMIT; DELETE FROM tags",
    "COMMIT",
    "SELECT * FROM nowhere",
    "SELECT",
    "SELECT 1 / 0 FROM",
    "",
    " ; ",
]
SQLITE_REFUSED = [
    "ATTACH 'made.db' AS made",
    "PRAGMA journal_mode = DELETE",
    "PRAGMA writable_schema = 1",
    "VACUUM",
]
POSTGRESQL_REFUSED = [
    "WITH gone AS (DELETE FROM tags RETURNING id) SELECT * FROM gone",
    "SELECT nextval('tags_id_seq')",
    "SET TRANSACTION READ WRITE",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
    "BEGIN",
]


@pytest.mark.parametrize("statement", REFUSED)
def test_what_does_more_than_read_is_refused(database: Database, statement: str) -> None:
    with database.transaction("test") as connection:
        seed.seed(connection)
    before = ask(database, "SELECT count(*) FROM tags")
    with pytest.raises(UsageError):
        sql.run(database, statement)
    assert ask(database, "SELECT count(*) FROM tags") == before
    with database.transaction("test") as connection:  # and the connection still writes
        connection.exec_driver_sql("UPDATE repositories SET updated_at = updated_at")


@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize("statement", SQLITE_REFUSED)
def test_what_sqlite_could_do_beside_is_refused(
    database: Database, statement: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError):
        sql.run(database, statement)
    assert not (tmp_path / "made.db").exists()


@pytest.mark.parametrize("backend", ["postgresql"])
@pytest.mark.parametrize("statement", POSTGRESQL_REFUSED)
def test_what_postgresql_could_do_beside_is_refused(database: Database, statement: str) -> None:
    with pytest.raises(UsageError):
        sql.run(database, statement)
    with pytest.raises(UsageError):
        sql.run(database, "DELETE FROM events")


def test_rows_behind_the_limit_are_said_to_be_there(database: Database) -> None:
    with database.transaction("test") as connection:
        seed.seed(connection)
    assert not sql.run(database, "SELECT name FROM repositories", limit=3).is_cut
    answer = sql.run(database, "SELECT name FROM repositories ORDER BY name", limit=2)
    assert (len(answer.rows), answer.is_cut) == (2, True)


def test_statement_that_takes_too_long_is_given_up(database: Database) -> None:
    endless = (
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 1000000000)"
        " SELECT count(*) FROM n"
    )
    with pytest.raises(UsageError, match=r"longer than 0\.2 s"):
        sql.run(database, endless, timeout_s=0.2)
    assert ask(database, "SELECT 1") == [(1,)]


def test_values_of_every_type_come_as_json_can_have_them(database: Database) -> None:
    with database.transaction("test") as connection:
        seed.seed(connection)
    for view in VIEWS:
        json.dumps(plain(sql.run(database, f"SELECT * FROM {view}").rows))
    assert ask(database, "SELECT sum(size_bytes) FROM v_blobs") == [(21,)]
    infinite = "SELECT 9e999" if database.is_sqlite else "SELECT float8 'infinity'"
    assert ask(database, infinite) == [("inf",)]


@pytest.mark.parametrize("backend", ["postgresql"])
@pytest.mark.parametrize(
    ("statement", "value"),
    [
        ("SELECT 1.5::numeric", 1.5),
        ("SELECT 'NaN'::numeric", "nan"),
        ("SELECT date '2024-05-06'", "2024-05-06"),
        ("SELECT interval '90 minutes'", "1:30:00"),
        ("SELECT ARRAY[1.0, 2]", [1, 2]),
        ("SHOW transaction_read_only", "on"),
        ("VALUES (1)", 1),
    ],
)
def test_types_of_postgresql_come_as_json_can_have_them(
    database: Database, statement: str, value: object
) -> None:
    assert ask(database, statement) == [(value,)]


@pytest.mark.parametrize("backend", ["postgresql"])
@pytest.mark.parametrize(
    "statement",
    [
        "SELECT $1",
        "VACUUM",
        "DISCARD ALL",
        "COPY tags TO STDOUT",
        "SELECT set_config('transaction_read_only', 'off', false)",
        "EXPLAIN ANALYZE DELETE FROM tags",
        "SELECT 1; COMMIT; DELETE FROM tags",
    ],
)
def test_what_postgresql_refuses_is_an_error_of_the_statement(database: Database, statement: str) -> None:
    with pytest.raises(UsageError):
        sql.run(database, statement)
    assert ask(database, "SELECT 1") == [(1,)]


@pytest.mark.parametrize(
    "options", [{"limit": 0}, {"limit": -5}, {"limit": 2**63}, {"timeout_s": 0}, {"timeout_s": float("nan")}]
)
def test_limits_that_are_none_are_refused(database: Database, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        sql.run(database, "SELECT 1", **options)


def test_endless_time_is_a_day(database: Database) -> None:
    assert sql.run(database, "SELECT 1", timeout_s=float("inf")).rows == ((1,),)


def test_statement_that_is_not_utf8_is_refused(database: Database) -> None:
    with pytest.raises(UsageError, match="not UTF-8"):
        sql.run(database, "SELECT '\udcff'")


@pytest.mark.parametrize("backend", ["sqlite"])
def test_value_that_would_fill_the_memory_is_refused(database: Database) -> None:
    with pytest.raises(UsageError):
        sql.run(database, "SELECT hex(zeroblob(300000000))")
