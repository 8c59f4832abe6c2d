"""``python -m tests.crash.harness [--quick] [--points] [NAME ...]``: run harnesses and print the table."""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from tests.crash.harness import report
from tests.crash.harness.places import arena
from tests.support.postgres import shared_postgres
from tests.support.seaweed import shared_buckets

HARNESSES: Final = (
    "kill_points",
    "system_calls",
    "double_crash",
    "power_cuts",
    "disk_errors",
    "postgres_kills",
    "schedules",
    "soak",
)


BUCKET_HARNESSES: Final = ("kill_points", "s3_faults")


def main(arguments: list[str]) -> int:
    """Run them; returns 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="tests.crash.harness", description=__doc__)
    parser.add_argument("names", nargs="*", help="which harnesses; all if none is given")
    parser.add_argument("--quick", action="store_true", help="a sample of each")
    parser.add_argument("--points", action="store_true", help="list every point that was tried")
    parser.add_argument("--buckets", action="store_true", help="kill points of stores in buckets, only")
    parser.add_argument("--no-postgres", action="store_true", help="SQLite only")
    parser.add_argument("--every", type=int, default=1, help="with --buckets: one point of so many")
    given = parser.parse_args(arguments)
    results = []
    with ExitStack() as stack:
        postgres = None
        if not given.no_postgres:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="regmeta-crash-"))
            postgres = stack.enter_context(shared_postgres(Path(folder)))
        buckets = None
        if given.buckets:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="regmeta-crash-"))
            buckets = stack.enter_context(shared_buckets(Path(folder)))
        found = stack.enter_context(arena(postgres, buckets))
        options: dict[str, Any] = {}
        if given.buckets:
            options = {"backends": tuple(found.bucket_backends), "every": given.every}
        for name in given.names or (BUCKET_HARNESSES if given.buckets else HARNESSES):
            module: Any = _module(name)
            if module is not None:
                results.append(module.run(found, quick=given.quick, **options))
                print(report.table(results[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    print(report.table(results))
    for result in results:
        print(f"\n{result.name}: {report.names(result.points)}")
        if given.points:
            print("\n".join(f"  {point}" for point in result.points))
        for failure in result.failures:
            print(f"  FAILED {failure}")
    return 1 if any(result.failures for result in results) else 0


def _module(name: str) -> Any:
    path = f"tests.crash.harness.{name}"
    return importlib.import_module(path) if importlib.util.find_spec(path) else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
