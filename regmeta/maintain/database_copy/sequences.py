"""The greatest id that each table has ever given out: one that was used and deleted must not come back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.maintain.database_copy.shapes import shapes

_SQLITE: Final = sa.text("SELECT name, seq FROM sqlite_sequence")
_SEQUENCE: Final = sa.text("SELECT pg_get_serial_sequence(:of, 'id')")
_SET: Final = sa.text("SELECT setval(CAST(:sequence AS regclass), :value)")


def read(connection: Connection) -> dict[str, int]:
    """Return the greatest id of each table that numbers its rows and has had one."""
    tables = [shape.name for shape in shapes() if shape.is_numbered]
    if connection.dialect.name == "sqlite":
        found = {name: int(value) for name, value in connection.execute(_SQLITE)}
        return {name: found[name] for name in tables if found.get(name)}
    result = {}
    for name in tables:
        sequence = connection.execute(_SEQUENCE, {"of": name}).scalar_one()
        value, was_used = connection.execute(
            sa.text(f"SELECT last_value, is_called FROM {sequence}")  # noqa: S608
        ).one()
        if was_used:
            result[name] = int(value)
    return result


def write(connection: Connection, greatest: Mapping[str, int]) -> None:
    """Let the tables go on behind these."""
    for name, value in greatest.items():
        if connection.dialect.name == "sqlite":
            of = {"name": name, "value": value}
            connection.execute(sa.text("DELETE FROM sqlite_sequence WHERE name = :name"), of)
            connection.execute(sa.text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :value)"), of)
        else:
            sequence = connection.execute(_SEQUENCE, {"of": name}).scalar_one()
            connection.execute(_SET, {"sequence": sequence, "value": value})
