"""``regmeta events``: the feed as text and as JSON, its cursors, and its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from regmeta.oci.digest import Digest
from tests.builders import make_layout
from tests.cli.conftest import Answer, Command


@pytest.fixture
def images(regmeta: Command, tmp_path: Path) -> dict[str, Digest]:
    """An image with a tag in one repository."""
    found = make_layout(tmp_path / "layout", {"v1": [b"a"]})
    assert regmeta("import", tmp_path / "layout", "app").code == 0
    return found


def cursor_of(answer: Answer) -> str:
    return answer.err.rpartition("--after ")[2].strip()


def lines_of(answer: Answer) -> list[Any]:
    return [json.loads(line) for line in answer.out.splitlines()]


@pytest.mark.usefixtures("images")
def test_tail_goes_on_behind_the_cursor_that_it_told(regmeta: Command) -> None:
    first = regmeta("events", "tail")
    assert first.code == 0
    assert [line.split()[2] for line in first.out.splitlines()] == ["manifest.pushed", "tag.created"]
    assert regmeta("events", "tail", "--after", cursor_of(first)).out == ""
    regmeta("tag", "set", "app:new", "v1")
    second = regmeta("events", "tail", "--after", cursor_of(first))
    [line] = second.out.splitlines()
    assert "app:new  -> sha256:" in line


@pytest.mark.usefixtures("images")
def test_tail_as_json_is_a_line_for_each_event_and_one_with_the_cursor(regmeta: Command) -> None:
    *events, last = lines_of(regmeta("events", "tail", "--json"))
    assert [event["kind"] for event in events] == ["manifest.pushed", "tag.created"]
    assert list(last) == ["cursor"]
    assert lines_of(regmeta("events", "tail", "--json", "--after", last["cursor"])) == [last]
    [told] = lines_of(regmeta("events", "tail", "--json", "--from", "now"))
    assert told == last


@pytest.mark.usefixtures("images")
def test_tail_of_some_events(regmeta: Command) -> None:
    assert "tag.created" in regmeta("events", "tail", "--kind", "tag.created", "--kind", "tag.moved").out
    assert len(regmeta("events", "tail", "--limit", 1).out.splitlines()) == 1
    assert regmeta("events", "tail", "--repository", "app").out.count("\n") == 2
    assert regmeta("events", "tail", "--repository", "nothing").code == 3


def test_cursor_that_is_none_and_both_starts_are_usage_errors(regmeta: Command) -> None:
    assert regmeta("events", "tail", "--after", "x").code == 2
    assert regmeta("events", "tail", "--after", "x", "--from", "now").code == 2
    assert regmeta("events", "tail", "--from", "yesterday").code == 2


@pytest.mark.usefixtures("images")
def test_cursor_behind_what_was_pruned_is_refused(regmeta: Command) -> None:
    early = cursor_of(regmeta("events", "tail", "--limit", 1))
    late = cursor_of(regmeta("events", "tail"))
    assert regmeta("events", "prune", "--older", "1d").err.startswith("0 events of before 20")
    assert regmeta("events", "prune", "--older", "0s").err.startswith("2 events of before 20")
    refused = regmeta("events", "tail", "--after", early)
    assert (refused.code, refused.out) == (6, "")
    assert "were deleted since" in refused.err
    assert "--from beginning" in refused.err
    assert regmeta("events", "tail", "--after", late).code == 0
    assert regmeta("events", "tail").out == ""
    assert regmeta("events", "prune", "--older", "soon").code == 2


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_follower_shows_what_comes_and_ends_with_its_cursor(
    regmeta: Command, home: Path, number: signal.Signals
) -> None:
    command = [sys.executable, "-m", "regmeta", "--home", str(home), "events", "tail", "--follow"]
    options = ["--from", "beginning", "--interval", "0.05"]
    with subprocess.Popen(
        command + options,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert "manifest.pushed" in child.stdout.readline()
        assert "tag.created" in child.stdout.readline()
        regmeta("tag", "set", "app:new", "v1")
        assert "app:new" in child.stdout.readline()
        child.send_signal(number)
        said = child.stderr.read()
        assert child.wait(30) == 0
    assert "Traceback" not in said
    assert regmeta("events", "tail", "--after", said.rpartition("--after ")[2].strip()).out == ""
