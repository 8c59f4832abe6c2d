"""``regmeta store copy``: what it says, and with which code it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders import make_layout
from tests.cli.conftest import Command


@pytest.fixture
def filled(regmeta: Command, layout: Path) -> str:
    """A registry with two tags in one repository; a digest."""
    made = make_layout(layout, {"v1": [b"one", b"base"], "v2": [b"two", b"base"]})
    assert regmeta("import", layout, "hello").code == 0
    return str(made["v1"])


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_registry_goes_on_in_the_new_store(
    regmeta: Command, filled: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = tmp_path / "new"
    assert regmeta("export", "hello", tmp_path / "before").code == 0
    done = regmeta("store", "copy", new)
    assert (done.code, done.out) == (0, "")
    assert "7 objects (" in done.err
    assert "1 snapshot are there, 7 objects copied in this run" in done.err
    assert f"the registry's store is {new}" in done.err
    assert "set REGMETA_STORE" in done.err
    refused = regmeta("import", tmp_path / "before", "again")
    assert refused.code == 6
    assert f"were moved to {new}" in refused.err
    assert regmeta("gc", "run").code == 6
    again = regmeta("store", "copy", new)
    assert again.code == 0
    assert "an earlier run had moved everything" in again.err
    monkeypatch.setenv("REGMETA_STORE", str(new))
    assert regmeta("tag", "show", "hello:v1", "--json").json["digest"] == filled
    assert regmeta("export", "hello", tmp_path / "after").code == 0
    assert files(tmp_path / "after") == files(tmp_path / "before")
    assert regmeta("verify", "--read-data").code == 0


def test_report_can_be_read_by_programs(regmeta: Command, filled: str, tmp_path: Path) -> None:
    moved = regmeta("store", "copy", tmp_path / "new", "--verify-data", "--json").json
    assert moved["live"] == moved["copied"] == moved["read_again"] == 7
    assert moved["target"] == str(tmp_path / "new")
    assert moved["damaged"] == []
    assert moved["refused_s"] >= 0


def test_damaged_object_ends_with_4_unless_it_is_to_be_marked(
    regmeta: Command, filled: str, home: Path, tmp_path: Path
) -> None:
    [found] = (home / "store" / "blobs").rglob(f"{filled.partition(':')[2]}.*")
    found.unlink()
    done = regmeta("store", "copy", tmp_path / "new")
    assert done.code == 4
    assert filled in done.err
    done = regmeta("store", "copy", tmp_path / "new", "--mark")
    assert done.code == 0
    assert filled in done.out
    assert "1 blob marked as damaged" in done.err


def test_refusals_have_a_code(regmeta: Command, filled: str, home: Path, tmp_path: Path) -> None:
    assert regmeta("store", "copy").code == 2
    assert regmeta("store", "copy", tmp_path / "new", "--abandon").code == 2
    assert regmeta("store", "copy", home / "store").code == 2
    assert regmeta("store", "copy", "ftp://host/x").code == 2
    assert regmeta("store", "copy", "--abandon").code == 3
    (tmp_path / "taken" / "blobs").mkdir(parents=True)
    (tmp_path / "taken" / "blobs" / "x").touch()
    assert regmeta("store", "copy", tmp_path / "taken").code == 6
