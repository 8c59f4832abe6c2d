"""The statements that a query sends, how the database runs them, and how many pages that reads."""

from __future__ import annotations

import ctypes
import json
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import event

from regmeta.db import Database

LARGE: Final = frozenset(
    {
        "repositories",
        "blobs",
        "repository_blobs",
        "manifests",
        "manifest_blobs",
        "index_manifests",
        "tags",
        "tag_names",
        "labels",
        "label_texts",
        "events",
        "pull_stats",
        "favorites",
        "usage_samples",
    }
)
"""Tables that grow with a registry."""
_FTS: Final = frozenset({"repositories_fts", "tag_names_fts", "label_texts_fts"})
_HITS, _MISSES = 7, 8  # sqlite3.h: SQLITE_DBSTATUS_CACHE_HIT and _MISS
_INTERIOR: Final = (2, 5)  # types of pages that have others below them
_SCAN: Final = re.compile(r"(SCAN|BLOOM FILTER ON) (\w+)(.*)")
_SOURCE: Final = re.compile(r"\b(?:FROM|JOIN|,)\s+(\w+)(?:\s+AS\s+(\w+))?")

Sent = tuple[str, Any]
"""A statement and its parameters."""


@contextmanager
def collected(database: Database) -> Iterator[list[Sent]]:
    """Collect the SELECTs that are sent while the block runs."""
    sent: list[Sent] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.lstrip().upper().startswith(("SELECT", "WITH")):
            sent.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(database.engine, "before_cursor_execute", note)


def sent_by(database: Database, run: Callable[[], object]) -> list[Sent]:
    """Run something and return the SELECTs that it sent."""
    with collected(database) as sent:
        run()
    return sent


def full_scans(database: Database, sent: Iterable[Sent], *, if_it_must: bool = False) -> list[str]:
    """Return where the plans of statements read a large table, or a whole index of it, from end to end.

    An index that is read in its order until a LIMIT is reached is none on SQLite; nor is it on PostgreSQL,
    where only a sequential scan counts. A Bloom filter is one: SQLite reads the whole table to make it.

    PostgreSQL scans a table of few rows since that is cheap; with *if_it_must* only where no index will do.
    """
    found = []
    for statement, parameters in sent:
        if database.is_sqlite:
            lines = _on_sqlite(database, statement, parameters)
        else:
            lines = _on_postgresql(database, statement, parameters, if_it_must)
        found += [f"{line}  in  {' '.join(statement.split())[:300]}" for line in lines]
    return found


def _on_sqlite(database: Database, statement: str, parameters: Any) -> list[str]:
    tables = {alias or table: table for table, alias in _SOURCE.findall(statement)}
    with database.read() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
    found = []
    for row in plan:
        line = str(row[-1])
        scan = _SCAN.match(line)
        if scan is None:
            continue
        verb, table, how = scan[1], tables.get(scan[2], scan[2]), scan[3]
        if table in _FTS:
            is_whole = how.rstrip().endswith("VIRTUAL TABLE INDEX 0:")
        else:
            is_ordered = " USING " in how and "LIMIT" in statement
            is_whole = table in LARGE and (verb != "SCAN" or not is_ordered)
        if is_whole:
            found.append(line)
    return found


def _on_postgresql(database: Database, statement: str, parameters: Any, if_it_must: bool) -> list[str]:
    return [
        f"Seq Scan on {node['Relation Name']} of about {node['Plan Rows']} rows"
        for node in _nodes(_explained(database, statement, parameters, "COSTS", if_it_must))
        if node["Node Type"] == "Seq Scan" and node["Relation Name"] in LARGE
    ]


def _explained(
    database: Database, statement: str, parameters: Any, how: str, without_scans: bool = False
) -> dict[str, Any]:
    with database.read() as connection:
        if without_scans:
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        found = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON, {how}) {statement}", parameters).scalar()
    plan: dict[str, Any] = (found if isinstance(found, list) else json.loads(str(found)))[0]["Plan"]
    return plan


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


# --- pages ------------------------------------------------------------------------------------


def cache_accesses(connection: sqlite3.Connection) -> int:
    """Return how many pages a connection has asked its page cache for since it was opened."""
    # The driver does not show these counters. In a connection of CPython, the library's own handle is the
    # first field behind the object's head.
    import _sqlite3

    handle = ctypes.c_void_p.from_address(id(connection) + object.__basicsize__)
    library = ctypes.CDLL(_sqlite3.__file__)
    total = 0
    for what in (_HITS, _MISSES):
        now, peak = ctypes.c_int(), ctypes.c_int()
        if library.sqlite3_db_status(handle, what, ctypes.byref(now), ctypes.byref(peak), 0):
            raise SystemExit("SQLite does not tell what its page cache did")
        total += now.value
    return total


def pages_read(database: Database, run: Callable[[], object]) -> int:
    """Run something and return how many pages it read, cached or not."""
    if database.is_sqlite:
        # The pool gives back the connection that it was given last.
        with database.read() as connection:
            driver: Any = connection.connection.dbapi_connection
        before = cache_accesses(driver)
        run()
        return cache_accesses(driver) - before
    total = 0
    for statement, parameters in sent_by(database, run):
        plan = _explained(database, statement, parameters, "ANALYZE, BUFFERS")
        total += int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])
    return total


class Levels:
    """How deep the B-trees of an SQLite file are."""

    def __init__(self, database: Database) -> None:
        self._database = database
        with database.read() as connection:
            self._page_bytes = int(connection.exec_driver_sql("PRAGMA page_size").scalar_one())
        self._known: dict[int, int] = {}

    def of(self, sent: Iterable[Sent]) -> float:
        """Return the mean depth of the B-trees that statements open."""
        depths = []
        with self._database.read() as connection:
            for statement, parameters in sent:
                for row in connection.exec_driver_sql(f"EXPLAIN {statement}", parameters):
                    if row[1] == "OpenRead":
                        depths.append(self._depth(int(row[3])))
        return sum(depths) / len(depths) if depths else 1.0

    def _depth(self, root: int) -> int:
        if root not in self._known:
            with Path(self._database.url.database or "").open("rb") as file:
                self._known[root] = self._below(file, root)
        return self._known[root]

    def _below(self, file: Any, page: int) -> int:
        # https://www.sqlite.org/fileformat2.html, "B-tree Pages"; the right-most child is as deep as all.
        file.seek((page - 1) * self._page_bytes + (100 if page == 1 else 0))
        head = file.read(12)
        return 1 + (self._below(file, int.from_bytes(head[8:12], "big")) if head[0] in _INTERIOR else 0)
