"""The same questions without SQLAlchemy: ``sqlite3`` or psycopg, statements written by hand."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

Rows = list[tuple[Any, ...]]


class Raw:
    """One connection of the driver, in autocommit."""

    def __init__(self, url: str) -> None:
        parsed = sa.make_url(url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        self._ask: Callable[[str, tuple[Any, ...]], Any]
        if self.is_sqlite:
            database = sqlite3.connect(f"file:{parsed.database}?mode=ro", uri=True, isolation_level=None)
            self._ask, self.close = database.execute, database.close
            return
        import psycopg

        connection = psycopg.connect(
            parsed.set(drivername="postgresql").render_as_string(hide_password=False), autocommit=True
        )
        self.close = connection.close
        self._ask = lambda statement, values: connection.execute(statement.replace("?", "%s"), values)

    def rows(self, statement: str, *values: Any) -> Rows:
        """Return the rows of a statement; ``?`` stands for a value."""
        found: Rows = self._ask(statement, values).fetchall()
        return found

    def value(self, statement: str, *values: Any) -> Any:
        """Return the one value of a statement."""
        return self.rows(statement, *values)[0][0]
