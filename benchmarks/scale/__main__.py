"""Print what things cost, how large the tables are, and what a thousand pushes a second would ask for."""

import argparse
import sys

from benchmarks.scale.limits import floor, sizes
from benchmarks.scale.measure import measure_costs
from benchmarks.scale.servers import counted_servers
from benchmarks.scale.simulate import Load, simulate


def main() -> int:
    """Measure, then simulate with what was measured."""
    parser = argparse.ArgumentParser(prog="benchmarks.scale", description="What a large registry asks for.")
    parser.add_argument("--images", type=int, default=200, help="of each kind of push")
    parser.add_argument("--manifests", type=int, default=100_000, help="of the registry that is weighed")
    arguments = parser.parse_args()
    with counted_servers() as (folder, trips, counted):
        limits = floor(folder)
        print("This machine")
        for line in limits.lines():
            print(f"  {line}")
        print("\nWhat one costs")
        costs = measure_costs(folder, trips, counted, arguments.images)
        for cost in costs:
            print(f"  {cost}")
        push = costs[0]
        print("\nOne push beside the floor")
        print(f"  its round trips alone: {push.round_trips * limits.round_trip_s * 1e3:.1f} ms")
        print(f"  x {push.wall_s / limits.commit_s:.1f} a raw durable commit of one row")
        print(f"\nTables of {arguments.manifests:,} manifests")
        for line in sizes(folder, arguments.manifests):
            print(f"  {line}")
    print("\nWaits for a repository's lock, 1,000 pushes a second on 10,000 repositories (simulated)")
    for hold_ms in (3, 6, 12):
        for skew in (0.0, 0.8, 1.0):
            found = simulate(Load(1000, 10_000, skew, hold_ms / 1e3))
            print(
                f"  held {hold_ms:2} ms, Zipf {skew:.1f}: p50 {found.p50_s * 1e3:6.1f} ms,"
                f" p99 {found.p99_s * 1e3:8.1f} ms, longest {found.longest_s * 1e3:8.1f} ms;"
                f" the busiest takes {found.busiest_pushes_per_s:.0f}/s and is held {found.busiest:.0%}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
