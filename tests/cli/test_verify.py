"""``regmeta verify``: what it says, with which code it ends, and Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders import LayoutBuilder, make_layout
from tests.cli.conftest import Command
from tests.crash.processes import ROOT, wait_for
from tests.support.verified import files_of, spoil

MIB = 1024 * 1024
TIMEOUT_S = 60


@pytest.fixture
def filled(regmeta: Command, layout: Path) -> dict[str, str]:
    """A registry with two tags in one repository; tag to digest."""
    made = make_layout(layout, {"v1": [b"one", b"base"], "v2": [b"two", b"base"]})
    assert regmeta("import", layout, "hello").code == 0
    return {tag: str(digest) for tag, digest in made.items()}


def object_of(home: Path, digest: str) -> Path:
    [found] = (home / "store" / "blobs").rglob(f"{digest.partition(':')[2]}.*")
    return found


def test_sound_registry_has_no_finding(regmeta: Command, filled: dict[str, str]) -> None:
    done = regmeta("verify")
    assert (done.code, done.out) == (0, "")
    assert done.err == "1 repository, 2 manifests, 7 blobs: 0 findings\n"


def test_everything_can_be_read(regmeta: Command, filled: dict[str, str]) -> None:
    done = regmeta("verify", "--read-data")
    assert (done.code, done.out) == (0, "")
    assert "7 blobs, 7 objects read (" in done.err
    assert "0 findings" in done.err
    assert regmeta("verify", "--read-data", "--jobs", 1).code == 0


def test_slices_and_samples_can_be_read(regmeta: Command, filled: dict[str, str]) -> None:
    read = [regmeta("verify", f"--read-data={number}/2", "--json").json["objects_read"] for number in (1, 2)]
    assert sum(read) == 7
    assert regmeta("verify", "--read-data=100%", "--json").json["objects_read"] == 7


@pytest.mark.parametrize("text", ["0/3", "4/3", "1/0", "x", "-5%", "101%", "\u0661/\u0663", ""])
def test_what_is_no_part_is_a_usage_error(regmeta: Command, filled: dict[str, str], text: str) -> None:
    done = regmeta("verify", f"--read-data={text}")
    assert (done.code, "--read-data" in done.err) == (2, True)


def test_rotten_layer_is_found_marked_and_healed(
    regmeta: Command, filled: dict[str, str], home: Path, layout: Path
) -> None:
    spoil(object_of(home, filled["v1"]), b"{}")
    cut = regmeta("verify")
    assert (cut.code, cut.out.count(filled["v1"]), "object-size" in cut.out) == (1, 1, True)
    assert "1 finding" in cut.err
    spoil(object_of(home, filled["v1"]), b" " * 561)
    assert regmeta("export", "hello:v1", home / "out").code == 4
    found = regmeta("verify", "--read-data", "--mark", "--json")
    assert found.code == 1
    [finding] = found.json["findings"]
    assert finding["subject"] == filled["v1"]
    assert finding["used_by"] == ["hello:v1"]
    assert found.json["marked"] == 1
    assert "1 blob marked as damaged" in found.err
    assert "blob-damaged" in regmeta("verify").out
    assert regmeta("export", "hello:v1", home / "out").code == 4
    assert regmeta("import", layout, "hello").code == 0
    assert regmeta("verify", "--read-data").code == 0
    assert regmeta("export", "hello:v1", home / "out").code == 0


def test_json_says_what_was_looked_at(regmeta: Command, filled: dict[str, str]) -> None:
    said = regmeta("verify", "--read-data", "--json").json
    assert said["findings"] == []
    assert (said["repositories"], said["manifests"], said["blobs"]) == (1, 2, 7)
    assert (said["objects_read"], said["marked"], said["hold_released"]) == (7, 0, False)
    assert said["bytes_read"] > 0
    assert said["resumed_at"] is None


def test_hold_is_lifted_when_nothing_is_wrong(regmeta: Command, filled: dict[str, str], home: Path) -> None:
    for path in home.glob("regmeta.db*"):
        path.unlink()
    assert regmeta("rebuild", "--lost-database", "--yes").code == 0
    assert regmeta("gc", "run").code == 6
    assert "lifted" not in regmeta("verify").err
    assert "the hold on collection is lifted" in regmeta("verify", "--mark").err
    assert regmeta("gc", "run").code == 0


def test_store_that_cannot_be_read_is_no_finding(
    regmeta: Command, filled: dict[str, str], home: Path
) -> None:
    (home / "store" / "blobs").rename(home / "store" / "away")
    done = regmeta("verify", "--mark", "--read-data")
    assert (done.code, done.out) == (5, "")
    assert done.err.startswith("regmeta: ")


def test_nothing_is_written(regmeta: Command, filled: dict[str, str], home: Path) -> None:
    object_of(home, filled["v1"]).unlink()
    before = files_of(home / "store")
    assert regmeta("verify", "--read-data").code == 1
    assert files_of(home / "store") == before
    assert not list(home.glob("verify*"))


@pytest.mark.slow
def test_interrupted_run_ends_with_one_line_and_the_next_goes_on(
    regmeta: Command, home: Path, layout: Path
) -> None:
    builder = LayoutBuilder()
    builder.tag(builder.image([bytes([number]) * MIB for number in range(12)]), "v1")
    assert regmeta("import", builder.write(layout), "hello").code == 0
    checkpoint = home / "verify.checkpoint.json"
    command = [sys.executable, "-m", "regmeta", "--home", str(home)]
    with subprocess.Popen(
        [*command, "verify", "--read-data", "--jobs", "1", "--rate", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        wait_for(checkpoint.exists, process, 0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, out) == (130, "")
    assert len(err.splitlines()) == 1
    assert "Traceback" not in err
    noted = json.loads(checkpoint.read_text())
    assert 0 < noted["objects"] < 14
    other = regmeta("verify", "--read-data=1/2", "--json")
    assert (other.code, other.json["resumed_at"]) == (0, None)
    assert not checkpoint.exists()
    checkpoint.write_text(json.dumps(noted))
    done = regmeta("verify", "--read-data", "--json")
    assert (done.code, done.json["resumed_at"], done.json["objects_read"]) == (0, noted["after"], 14)
    assert "went on where the last run was interrupted" in done.err
    assert not checkpoint.exists()
    checkpoint.write_text(json.dumps(noted))
    anew = regmeta("verify", "--read-data", "--restart", "--json").json
    assert (anew["resumed_at"], anew["objects_read"]) == (None, 14)
    checkpoint.write_text(json.dumps(noted)[:40])  # torn by a power cut
    assert regmeta("verify", "--read-data", "--json").json["resumed_at"] is None
