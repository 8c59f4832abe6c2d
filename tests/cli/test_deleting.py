"""Deleting and undoing it by commands: what they say, and how they say that it can be undone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders import AMD64, ARM64, make_layout
from tests.cli.conftest import Command


@pytest.fixture
def hello(regmeta: Command, layout: Path) -> dict[str, str]:
    """A repository with two tagged indexes; tag to digest."""
    made = make_layout(layout, 2, platforms=[AMD64, ARM64])
    assert regmeta("import", layout, "hello").code == 0
    return {tag: str(digest) for tag, digest in made.items()}


def test_manifest_is_deleted_and_what_it_says_brings_it_back(regmeta: Command, hello: dict[str, str]) -> None:
    digest = hello["v0"]
    done = regmeta("manifest", "rm", f"hello@{digest}", "--cascade")
    assert (done.code, done.out) == (0, "")
    lines = done.err.splitlines()
    assert len(lines) == 5
    assert lines[0] == f"hello@{digest} is deleted"
    assert lines[3] == "removed: hello:v0"
    undo = lines[4].removeprefix("to undo it: regmeta ").split()
    assert regmeta("manifest", "show", f"hello@{digest}").code == 3
    assert [tag["name"] for tag in regmeta("tag", "ls", "hello", "--json").json["items"]] == ["v1"]
    assert len(regmeta("manifest", "ls", "hello", "--json").json["items"]) == 3
    listed = regmeta("manifest", "ls", "hello", "--deleted", "--json").json
    assert [(item["digest"], item["tags"]) for item in listed if item["tags"]] == [(digest, ["v0"])]
    assert "v0" in regmeta("manifest", "ls", "hello", "--deleted").out
    back = regmeta(*undo)
    assert back.code == 0
    assert back.err.splitlines()[-1] == "set again: hello:v0"
    assert len(regmeta("manifest", "ls", "hello", "--json").json["items"]) == 6
    assert regmeta("manifest", "ls", "hello", "--deleted", "--json").json == []
    assert regmeta("verify").code == 0


def test_manifest_without_its_tags_comes_back_with_a_word_of_warning(
    regmeta: Command, hello: dict[str, str]
) -> None:
    digest = hello["v0"]
    assert regmeta("manifest", "rm", f"hello@{digest}", "--json").json["tags_ended"] == ["v0"]
    back = regmeta("manifest", "undelete", f"hello@{digest}")
    assert back.err.splitlines()[-1] == (
        f"it has no tag and is collected in the end: regmeta tag set hello:TAG {digest}"
    )


def test_manifest_that_an_index_lists_is_refused_with_the_culprit(
    regmeta: Command, hello: dict[str, str]
) -> None:
    shown = regmeta("manifest", "show", "hello:v1", "--json").json
    child = shown["tree"]["children"][0]["digest"]
    refused = regmeta("manifest", "rm", f"hello@{child}")
    assert (refused.code, refused.out) == (6, "")
    assert f"the index {hello['v1']} lists it, reached through hello:v1" in refused.err


@pytest.mark.parametrize("reference", ["hello:v0", "hello"])
@pytest.mark.parametrize("verb", ["rm", "undelete"])
def test_manifest_commands_want_a_digest_and_say_where_to_find_one(
    regmeta: Command, hello: dict[str, str], reference: str, verb: str
) -> None:
    refused = regmeta("manifest", verb, reference)
    assert refused.code == 2
    assert "REPOSITORY@DIGEST" in refused.err
    assert "'regmeta tag rm'" in refused.err
    assert len(regmeta("tag", "ls", "hello", "--json").json["items"]) == 2


def test_repository_is_deleted_shown_as_deleted_and_brought_back(
    regmeta: Command, hello: dict[str, str]
) -> None:
    done = regmeta("repo", "rm", "hello")
    assert (done.code, done.out) == (0, "")
    first, second = done.err.splitlines()
    assert first == "hello is deleted: 2 tags, 6 manifests"
    assert second.startswith("to undo it, until ")
    assert second.endswith(": regmeta repo undelete hello")
    assert regmeta("repo", "ls", "--json").json["items"] == []
    [listed] = regmeta("repo", "ls", "--deleted", "--json").json
    assert (listed["name"], listed["tags"], listed["state"]) == ("hello", 2, "deleted")
    assert "hello" in regmeta("repo", "ls", "--deleted").out
    assert "deleted at" in regmeta("repo", "show", "hello").out
    assert "'regmeta repo undelete hello' brings it back" in regmeta("repo", "show", "hello").out
    assert regmeta("tag", "ls", "hello").code == 3
    assert regmeta("repo", "rm", "hello").code == 3
    back = regmeta("repo", "undelete", "hello")
    assert (back.code, back.err) == (0, "hello is back with 2 tags\n")
    assert {t["name"]: t["digest"] for t in regmeta("tag", "ls", "hello", "--json").json["items"]} == hello
    assert "state       active\n" in regmeta("repo", "show", "hello").out
    assert regmeta("repo", "undelete", "hello").code == 3
    assert regmeta("verify").code == 0


def test_deleted_things_are_in_a_backup_and_come_back_from_it(
    regmeta: Command, hello: dict[str, str], tmp_path: Path, layout: Path
) -> None:
    assert regmeta("import", layout, "other").code == 0
    assert regmeta("manifest", "rm", f"hello@{hello['v0']}", "--cascade").code == 0
    assert regmeta("repo", "rm", "other").code == 0
    copy = tmp_path / "copy"
    assert regmeta("backup", copy).code == 0
    assert regmeta("restore", copy, "--yes").code == 0
    assert regmeta("verify").code == 0
    assert regmeta("repo", "undelete", "other").err == "other is back with 2 tags\n"
    assert regmeta("manifest", "undelete", f"hello@{hello['v0']}", "--tags").code == 0
    assert len(regmeta("tag", "ls", "hello", "--json").json["items"]) == 2


def test_blob_that_is_used_is_refused_and_one_that_is_not_here_is_not_found(
    regmeta: Command, hello: dict[str, str]
) -> None:
    refused = regmeta("blob", "rm", "hello", hello["v0"])
    assert (refused.code, f"the manifest {hello['v0']} names it" in refused.err) == (6, True)
    assert regmeta("blob", "rm", "hello", "sha256:" + "0" * 64).code == 3
    assert regmeta("blob", "rm", "hello", "nonsense").code == 3


def test_help_of_each_command_has_an_example(regmeta: Command) -> None:
    for command in (("manifest", "rm"), ("manifest", "undelete"), ("repo", "rm"), ("repo", "undelete")):
        assert f"regmeta {' '.join(command)} hello" in regmeta(*command, "--help").out
