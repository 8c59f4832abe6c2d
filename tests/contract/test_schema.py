"""The migrated schema is that of the models, by a comparison that notices what Alembic does not."""

from __future__ import annotations

import pytest

from regmeta.db import Database
from regmeta.maintain import schema
from regmeta.models import Base
from tests.support import ddl
from tests.support.registry import change


def create_all(database: Database) -> ddl.Schema:
    """Make the schema that the models describe."""
    with database.transaction("test") as connection:
        Base.metadata.create_all(connection)
    return ddl.schema_of(database)


def test_migrated_schema_is_the_models_schema(database: Database, empty: Database) -> None:
    found = ddl.differences(ddl.schema_of(database), create_all(empty))
    assert found == [], "- migrations, + models:\n" + "\n".join(found)
    assert schema.differences(database) == []


def test_comparison_sees_columns_constraints_and_indexes(database: Database) -> None:
    """Words that must be in it: what is not compared cannot differ."""
    text = "\n".join(line for lines in ddl.schema_of(database).values() for line in lines)
    for words in ("uq_tags_live", "ended_at IS NULL", "ck_tags_interval", "ended_at > started_at"):
        assert words in text
    if database.is_sqlite:
        words_of = ["AUTOINCREMENT", "after: WITHOUT ROWID"]
    else:
        words_of = ["COLLATE C", "DEFAULT nextval", "DEFAULT 'active'::text", "REFERENCES blobs(id)"]
    for words in words_of:
        assert words in text, words


CHANGES = {
    "predicate of an index": (
        "DROP INDEX uq_tags_live",
        "CREATE UNIQUE INDEX uq_tags_live ON tags (repository_id, name) WHERE ended_at IS NOT NULL",
    ),
    "index that is not partial": (
        "DROP INDEX ix_tags_ended",
        "CREATE INDEX ix_tags_ended ON tags (ended_at)",
    ),
    "index that is not unique": (
        "DROP INDEX uq_tags_live",
        "CREATE INDEX uq_tags_live ON tags (repository_id, name) WHERE ended_at IS NULL",
    ),
    "missing index": ("DROP INDEX ix_manifests_digest",),
    "added column": ("ALTER TABLE tags ADD COLUMN more TEXT",),
}
POSTGRESQL_CHANGES = {
    "check": (
        "ALTER TABLE tags DROP CONSTRAINT ck_tags_interval",
        "ALTER TABLE tags ADD CONSTRAINT ck_tags_interval CHECK (ended_at >= started_at)",
    ),
    "missing check": ("ALTER TABLE tags DROP CONSTRAINT ck_tags_live",),
    "collation": (
        "DROP VIEW v_tags, v_tag_history",
        'ALTER TABLE tags ALTER COLUMN name TYPE varchar COLLATE "POSIX"',
    ),
    "default": ("ALTER TABLE blobs ALTER COLUMN state DROP DEFAULT",),
    "null": ("ALTER TABLE blobs ALTER COLUMN key DROP NOT NULL",),
    "type": (
        "DROP VIEW v_blobs, v_layers, v_usage",
        "ALTER TABLE blobs ALTER COLUMN size_bytes TYPE integer",
    ),
    "foreign key": (
        "ALTER TABLE tags DROP CONSTRAINT fk_tags_manifest_id",
        "ALTER TABLE tags ADD CONSTRAINT fk_tags_manifest_id FOREIGN KEY (manifest_id)"
        " REFERENCES manifests (id) ON DELETE CASCADE",
    ),
}
SQLITE_REWRITES = {
    "check": ("ended_at > started_at", "ended_at >= started_at"),
    "rowid": (" WITHOUT ROWID", ""),
    "reused ids": ("PRIMARY KEY AUTOINCREMENT", "PRIMARY KEY"),
    "default": ("DEFAULT 'active' ", ""),
    "null": ('"key" VARCHAR NOT NULL', '"key" VARCHAR'),
    "foreign key": ("REFERENCES manifests (id)", "REFERENCES manifests (id) ON DELETE CASCADE"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_comparison_notices_another(database: Database, name: str) -> None:
    before = ddl.schema_of(database)
    for statement in CHANGES[name]:
        change(database, statement)
    assert ddl.differences(before, ddl.schema_of(database)) != []


@pytest.mark.parametrize("backend", ["postgresql"])
@pytest.mark.parametrize("name", POSTGRESQL_CHANGES)
def test_comparison_notices_another_on_postgresql(database: Database, name: str) -> None:
    before = ddl.schema_of(database)
    for statement in POSTGRESQL_CHANGES[name]:
        change(database, statement)
    assert ddl.differences(before, ddl.schema_of(database)) != []


@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize("name", SQLITE_REWRITES)
def test_comparison_notices_another_on_sqlite(database: Database, empty: Database, name: str) -> None:
    old, new = SQLITE_REWRITES[name]
    with database.read() as connection:
        found = connection.exec_driver_sql(
            "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid"
        )
        statements = [sql for name, sql in found if "sqlite_sequence" not in sql and not ddl.is_shadow(name)]
    assert any(old in sql for sql in statements)
    for sql in statements:
        change(empty, sql.replace(old, new))
    assert ddl.differences(ddl.schema_of(database), ddl.schema_of(empty)) != []
