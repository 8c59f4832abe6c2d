"""Compare ``regmeta db copy`` with the physical floor of it: rows read plainly, and written plainly.

The registry is a synthetic one (``benchmarks.synthetic``). The floor reads all tables with the driver and
sends the same rows to tables without an index or a constraint; it compares nothing and makes nothing again.
It is run right behind the copy, on the same files and the same server.

Usage: python -m benchmarks.database_copy --manifests 1000000 --postgresql URL --work DIR

URL is of an empty PostgreSQL database; it is emptied between the two directions by who runs it, so one
direction is taken a run: ``--back`` goes on from what a run without it has left in DIR.
"""

from __future__ import annotations

import argparse
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from benchmarks.synthetic.load import load
from benchmarks.synthetic.shape import Shape, today
from regmeta.app import database_copy
from regmeta.db import Database
from regmeta.maintain.database_copy.run import Copied
from regmeta.maintain.database_copy.shapes import shapes
from regmeta.maintain.database_copy.streams import with_bytes, with_digits
from regmeta.maintain.setup import RECORD, read_identity
from regmeta.settings import Settings
from regmeta.store.filesystem import FilesystemStore

CHUNK: Final = 10_000


class Steps:
    """Prints each pass with the seconds that it took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._what, self._since = "before", time.perf_counter()

    def began(self, what: str, total: int | None) -> None:
        """Note that the pass before has ended."""
        now = time.perf_counter()
        self.seconds[self._what] = self.seconds.get(self._what, 0.0) + now - self._since
        self._what, self._since = what, now

    def advanced(self, steps: int) -> None:
        """Ignore it."""


def prepare(home: Path, manifests: int) -> Settings:
    """Return the settings of a synthetic registry, which is made if it is not there."""
    settings = Settings(
        home=str(home), database=f"sqlite:///{home / 'regmeta.db'}", store=str(home / "store"), actor="bench"
    )
    if not (home / "store" / RECORD).exists():
        load(settings.database, Shape(manifests, 0, today()), print, with_statistics=False)
        (home / "store").mkdir()
        with (
            closing(Database(settings.database)) as database,
            closing(FilesystemStore(settings.store)) as store,
        ):
            store.create()
            with database.read() as connection:
                identity = read_identity(connection)
            assert identity is not None
            with closing(store.open_staging()) as staging:
                staging.write_record(RECORD, identity.to_record())
    return settings


def into_postgresql(path: str, url: str) -> int:
    """The floor: rows of a file into plain tables of a schema that is dropped afterwards."""
    count = 0
    with closing(sqlite3.connect(path)) as source, _plain_tables(url) as target:
        for shape in shapes():
            name = _table_in(source, shape.name)
            found = source.execute(f"SELECT {', '.join(shape.columns)} FROM {name}")
            statement: Any = (
                f"COPY floor.{shape.name} ({', '.join(shape.columns)}) FROM STDIN (FORMAT BINARY)"
            )
            with target.cursor() as cursor, cursor.copy(statement) as copy:
                copy.set_types(shape.wire)
                while chunk := found.fetchmany(CHUNK):
                    for row in with_bytes(chunk, shape) if shape.uuids else chunk:
                        copy.write_row(row)
                    count += len(chunk)
    return count


def into_sqlite(url: str, path: str) -> int:
    """The floor of the other direction: rows of the server into plain tables of a new file."""
    import psycopg

    count = 0
    with (
        closing(sqlite3.connect(path, isolation_level=None)) as target,
        psycopg.connect(_plain(url)) as source,
    ):
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL"):
            target.execute(f"PRAGMA {pragma}").fetchall()
        for shape in shapes():
            names = [row[0] for row in source.execute("SELECT relname FROM pg_class WHERE relkind = 'r'")]
            table = shape.name if shape.name in names else f"{shape.name}_retired"
            target.execute(f"CREATE TABLE {shape.name} ({', '.join(shape.columns)})")
            places = ", ".join("?" * len(shape.columns))
            statement: Any = f"COPY {table} ({', '.join(shape.columns)}) TO STDOUT (FORMAT BINARY)"
            target.execute("BEGIN")
            with source.cursor() as cursor, cursor.copy(statement) as copy:
                copy.set_types(shape.wire)
                chunk: list[Any] = []
                for row in copy.rows():
                    chunk.append(row)
                    if len(chunk) == CHUNK:
                        count += _insert(target, shape, places, chunk)
                count += _insert(target, shape, places, chunk)
            target.execute("COMMIT")
    return count


def _insert(target: sqlite3.Connection, shape: Any, places: str, chunk: list[Any]) -> int:
    rows = with_digits(chunk, shape) if shape.uuids else chunk
    target.executemany(f"INSERT INTO {shape.name} VALUES ({places})", rows)
    done = len(chunk)
    chunk.clear()
    return done


def _table_in(source: sqlite3.Connection, name: str) -> str:
    """Return what a table is called where it was retired."""
    found = source.execute("SELECT 1 FROM sqlite_master WHERE name = ? AND type = 'table'", [name]).fetchone()
    return name if found else f"{name}_retired"


@contextmanager
def _plain_tables(url: str) -> Iterator[Any]:
    import psycopg

    with psycopg.connect(_plain(url), autocommit=True) as target:
        target.execute("CREATE SCHEMA floor")
        try:
            for shape in shapes():
                target.execute(f"CREATE TABLE floor.{shape.name} (LIKE public.{shape.name})")
            yield target
        finally:
            target.execute("DROP SCHEMA floor CASCADE")


def _plain(url: str) -> str:
    return sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Return seconds and what was returned."""
    start_s = time.perf_counter()
    result = run()
    return time.perf_counter() - start_s, result


