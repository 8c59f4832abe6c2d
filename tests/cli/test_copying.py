"""``regmeta db copy`` as a command: what it says, what it returns, and what other commands say afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders import LayoutBuilder
from tests.cli.conftest import Command


def imported(regmeta: Command, layout: Path) -> None:
    builder = LayoutBuilder()
    builder.tag(builder.image(), "v1")
    assert regmeta("import", builder.write(layout), "app").code == 0


def test_db_copy_moves_the_registry_and_says_what_to_set(
    regmeta: Command, bare: Command, home: Path, layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported(regmeta, layout)
    target = f"sqlite:///{home / 'new' / 'rows.db'}"
    done = regmeta("db", "copy", target)
    assert (done.code, done.out) == (0, "")
    assert "were copied, read again and are the same" in done.err
    assert f"the registry's database is {target}" in done.err
    assert "is retired: set REGMETA_DATABASE" in done.err
    for command in (("tag", "ls", "app"), ("status",), ("import", layout, "app"), ("backup", home / "copy")):
        refused = regmeta(*command)
        assert refused.code == 6, command
        assert f"was retired by 'regmeta db copy': its rows are in {target}" in refused.err
    monkeypatch.setenv("REGMETA_DATABASE", target)
    assert "v1" in regmeta("tag", "ls", "app").out
    assert regmeta("doctor").code == 0
    assert regmeta("verify").code == 0
    assert regmeta("db", "check").code == 0
    assert regmeta("tag", "rm", "app:v1").code == 0


def test_db_copy_reports_each_table_as_json(regmeta: Command, home: Path, layout: Path) -> None:
    imported(regmeta, layout)
    done = regmeta("db", "copy", f"sqlite:///{home / 'rows.db'}", "--json")
    assert (done.code, done.err) == (0, "")
    tables = {table["name"]: table["rows"] for table in done.json["tables"]}
    assert (tables["repositories"], tables["manifests"], tables["tombstones"]) == (1, 1, 0)
    assert done.json["target"].endswith("rows.db")
    assert done.json["identity"]["epoch"] == 1
    again = regmeta("db", "copy", f"sqlite:///{home / 'rows.db'}", "--json")
    assert (again.code, again.json["tables"]) == (0, [])


def test_db_copy_wants_a_target_or_an_end(regmeta: Command, home: Path) -> None:
    assert regmeta("db", "copy").code == 2
    assert regmeta("db", "copy", "sqlite:////x.db", "--abandon").code == 2
    refused = regmeta("db", "copy", f"sqlite:///{home / 'regmeta.db'}")
    assert (refused.code, "is the database itself" in refused.err) == (2, True)
    nothing = regmeta("db", "copy", "--abandon")
    assert (nothing.code, "nothing to abandon" in nothing.err) == (6, True)
