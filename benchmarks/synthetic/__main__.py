"""Make a synthetic registry from the command line."""

from __future__ import annotations

import argparse
import time

from benchmarks.synthetic.load import load
from benchmarks.synthetic.shape import Shape, today


def main() -> None:
    """Load a registry and print how long it took."""
    parser = argparse.ArgumentParser(prog="benchmarks.synthetic", description="Load a synthetic registry.")
    parser.add_argument("--manifests", type=int, default=10_000)
    parser.add_argument(
        "--database", required=True, help="a new SQLite file or an empty PostgreSQL database, as a URL"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--today", type=int, default=today(), help="day of the newest rows, from 1970-01-01; now if not said"
    )
    parser.add_argument(
        "--no-statistics", action="store_true", help="leave an SQLite file as regmeta does: without ANALYZE"
    )
    arguments = parser.parse_args()
    start_s = time.perf_counter()
    shape = Shape(arguments.manifests, arguments.seed, arguments.today)
    loaded = load(
        arguments.database,
        shape,
        lambda text: print(text, flush=True),
        with_statistics=not arguments.no_statistics,
    )
    for table, count in loaded["rows"].items():
        print(f"{table:20} {count:12,}")
    total = sum(loaded["rows"].values())
    print(
        f"{total:,} rows in {loaded['rows_s']:.1f} s ({total / loaded['rows_s']:,.0f} rows/s),"
        f" indexes and statistics {loaded['indexes_s']:.1f} s, all {time.perf_counter() - start_s:.1f} s"
    )


if __name__ == "__main__":
    main()
