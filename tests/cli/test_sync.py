"""The commands that bring images of other registries: what they say, and with which code they end."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.builders import ARM64, LayoutBuilder
from tests.cli.conftest import Command
from tests.support.registries.bad_registry import BadRegistry
from tests.support.registries.rules import Status, WrongBytes

NOWHERE = "http://127.0.0.1:1"
EXAMPLE = Path(__file__).parents[2] / "examples" / "sync.toml"


@pytest.fixture(autouse=True)
def _no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


@pytest.fixture
def upstream() -> Iterator[BadRegistry]:
    """A registry with the tags ``v1`` and ``v2`` in ``app``, for amd64."""
    with BadRegistry() as registry:
        builder = LayoutBuilder()
        builder.tag(builder.image(layers=[b"one"]), "v1")
        builder.tag(builder.image(layers=[b"two"]), "v2")
        registry.push(builder, "app")
        yield registry


def mirror(home: Path, *registries: tuple[str, str], options: str = "", prefix: str = "app") -> None:
    """Write settings that mirror registries, each a name and a URL."""
    text = [
        f'[[sync.registries]]\nname = "{name}"\nurls = ["{url}"]\nretries = 0\n{options}\n'
        f'content = [{{ prefix = "{prefix}", destination = "m" }}]\n'
        for name, url in registries
    ]
    (home / "regmeta.toml").write_text("".join(text))


# --- one image --------------------------------------------------------------------------------


def test_one_image_comes_and_is_not_fetched_again(regmeta: Command, upstream: BadRegistry) -> None:
    done = regmeta("sync", f"{upstream.url}/app:v1")
    assert done.code == 0
    [heading, row] = done.out.splitlines()
    assert heading.split() == ["IMAGE", "HERE", "OUTCOME", "DIGEST", "COPIED"]
    assert row.split()[:4] == ["app:v1", "app:v1", "copied", upstream.tags["app"]["v1"]]
    assert f"{upstream.host}: 1 image copied (" in done.err
    assert regmeta("tag", "show", "app:v1").code == 0
    blobs = upstream.count("GET", "/blobs/")
    again = regmeta("sync", f"{upstream.url}/app:v1")
    assert (again.code, again.out.split()[7]) == (0, "unchanged")
    assert "0 images copied (0 B), 1 here already" in again.err
    assert upstream.count("GET", "/blobs/") == blobs


def test_image_command_is_the_same_as_no_command(regmeta: Command, upstream: BadRegistry) -> None:
    long = regmeta("sync", "image", f"{upstream.url}/app:v2", "mine/app:x", "--json")
    short = regmeta("sync", f"{upstream.url}/app:v2", "mine/app:y", "--json")
    assert (long.code, short.code) == (0, 0)
    [[first], [second]] = [each.json[0]["items"] for each in (long, short)]
    assert (first["destination"], second["destination"]) == ("mine/app:x", "mine/app:y")
    assert first["digest"] == second["digest"] == upstream.tags["app"]["v2"]
    assert {**first, "destination": "", "copied_bytes": 0} == {**second, "destination": "", "copied_bytes": 0}


def test_json_of_one_image_is_one_document(regmeta: Command, upstream: BadRegistry) -> None:
    [document] = regmeta("sync", f"{upstream.url}/app:v1", "--json").json
    assert document["policy"] == upstream.host
    assert (document["outcome"], document["error"], document["reason"]) == ("done", None, None)
    assert document["counts"]["copied"] == 1
    assert document["counts"]["copied_bytes"] == document["items"][0]["copied_bytes"] > 0


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["alpine"], 3, "'alpine' names no registry; write for example docker.io/library/alpine"),
        (["quay.io/UPPER/app"], 3, "not a repository name"),
        (["quay.io"], 3, "names no registry"),
        (["user:secret@quay.io/app"], 3, "does not carry credentials"),
        (["quay.io/app:1", "NOT-A-NAME"], 3, "not a repository name: 'NOT-A-NAME'"),
        (["quay.io/app:1", f"app@sha256:{'0' * 64}"], 2, "a destination has no digest"),
        (["quay.io/app:1", "-p", "arm"], 2, "platform 'arm' is none: write linux/amd64"),
        (["quay.io/app:1", "-p", "linux/aarch64"], 2, "images call this architecture arm64"),
        (["statsu"], 2, "did you mean 'regmeta sync status'?"),
    ],
)
def test_what_names_no_image_is_refused_before_anything_is_asked(
    regmeta: Command, arguments: list[str], code: int, says: str
) -> None:
    done = regmeta("sync", *arguments)
    assert (done.code, done.out) == (code, "")
    assert says in done.err
    assert "secret" not in done.err
    assert regmeta("sync", "history", "--json").json == []


def test_registry_that_was_not_made_is_named(bare: Command, home: Path, upstream: BadRegistry) -> None:
    done = bare("--home", home, "sync", f"{upstream.url}/app:v1")
    assert done.code == 6
    assert "'regmeta init' makes one" in done.err
    assert upstream.count() == 0


def test_default_home_is_made_by_the_first_sync(bare: Command, upstream: BadRegistry) -> None:
    done = bare("sync", f"{upstream.url}/app:v1")
    assert done.code == 0
    assert "made the registry in" in done.err


def test_https_asked_of_a_plain_registry_says_what_to_write(regmeta: Command, upstream: BadRegistry) -> None:
    done = regmeta("sync", f"{upstream.host}/app:v1")
    assert done.code == 5
    assert f"does not speak TLS; if it speaks plain HTTP, write http://{upstream.host}" in done.err
    assert "0 images copied (0 B), 0 here already, 1 failed, 1 request\n" in done.err


def test_plain_http_asked_of_a_tls_registry_says_what_to_write(
    regmeta: Command, upstream: BadRegistry
) -> None:
    upstream.misbehave("/v2/", Status(400, body=b"Client sent an HTTP request to an HTTPS server.\n"))
    done = regmeta("sync", f"{upstream.url}/app:v1")
    assert done.code == 3
    assert "it speaks HTTPS, and was asked in plain HTTP: write https://" in done.err


def test_image_that_is_not_there_ends_with_3(regmeta: Command, upstream: BadRegistry) -> None:
    done = regmeta("sync", f"{upstream.url}/app:v9", "--json")
    assert done.code == 3
    [item] = done.json[0]["items"]
    assert (item["outcome"], item["error"], item["digest"]) == ("failed", "NotFound", None)
    assert "HTTP 404: MANIFEST_UNKNOWN" in item["reason"]


def test_wrong_bytes_end_with_4_and_leave_no_tag(regmeta: Command, upstream: BadRegistry) -> None:
    upstream.misbehave("/blobs/", WrongBytes())
    done = regmeta("sync", f"{upstream.url}/app:v1")
    assert done.code == 4
    assert done.err.startswith(f"regmeta: {upstream.host}: app:v1: ")
    assert regmeta("tag", "show", "app:v1").code == 3


def test_registry_that_cannot_be_reached_ends_with_5(
    regmeta: Command, home: Path, upstream: BadRegistry
) -> None:
    mirror(home, ("gone", NOWHERE))
    done = regmeta("sync", f"{NOWHERE}/app:v1")
    assert done.code == 5
    assert "no connection: Connection refused" in done.err


def test_registry_that_lets_nobody_in_ends_with_6(regmeta: Command, upstream: BadRegistry) -> None:
    upstream.auth = "basic"
    done = regmeta("sync", f"{upstream.url}/app:v1")
    assert done.code == 6
    assert "wants a user name, and there is none set up for it" in done.err


def test_image_without_a_signature_that_was_asked_for_by_name_ends_with_6(
    regmeta: Command, upstream: BadRegistry
) -> None:
    done = regmeta("sync", f"{upstream.url}/app:v1", "--only-signed")
    assert (done.code, done.out.splitlines()[1].split()[2:4]) == (6, ["left", "out"])
    assert "has no signature" in done.err
    assert done.err.count("app:v1") == 1
    assert regmeta("tag", "show", "app:v1").code == 3


def test_image_for_another_platform_that_was_asked_for_by_name_ends_with_6(
    regmeta: Command, upstream: BadRegistry
) -> None:
    builder = LayoutBuilder(seed=1)
    builder.tag(builder.image(platform=ARM64, layers=[b"arm"]), "arm")
    upstream.push(builder, "app")
    done = regmeta("sync", f"{upstream.url}/app:arm", "-p", "linux/s390x", "--json")
    assert done.code == 6
    assert done.json[0]["items"][0]["outcome"] == "left out"
    assert "linux/arm64" in done.err
    assert regmeta("sync", f"{upstream.url}/app:arm", "-p", "linux/arm64").code == 0


# --- what the settings say --------------------------------------------------------------------


@pytest.mark.parametrize("command", ["run", "watch"])
def test_settings_that_name_no_registry_say_what_to_add(regmeta: Command, command: str) -> None:
    done = regmeta("sync", command)
    assert (done.code, done.out) == (2, "")
    assert "no registry to sync from: add [[sync.registries]]" in done.err


def test_unknown_registry_is_refused_with_those_that_are_there(regmeta: Command, home: Path) -> None:
    mirror(home, ("hub", NOWHERE), ("quay", NOWHERE))
    done = regmeta("sync", "run", "hug")
    assert done.code == 2
    assert "no registry 'hug' to sync from: there are hub, quay" in done.err


def test_run_brings_all_and_then_shows_no_table(regmeta: Command, home: Path, upstream: BadRegistry) -> None:
    mirror(home, ("hub", upstream.url))
    done = regmeta("sync", "run")
    assert done.code == 0
    assert [line.split()[:3] for line in done.out.splitlines()[1:]] == [
        ["app:v1", "m/app:v1", "copied"],
        ["app:v2", "m/app:v2", "copied"],
    ]
    again = regmeta("sync", "run", "hub")
    assert (again.code, again.out) == (0, "")
    assert "hub: 0 images copied (0 B), 2 here already" in again.err
    assert regmeta("sync", "run", "--json").json[0]["items"] == []


def test_image_that_fails_does_not_stop_the_others_and_is_told_everywhere(
    regmeta: Command, home: Path, upstream: BadRegistry
) -> None:
    mirror(home, ("hub", upstream.url))
    upstream.misbehave("/manifests/v2", Status(500))
    done = regmeta("sync", "run")
    assert done.code == 5
    assert [line.split()[0:3:2] for line in done.out.splitlines()[1:]] == [
        ["app:v1", "copied"],
        ["app:v2", "failed"],
    ]
    assert "regmeta: hub: app:v2: " in done.err
    assert "1 image copied" in done.err
    assert "1 failed" in done.err
    status = regmeta("sync", "status")
    assert status.code == 1
    assert "RemoteUnavailable" in status.out
    [found] = regmeta("sync", "status", "--json").json
    assert found["images"] == {"copied": 1, "failed": 1}
    assert [(each["reference"], each["attempts"]) for each in found["failing"]] == [("v2", 1)]
    assert found["next_try_at"] is not None
    upstream.behave()
    assert regmeta("sync", "run").code == 0
    assert regmeta("sync", "status").code == 0


def test_registry_that_is_away_does_not_stop_the_others_and_is_told_everywhere(
    regmeta: Command, home: Path, upstream: BadRegistry
) -> None:
    mirror(home, ("gone", NOWHERE), ("hub", upstream.url), prefix="**")
    done = regmeta("sync", "run", "--json")
    assert done.code == 5
    gone, hub = sorted(done.json, key=lambda each: str(each["policy"]))
    assert (gone["outcome"], gone["error"], gone["counts"], gone["items"]) == (
        "failed",
        "RemoteUnavailable",
        None,
        [],
    )
    assert hub["counts"]["copied"] == 2
    assert set(gone) == set(hub)
    assert "regmeta: gone: 127.0.0.1:1/v2/_catalog: no connection" in done.err
    status = regmeta("sync", "status")
    assert status.code == 1
    assert "regmeta: gone: 127.0.0.1:1/v2/_catalog" in status.err
    runs = regmeta("sync", "history", "gone").out.splitlines()
    assert len(runs) == 2
    assert "Connection refused" in runs[1]


def test_what_a_policy_leaves_out_is_no_failure(regmeta: Command, home: Path, upstream: BadRegistry) -> None:
    mirror(home, ("hub", upstream.url), options="only_signed = true")
    done = regmeta("sync", "run")
    assert done.code == 0
    assert "regmeta: hub: app:v1: " in done.err
    assert "2 left out" in done.err
    status = regmeta("sync", "status")
    assert status.code == 0
    assert status.out.splitlines()[1].split()[-4:] == ["0", "2", "0", "-"]


def test_image_that_failed_by_name_is_shown_and_no_finding(regmeta: Command, upstream: BadRegistry) -> None:
    upstream.misbehave("/blobs/", WrongBytes())
    assert regmeta("sync", f"{upstream.url}/app:v1").code == 4
    done = regmeta("sync", "status")
    assert done.code == 0
    assert "app:v1" in done.out
    [*_, row] = done.out.splitlines()
    assert row.split()[2:4] == ["1", "-"], "nobody tries it again"


def test_deletions_that_are_not_plausible_are_refused_until_they_are_believed(
    regmeta: Command, home: Path, upstream: BadRegistry
) -> None:
    for number in range(12):
        upstream.tags["app"][f"x{number}"] = upstream.tags["app"]["v1"]
    mirror(home, ("hub", upstream.url), options='upstream_deletes = "delete"')
    assert regmeta("sync", "run").code == 0
    for number in range(12):
        del upstream.tags["app"][f"x{number}"]
    refused = regmeta("sync", "run")
    assert refused.code == 6
    assert "--believe-deletes" in refused.err
    assert len(regmeta("tag", "ls", "m/app", "--json").json["items"]) == 14
    believed = regmeta("sync", "run", "--believe-deletes")
    assert believed.code == 0
    assert "12 removed" in believed.err
    assert [tag["name"] for tag in regmeta("tag", "ls", "m/app", "--json").json["items"]] == ["v1", "v2"]


# --- history ----------------------------------------------------------------------------------


def test_history_is_paged_and_says_how_to_go_on(regmeta: Command, upstream: BadRegistry) -> None:
    for tag in ("v1", "v2", "v1"):
        regmeta("sync", f"{upstream.url}/app:{tag}")
    shown = regmeta("sync", "history", "--limit", 2)
    assert [line.split()[0] for line in shown.out.splitlines()] == ["RUN", "3", "2"]
    assert shown.err == "(older ones: --before 2)\n"
    rest = regmeta("sync", "history", "--before", 2, "--json").json
    assert [(each["id"], each["cause"], each["copied"]) for each in rest] == [(1, "command", 1)]
    assert regmeta("sync", "history", "quay.io", "--json").json == []


# --- watch ------------------------------------------------------------------------------------


def test_watch_needs_something_to_do(regmeta: Command, home: Path) -> None:
    mirror(home, ("hub", NOWHERE), ("quay", NOWHERE))
    assert 'no registry has a poll interval: add poll = "1h"' in regmeta("sync", "watch").err
    done = regmeta("sync", "watch", "quay")
    assert done.code == 2
    assert "registry 'quay' has no poll interval" in done.err


@contextlib.contextmanager
def watching(home: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "regmeta", "--home", str(home), "sync", "watch", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_watch_says_what_it_watches_writes_a_line_for_a_run_and_ends_with_0(
    regmeta: Command, home: Path, upstream: BadRegistry, number: signal.Signals
) -> None:
    mirror(home, ("hub", upstream.url), options='poll = "1h"')
    with watching(home, "--json") as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "watching hub: every 1h\n"
        line = read(process)
        process.send_signal(number)
        said = process.stderr.read()
        assert process.wait(30) == 0
    assert (line["policy"], line["outcome"], line["counts"]["copied"]) == ("hub", "done", 2)
    assert [item["reference"] for item in sorted(line["items"], key=str)] == ["v1", "v2"]
    assert "hub: 2 images copied" in said


# --- a person at a terminal -------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("script") is None, reason="needs script(1)")
def test_bars_are_drawn_on_a_terminal_only(regmeta: Command, home: Path, upstream: BadRegistry) -> None:
    command = [sys.executable, "-m", "regmeta", "--home", str(home), "sync"]
    plain = subprocess.run(
        [*command, f"{upstream.url}/app:v1"], capture_output=True, text=True, check=True, env=os.environ
    )
    assert "\x1b" not in plain.stdout + plain.stderr
    assert plain.stderr.startswith(f"{upstream.host}: 1 image copied")
    drawn = subprocess.run(
        ["script", "-qec", " ".join([*command, f"{upstream.url}/app:v2"]), "/dev/null"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    ).stdout
    assert "1 of 1" in drawn
    assert "2 layers" in drawn or "1 layer" in drawn
    assert "/s" in drawn


def test_example_settings_are_whole(bare: Command, home: Path) -> None:
    done = bare("--home", home, "--config", EXAMPLE, "sync", "run", "nosuch")
    assert done.code == 2
    assert "no registry 'nosuch' to sync from: there are hub, partner, old" in done.err
