"""Rows into a database through the bulk path: no index but those of constraints while rows come in.

SQLite: ``executemany`` on the driver; journal and flushes are off until all rows are there, so a load that
was stopped leaves a file to be thrown away. PostgreSQL: binary ``COPY``, into tables without indexes and
constraints, which are made again afterwards and check every row. Statistics: PostgreSQL makes them by itself
sooner or later, so they are made at once; regmeta makes none in an SQLite file, so there they are to be asked
for.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol, TypedDict
from uuid import UUID

import sqlalchemy as sa

from benchmarks.synthetic.registry import COLUMNS, Batch, Registry, Row
from benchmarks.synthetic.shape import Shape
from regmeta.app import migrations_folder
from regmeta.db import Database
from regmeta.maintain import schema
from regmeta.models.search import SEARCHED

CACHE_KIB: Final = 2_000_000
MAINTENANCE_MIB: Final = 1024

Say = Callable[[str], None]


class Loaded(TypedDict):
    """What a load took: rows in each table, and seconds."""

    rows: dict[str, int]
    rows_s: float
    indexes_s: float


class _Sink(Protocol):
    def write(self, table: str, rows: list[Row]) -> None: ...
    def finish(self) -> None: ...


def load(url: str, shape: Shape, say: Say = lambda text: None, *, with_statistics: bool = True) -> Loaded:
    """Fill a new, empty database with a registry; it is made first if it is an SQLite file.

    *with_statistics* is whether an SQLite file has what ``ANALYZE`` finds.

    Raises:
        SystemExit: there is something in the database already.
    """
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        path = Path(parsed.database or "")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    _migrate(url)
    start_s = time.perf_counter()
    rows = dict.fromkeys(COLUMNS, 0)
    with _sink(parsed, with_statistics) as sink:
        for number, batch in enumerate(Registry(shape).batches()):
            _write(sink, batch, rows)
            if number % 50 == 0:
                say(f"{rows['manifests']} manifests, {time.perf_counter() - start_s:.0f} s")
        rows_s = time.perf_counter() - start_s
        say(f"{sum(rows.values())} rows in {rows_s:.1f} s; indexes")
        sink.finish()
    indexes_s = time.perf_counter() - start_s - rows_s
    return {"rows": rows, "rows_s": rows_s, "indexes_s": indexes_s}


def _write(sink: _Sink, batch: Batch, rows: dict[str, int]) -> None:
    for table, values in batch.items():
        if values:
            sink.write(table, values)
            rows[table] += len(values)


def _migrate(url: str) -> None:
    database = Database(url)
    if database.is_sqlite:
        database.use_write_ahead_log()
    if schema.current(database) is not None:
        raise SystemExit(f"{database.location} is not empty")
    schema.upgrade(database, migrations_folder())
    database.close()


@contextmanager
def _sink(url: sa.URL, with_statistics: bool) -> Iterator[_Sink]:
    sink = _Sqlite(url, with_statistics) if url.get_backend_name() == "sqlite" else _Postgresql(url)
    try:
        yield sink
    finally:
        sink.close()


class _Sqlite:
    def __init__(self, url: sa.URL, with_statistics: bool) -> None:
        self._with_statistics = with_statistics
        self._database = sqlite3.connect(url.database or "", isolation_level=None)
        sqlite3.register_adapter(UUID, lambda value: value.hex)
        # The order matters: from WAL a file goes to another mode only while nothing is begun.
        for pragma in (
            "journal_mode = DELETE",
            "journal_mode = OFF",
            "synchronous = OFF",
            "locking_mode = EXCLUSIVE",
            "foreign_keys = OFF",
            f"cache_size = -{CACHE_KIB}",
            "threads = 2",
        ):
            self._database.execute(f"PRAGMA {pragma}").fetchall()
        self._indexes = self._database.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL ORDER BY tbl_name"
        ).fetchall()
        for name, _ in self._indexes:
            self._database.execute(f"DROP INDEX {name}")
        self._statements = {
            table: f"INSERT INTO {table} ({columns.replace(' ', ', ')})"
            f" VALUES ({', '.join('?' * len(columns.split()))})"
            for table, columns in COLUMNS.items()
        }
        self._database.execute("BEGIN")

    def write(self, table: str, rows: list[Row]) -> None:
        self._database.executemany(self._statements[table], rows)

    def finish(self) -> None:
        for _, statement in self._indexes:
            self._database.execute(statement)
        for table in SEARCHED:
            self._database.execute(f"INSERT INTO {table}_fts ({table}_fts) VALUES ('rebuild')")
        if self._with_statistics:
            self._database.execute("ANALYZE")
        self._database.execute("COMMIT")
        self._database.execute("PRAGMA locking_mode = NORMAL").fetchall()
        self._database.execute("PRAGMA journal_mode = WAL").fetchall()
        self._database.execute("PRAGMA synchronous = FULL").fetchall()

    def close(self) -> None:
        self._database.close()


class _Postgresql:
    def __init__(self, url: sa.URL) -> None:
        import psycopg

        names = ", ".join(f"'{name}'" for name in COLUMNS)
        self._connection = psycopg.connect(
            url.set(drivername="postgresql").render_as_string(hide_password=False), autocommit=True
        )
        self._constraints = self._ask(
            "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), contype FROM pg_constraint"
            f" WHERE conrelid::regclass::text IN ({names}) AND contype IN ('f', 'u', 'p')"
            " ORDER BY contype = 'f' DESC, conname"
        )
        for table, name, *_ in self._constraints:
            self._do(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name} CASCADE")
        self._indexes = self._ask(
            f"SELECT indexname, indexdef FROM pg_indexes WHERE tablename IN ({names}) ORDER BY indexname"
        )
        for name, _ in self._indexes:
            self._do(f"DROP INDEX {name}")
        self._statements = {
            table: f"COPY {table} ({columns.replace(' ', ', ')}) FROM STDIN (FORMAT BINARY)"
            for table, columns in COLUMNS.items()
        }
        self._types = {table: self._types_of(table, columns.split()) for table, columns in COLUMNS.items()}
        self._do(f"SET maintenance_work_mem = '{MAINTENANCE_MIB}MB'")
        self._do("SET max_parallel_maintenance_workers = 2")
        self._do("SET statement_timeout = 0")

    def _types_of(self, table: str, columns: list[str]) -> list[str]:
        found = dict(
            self._ask(
                "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute"
                f" WHERE attrelid = '{table}'::regclass AND attnum > 0"
            )
        )
        return [found[column] for column in columns]

    def _ask(self, statement: str) -> list[tuple[Any, ...]]:
        query: Any = statement
        return self._connection.execute(query).fetchall()

    def _do(self, statement: str) -> None:
        query: Any = statement
        self._connection.execute(query)

    def write(self, table: str, rows: list[Row]) -> None:
        statement: Any = self._statements[table]
        with self._connection.cursor() as cursor, cursor.copy(statement) as copy:
            copy.set_types(self._types[table])
            for row in rows:
                copy.write_row(row)

    def finish(self) -> None:
        referring = [each for each in self._constraints if each[3] == "f"]
        own = [each for each in self._constraints if each[3] != "f"]
        for table, name, definition, _ in own:
            self._do(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}")
        for _, statement in self._indexes:
            self._do(statement)
        for table, name, definition, _ in referring:
            self._do(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}")
        for table, columns in COLUMNS.items():
            if columns.startswith("id ") and table not in ("store_identity", "label_texts"):
                self._do(
                    f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT max(id) FROM {table}))"
                )
        self._do("VACUUM ANALYZE")

    def close(self) -> None:
        self._connection.close()
