"""The commands about collection: what they say, and with which code they end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Command
from tests.cli.test_maintenance import change, imported

FAR = 9_000_000_000_000_000  # [us] in the year 2255


def dead_image(regmeta: Command, home: Path, layout: Path) -> None:
    """Bring an image in, take its tag away, and let its time be over."""
    imported(regmeta, layout)
    assert regmeta("tag", "rm", "app:v1").code == 0
    for statement in (
        "UPDATE manifests SET lease_until = 1",
        "UPDATE blobs SET lease_until = 1",
        "UPDATE repository_blobs SET linked_at = 1",
        "UPDATE tags SET started_at = 1, ended_at = 2",
        "UPDATE gc_tasks SET not_before = 1",
    ):
        change(home, statement)


def undeletable(home: Path) -> Path:
    """Put a folder in the place of an object: nothing that deletes files takes it away."""
    [first, *_] = sorted(path for path in (home / "store" / "blobs").rglob("*") if path.is_file())
    first.unlink()
    first.mkdir()
    return first


# --- status -----------------------------------------------------------------------------------


def test_gc_status_of_a_sound_registry_is_short_and_good(regmeta: Command, home: Path, layout: Path) -> None:
    imported(regmeta, layout)
    shown = regmeta("gc", "status")
    assert shown.code == 0
    assert "reclaimable      0 B" in shown.out
    assert "hold             -" in shown.out
    assert "LAST ERROR" not in shown.out
    found = regmeta("gc", "status", "--json").json
    assert found["is_healthy"] is True
    assert [queue["kind"] for queue in found["queues"]] == ["repository", "manifest", "blob", "object"]


def test_gc_status_tells_what_is_late_what_failed_and_what_it_would_free(
    regmeta: Command, home: Path, layout: Path
) -> None:
    dead_image(regmeta, home, layout)
    late = regmeta("gc", "status", "--json")
    assert late.code == 1
    [manifests] = [queue for queue in late.json["queues"] if queue["kind"] == "manifest"]
    assert (manifests["due"], manifests["overdue"]) == (1, 1)
    assert manifests["oldest_due_at"] == "1970-01-01T00:00:00.000001Z"
    assert regmeta("gc", "run").code == 0
    waiting = regmeta("gc", "status", "--json")
    assert waiting.code == 0
    tombstones = waiting.json["tombstones"]
    assert tombstones["waiting"] == 4
    assert 0 < tombstones["waiting_bytes"] == waiting.json["reclaimable_bytes"]
    change(home, "UPDATE tombstones SET attempts = 10, last_error = 'EIO' WHERE id = 1")
    dead = regmeta("gc", "status")
    assert dead.code == 1
    assert "never" in dead.out
    assert "EIO" in dead.out
    change(home, f"UPDATE store_identity SET paused_until = {FAR}, pause_reason = 'EIO', pauses = 3")
    assert "until 2255-03-14" in regmeta("gc", "status").out


# --- run --------------------------------------------------------------------------------------


def test_gc_run_ends_with_5_where_an_object_stays_and_deletes_the_others(
    regmeta: Command, home: Path, layout: Path
) -> None:
    dead_image(regmeta, home, layout)
    assert regmeta("gc", "run").code == 0
    stays = undeletable(home)
    change(home, "UPDATE tombstones SET not_before = 1")
    done = regmeta("gc", "run", "--json")
    assert (done.code, done.json["objects"]["deleted"]) == (5, 3)
    assert stays.name in done.err
    assert "3 objects deleted" in done.err
    for _ in range(9):
        change(home, "UPDATE tombstones SET not_before = 1")
        assert regmeta("gc", "run").code == 5
    change(home, "UPDATE tombstones SET not_before = 1")
    dead = regmeta("gc", "run")
    assert dead.code == 1
    assert "1 dead letter" in dead.err
    stays.rmdir()
    assert regmeta("gc", "retry").err == "0 tasks and 1 object are due now\n"
    assert regmeta("gc", "run").code == 0


def test_gc_run_heeds_a_pause_and_gc_retry_ends_it(regmeta: Command, home: Path, layout: Path) -> None:
    dead_image(regmeta, home, layout)
    change(home, f"UPDATE store_identity SET paused_until = {FAR}, pause_reason = 'EIO', pauses = 3")
    refused = regmeta("gc", "run")
    assert (refused.code, refused.out) == (5, "")
    assert "paused until 2255-03-14" in refused.err
    assert "(EIO)" in refused.err
    assert regmeta("gc", "status", "--json").json["queues"][1]["due"] == 1, "nothing was collected"
    assert regmeta("gc", "retry").err == "0 tasks and 0 objects are due now; the pause has ended\n"
    assert regmeta("gc", "run", "--json").json["manifests"] == 1


# --- run --watch ------------------------------------------------------------------------------


def watcher(home: Path) -> subprocess.Popen[str]:
    """Start a collection without an end in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REGMETA_")}
    return subprocess.Popen(
        [sys.executable, "-m", "regmeta", "--home", str(home), "gc", "run", "--watch", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
    )


def next_round(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.slow
def test_gc_watch_collects_until_a_signal_and_ends_well(
    regmeta: Command, home: Path, layout: Path, number: signal.Signals
) -> None:
    dead_image(regmeta, home, layout)
    process = watcher(home)
    try:
        assert next_round(process)["manifests"] == 1
        # It sleeps, or is just about to.
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, told
    assert "1 manifest and 4 blobs collected" in told
    assert "Traceback" not in told
    assert list((home / "store" / "staging").iterdir()) == []
    assert regmeta("verify").code == 0


def test_gc_watch_does_not_go_on_with_another_registry(regmeta: Command, home: Path, layout: Path) -> None:
    imported(regmeta, layout)
    shutil.move(home / "store" / "store.json", home / "store" / "other.json")
    process = watcher(home)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 6
    assert "holds no store.json" in told


# --- settings ---------------------------------------------------------------------------------


def test_times_of_collection_are_those_of_the_settings(regmeta: Command, home: Path, layout: Path) -> None:
    (home / "regmeta.toml").write_text('[collection]\nhistory = "0s"\ngarbage = "0s"\n')
    imported(regmeta, layout)
    assert regmeta("tag", "rm", "app:v1").code == 0
    for table in ("manifests", "blobs"):
        change(home, f"UPDATE {table} SET lease_until = 1")
    change(home, "UPDATE repository_blobs SET linked_at = 1")
    assert regmeta("gc", "run", "--json").json["manifests"] == 1


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('tombstone = "30s"', "collection.tombstone: '30s' is too short, 1m is the least"),
        ('max_upload = "30m"', "collection.max_upload: '30m' is too short, 60m is the least"),
        ('lease = "2h"', "collection.lease: '2h' is too short, 1440m is the least"),
        ('history = "a week"', "collection.history: 'a week' is no length of time"),
        ("history = 7", "Expected `str`, got `int`"),
        ('trash = "1h"', "unknown field `trash`"),
    ],
)
def test_unsafe_times_of_collection_are_refused(regmeta: Command, home: Path, line: str, told: str) -> None:
    (home / "regmeta.toml").write_text(f"[collection]\n{line}\n")
    refused = regmeta("status")
    assert refused.code == 2
    assert told in refused.err
