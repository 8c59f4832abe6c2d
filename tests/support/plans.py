"""How a database means to find rows: the plans of the statements that a block sends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import event

from regmeta.db import Database


def plans(database: Database, run: Callable[[], object]) -> list[str]:
    """Run something and return the plan of each statement that it sent.

    The tables of tests are small, so PostgreSQL is told to scan a table only if no index will do.
    """
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.lstrip().upper().startswith(("SELECT", "WITH")):
            sent.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        run()
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
    explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
    found = []
    with database.read() as connection:
        if not database.is_sqlite:
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        for statement, parameters in sent:
            rows = connection.exec_driver_sql(explain + statement, parameters)
            found.append("\n".join(str(row[-1]) for row in rows))
    return found


def scans(plan: str, *tables: str) -> list[str]:
    """Return the lines of a plan that read a whole table or index, of those named or of any."""
    lines = [line.strip() for line in plan.splitlines()]
    whole = [line for line in lines if line.startswith("SCAN ") or "Seq Scan on " in line]
    if not tables:
        return whole
    return [line for line in whole if any(f" {table}" in line for table in tables)]
