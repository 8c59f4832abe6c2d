"""Plan and apply retention in one repository of many tags.

The registry is rows that are inserted in bulk: indexes of two platforms, each with a tag and pulls; no object
is there, and none is looked at. The policy asks about everything that a rule can ask about. The floor of a
plan reads the same rows with plain SELECTs of sqlite3, and does nothing with them; the floor of an apply
writes, in one transaction, the rows that must be written: ends of intervals, events, tasks.

Usage: python -m benchmarks.retention --tags 20000 --rounds 5 --work DIR
"""

import argparse
import gc
import hashlib
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks import adapter
from benchmarks.processes import Sample
from benchmarks.report import Target, paired_ratio, print_table, print_targets

DAY_US: Final = 86_400_000_000
LIMIT_S: Final = 2.0
PLAN: Final = "retention plan"
PLAN_FLOOR: Final = "floor: plain SELECTs"
APPLY: Final = "retention apply"
APPLY_FLOOR: Final = "floor: plain INSERTs and UPDATEs"
POLICY: Final = """
[[retention.policies]]
name = "all that there is"
repositories = ["**"]
[[retention.policies.keep]]
name = "newest versions"
tags = ["v*"]
except_tags = ["*-rc*"]
platforms = ["linux/arm64"]
newest_versions = 1000
[[retention.policies.keep]]
name = "in use"
pulled_within = "30d"
newest_pulled = 1000
[[retention.policies.keep]]
name = "young"
tags_regex = ["^v1\\\\."]
newest_pushed = 1000
pushed_within = "90d"
[[retention.policies.keep]]
name = "signed"
has_referrers = true
"""
SELECTS: Final = (
    "SELECT t.name, t.manifest_digest, t.started_at, m.id, m.os, m.architecture, m.variant, m.subject_digest"
    " FROM tags t JOIN manifests m ON m.id = t.manifest_id WHERE t.repository_id = 1 AND t.ended_at IS NULL",
    "SELECT digest, tag, max(last_pulled_at) FROM pull_stats WHERE repository_id = 1 GROUP BY digest, tag",
    "SELECT i.index_id, i.os, i.architecture, i.variant FROM index_manifests i"
    " WHERE i.index_id IN (SELECT manifest_id FROM tags WHERE repository_id = 1 AND ended_at IS NULL)",
    "SELECT DISTINCT subject_digest FROM manifests WHERE repository_id = 1 AND subject_digest IS NOT NULL",
)


