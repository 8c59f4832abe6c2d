"""Many processes of several hosts on PostgreSQL and S3: frozen in the middle of things, killed, cut off."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from regmeta.app import initialise, open_for_writing
from regmeta.db import Database
from regmeta.ingest.tags import remove_tag
from regmeta.maintain.collect.run import collect
from regmeta.maintain.collect.sweep import sweep
from regmeta.maintain.recover import recover
from regmeta.settings import Settings
from tests.builders import Json, LayoutBuilder
from tests.crash.harness.fleet import FULL, SMALL, Report, Size, run_apart
from tests.crash.harness.fleet_end import settle
from tests.crash.harness.fleet_images import Gallery
from tests.crash.harness.soak_images import _reached
from tests.crash.processes import ROOT, TIMEOUT_S
from tests.support.frozen_process import SHORT, SHORT_S, settings_in
from tests.support.postgres import Postgres
from tests.support.registry import import_all, rows
from tests.support.seaweed import Buckets

LARGE_BYTES = 9 * 1024 * 1024  # [bytes] goes up in parts
WRITER_POINTS = [
    "reserve.committed",
    "bucket.published",
    "test.parts_sent",
    "bucket.completed",
    "ingest.committing",
    "ingest.committed",
]
COLLECTOR_POINTS = [
    "collect.committing",
    "collect.committed",
    "test.tombstones_read",
    "test.record_read",
    "bucket.deleted",
    "objects_deleted.committing",
    "tombstones_dropped.committing",
]
CUT_OFF = ("UploadGone", "StoreUnavailable", "ConnectionLost")
FLUSHER_POINTS = ["bucket.record_put", "outbox.committing", "outbox.committed"]


IN_SECONDS = ("bucket.published", "ingest.committing", "test.record_read", "outbox.committing")


def sampled(points: list[str]) -> list[Any]:
    """Leave most of them to the long tests: each takes processes, and more time than anything lasts."""
    return [each if each in IN_SECONDS else pytest.param(each, marks=pytest.mark.long) for each in points]


@dataclass(frozen=True)
class Fleet:
    """One registry on PostgreSQL and S3, and its hosts."""

    folder: Path
    database: str
    store: str

    def host(self, name: str) -> Settings:
        """Return the settings of one host."""
        found: Settings = settings_in(self.folder / name, self.database, self.store)
        return found

    @contextmanager
    def process(
        self, host: str, act: str, point: str = "", number: int = 1, **arguments: Any
    ) -> Iterator[subprocess.Popen[str]]:
        """Start a process of a host that stops at a point; it does not outlive the block."""
        told = {
            "home": str(self.folder / host),
            "database": self.database,
            "store": self.store,
            "act": act,
            "point": point,
            "number": number,
            "arguments": arguments,
        }
        (self.folder / host).mkdir(exist_ok=True)
        command = [sys.executable, "-m", "tests.support.frozen_process", json.dumps(told)]
        with subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.send_signal(signal.SIGKILL)


@pytest.fixture
def fleet(postgres: Postgres, buckets: Buckets, tmp_path: Path) -> Iterator[Fleet]:
    """A new registry that is used by several hosts."""
    name = postgres.create(migrated=False)
    found = Fleet(tmp_path, postgres.url(name), buckets.url())
    (tmp_path / "here").mkdir()
    initialise(found.host("here"))
    yield found
    postgres.drop(name)


def wait_until_it_stands(process: subprocess.Popen[str]) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    look = os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT
    while (found := os.waitid(os.P_PID, process.pid, look)) is None:
        assert time.monotonic() < deadline_s, "it did not come to its point"
        time.sleep(0.01)
    if found.si_code != os.CLD_STOPPED:
        pytest.fail(f"it ended and did not come to its point: {process.communicate()}")


def wake(process: subprocess.Popen[str]) -> Any:
    """Let it go on to its end; return what it says."""
    process.send_signal(signal.SIGCONT)
    return ended(process)


def ended(process: subprocess.Popen[str]) -> Any:
    said, wrong = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, wrong
    return json.loads(said)


@dataclass(frozen=True)
class Images:
    """A layout of two images that share a layer, and all bytes of it."""

    path: Path
    tags: Mapping[str, Json]
    gallery: Gallery

    def expected(self, repository: str) -> dict[tuple[str, str], frozenset[str | None]]:
        """Return what the tags are to be when all is imported."""
        return {(repository, tag): frozenset([image["digest"]]) for tag, image in self.tags.items()}


@pytest.fixture
def images(tmp_path: Path) -> Images:
    """Two images, of which one has a large layer."""
    builder = LayoutBuilder()
    shared = builder.layer(b"shared")
    made = {"v1": builder.image([shared, b"one"]), "v2": builder.image([shared, bytes(LARGE_BYTES)])}
    for tag, image in made.items():
        builder.tag(image, tag)
    trees = {each["digest"]: frozenset(_reached(builder.blobs, each["digest"])) for each in made.values()}
    return Images(builder.write(tmp_path / "layout"), made, Gallery((), dict(builder.blobs), trees))


def work_on(fleet: Fleet, images: Images) -> None:
    """Bring the same images elsewhere, for longer than anything is left alone, and clear up."""
    with open_for_writing(fleet.host("other"), lifetimes=SHORT) as registry:
        import_all(registry, images.path, "other")
        until_s = time.monotonic() + 2 * SHORT_S
        while time.monotonic() < until_s:
            recover(registry.writer, registry.store)
            collect(registry.writer, registry.store)
            sweep(registry.database, registry.store, SHORT, force=True)
            time.sleep(0.3)


def assert_settled(
    fleet: Fleet, images: Images, expected: Mapping[tuple[str, str], frozenset[str | None]]
) -> None:
    hosts = [fleet.host(name) for name in ("here", "frozen", "other")]
    found = list(settle(hosts, fleet.folder, images.gallery, expected, {}))
    assert found == []


# --- frozen -----------------------------------------------------------------------------------


@pytest.mark.parametrize("point", sampled(WRITER_POINTS))
def test_writer_of_a_host_that_was_frozen_does_no_harm_when_it_goes_on(
    fleet: Fleet, images: Images, point: str
) -> None:
    with fleet.process("frozen", "import", point, layout=str(images.path), repository="app") as process:
        wait_until_it_stands(process)
        work_on(fleet, images)
        told = wake(process)
    expected = images.expected("app")
    if isinstance(told, str):
        # What it sent was given up, or its connection was ended: it says so, and a push may be tried again.
        assert told.startswith(CUT_OFF), told
        expected = {tag: values | {None} for tag, values in expected.items()}
    else:
        assert told == ["imported", "imported"]
    assert_settled(fleet, images, expected | images.expected("other"))


@pytest.mark.parametrize("point", sampled(COLLECTOR_POINTS))
def test_collector_of_a_host_that_was_frozen_does_no_harm_when_it_goes_on(
    fleet: Fleet, images: Images, point: str
) -> None:
    with open_for_writing(fleet.host("here"), lifetimes=SHORT) as registry:
        import_all(registry, images.path)
        for tag in images.tags:
            remove_tag(registry.writer, "app", tag)
    with fleet.process("frozen", "collect", point) as process:
        wait_until_it_stands(process)
        work_on(fleet, images)  # the same bytes come again while it stands still
        wake(process)
    gone = {of: frozenset([None]) for of in images.expected("app")}
    assert_settled(fleet, images, {**gone, **images.expected("other")})


@pytest.mark.parametrize("point", sampled(FLUSHER_POINTS))
def test_flusher_of_a_host_that_was_frozen_does_no_harm_when_it_goes_on(
    fleet: Fleet, images: Images, point: str
) -> None:
    with fleet.process("frozen", "import", point, layout=str(images.path), repository="app") as process:
        wait_until_it_stands(process)
        work_on(fleet, images)
        with open_for_writing(fleet.host("other"), lifetimes=SHORT) as registry:
            remove_tag(registry.writer, "app", "v1")  # its snapshot is newer than the one that is late
        wake(process)
    gone = {("app", "v1"): frozenset([None])}
    assert_settled(fleet, images, {**images.expected("app"), **gone, **images.expected("other")})


# --- one tag ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "times", [15, pytest.param(1_000, marks=[pytest.mark.long, pytest.mark.timeout(900)])]
)
def test_two_processes_that_push_one_tag_leave_one_live_interval_and_a_complete_history(
    fleet: Fleet, images: Images, times: int
) -> None:
    pushed: dict[str, Any] = {"layout": str(images.path), "repository": "app", "times": times}
    with ExitStack() as stack:
        started = [stack.enter_context(fleet.process(host, "push tag", **pushed)) for host in ("a", "b")]
        assert [_ended_in(process, TIMEOUT_S + times) for process in started] == [times, times]
    database = Database(fleet.database)
    intervals = rows(
        database,
        "SELECT t.manifest_digest, t.started_at, t.ended_at FROM tags t"
        " JOIN repositories r ON r.id = t.repository_id WHERE r.name = 'app' ORDER BY t.started_at",
    )
    events = rows(database, "SELECT kind FROM events WHERE kind LIKE 'tag.%' ORDER BY id")
    database.close()
    assert sum(ended_at is None for _, _, ended_at in intervals) == 1
    for (digest, _, ended_at), (following, started_at, _) in pairwise(intervals):
        assert ended_at == started_at  # no gap, no overlap
        assert digest != following
    assert len(events) == len(intervals)
    assert len(intervals) >= times  # of two that push the same at once, the later changes nothing


def _ended_in(process: subprocess.Popen[str], timeout_s: float) -> Any:
    said, wrong = process.communicate(timeout=timeout_s)
    assert process.returncode == 0, wrong
    return json.loads(said)


# --- all at once --------------------------------------------------------------------------------


def assert_nothing_lost(report: Report) -> None:
    assert not report.failures, "\n".join(f"{kind}: {told}" for kind, told in report.failures[:50])


def test_fleet_that_is_killed_frozen_and_cut_off_loses_nothing_in_seconds() -> None:
    assert_nothing_lost(run_apart(SMALL))


@pytest.mark.parametrize(
    ("images", "most_s"),
    [
        pytest.param(100, 150, marks=[pytest.mark.soak, pytest.mark.timeout(600)]),
        pytest.param(FULL.images, FULL.most_s, marks=[pytest.mark.long, pytest.mark.timeout(3_600)]),
    ],
)
def test_fleet_that_is_killed_frozen_and_cut_off_loses_nothing(
    images: int, most_s: float, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run_apart(sized(images, most_s), timeout_s=most_s + 900)
    with capsys.disabled():
        for name, figure in found.figures.items():
            print(f"{name}: {figure}")
    assert_nothing_lost(found)


def sized(images: int, most_s: float) -> Size:
    """Return a size with as much harm for each image as the full one has."""
    share = images / FULL.images
    fixed = ("images", "least_s", "most_s", "servers_every")
    harm = {name: round(wanted * share) for name, wanted in asdict(FULL).items() if name not in fixed}
    return replace(FULL, images=images, most_s=most_s, **harm)
