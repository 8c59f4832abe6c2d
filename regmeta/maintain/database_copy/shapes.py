"""What the columns of each table are on the wire, and in which order its rows come."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from regmeta.models import Base, Event, StoreIdentity

_DIALECT: Final = postgresql.dialect()  # type: ignore[no-untyped-call]
# What a value is sent as: JSON is its text, and a UUID its 16 bytes; on SQLite that is 32 hex digits.
_WIRE: Final = {
    "BIGINT": "int8",
    "INTEGER": "int4",
    "TEXT": "text",
    "VARCHAR": "text",
    "BYTEA": "bytea",
    "JSON": "text",
    "UUID": "bytea",
}


@dataclass(frozen=True, slots=True)
class Shape:
    """A table as rows of plain values: integers, text, bytes, None."""

    name: str
    columns: tuple[str, ...]
    wire: tuple[str, ...]
    uuids: tuple[int, ...]  # positions
    order: tuple[str, ...]  # of its primary key; "+" before what is text
    forgotten: tuple[str, ...]  # columns that mean nothing in another database, and are NULL there
    is_numbered: bool  # its ids are never given out twice

    def select(self, dialect: str, *, as_it_goes: bool) -> str:
        """Return the statement that reads all rows: as they are, or *as_it_goes* to another database."""
        null = "NULL::bigint" if dialect == "postgresql" else "NULL"
        columns = [null if as_it_goes and each in self.forgotten else each for each in self.columns]
        by_bytes = ' COLLATE "C"' if dialect == "postgresql" else ""
        order = [f"{key[1:]}{by_bytes}" if key.startswith("+") else key for key in self.order]
        return f"SELECT {', '.join(columns)} FROM {self.name} ORDER BY {', '.join(order)}"  # noqa: S608


@lru_cache
def shapes() -> tuple[Shape, ...]:
    """Return all tables but the identity, each behind those that it refers to."""
    tables = [table for table in Base.metadata.sorted_tables if table is not StoreIdentity.__table__]
    return tuple(map(_shape, tables))


def _shape(table: sa.Table) -> Shape:
    types = [column.type.compile(_DIALECT).partition(" ")[0] for column in table.columns]
    columns = tuple(column.name for column in table.columns)
    wire = tuple(_WIRE[each] for each in types)
    keys = [column.name for column in table.primary_key.columns]
    is_text = {column for column, each in zip(columns, wire, strict=True) if each == "text"}
    return Shape(
        table.name,
        columns,
        wire,
        tuple(number for number, each in enumerate(types) if each == "UUID"),
        tuple(f"+{key}" if key in is_text else key for key in keys),
        # Numbers of another server's transactions: events without one are old ones (query.feed).
        ("transaction_id",) if table is Event.__table__ else (),
        bool(table.dialect_options["sqlite"]["autoincrement"]),
    )
