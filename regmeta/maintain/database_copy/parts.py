"""What is made when the rows are there: secondary indexes; on PostgreSQL constraints but primary keys too.

Rows come in the order of their primary keys, so these are cheap; a digest in an index costs a random page a
row, and a foreign key a look-up. Made afterwards, each is one sort, and checks every row.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.models import Base
from regmeta.models.search import SEARCHED

_SQLITE: Final = sa.text(
    "SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    " ORDER BY tbl_name, name"
)
_CONSTRAINTS: Final = sa.text(
    "SELECT c.relname, n.conname, pg_get_constraintdef(n.oid), n.contype::text AS kind"
    " FROM pg_constraint n JOIN pg_class c ON c.oid = n.conrelid"
    " WHERE c.oid = ANY(CAST(:tables AS regclass[])) AND n.contype IN ('f', 'u')"
    " ORDER BY n.contype DESC, c.relname, n.conname".replace("::", "\\:\\:")
)
_INDEXES: Final = sa.text(
    "SELECT c.relname, i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid)"
    " FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid"
    " WHERE c.oid = ANY(CAST(:tables AS regclass[]))"
    " AND NOT EXISTS (SELECT 1 FROM pg_constraint n WHERE n.conindid = i.indexrelid)"
    " ORDER BY c.relname, 2".replace("::", "\\:\\:")
)


def take_down(connection: Connection) -> list[tuple[str, str]]:
    """Drop them, and return of each its table and the statement that makes it, in the order to do so."""
    if connection.dialect.name == "sqlite":
        return _take_down_sqlite(connection)
    return _take_down_postgresql(connection)


def make(connection: Connection, statement: str) -> None:
    """Make one of them."""
    connection.execute(sa.text(statement.replace(":", "\\:")))


def _take_down_sqlite(connection: Connection) -> list[tuple[str, str]]:
    found = connection.execute(_SQLITE).all()
    for name, _, _ in found:
        make(connection, f"DROP INDEX {name}")
    trigrams = [
        (f"{table}_fts", f"INSERT INTO {table}_fts ({table}_fts) VALUES ('rebuild')")  # noqa: S608
        for table in SEARCHED
    ]
    return [(str(table), str(statement)) for _, table, statement in found] + trigrams


def _take_down_postgresql(connection: Connection) -> list[tuple[str, str]]:
    of = {"tables": sorted(Base.metadata.tables)}
    constraints = connection.execute(_CONSTRAINTS, of).all()  # unique ones, then foreign keys
    # A unique constraint cannot go while a foreign key leans on it.
    for table, name, _, _ in reversed(constraints):
        make(connection, f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    indexes = connection.execute(_INDEXES, of).all()
    for _, name, _ in indexes:
        make(connection, f"DROP INDEX {name}")
    added = {
        kind: [
            (str(table), f"ALTER TABLE {table} ADD CONSTRAINT {name} {said}")
            for table, name, said, its_kind in constraints
            if its_kind == kind
        ]
        for kind in ("u", "f")
    }
    return added["u"] + [(str(table), str(said)) for table, _, said in indexes] + added["f"]