def make_registry(home: Path, tags: int) -> None:
    """Make a registry with one repository of so many tags, and the settings with the policy."""
    home.mkdir()
    (home / "regmeta.toml").write_text(POLICY)
    adapter.initialise(home)
    database = sqlite3.connect(home / "regmeta.db", isolation_level=None)
    now = time.time_ns() // 1000
    database.execute("BEGIN")
    database.execute(
        "INSERT INTO repositories (id, name, created_at, updated_at) VALUES (1, 'app', ?, ?)", [now, now]
    )
    for number in range(tags):
        at = now - number * DAY_US // 100
        blob, digest = number + 1, b"\x01" + hashlib.sha256(str(number).encode()).digest()
        database.execute(
            "INSERT INTO blobs (id, digest, size_bytes, key, lease_until, created_at)"
            " VALUES (?, ?, 500, ?, ?, ?)",
            [blob, digest, f"sha256/{digest.hex()}", at, at],
        )
        database.execute(
            "INSERT INTO manifests (id, repository_id, digest, kind, media_type, size_bytes, content,"
            " blob_id, pushed_at, pushed_by, lease_until)"
            " VALUES (?, 1, ?, 'index', 'application/vnd.oci.image.index.v1+json', 500, ?, ?, ?, 'ci', ?)",
            [blob, digest, b"{}" * 250, blob, at, at],
        )
        for position, architecture in enumerate(("amd64", "arm64")):
            database.execute(
                "INSERT INTO index_manifests (index_id, position, child_digest, absence, media_type,"
                " size_bytes, os, architecture)"
                " VALUES (?, ?, ?, 'sparse', 'application/json', 500, 'linux', ?)",
                [blob, position, digest, architecture],
            )
        name = f"v{number // 1000}.{number % 1000}.0" + ("-rc1" if number % 3 else "")
        database.execute(
            "INSERT INTO tags (repository_id, name, manifest_digest, manifest_id, started_at, started_by)"
            " VALUES (1, ?, ?, ?, ?, 'ci')",
            [name, digest, blob, at],
        )
        database.execute(
            "INSERT INTO pull_stats (repository_id, digest, tag, day, pulls, last_pulled_at)"
            " VALUES (1, ?, ?, ?, 1, ?)",
            [digest, name, at // DAY_US, at],
        )
    database.execute("COMMIT")
    database.close()


def select_all(home: Path) -> None:
    """Read the rows that a plan needs, and nothing else."""
    database = sqlite3.connect(home / "regmeta.db")
    for statement in SELECTS:
        database.execute(statement).fetchall()
    database.close()


def write_all(home: Path, drops: int) -> None:
    """Write the rows that an apply must write, in one durable transaction."""
    database = sqlite3.connect(home / "regmeta.db", isolation_level=None)
    database.execute("PRAGMA synchronous = FULL")
    now = time.time_ns() // 1000
    database.execute("BEGIN IMMEDIATE")
    rows = database.execute(
        "SELECT id, name, manifest_digest, manifest_id FROM tags WHERE ended_at IS NULL"
        " ORDER BY name LIMIT ?",
        [drops],
    ).fetchall()
    database.executemany(
        "UPDATE tags SET ended_at = ?, ended_by = 'ci' WHERE id = ?", [(now, row[0]) for row in rows]
    )
    database.executemany(
        "INSERT INTO events (occurred_at, kind, repository_id, tag, previous_digest, actor)"
        " VALUES (?, 'tag.removed', 1, ?, ?, 'ci')",
        [(now, row[1], row[2]) for row in rows],
    )
    database.executemany(
        "INSERT INTO gc_tasks (kind, target_id, repository_id, reason, created_at, not_before)"
        " VALUES ('manifest', ?, 1, 'untagged', ?, ?)",
        [(row[3], now, now) for row in rows],
    )
    database.execute("COMMIT")
    database.close()


def measured(work: Callable[[], object]) -> Sample:
    """Run something in this process."""
    start_s, wall_s = time.process_time(), time.perf_counter()
    work()
    return Sample(time.perf_counter() - wall_s, time.process_time() - start_s)


def run(tags: int, rounds: int, work: Path) -> int:
    """Measure in interleaved rounds; return the exit code: 1 if the target was missed."""
    home = work / "home"
    make_registry(home, tags)
    plans: dict[str, list[Sample]] = {PLAN_FLOOR: [], PLAN: []}
    applies: dict[str, list[Sample]] = {APPLY_FLOOR: [], APPLY: []}
    for number in range(rounds):
        plan_file = work / f"plan-{number}.json"
        plans[PLAN_FLOOR].append(measured(partial(select_all, home)))
        plans[PLAN].append(measured(partial(adapter.plan_retention, home, plan_file)))
        first, second = work / f"home-{number}", work / f"floor-{number}"
        shutil.copytree(home, first)
        shutil.copytree(home, second)
        drops = adapter.drops_in_plan(plan_file)
        applies[APPLY].append(measured(partial(adapter.apply_retention, first, plan_file, drops)))
        applies[APPLY_FLOOR].append(measured(partial(write_all, second, drops)))
        print(f"round {number + 1}: {tags} tags, {drops} dropped", flush=True)
    print_table(f"wall seconds of {rounds} rounds, plan", plans, PLAN_FLOOR, "floor")
    print_table(f"wall seconds of {rounds} rounds, apply with its snapshot", applies, APPLY_FLOOR, "floor")
    print(
        f"\nratio to the floor: plan {paired_ratio(plans[PLAN], plans[PLAN_FLOOR]):.2f},"
        f" apply {paired_ratio(applies[APPLY], applies[APPLY_FLOOR]):.2f}"
    )
    best = min(sample.wall_s for sample in plans[PLAN])
    return print_targets([Target(f"plan of {tags} tags, best round", best, LIMIT_S, "s")])


def main() -> int:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description="Time retention in a repository of many tags.")
    parser.add_argument("--tags", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, required=True, help="a folder on the disk to measure")
    arguments = parser.parse_args()
    gc.set_threshold(100_000, 50, 100)  # as the command does
    arguments.work.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="retention-", dir=arguments.work.resolve()))
    try:
        return run(arguments.tags, arguments.rounds, work)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    sys.exit(main())
