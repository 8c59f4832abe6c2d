"""INSERTs that know what to do where a row with their key stands already, for both databases."""

from __future__ import annotations

from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from regmeta.models import Base


def inserting(connection: Connection, model: type[Base]) -> Any:
    """Return an INSERT that takes ``on_conflict_do_update`` and ``on_conflict_do_nothing``."""
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    return dialect.insert(model)


def insert_ignoring(connection: Connection, model: type[Base], *key: str) -> Any:
    """Return an INSERT that does nothing where a row with the same *key* stands already."""
    return inserting(connection, model).on_conflict_do_nothing(index_elements=key)
