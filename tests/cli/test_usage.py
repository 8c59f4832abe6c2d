"""``regmeta usage``: a bar for each repository, growth, and samples."""

from __future__ import annotations

from pathlib import Path

import pytest

from regmeta.cli import bars
from tests.builders import make_layout
from tests.cli.conftest import Command


@pytest.fixture
def filled(regmeta: Command, tmp_path: Path) -> Command:
    """Two repositories of one team, and another one."""
    for name, content in (("team/a", b"a" * 3000), ("team/b", b"b" * 1000), ("lib", b"c" * 10)):
        make_layout(tmp_path / name, {"v1": [content]})
        assert regmeta("import", tmp_path / name, name).code == 0
    return regmeta


def test_usage_is_the_greatest_first_each_with_a_bar(filled: Command) -> None:
    lines = filled("usage").out.splitlines()
    assert lines[0].split() == ["REPOSITORY", "TAGS", "EXCLUSIVE", "UNIQUE"]
    assert [line.split()[0] for line in lines[1:]] == ["team/a", "team/b", "lib"]
    lengths = [line.count("█") for line in lines[1:]]
    assert lengths[0] == bars.WIDTH
    assert lengths == sorted(lengths, reverse=True)


def test_usage_of_a_prefix_by_depth_as_json_and_csv(filled: Command) -> None:
    found = filled("usage", "team/", "--json").json
    assert [each["name"] for each in found["items"]] == ["team/a", "team/b"]
    [team, lib] = filled("usage", "--depth", 1, "--json").json["items"]
    assert (team["name"], team["repositories"], lib["name"]) == ("team", 2, "lib")
    lines = filled("usage", "show", "team", "--csv").out.splitlines()
    assert lines[0] == "repository,repositories,tags,manifests,blobs,logical,shared,exclusive,unique"
    assert len(lines) == 3


def test_usage_is_as_of_the_samples_until_it_is_computed(filled: Command, tmp_path: Path) -> None:
    assert filled("usage", "record").err == "3 repositories measured\n"
    assert filled("usage", "record", "--resume").err == "0 repositories measured, 3 left as they were\n"
    make_layout(tmp_path / "more", {"v2": [b"d" * 5000]})
    assert filled("import", tmp_path / "more", "lib").code == 0
    sampled = filled("usage")
    assert sampled.out.splitlines()[1].startswith("team/a")
    assert sampled.err.startswith("as of 20")
    now = filled("usage", "--now")
    assert (now.out.splitlines()[1].split()[0], now.err) == ("lib", "")
    page = filled("usage", "--limit", 1, "--json").json
    rest = filled("usage", "--limit", 5, "--after", page["next"], "--json").json
    assert [each["name"] for each in rest["items"]] == ["team/b", "lib"]


def test_growth_is_a_line_for_each_day(filled: Command) -> None:
    assert "no samples" in filled("usage", "growth").err
    filled("usage", "record")
    [_, line] = filled("usage", "growth", "team").out.splitlines()
    assert line.split()[1] == "2"
    [point] = filled("usage", "growth", "--json").json
    assert (point["repositories"], point["tags"]) == (3, 3)
    assert line.startswith(point["day"])


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nothing"], 3, "nothing: no such repository, and none below it"),
        (["UPPER"], 3, "UPPER"),
        (["--after", "x"], 2, "no cursor"),
        (["--after", "x", "--now"], 2, "of samples only"),
        (["growth", "--days", "0"], 2, ""),
    ],
)
def test_what_cannot_be_shown_is_said(filled: Command, arguments: list[str], code: int, said: str) -> None:
    answer = filled("usage", *arguments)
    assert answer.code == code
    assert said in answer.err


def test_bars_are_of_plain_signs_where_blocks_cannot_be_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bars.bars([0, 1, 100], 10) == ["", "▏", "█" * 10]
    assert bars.bars([0, 0]) == ["", ""]
    assert bars.bars([]) == []
    assert bars.sparkline([0, 1, 8]) == ".▁█"
    monkeypatch.setattr(bars, "_can_show", lambda signs: False)
    assert bars.bars([0, 1, 100], 10) == ["", "#", "#" * 10]
    assert bars.sparkline([0, 1, 8]) == "._@"
