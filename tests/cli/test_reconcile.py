"""The commands that look at the collector's work: what they say, and with which code they end."""

from __future__ import annotations

import os
from pathlib import Path

from tests.builders import LayoutBuilder
from tests.cli.conftest import Command
from tests.cli.test_maintenance import change, imported

AGED = (
    "UPDATE manifests SET lease_until = 1",
    "UPDATE blobs SET lease_until = 1",
    "UPDATE repository_blobs SET linked_at = 1",
    "UPDATE tags SET started_at = 1, ended_at = 2",
    "UPDATE gc_tasks SET not_before = 1",
)


def untagged_long_ago(regmeta: Command, home: Path, layout: Path) -> None:
    imported(regmeta, layout)
    assert regmeta("tag", "rm", "app:v1").code == 0
    for statement in AGED:
        change(home, statement)


def state(home: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for path in home.rglob("*")
        if path.is_file() and not path.name.startswith("regmeta.db")
    }


def test_dry_run_says_what_the_run_does(regmeta: Command, home: Path, layout: Path) -> None:
    untagged_long_ago(regmeta, home, layout)
    before = state(home)
    plan = regmeta("gc", "run", "--dry-run", "--json")
    assert (plan.code, len(plan.json["manifests"]), len(plan.json["blobs"])) == (0, 1, 4)
    shown = regmeta("gc", "run", "--dry-run")
    assert shown.out.splitlines()[0].split() == ["REPOSITORY", "MANIFEST", "WHY"]
    assert "its last tag was removed or moved" in shown.out
    assert "1 manifest and 4 blobs" in shown.err
    assert state(home) == before, "it clears nothing up either"
    done = regmeta("gc", "run", "--json").json
    assert (done["manifests"], done["blobs"]) == (1, 4)
    assert regmeta("gc", "run", "--dry-run").out == ""


def test_dry_run_does_not_watch(regmeta: Command) -> None:
    assert regmeta("gc", "run", "--dry-run", "--watch").code == 2


def test_reconcile_queues_what_no_task_is_about(regmeta: Command, home: Path, layout: Path) -> None:
    untagged_long_ago(regmeta, home, layout)
    change(home, "DELETE FROM gc_tasks")
    assert "without a task: 1 of 1 manifest, 0 of 4 blobs" in regmeta("gc", "reconcile", "--dry-run").err
    assert regmeta("gc", "reconcile", "--dry-run").code == 1
    done = regmeta("gc", "reconcile", "--json")
    assert (done.code, done.json["forgotten_manifests"], done.json["queued"]) == (0, 1, 1)
    assert regmeta("gc", "reconcile", "--dry-run").code == 0
    change(home, "UPDATE gc_tasks SET not_before = 1")
    assert regmeta("gc", "run", "--json").json["manifests"] == 1


def test_nothing_is_collected_with_an_old_copy_of_the_database(
    regmeta: Command, home: Path, layout: Path
) -> None:
    untagged_long_ago(regmeta, home, layout)
    copy = {path.name: path.read_bytes() for path in home.glob("regmeta.db*")}
    builder = LayoutBuilder(seed=5)
    builder.tag(builder.image(), "newer")
    assert regmeta("import", builder.write(layout / "newer"), "app").code == 0
    for path in home.glob("regmeta.db*"):
        path.unlink()
    for name, content in copy.items():
        (home / name).write_bytes(content)
    objects = sorted(path for path in (home / "store" / "blobs").rglob("*") if path.is_file())
    for command in (["run"], ["run", "--dry-run"], ["sweep"], ["sweep", "--force"], ["reconcile"]):
        refused = regmeta("gc", *command)
        assert refused.code == 6, command
        assert "is older than its store: app has the snapshot" in refused.err
        assert "'regmeta rebuild'" in refused.err
    assert sorted(path for path in (home / "store" / "blobs").rglob("*") if path.is_file()) == objects
    assert regmeta("rebuild").code == 0
    assert regmeta("gc", "run").code == 0
    assert "newer" in regmeta("tag", "ls", "app").out


def test_sweep_does_not_believe_an_empty_store(regmeta: Command, home: Path, layout: Path) -> None:
    imported(regmeta, layout)
    os.rename(home / "store" / "blobs", home / "blobs")
    (home / "store" / "blobs").mkdir()
    refused = regmeta("gc", "sweep", "--force")
    assert refused.code == 5
    assert "lists no object, the rows name 4" in refused.err
