"""What the machine itself can do, and how large rows are with their indexes."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg

from benchmarks.scale.servers import make_database
from benchmarks.synthetic.load import load
from benchmarks.synthetic.shape import Shape, today

SECONDS = 2.0
WRITERS = 8


@dataclass(frozen=True)
class Floor:
    """Raw PostgreSQL, by psycopg alone."""

    round_trip_s: float
    commit_s: float  # one connection, one row, flushed
    commits_per_s: float  # of many connections, which share flushes

    def lines(self) -> Iterator[str]:
        """Give what is printed."""
        yield f"a round trip to PostgreSQL: {self.round_trip_s * 1e3:.2f} ms"
        yield f"a durable commit of one row: {self.commit_s * 1e3:.2f} ms, {1 / self.commit_s:,.0f}/s"
        yield f"with {WRITERS} connections: {self.commits_per_s:,.0f} commits/s"


def floor(folder: str) -> Floor:
    """Measure what no registry on this machine can be faster than."""
    make_database(folder, "floor")
    address = f"host={folder} user=postgres dbname=floor"
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, of text)")
        start_s, trips = time.perf_counter(), 0
        while time.perf_counter() - start_s < SECONDS / 2:
            connection.execute("SELECT 1")
            trips += 1
        round_trip_s = (time.perf_counter() - start_s) / trips
    alone = _commits(address, 1)
    return Floor(round_trip_s, SECONDS / alone, _commits(address, WRITERS) / SECONDS)


def _commits(address: str, writers: int) -> int:
    counts = [0] * writers
    end_s = time.perf_counter() + SECONDS

    def write(mine: int) -> None:
        with psycopg.connect(address, autocommit=True) as connection:
            while time.perf_counter() < end_s:
                connection.execute("INSERT INTO t (of) VALUES ('x')")
                counts[mine] += 1

    threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts)


def sizes(folder: str, manifests: int) -> Iterator[str]:
    """Load a registry and weigh its tables: rows, bytes of a row, bytes of its entries in indexes."""
    url = make_database(folder, "sizes")
    load(url, Shape(manifests, 0, today()), lambda text: None)
    with psycopg.connect(f"host={folder} user=postgres dbname=sizes", autocommit=True) as connection:
        found = connection.execute(
            "SELECT relname, n_live_tup, pg_table_size(relid), pg_indexes_size(relid)"
            " FROM pg_stat_user_tables WHERE n_live_tup > 0"
            " ORDER BY pg_total_relation_size(relid) DESC LIMIT 12"
        ).fetchall()
    all_bytes = sum(table + indexes for _, _, table, indexes in found)
    each = all_bytes / manifests
    yield f"{all_bytes / 2**20:,.0f} MiB: {each:,.0f} bytes of rows and indexes for a manifest"
    for name, rows, table, indexes in found:
        yield (
            f"{name:18} {rows:12,} rows ({rows / manifests:6.2f} a manifest),"
            f" {table / rows:6.0f} + {indexes / rows:5.0f} bytes"
        )
