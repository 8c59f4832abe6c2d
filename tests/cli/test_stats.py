"""``regmeta stats``: pulls, pushers, stars and bookmarks."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from regmeta.db import Database
from regmeta.ingest.pulls import Pull, record_pulls
from regmeta.oci.digest import Digest
from tests.builders import make_layout
from tests.cli.conftest import Command


@pytest.fixture
def pulled(regmeta: Command, home: Path, tmp_path: Path) -> dict[str, Digest]:
    """Two tags, one of which was pulled three times."""
    found = make_layout(tmp_path / "layout", {"v1": [b"a"], "v2": [b"b"]})
    assert regmeta("import", tmp_path / "layout", "team/app").code == 0
    with closing(Database(f"sqlite:///{home / 'regmeta.db'}")) as database:
        record_pulls(database, [Pull("team/app", found["v1"], "v1", datetime.now(UTC), 3)])
    return found


def fields(text: str) -> dict[str, str]:
    pairs = (line.split("  ", 1) for line in text.split("\n\n")[0].splitlines())
    return {name: value.strip() for name, value in pairs}


def test_statistics_of_a_repository_a_tag_and_a_digest(regmeta: Command, pulled: dict[str, Digest]) -> None:
    whole = regmeta("stats", "team/app")
    assert fields(whole.out)["pulls in 30 days"] == "3"
    assert fields(whole.out)["day by day"] == "." * 29 + "█"
    assert "PUSHED BY" in whole.out
    never = fields(regmeta("stats", "team/app:v2", "--days", 1).out)
    assert (never["pulls in 1 day"], never["last pulled"]) == ("0", "never")
    found = regmeta("stats", "show", f"team/app@{pulled['v1']}", "--json").json
    assert (found["pulls"], len(found["days"]), found["pushers"]) == (3, 30, [])
    assert regmeta("stats", "team/app:v2", "--json").json["last_pulled_at"] is None


def test_top_repositories_and_images(regmeta: Command, pulled: dict[str, Digest]) -> None:
    [_, line] = regmeta("stats", "top").out.splitlines()
    assert line.split()[:2] == ["team/app", "3"]
    [image] = regmeta("stats", "top", "--images", "--days", 7, "--json").json
    assert (image["digest"], image["pulls"]) == (str(pulled["v1"]), 3)
    assert regmeta("stats", "top", "--csv").out.splitlines()[0] == "repository,pulls,last pulled"


@pytest.mark.usefixtures("pulled")
def test_stars_and_bookmarks_are_a_users(regmeta: Command) -> None:
    assert regmeta("stats", "star", "team/app", "--user", "ann").err == "team/app is starred by ann\n"
    assert regmeta("stats", "star", "team/app", "--user", "ann").err.endswith("already\n")
    assert regmeta("stats", "bookmark", "team/app", "--user", "ann").code == 0
    listed = regmeta("stats", "favorites", "--user", "ann", "--json").json
    assert [(item["repository"], item["kind"]) for item in listed["items"]] == [
        ("team/app", "bookmark"),
        ("team/app", "star"),
    ]
    assert fields(regmeta("stats", "team/app").out)["stars"] == "1"
    assert regmeta("stats", "unstar", "team/app", "--user", "ann").err == "team/app is not starred by ann\n"
    assert regmeta("stats", "unbookmark", "team/app", "--user", "ann").code == 0
    assert regmeta("stats", "favorites", "--user", "ann", "--json").json["items"] == []


@pytest.mark.usefixtures("pulled")
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["nothing"], 3),
        (["nothing:v1"], 3),
        (["team/app", "--days", "0"], 2),
        (["star", "nothing", "--user", "ann"], 3),
        (["star", "team/app", "--user", " "], 2),
        (["favorites", "--user", "a\nb"], 2),
    ],
)
def test_what_is_not_there_is_said(regmeta: Command, arguments: list[str], code: int) -> None:
    answer = regmeta("stats", *arguments)
    assert (answer.code, answer.out) == (code, "")