def main() -> None:
    """Measure one direction."""
    parser = argparse.ArgumentParser(prog="benchmarks.database_copy")
    parser.add_argument("--manifests", type=int, default=100_000)
    parser.add_argument("--postgresql", required=True, help="an empty database, as a URL")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--back", action="store_true", help="from the server into a new file")
    arguments = parser.parse_args()
    home = arguments.work / "database_copy"
    home.mkdir(parents=True, exist_ok=True)
    settings = prepare(home, arguments.manifests)
    steps = Steps()
    path = str(home / "regmeta.db")
    if arguments.back:
        there = Settings(home=str(home), database=arguments.postgresql, store=settings.store, actor="bench")
        back = home / "back.db"
        copy_s, done = timed(
            lambda: database_copy.copy(there, f"sqlite:///{back}", lambda: nullcontext(steps))
        )
        steps.began("end", None)
        floor_s, rows = timed(lambda: into_sqlite(arguments.postgresql, str(home / "floor.db")))
    else:
        copy_s, done = timed(
            lambda: database_copy.copy(settings, arguments.postgresql, lambda: nullcontext(steps))
        )
        steps.began("end", None)
        floor_s, rows = timed(lambda: into_postgresql(path, arguments.postgresql))
    report(done, rows, copy_s, floor_s, steps)
    if arguments.back:
        shutil.rmtree(home)


def report(done: Copied, rows: int, copy_s: float, floor_s: float, steps: Steps) -> None:
    """Print what it took."""
    assert done.rows == rows, (done.rows, rows)
    for what, seconds in sorted(steps.seconds.items(), key=lambda item: -item[1])[:12]:
        print(f"{seconds:8.1f} s  {what}")
    print(
        f"{done.rows:,} rows: copied, compared and put to use in {copy_s:.1f} s, {done.rows / copy_s:,.0f}/s"
    )
    print(f"floor (rows only, no index, nothing compared): {floor_s:.1f} s, {rows / floor_s:,.0f}/s")
    print(f"ratio {copy_s / floor_s:.2f}")


if __name__ == "__main__":
    main()
