"""``search`` and ``db rebuild-search``: what is printed, and with which code it ends."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.builders import LayoutBuilder
from tests.cli.conftest import Command


@pytest.fixture
def digest(regmeta: Command, layout: Path) -> str:
    """team/nginx:V1.2, whose label says something."""
    builder = LayoutBuilder()
    layers = [builder.layer(b"base")]
    image = builder.image(layers, builder.config(layers, Labels={"about": "A Web Server\x1b[31m"}))
    builder.tag(image, "V1.2")
    assert regmeta("import", builder.write(layout), "team/nginx").code == 0
    return str(image["digest"])


def test_each_kind_is_a_table(regmeta: Command, digest: str) -> None:
    found = regmeta("search", "nginx")
    assert (found.code, found.err) == (0, "")
    assert [line.split() for line in found.out.splitlines()] == [
        ["REPOSITORY", "MATCH"],
        ["team/nginx", "exact"],
    ]
    lines = regmeta("search", "nginx:v1").out.splitlines()
    assert lines[1].split() == ["team/nginx", "V1.2", digest, "prefix"]
    lines = regmeta("search", digest[7:15]).out.splitlines()
    assert lines[1].split()[:2] == [digest, "image"]
    said = regmeta("search", "web", "server").out
    assert "team/nginx:V1.2" in said
    assert "A Web Server" in said
    assert "\x1b" not in said
    assert regmeta("search", "nothing-like-it").err == "nothing found\n"


def test_json_and_csv(regmeta: Command, digest: str) -> None:
    found = regmeta("search", ":v1", "--json").json
    assert found["tags"]["items"] == [
        {"repository": "team/nginx", "tag": "V1.2", "digest": digest, "match": "prefix"}
    ]
    lines = regmeta("search", "nginx", "--csv", "--kind", "repositories").out
    assert lines == "repository,match\nteam/nginx,exact\n"
    assert regmeta("search", "nginx", "--csv").code == 2


def test_limit_says_that_there_is_more(regmeta: Command, digest: str) -> None:
    assert regmeta("tag", "set", "team/nginx:v2", digest).code == 0
    found = regmeta("search", ":v", "--limit", 1)
    assert len(found.out.splitlines()) == 2
    assert found.err == "(tags: the first 1; --limit shows more)\n"


@pytest.mark.parametrize("arguments", [(":",), ("",), ("app", "--kind", "images"), ("app", "--limit", "0")])
def test_what_asks_for_nothing_is_refused(regmeta: Command, arguments: tuple[str, ...]) -> None:
    assert regmeta("search", *arguments).code == 2


def test_check_finds_and_rebuild_puts_right(regmeta: Command, digest: str, home: Path) -> None:
    assert regmeta("db", "rebuild-search", "--check").err == "search is in step\n"
    assert regmeta("db", "rebuild-search").err == "search was in step\n"
    with closing(sqlite3.connect(home / "regmeta.db")) as other, other:
        other.execute("UPDATE repositories SET leaf = 'x'")
    found = regmeta("db", "rebuild-search", "--check")
    assert (found.code, found.out) == (1, "repository: team/nginx: is found as 'x', not 'nginx'\n")
    assert regmeta("db", "rebuild-search", "--json").json["repositories"] == 1
    assert regmeta("db", "rebuild-search", "--check").code == 0
