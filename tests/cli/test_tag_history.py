"""``tag history``, ``restore``, ``lock``, and ``--at``: what is printed, and with which code it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders import make_layout
from tests.cli.conftest import Command


@pytest.fixture
def digests(regmeta: Command, layout: Path) -> list[str]:
    """hello:v0 and hello:v1, and hello:moving that was the first and is the second; the two digests."""
    made = [str(digest) for digest in make_layout(layout, 2).values()]
    assert regmeta("import", layout, "hello").code == 0
    for digest in made:
        assert regmeta("tag", "set", "hello:moving", digest).code == 0
    return made


def test_history_of_a_tag_and_of_a_repository(regmeta: Command, digests: list[str]) -> None:
    shown = regmeta("tag", "history", "hello:moving")
    assert (shown.code, shown.err) == (0, "")
    lines = shown.out.splitlines()
    assert lines[0].split() == ["FROM", "UNTIL", "DIGEST", "BY", "ENDED", "BY", "IMAGE"]
    assert [digest in line for digest, line in zip(reversed(digests), lines[1:], strict=True)] == [True, True]
    found = regmeta("tag", "history", "hello:moving", "--json", "--limit", 1).json
    assert [(item["digest"], item["image"], item["kept_until"]) for item in found] == [
        (digests[1], "here", None)
    ]
    rest = regmeta("tag", "history", "hello:moving", "--json", "--after", found[0]["key"]).json
    assert [item["digest"] for item in rest] == [digests[0]]
    changes = regmeta("tag", "history", "hello", "--json").json
    assert [(item["tag"], item["change"]) for item in changes[:2]] == [
        ("moving", "moved"),
        ("moving", "created"),
    ]
    assert regmeta("tag", "history", "hello").out.splitlines()[1].split()[2:4] == ["moving", "moved"]
    assert regmeta("tag", "history", "hello:none").code == 3
    assert regmeta("tag", "history", "hello", "--after", "x").code == 2


def test_restore_says_what_the_tag_is_again(regmeta: Command, digests: list[str]) -> None:
    first, second = digests
    done = regmeta("tag", "restore", "hello:moving")
    assert (done.code, done.out, done.err) == (0, "", f"hello:moving is {first} again (was {second})\n")
    assert regmeta("tag", "rm", "hello:moving").code == 0
    assert (
        regmeta("tag", "restore", "hello:moving", "--to", second).err == f"hello:moving is {second} again\n"
    )
    same = regmeta("tag", "restore", "hello:moving", "--to", second)
    assert (same.code, same.err) == (0, f"hello:moving is {second} already\n")
    assert regmeta("tag", "restore", "hello:moving", "--at", "1d").code == 3
    assert regmeta("tag", "restore", "hello:none").code == 3
    both = regmeta("tag", "restore", "hello:moving", "--at", "1d", "--to", first)
    assert (both.code, both.err) == (2, "regmeta: --at and --to: use one of them\n")


def test_locked_tag_ends_commands_with_6_and_names_the_lock(
    regmeta: Command, digests: list[str], layout: Path
) -> None:
    assert regmeta("tag", "lock", "hello", "v*").err == "hello: tags that match v* are locked\n"
    [lock] = regmeta("tag", "locks", "hello", "--json").json
    assert (lock["pattern"], lock["source"]) == ("v*", "lock")
    refused = regmeta("tag", "rm", "hello:v0")
    assert (refused.code, refused.err) == (6, "regmeta: hello:v0: the tag is immutable by the lock v*\n")
    other = layout.parent / "other"
    made = make_layout(other, 3, seed=1)
    imported = regmeta("import", other, "hello", "--json")
    assert imported.code == 6
    assert [item["status"] for item in imported.json] == ["failed", "failed", "imported"]
    assert imported.json[0]["error"] == "hello:v0: the tag is immutable by the lock v*"
    assert str(made["v2"]) in regmeta("tag", "ls", "hello").out
    assert regmeta("tag", "unlock", "hello", "v*").err == "hello: the lock v* is gone\n"
    assert regmeta("tag", "unlock", "hello", "v*").code == 3
    assert regmeta("tag", "lock", "hello", "v[").code == 2
    assert regmeta("import", other, "hello").code == 0


def test_rule_of_the_settings_is_listed_and_holds(regmeta: Command, digests: list[str], home: Path) -> None:
    config = home / "regmeta.toml"
    config.write_text('[[immutable]]\nrepositories = ["hel*"]\ntags = ["v*"]\n')
    [rule] = regmeta("tag", "locks", "hello", "--json").json
    assert rule == {"pattern": "v*", "source": "settings", "created_at": None, "created_by": None}
    refused = regmeta("tag", "set", "hello:v0", digests[1])
    assert (refused.code, refused.err) == (
        6,
        "regmeta: hello:v0: the tag is immutable by the rule hel* : v*\n",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[immutable]]\ntags = ["v*"]', "missing required field `repositories`"),
        ('[[immutable]]\nrepositories = ["**"]', "missing required field `tags`"),
        ('[[immutable]]\nrepositories = []\ntags = ["v*"]', "immutable rule 1: repositories: there are none"),
        ('[[immutable]]\nrepositories = ["[a"]\ntags = ["v*"]', "immutable rule 1: repositories: '[a' is no"),
        ('[[immutable]]\nrepositories = ["a"]\ntags = ["a/b"]', "immutable rule 1: tags: 'a/b': no tag has"),
    ],
)
def test_rule_that_protects_nothing_is_refused(regmeta: Command, home: Path, text: str, message: str) -> None:
    (home / "regmeta.toml").write_text(text)
    found = regmeta("status")
    assert found.code == 2
    assert message in found.err


def test_reads_at_a_time(regmeta: Command, digests: list[str], tmp_path: Path) -> None:
    first, second = digests
    [newest, oldest] = regmeta("tag", "history", "hello:moving", "--json").json
    then = oldest["started_at"]
    assert regmeta("tag", "show", "hello:moving", "--at", then, "--json").json["digest"] == first
    assert "then" in regmeta("tag", "show", "hello:moving", "--at", then).out
    assert regmeta("manifest", "show", "hello:moving", "--at", then, "--json").json["digest"] == first
    found = {
        tag["name"]: tag["digest"]
        for tag in regmeta("tag", "ls", "hello", "--at", then, "--json").json["items"]
    }
    assert found == {"v0": first, "v1": second, "moving": first}
    assert len(regmeta("manifest", "ls", "hello", "--at", then, "--json").json["items"]) == 2
    target = tmp_path / "then.tar"
    assert regmeta("export", "hello:moving", target, "--at", then).code == 0
    assert regmeta("tag", "ls", "hello", "--at", newest["started_at"]).code == 0
    missing = regmeta("tag", "ls", "hello", "--at", "1d")
    assert (missing.code, "hello: no such repository at 20" in missing.err) == (3, True)


@pytest.mark.parametrize(
    "text", ["2026-11-24T08:00:00", "2026-11-24", "yesterday", "-2h", "2 h", "", "2026-13-01T00:00:00Z"]
)
def test_time_without_a_zone_or_that_is_none_is_refused(
    regmeta: Command, digests: list[str], text: str, tmp_path: Path
) -> None:
    for command in (
        ("tag", "ls", "hello"),
        ("tag", "show", "hello:v0"),
        ("manifest", "show", "hello:v0"),
        ("manifest", "ls", "hello"),
        ("export", "hello:v0", tmp_path / "target"),
        ("tag", "restore", "hello:v0"),
    ):
        found = regmeta(*command, f"--at={text}")
        assert (found.code, found.out) == (2, "")
        assert "time" in found.err
