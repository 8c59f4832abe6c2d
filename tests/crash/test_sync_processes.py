"""``regmeta sync`` in processes of its own: interrupted, told to end, and two of them at once."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from regmeta.settings import Settings
from tests.builders import Json, LayoutBuilder, digest_of
from tests.crash.harness.judge import ALLOWED_AFTER_CRASH
from tests.crash.processes import TIMEOUT_S, run, started, wait_for
from tests.support.consistency import assert_consistent, findings
from tests.support.registries.bad_registry import BadRegistry
from tests.support.registries.rules import Hang, Slow
from tests.support.registry import open_parts, rows, tags
from tests.support.syncs import write_config

# What a signal does to a process is the same on every database.
pytestmark = pytest.mark.soak_on_postgresql

MIB = 1024 * 1024


@pytest.fixture
def upstream() -> Iterator[BadRegistry]:
    """A remote registry."""
    with BadRegistry() as found:
        yield found


@pytest.fixture
def images(upstream: BadRegistry, builder: LayoutBuilder) -> dict[str, Json]:
    """Images of ``app``: of the last one a layer is never sent."""
    made = {f"v{number}": builder.image([b"layer %d" % number]) for number in range(3)}
    made["v3"] = builder.image([b"first", b"that does not come"])
    for tag, image in made.items():
        builder.tag(image, tag)
    upstream.push(builder, "app")
    upstream.misbehave(f"/blobs/{hung_layer(upstream, made)}", Hang())
    return made


def hung_layer(upstream: BadRegistry, images: dict[str, Json]) -> str:
    return str(json.loads(upstream.blobs[images["v3"]["digest"]])["layers"][1]["digest"])


def wait_for_blob(upstream: BadRegistry, digest: str, process: subprocess.Popen[str]) -> None:
    wait_for(lambda: upstream.count("GET", f"/blobs/{digest}") > 0, process, 0.005)


def assert_whole(settings: Settings, images: dict[str, Json]) -> None:
    """Check that all images are here, and that nothing is left over of who brought them."""
    database, store = open_parts(settings)
    with closing(database), closing(store):
        assert tags(database) == {tag: digest_of(image) for tag, image in images.items()}
        assert_consistent(database, store)


def outcomes(settings: Settings) -> list[str | None]:
    """Return how the runs ended, oldest first."""
    database, store = open_parts(settings)
    with closing(database), closing(store):
        return [outcome for (outcome,) in rows(database, "SELECT outcome FROM sync_runs ORDER BY id")]


def assert_ends(process: subprocess.Popen[str], code: int) -> str:
    """Check that a process that was told to end does so soon, with *code*; return what it said."""
    began_s = time.monotonic()
    _, said = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == code, said
    assert "Traceback" not in said
    # The time that a read may take (30 s) would be the reason to wait for longer.
    assert time.monotonic() - began_s < 20
    return said


@pytest.mark.parametrize("what", ["/tags/list", "/manifests/", "/_catalog"])
def test_interrupted_sync_does_not_wait_for_an_answer_that_does_not_come(
    settings: Settings, upstream: BadRegistry, images: dict[str, Json], what: str
) -> None:
    write_config(settings, upstream.url)
    upstream.behave()
    upstream.misbehave(what, Hang())
    with started(settings, "sync", "run") as process:
        wait_for(lambda: upstream.count("GET", what) > 0, process, 0.005)
        process.send_signal(signal.SIGINT)
        assert_ends(process, 130)
    assert outcomes(settings) == ["stopped"]
    upstream.behave()
    run(settings, "sync", "run")
    assert_whole(settings, images)


@pytest.mark.parametrize("command", [("sync", "run"), ("sync", "{url}/app:v3")])
def test_interrupted_sync_says_so_and_the_next_does_the_rest(
    settings: Settings, upstream: BadRegistry, images: dict[str, Json], command: tuple[str, ...]
) -> None:
    write_config(settings, upstream.url)
    arguments = [word.format(url=upstream.url) for word in command]
    with started(settings, *arguments) as process:
        wait_for_blob(upstream, hung_layer(upstream, images), process)
        process.send_signal(signal.SIGINT)
        said = assert_ends(process, 130)
    assert "interrupted" in said
    database, store = open_parts(settings)
    with closing(database), closing(store):
        assert "v3" not in tags(database)
        assert [line for line in findings(database, store) if not ALLOWED_AFTER_CRASH.fullmatch(line)] == []
    assert outcomes(settings) == ["stopped"]
    upstream.behave()
    run(settings, "sync", "run")
    assert_whole(settings, images)
    assert list(Path(settings.store, "staging").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_watch_that_is_told_to_end_in_the_middle_of_a_layer_ends(
    settings: Settings, upstream: BadRegistry, images: dict[str, Json], number: signal.Signals
) -> None:
    write_config(settings, upstream.url, 'poll = "1h"')
    with started(settings, "sync", "watch") as process:
        wait_for_blob(upstream, hung_layer(upstream, images), process)
        process.send_signal(number)
        assert_ends(process, 0)
    assert outcomes(settings) == ["stopped"]
    upstream.behave()
    run(settings, "sync", "run")
    assert_whole(settings, images)


def test_watch_that_has_nothing_to_do_ends_when_it_is_told_to(
    settings: Settings, upstream: BadRegistry, images: dict[str, Json]
) -> None:
    upstream.behave()
    write_config(settings, upstream.url, 'poll = "1h"')
    with started(settings, "sync", "watch") as process:
        wait_for(lambda: outcomes(settings) == ["done"], process, 0.02)
        process.send_signal(signal.SIGTERM)
        assert_ends(process, 0)
    assert_whole(settings, images)


# --- two at once --------------------------------------------------------------------------------


def fetched(upstream: BadRegistry, digest: Any) -> int:
    return upstream.count("GET", f"/blobs/{digest}")


def test_two_processes_that_sync_the_same_images_bring_each_whole_and_the_large_layer_once(
    settings: Settings, upstream: BadRegistry
) -> None:
    """Whoever comes later waits for the large one; what is small either may fetch."""
    builder = LayoutBuilder()
    large = builder.layer(b"large" * (3 * MIB // 10))
    base = builder.layer(b"base")
    made = {f"v{n:02}": builder.image([base, b"layer %d" % n]) for n in range(19)}
    made["v19"] = builder.image([base, large])
    for tag, image in made.items():
        builder.tag(image, tag)
    upstream.push(builder, "app")
    write_config(settings, upstream.url)
    # One is in the middle of the large layer, for long enough, when the other begins.
    upstream.misbehave(f"/blobs/{large['digest']}", Slow(5.0))
    with started(settings, "sync", "run") as one:
        wait_for(lambda: fetched(upstream, large["digest"]) > 0, one, 0.005)
        with started(settings, "sync", "run") as other:
            for process in (other, one):
                _, said = process.communicate(timeout=TIMEOUT_S)
                assert process.returncode == 0, said
                assert "Traceback" not in said
    assert_whole(settings, made)
    assert outcomes(settings) == ["done", "done"]
    assert fetched(upstream, large["digest"]) == 1
    blobs = [digest for digest in builder.blobs if digest not in upstream.types]
    assert all(1 <= fetched(upstream, digest) <= 2 for digest in blobs)


def test_two_processes_that_begin_at_once_bring_each_image_whole(
    settings: Settings, upstream: BadRegistry
) -> None:
    builder = LayoutBuilder()
    base = builder.layer(b"base")
    made = {f"v{n:02}": builder.image([base, b"layer %d" % n]) for n in range(20)}
    for tag, image in made.items():
        builder.tag(image, tag)
    upstream.push(builder, "app")
    write_config(settings, upstream.url)
    with started(settings, "sync", "run") as one, started(settings, "sync", "run") as other:
        for process in (one, other):
            _, said = process.communicate(timeout=TIMEOUT_S)
            assert process.returncode == 0, said
    assert_whole(settings, made)
    assert outcomes(settings) == ["done", "done"]
