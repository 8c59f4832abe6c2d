"""The commands that collect and repair: what they say, and with which code they end."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from tests.builders import LayoutBuilder
from tests.cli.conftest import Command


def change(home: Path, statement: str) -> None:
    connection = sqlite3.connect(home / "regmeta.db")
    connection.execute(statement)
    connection.commit()
    connection.close()


def imported(regmeta: Command, layout: Path) -> LayoutBuilder:
    builder = LayoutBuilder()
    builder.tag(builder.image(), "v1")
    assert regmeta("import", builder.write(layout), "app").code == 0
    return builder


def spoiled(home: Path, role: str) -> Path:
    """Spoil the object of a layer or a configuration."""
    connection = sqlite3.connect(home / "regmeta.db")
    [(key,)] = connection.execute(
        "SELECT b.key FROM blobs b JOIN manifest_blobs e ON e.blob_id = b.id WHERE e.role = ? LIMIT 1", [role]
    ).fetchall()
    connection.close()
    path = home / "store" / "blobs" / str(key)
    path.chmod(0o644)
    path.write_bytes(b"x" * path.stat().st_size)
    path.chmod(0o444)
    return path


# --- gc ---------------------------------------------------------------------------------------


def test_gc_run_collects_what_is_over_and_says_how_much(regmeta: Command, home: Path, layout: Path) -> None:
    imported(regmeta, layout)
    assert regmeta("gc", "run").err == "0 manifests and 0 blobs collected, 0 objects deleted (0 B)\n"
    assert regmeta("tag", "rm", "app:v1").code == 0
    for statement in (
        "UPDATE manifests SET lease_until = 1",
        "UPDATE blobs SET lease_until = 1",
        "UPDATE repository_blobs SET linked_at = 1",
        "UPDATE tags SET started_at = 1, ended_at = 2",
        "UPDATE gc_tasks SET not_before = 1",
    ):
        change(home, statement)
    done = regmeta("gc", "run", "--json")
    assert (done.code, done.json["manifests"], done.json["blobs"]) == (0, 1, 4)
    change(home, "UPDATE tombstones SET not_before = 1")
    assert "4 objects deleted" in regmeta("gc", "run").err
    assert not [path for path in (home / "store" / "blobs").rglob("*") if path.is_file()]
    assert regmeta("verify").code == 0


def test_gc_says_that_it_is_on_hold_and_verify_lifts_that(regmeta: Command, home: Path, layout: Path) -> None:
    imported(regmeta, layout)
    change(home, "UPDATE store_identity SET hold_reason = 'restored from a copy'")
    for command in ("run", "sweep"):
        refused = regmeta("gc", command)
        assert (refused.code, refused.out) == (6, "")
        assert "on hold: restored from a copy" in refused.err
    assert "on hold: restored from a copy" in regmeta("status").out
    assert regmeta("verify").code == 0
    assert regmeta("gc", "run").code == 6, "verify changes nothing unless it is told to"
    assert "the hold on collection is lifted" in regmeta("verify", "--mark").err
    assert regmeta("status", "--json").json["collection_hold"] is None
    assert regmeta("gc", "run").code == 0


def test_gc_sweep_counts_what_no_row_knows(regmeta: Command, home: Path, layout: Path) -> None:
    imported(regmeta, layout)
    [first, *_] = [path for path in (home / "store" / "blobs").rglob("*") if path.is_file()]
    stray = first.with_name(first.name[:-32] + "0" * 32)
    stray.write_bytes(b"stray")
    swept = regmeta("gc", "sweep", "--json").json
    assert swept == {"objects": 5, "unknown": 1, "too_young": 1, "kept": 0, "buried": 0, "aborted_uploads": 0}
    assert stray.exists()


# --- repair -----------------------------------------------------------------------------------


def test_repair_says_first_and_does_then(regmeta: Command, home: Path, layout: Path) -> None:
    imported(regmeta, layout)
    spoiled(home, "layer")
    assert regmeta("repair").code == 0, "without reading data nothing is found"
    planned = regmeta("repair", "--read-data")
    assert planned.code == 1
    assert "object-corrupt" in planned.out
    assert "--yes repairs them" in planned.err
    left = regmeta("repair", "--read-data", "--yes")
    assert (left.code, left.err) == (1, "0 repaired, 1 left\n")
    assert regmeta("export", "app:v1", home / "out").code == 4
    done: Any = regmeta("repair", "--from", layout, "--yes", "--json")
    assert done.code == 0
    assert [outcome["is_repaired"] for outcome in done.json] == [True]
    assert regmeta("verify", "--read-data").code == 0
    assert regmeta("export", "app:v1", home / "out").code == 0


def test_repair_of_one_kind_leaves_the_others(regmeta: Command, home: Path, layout: Path) -> None:
    imported(regmeta, layout)
    change(home, "DELETE FROM labels")
    change(home, "UPDATE manifests SET os = 'plan9'")
    assert regmeta("repair", "--kind", "tag-drift", "--yes").code == 0
    assert regmeta("verify").code == 1
    assert regmeta("repair", "--kind", "manifest-drift", "--yes").code == 0
    assert regmeta("verify").code == 0


def test_repair_refuses_what_it_does_not_know(regmeta: Command) -> None:
    refused = regmeta("repair", "--kind", "rust")
    assert refused.code == 2
    assert "object-corrupt" in refused.err
