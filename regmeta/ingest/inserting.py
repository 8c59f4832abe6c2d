"""INSERTs that know what to do where a row with their key stands already, for both databases.

Many rows go to PostgreSQL as one array for each column (``INSERT ... SELECT ... FROM unnest(...)``): the text
is the same however many there are, so that it is compiled once and the server keeps its plan. They are
inserted in the order of the arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from regmeta.db import Asked
from regmeta.models import Base


@dataclass(frozen=True, slots=True)
class Conflict:
    """What becomes of a row whose *key* stands already: nothing, or some columns are overwritten.

    *taken* get the new row's values, *fixed* get those that are said here.
    """

    key: tuple[str, ...]
    taken: tuple[str, ...] = ()
    fixed: tuple[tuple[str, Any], ...] = ()


def inserting(connection: Connection, model: type[Base]) -> Any:
    """Return an INSERT that takes ``on_conflict_do_update`` and ``on_conflict_do_nothing``."""
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    return dialect.insert(model)


def insert_ignoring(connection: Connection, model: type[Base], *key: str) -> Any:
    """Return an INSERT that does nothing where a row with the same *key* stands already."""
    return inserting(connection, model).on_conflict_do_nothing(index_elements=key)


def many(
    connection: Connection,
    model: type[Base],
    rows: Sequence[Mapping[str, Any]],
    *,
    conflict: Conflict | None = None,
    returning: tuple[str, ...] = (),
) -> Asked:
    """Return the statement that inserts *rows*, at least one, all with the same columns; and its parameters.

    It can be among those that are sent together (:func:`regmeta.db.together`).
    """
    columns = tuple(rows[0])
    if connection.dialect.name == "sqlite":
        return _of_rows(model, conflict, returning), rows
    statement = _of_arrays(model, columns, conflict, returning)
    return statement, {name: [row[name] for row in rows] for name in columns}


@lru_cache(maxsize=64)
def _of_rows(model: type[Base], conflict: Conflict | None, returning: tuple[str, ...]) -> Any:
    return _ended(sqlite.insert(model), model, conflict, returning)


@lru_cache(maxsize=64)
def _of_arrays(
    model: type[Base], columns: tuple[str, ...], conflict: Conflict | None, returning: tuple[str, ...]
) -> Any:
    types = {name: _element(model.__table__.c[name].type) for name in columns}
    arrays = [sa.bindparam(name, type_=postgresql.ARRAY(types[name])) for name in columns]
    source = sa.func.unnest(*arrays).table_valued(*columns, name="given").render_derived()
    insert = postgresql.insert(model).from_select(
        list(columns), sa.select(*(source.c[name] for name in columns))
    )
    return _ended(insert, model, conflict, returning)


def _element(of: Any) -> Any:
    # An array is of a type, not of a type with a collation.
    found = of.dialect_impl(postgresql.dialect())  # type: ignore[no-untyped-call]
    return sa.Text() if isinstance(found, sa.String) else of


def upserted(insert: Any, conflict: Conflict) -> Any:
    """Return an INSERT of :func:`inserting` that does what *conflict* says."""
    values = {name: insert.excluded[name] for name in conflict.taken} | dict(conflict.fixed)
    key = list(conflict.key)
    if not values:
        return insert.on_conflict_do_nothing(index_elements=key)
    return insert.on_conflict_do_update(index_elements=key, set_=values)


def _ended(insert: Any, model: type[Base], conflict: Conflict | None, returning: tuple[str, ...]) -> Any:
    if conflict is not None:
        insert = upserted(insert, conflict)
    return insert.returning(*(getattr(model, name) for name in returning)) if returning else insert
