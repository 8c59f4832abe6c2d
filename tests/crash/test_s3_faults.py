"""Stores in buckets: a process may die after any step, and the server in the middle of any.

In a process of its own: one that has spoken to a bucket cannot fork, and the other tests of this one do.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.crash.test_kill_points import IN_BUCKETS
from tests.support.points import named_points

ROOT: Final = Path(__file__).parents[2]
KINDS: Final = ("lost", "dangling", "partial", "orphans", "error")


def run(*arguments: str, timeout_s: float) -> tuple[int, int, str]:
    """Run a harness; return at how many points, at how many something died, and all that it wrote."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash.harness", "--buckets", "--points", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )
    print(done.stdout)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    [row] = re.findall(r"^\| [\w ]+ \| (\d+) \| (\d+) \|((?: \d+ \|){5})", done.stdout, re.MULTILINE)
    assert [int(count) for count in re.findall(r"\d+", row[2])] == [0] * len(KINDS)
    return int(row[0]), int(row[1]), done.stdout


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_nothing_is_lost_where_a_process_is_killed_that_writes_to_a_bucket() -> None:
    points, killed, _ = run("kill_points", "--quick", timeout_s=580)
    assert killed == points >= 4


@pytest.mark.long
@pytest.mark.timeout(300)
def test_nothing_is_lost_where_the_server_dies_or_stands_still() -> None:
    points, _, _ = run("s3_faults", "--quick", "--no-postgres", timeout_s=280)
    assert points >= 4


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_nothing_is_lost_at_any_failpoint_of_any_use_case_in_a_bucket() -> None:
    points, killed, shown = run("kill_points", "--every", "3", timeout_s=7000)
    assert killed == points >= 160
    tried = set(re.findall(r"bucket\.[a-z_]+", shown))
    assert tried == {name for name in named_points() if name.startswith(IN_BUCKETS)}


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_nothing_is_lost_in_dozens_of_faults_of_the_server() -> None:
    points, _, _ = run("s3_faults", timeout_s=7000)
    assert points >= 40
