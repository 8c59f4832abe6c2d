"""``regmeta rebuild``: what it says, and with which code it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from regmeta.store.filesystem import FilesystemStore
from tests.builders import make_layout
from tests.cli.conftest import Command
from tests.crash.processes import ROOT


@pytest.fixture
def filled(regmeta: Command, home: Path, layout: Path) -> dict[str, str]:
    """A registry with two tags in one repository; tag to digest."""
    made = make_layout(layout, {"v1": [b"one", b"base"], "v2": [b"two", b"base"]})
    assert regmeta("import", layout, "hello").code == 0
    return {tag: str(digest) for tag, digest in made.items()}


def lose_database(home: Path) -> None:
    for path in home.glob("regmeta.db*"):
        path.unlink()


def test_sound_registry_has_nothing_to_be_put_back(regmeta: Command, filled: dict[str, str]) -> None:
    done = regmeta("rebuild")
    assert (done.code, done.out) == (0, "")
    assert (
        done.err == "1 repository looked at, 0 changed: 0 manifests, 0 blobs, 0 tags put back; 0 problems\n"
    )


def test_lost_database_comes_back(regmeta: Command, filled: dict[str, str], home: Path) -> None:
    lose_database(home)
    assert regmeta("tag", "ls", "hello").code == 6
    done = regmeta("rebuild", "--lost-database", "--yes")
    assert (done.code, done.out) == (0, "")
    assert "1 repository looked at, 1 changed: 2 manifests, 7 blobs, 2 tags put back; 0 problems" in done.err
    assert "verify --mark" in done.err
    for tag, digest in filled.items():
        assert regmeta("tag", "show", f"hello:{tag}", "--json").json["digest"] == digest
    assert regmeta("export", "hello", home / "out").code == 0
    assert regmeta("rebuild", "--json").json["problems"] == []


def test_what_cannot_come_back_is_printed_and_the_code_is_1(
    regmeta: Command, filled: dict[str, str], home: Path
) -> None:
    [found] = (home / "store" / "blobs").rglob(f"{filled['v1'].partition(':')[2]}.*")
    found.unlink()
    lose_database(home)
    done = regmeta("rebuild", "--lost-database", "--yes", "--json")
    assert done.code == 1
    [problem] = done.json["problems"]
    assert (problem["repository"], problem["subject"]) == ("hello", filled["v1"])
    assert "hello:v1" in problem["detail"]


def test_without_yes_nothing_is_done(regmeta: Command, filled: dict[str, str], home: Path) -> None:
    lose_database(home)
    done = regmeta("rebuild", "--lost-database")
    assert (done.code, "--yes" in done.err) == (2, True)
    assert not (home / "regmeta.db").exists()
    assert regmeta("rebuild", "--yes").code == 2


def test_database_that_is_there_is_not_lost(regmeta: Command, filled: dict[str, str]) -> None:
    done = regmeta("rebuild", "--lost-database", "--yes")
    assert (done.code, "not lost" in done.err) == (6, True)


def test_store_without_snapshots_is_refused(regmeta: Command, home: Path) -> None:
    lose_database(home)
    done = regmeta("rebuild", "--lost-database", "--yes")
    assert (done.code, "no snapshot" in done.err) == (3, True)
    assert not (home / "regmeta.db").exists()


def test_process_at_work_is_a_refusal(regmeta: Command, filled: dict[str, str], home: Path) -> None:
    store = FilesystemStore(str(home / "store"))
    staging = store.open_staging()
    lose_database(home)
    done = regmeta("rebuild", "--lost-database", "--yes")
    assert (done.code, "another process works" in done.err) == (6, True)
    staging.close()
    store.close()


@pytest.mark.slow
def test_rebuild_that_is_killed_goes_on_when_run_again(
    regmeta: Command, filled: dict[str, str], home: Path, layout: Path
) -> None:
    lose_database(home)
    for point in ("init.database_made", "rebuild_identity.committed", "rebuild.committed", "record.flushed"):
        killed = subprocess.run(
            [sys.executable, "-m", "regmeta", "--home", str(home), "rebuild", "--lost-database", "--yes"],
            env={"REGMETA_FAILPOINT": f"{point}=kill", "REGMETA_TESTING": "1", "PATH": ""},
            cwd=ROOT,
            check=False,
            capture_output=True,
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert regmeta("import", layout, "hello").code == 6
    done = regmeta("rebuild", "--lost-database", "--yes")
    assert (done.code, "0 problems" in done.err) == (0, True)
    assert regmeta("tag", "show", "hello:v1", "--json").json["digest"] == filled["v1"]


@pytest.mark.slow
def test_two_rebuilds_at_once_end_well_or_one_is_refused(
    regmeta: Command, filled: dict[str, str], home: Path
) -> None:
    for _ in range(3):
        lose_database(home)
        command = [
            sys.executable,
            "-m",
            "regmeta",
            "--home",
            str(home),
            "rebuild",
            "--lost-database",
            "--yes",
        ]
        both = [
            subprocess.Popen(command, cwd=ROOT, env={"PATH": ""}, stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        said = [process.communicate()[1] for process in both]
        codes = sorted(process.returncode for process in both)
        assert codes in ([0, 0], [0, 6]), said
        assert regmeta("tag", "show", "hello:v1", "--json").json["digest"] == filled["v1"]
        assert regmeta("rebuild", "--json").json["problems"] == []


def test_interrupted_rebuild_says_so_and_goes_on(
    regmeta: Command, filled: dict[str, str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from regmeta.maintain.rebuild import lost

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    lose_database(home)
    with monkeypatch.context() as patch:
        patch.setattr(lost, "_commit", interrupted)
        done = regmeta("rebuild", "--lost-database", "--yes")
    assert (done.code, "interrupted" in done.err) == (130, True)
    assert list((home / "store" / "staging").iterdir()) == []
    assert regmeta("rebuild", "--lost-database", "--yes").code == 0
