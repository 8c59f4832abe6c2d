"""Time the queries from the command line."""

from __future__ import annotations

import argparse
import gc
import sys

from benchmarks.queries.cases import CASES
from benchmarks.queries.measure import HEAD, measure, steadiness, targets
from benchmarks.report import print_targets


def main() -> int:
    """Measure in each database; return the exit code: 1 if a target was missed."""
    parser = argparse.ArgumentParser(prog="benchmarks.queries", description="Time every public query.")
    parser.add_argument(
        "--database",
        action="append",
        required=True,
        help="URL of a registry made by benchmarks.synthetic; of two on SQLite the first is the small one",
    )
    parser.add_argument("--draws", type=int, default=300, help="parameters of each query")
    parser.add_argument("--only", default="", help="queries that have this in their name")
    arguments = parser.parse_args()
    gc.set_threshold(100_000, 50, 100)  # as the command does
    cases = [case for case in CASES if arguments.only in case.name]
    asked, small = [], None
    for url in arguments.database:
        print(f"\n{url}\n{HEAD}")
        found = measure(url, cases, arguments.draws)
        asked += targets(url, found)
        if url.startswith("sqlite"):
            asked += steadiness(small, found) if small else []
            small = small or found
    print()
    return print_targets(asked)


if __name__ == "__main__":
    sys.exit(main())
