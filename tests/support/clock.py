"""Letting time pass: every time that a database keeps is moved back."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa

from regmeta.db import Database
from regmeta.models import Base
from regmeta.models.base import UtcTime

_MICROSECOND = timedelta(microseconds=1)
_OF_BYTES = "image_created_at"  # what an image says of itself does not age


def let_pass(database: Database, length: timedelta) -> None:
    """Make everything that a database says of times as much older. For it, *length* has gone by."""
    by = length // _MICROSECOND
    with database.transaction("test") as connection:
        for table in Base.metadata.sorted_tables:
            moved = [
                column.name
                for column in table.columns
                if isinstance(column.type, UtcTime) and column.name != _OF_BYTES
            ]
            if moved:
                sets = ", ".join(f"{name} = {name} - {by}" for name in moved)
                connection.execute(sa.text(f"UPDATE {table.name} SET {sets}"))
