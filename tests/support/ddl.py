"""A schema as text that can be compared: what a database says of itself, normalised.

Columns and constraints are sorted sets, since ALTER TABLE puts them in another order; expressions are
compared word for word. ``alembic check`` sees neither CHECKs nor the predicates of partial indexes.
"""

from __future__ import annotations

import re
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.db import Database

Schema = dict[str, list[str]]

VERSION_TABLE = "alembic_version"


def schema_of(database: Database) -> Schema:
    """Return what a database's tables and indexes are, without Alembic's own."""
    with database.read() as connection:
        return _schema_in(connection)


def _schema_in(connection: Connection) -> Schema:
    if connection.dialect.name == "sqlite":
        return _sqlite(connection)
    return _postgresql(connection)


def differences(one: Schema, other: Schema) -> list[str]:
    """Return what two schemas do not share."""
    found = []
    for name in sorted(one.keys() | other.keys()):
        lines, others = set(one.get(name, [])), set(other.get(name, []))
        found += [f"{name}: - {line}" for line in sorted(lines - others)]
        found += [f"{name}: + {line}" for line in sorted(others - lines)]
    return found


def _sqlite(connection: Connection) -> Schema:
    rows = connection.exec_driver_sql(
        "SELECT type, name, tbl_name, sql FROM sqlite_master"
        " WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name"
    )
    result: Schema = {}
    for kind, name, table, sql in rows:
        if table == VERSION_TABLE or is_shadow(name):
            continue
        has_parts = kind == "table" and "VIRTUAL" not in sql
        result[name] = [f"{kind} of {table}", *_parts(sql)] if has_parts else [_flat(sql)]
    return result


def is_shadow(name: str) -> bool:
    """Tell whether a table is one in which SQLite keeps a full-text index."""
    return re.search(r"_fts_(data|idx|docsize|config)$", name) is not None


def _parts(sql: str) -> list[str]:
    """Return the columns and constraints of a CREATE TABLE, and what follows them."""
    start, end = sql.index("("), sql.rindex(")")
    parts, depth, quoted, last = [], 0, False, start + 1
    for position in range(start + 1, end):
        character = sql[position]
        quoted ^= character == "'"
        if not quoted:
            depth += (character == "(") - (character == ")")
            if character == "," and depth == 0:
                parts.append(sql[last:position])
                last = position + 1
    parts.append(sql[last:end])
    return [*sorted(map(_flat, parts)), f"after: {_flat(sql[end + 1 :])}"]


def _flat(sql: str) -> str:
    return re.sub(r"\s+", " ", sql.replace('"', "")).strip()


_COLUMNS = """
SELECT c.relname, a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
    || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END
    || coalesce(' COLLATE ' || CASE WHEN a.attcollation <> t.typcollation THEN l.collname END, '')
    || coalesce(' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid), '')
    || CASE WHEN a.attidentity <> '' THEN ' IDENTITY ' || a.attidentity::text ELSE '' END
    || CASE WHEN a.attgenerated <> '' THEN ' GENERATED' ELSE '' END
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_collation l ON l.oid = a.attcollation
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace
"""
_CONSTRAINTS = """
SELECT c.relname, 'CONSTRAINT ' || n.conname || ' ' || pg_get_constraintdef(n.oid)
FROM pg_constraint n JOIN pg_class c ON c.oid = n.conrelid
WHERE c.relnamespace = 'public'::regnamespace
"""
_INDEXES = """
SELECT c.relname, pg_get_indexdef(i.indexrelid)
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
WHERE c.relnamespace = 'public'::regnamespace
"""
_OTHERS = """
SELECT c.relname, 'kind ' || c.relkind::text FROM pg_class c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind NOT IN ('i', 'I')
UNION ALL
SELECT c.relname, 'TRIGGER ' || pg_get_triggerdef(g.oid)
FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid WHERE NOT g.tgisinternal
"""


def _postgresql(connection: Connection) -> Schema:
    result: Schema = {}
    for query in (_OTHERS, _COLUMNS, _CONSTRAINTS, _INDEXES):
        found: Any = connection.execute(sa.text(query.replace(":", "\\:")))
        for table, line in found:
            if table != VERSION_TABLE:
                result.setdefault(table, []).append(line)
    return {table: sorted(lines) for table, lines in sorted(result.items())}
