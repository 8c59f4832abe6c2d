"""``doctor``, ``recover``, ``backup`` and ``restore`` as they are typed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders import make_layout
from tests.cli.conftest import Command
from tests.support.points import ROOT


@pytest.fixture
def hello(regmeta: Command, layout: Path) -> None:
    """A repository with two images."""
    make_layout(layout, 2)
    assert regmeta("import", layout, "hello").code == 0


# --- doctor -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("hello")
def test_doctor_of_a_sound_registry_ends_with_0(regmeta: Command) -> None:
    found = regmeta("doctor")
    assert found.code == 0
    assert found.out.startswith("CHECK")
    assert "0 problems" in found.err
    answer = regmeta("doctor", "--quick-check", "--json")
    assert (answer.code, answer.json["problems"]) == (0, 0)
    assert {check["name"] for check in answer.json["checks"]} >= {
        "schema",
        "identity",
        "pages",
        "wal-reset bug",
    }
    assert {check["level"] for check in answer.json["checks"]} <= {"ok", "warning"}


@pytest.mark.usefixtures("hello")
def test_doctor_with_a_problem_ends_with_1_and_says_what_to_do(regmeta: Command, home: Path) -> None:
    (home / "store" / "store.json").rename(home / "store" / "away.json")
    found = regmeta("doctor")
    assert found.code == 1
    assert "identity: mount it, or correct 'store' in the settings" in found.out
    assert regmeta("doctor", "--json").json["problems"] == 1


def test_doctor_where_there_is_nothing_lists_problems(bare: Command, home: Path) -> None:
    found = bare("--home", home, "doctor", "--json")
    bad = [check["name"] for check in found.json["checks"] if check["level"] == "problem"]
    assert (found.code, bad) == (1, ["database file", "store"])
    assert not home.exists()


def test_doctor_of_a_server_that_is_down_lists_it(
    bare: Command, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGMETA_DATABASE", "postgresql://postgres:secret@127.0.0.1:1/none")
    found = bare("--home", home, "doctor")
    assert found.code == 1
    assert "start the server" in found.out
    assert "secret" not in found.out + found.err


# --- recover ----------------------------------------------------------------------------------


def test_recover_clears_up_once_and_then_finds_nothing(regmeta: Command, home: Path, layout: Path) -> None:
    make_layout(layout, 1)
    command = [sys.executable, "-m", "regmeta", "--home", str(home), "import", str(layout), "hello"]
    for point in ("ingest.committing", "ingest.committed"):
        killed = subprocess.run(
            command,
            env={"REGMETA_FAILPOINT": f"{point}=kill", "REGMETA_TESTING": "1"},
            cwd=ROOT,
            capture_output=True,
            check=False,
        )
        assert killed.returncode == -9
        found = regmeta("recover", "--json")
        wanted = {"stagings_removed": 1, "intents_taken_back": 4, "snapshots_written": 0}
        if point == "ingest.committed":
            wanted = {"stagings_removed": 1, "intents_taken_back": 0, "snapshots_written": 1}
        assert (found.code, found.json) == (0, wanted)
    again = regmeta("recover")
    assert (again.code, again.err) == (0, "")
    assert [line.split()[-1] for line in again.out.splitlines()] == ["0", "0", "0"]


def test_recover_writes_the_layout_that_is_pending(regmeta: Command, home: Path, layout: Path) -> None:
    make_layout(layout, 1)
    command = [sys.executable, "-m", "regmeta", "--home", str(home), "import", str(layout), "hello"]
    variables = {"REGMETA_FAILPOINT": "ingest.committed=kill", "REGMETA_TESTING": "1"}
    subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, check=False)
    index = home / "store" / "repositories" / "hello" / "_layout" / "index.json"
    assert not index.exists()
    assert regmeta("recover").code == 0
    assert [entry["annotations"] for entry in json.loads(index.read_bytes())["manifests"]] == [
        {"org.opencontainers.image.ref.name": "v0"}
    ]


# --- backup and restore -----------------------------------------------------------------------


@pytest.mark.usefixtures("hello")
def test_backup_and_restore_bring_back_what_came_after(
    regmeta: Command, home: Path, layout: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.db"
    made = regmeta("backup", copy, "--json")
    assert (made.code, made.json["path"], made.json["identity"]["epoch"]) == (0, str(copy), 1)
    assert regmeta("import", layout, "later").code == 0
    done = regmeta("restore", copy, "--yes", "--json")
    assert (done.code, done.json["reconciled"]["repositories"], done.json["identity"]["epoch"]) == (0, 2, 2)
    assert Path(done.json["moved_aside"]).is_file()
    assert [line["name"] for line in regmeta("repo", "ls", "--json").json["items"]] == ["hello", "later"]
    assert "on hold: restored from a copy" in regmeta("doctor").out
    assert regmeta("import", layout, "after").code == 0


@pytest.mark.usefixtures("hello")
def test_restore_reports_what_it_leaves_with_1(regmeta: Command, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    assert regmeta("backup", copy).code == 0
    assert regmeta("tag", "set", "hello:v0", "v1").code == 0
    done = regmeta("restore", copy, "--yes")
    assert done.code == 1
    assert done.out.startswith("hello:v0: is sha256:") or "hello:v0: is sha256:" in done.out
    assert "1 problem" in done.err


@pytest.mark.usefixtures("hello")
def test_backup_and_restore_end_with_the_documented_codes(
    regmeta: Command, bare: Command, home: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.db"
    assert regmeta("backup", copy).code == 0
    assert regmeta("backup", copy).code == 2
    assert regmeta("backup", tmp_path / "no" / "copy").code == 5
    assert regmeta("restore", copy).code == 2
    assert regmeta("restore", "--yes").code == 2
    assert regmeta("restore", copy, "--loaded", "--yes").code == 2
    assert regmeta("restore", "--loaded", "--yes").code == 2
    (tmp_path / "garbage").write_bytes(b"garbage" * 1000)
    assert regmeta("restore", tmp_path / "garbage", "--yes").code == 3
    (tmp_path / "damaged").write_bytes(copy.read_bytes()[:40960])
    assert regmeta("restore", tmp_path / "damaged", "--yes").code == 4
    assert bare("--home", tmp_path / "other", "init").code == 0
    assert bare("--home", tmp_path / "other", "restore", copy, "--yes").code == 6
    assert bare("--home", tmp_path / "none", "backup", tmp_path / "x").code == 6
    assert list(home.glob("*before-restore*")) == []
