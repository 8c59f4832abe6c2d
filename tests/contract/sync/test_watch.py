"""Policies that run by themselves: when they are due, beside each other, until they are stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from regmeta.app import Writing, sync_watch
from regmeta.errors import UsageError
from regmeta.ingest.plan import Lifetimes
from regmeta.ingest.reserve import reserve
from regmeta.oci.digest import Digest
from regmeta.settings import Content, Settings, Sync, SyncRegistry
from regmeta.sync.records import begin_run, run_state
from regmeta.sync.run import SyncReport
from tests.builders import LayoutBuilder
from tests.support.mirroring import noted, tags_of
from tests.support.registries.bad_registry import BadRegistry
from tests.support.registries.rules import Hang, Status
from tests.support.registry import change, rows, tags

LIMIT_S = 60.0  # only a test that fails waits so long


class Stop:
    """What ends a watch."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def is_set(self) -> bool:
        return self._event.is_set()

    def set(self) -> None:
        self._event.set()

    def wait(self, timeout_s: float) -> None:
        self._event.wait(timeout_s)


class Watching:
    """A watch that goes on in a thread; what it tells is kept."""

    def __init__(self, settings: Settings) -> None:
        self.reports: list[SyncReport] = []
        self.said: list[str] = []
        self._news = threading.Condition()
        self._stop = Stop()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._watch, args=(settings,))
        self._thread.start()

    def _watch(self, settings: Settings) -> None:
        try:
            sync_watch.watch(settings, self._stop, synced=self._synced, changed=self._changed)
        except BaseException as error:  # noqa: BLE001 - raised where the watch is stopped
            self._error = error

    def _synced(self, report: SyncReport) -> None:
        with self._news:
            self.reports.append(report)
            self._news.notify_all()

    def _changed(self, what: str) -> None:
        with self._news:
            self.said.append(what)
            self._news.notify_all()

    def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until something was told that makes it so."""
        with self._news:
            assert self._news.wait_for(is_so, LIMIT_S), (self.reports, self.said, self._error)

    def runs_of(self, policy: str) -> list[SyncReport]:
        return [report for report in list(self.reports) if report.policy == policy]

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_watch, "SHORTEST_WAIT_S", 0.05)
    monkeypatch.setattr(sync_watch, "LONGEST_WAIT_S", 0.2)


@pytest.fixture
def watching(settings: Settings) -> Iterator[Callable[..., Watching]]:
    """Start a watch of registries; it is stopped when the test is over."""
    started: list[Watching] = []

    def start(*registries: SyncRegistry) -> Watching:
        chosen = msgspec.structs.replace(settings, sync=Sync(registries=registries))
        started.append(Watching(chosen))
        return started[-1]

    yield start
    for each in started:
        each.stop()


@pytest.fixture
def remote(bad_registry: BadRegistry, builder: LayoutBuilder) -> BadRegistry:
    """A registry with v0 to v2."""
    for number in range(3):
        builder.tag(builder.image([b"layer %d" % number * 100]), f"v{number}")
    bad_registry.push(builder, "app")
    return bad_registry


def registry(remote: BadRegistry, name: str = "hub", prefix: str = "app", **options: Any) -> SyncRegistry:
    """Return the settings of a registry that is polled all the time."""
    quick = {"poll": "1s", "retries": 0, "retry_delay": "1s", "read_timeout": "2s"}
    return SyncRegistry(
        name=name, urls=(remote.url,), content=(Content(prefix=prefix),), **{**quick, **options}
    )


def test_policy_runs_again_when_its_interval_is_over(
    watching: Callable[..., Watching], remote: BadRegistry, builder: LayoutBuilder, writing: Writing
) -> None:
    watch = watching(registry(remote))
    watch.until(lambda: len(watch.reports) == 1)
    builder.tag(builder.image([b"new"]), "v3")
    remote.push(builder, "app")
    watch.until(lambda: len(watch.reports) == 2)
    watch.stop()
    assert [report.counts.copied for report in watch.reports] == [3, 1]
    assert tags(writing.database) == tags_of(builder)
    runs = rows(writing.database, "SELECT cause, outcome, started_at FROM sync_runs ORDER BY id")
    assert [run[:2] for run in runs] == [("schedule", "done")] * 2
    assert runs[1][2] - runs[0][2] >= 10**6


def test_policy_that_has_run_lately_waits_for_its_time(
    watching: Callable[..., Watching], remote: BadRegistry, writing: Writing
) -> None:
    first = watching(registry(remote, poll="1h"))
    first.until(lambda: len(first.reports) == 1)
    first.stop()
    remote.requests.clear()
    second = watching(registry(remote, poll="1h"), registry(remote, "other", "x*", poll="1s"))
    second.until(lambda: len(second.runs_of("other")) == 2)
    assert second.runs_of("hub") == []
    assert remote.count(None, "/app/") == 0


@pytest.mark.parametrize("outcome", ["stopped", "killed"])
def test_run_that_did_not_end_is_taken_up_at_once(
    watching: Callable[..., Watching], remote: BadRegistry, writing: Writing, outcome: str
) -> None:
    first = watching(registry(remote, poll="1h"))
    first.until(lambda: len(first.reports) == 1)
    first.stop()
    ended = {"stopped": "outcome = 'stopped'", "killed": "outcome = NULL, ended_at = NULL"}
    change(writing.database, f"UPDATE sync_runs SET {ended[outcome]}")
    second = watching(registry(remote, poll="1h"))
    second.until(lambda: len(second.reports) == 1)


def test_run_of_another_process_is_waited_for(
    watching: Callable[..., Watching], remote: BadRegistry, writing: Writing
) -> None:
    writer = writing.writer
    run_id = begin_run(
        writing.database, "hub", "command", actor="x", host=writer.host, owner=writer.staging.owner
    )
    watch = watching(registry(remote), registry(remote, "other", "x*"))
    watch.until(lambda: len(watch.runs_of("other")) == 2)
    assert watch.runs_of("hub") == []
    change(
        writing.database,
        "UPDATE sync_runs SET ended_at = started_at + 1, outcome = 'done' WHERE id = :id",
        id=run_id,
    )
    watch.until(lambda: len(watch.runs_of("hub")) == 1)


def begin_elsewhere(writing: Writing, owner: UUID) -> None:
    begin_run(writing.database, "hub", "command", actor="x", host="elsewhere", owner=owner)


def test_run_of_another_host_that_does_not_get_on_is_not_waited_for(
    watching: Callable[..., Watching],
    remote: BadRegistry,
    writing: Writing,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin_elsewhere(writing, writing.writer.staging.owner)
    watch = watching(registry(remote), registry(remote, "other", "x*"))
    watch.until(lambda: len(watch.runs_of("other")) == 2)
    assert watch.runs_of("hub") == []
    monkeypatch.setattr(sync_watch, "STALLED_S", 0.0)
    watch.until(lambda: len(watch.runs_of("hub")) == 1)


def test_run_of_another_host_whose_process_has_no_sign_any_more_is_taken_up_and_noted(
    watching: Callable[..., Watching], remote: BadRegistry, writing: Writing
) -> None:
    begin_elsewhere(writing, uuid4())
    watch = watching(registry(remote))
    watch.until(lambda: len(watch.reports) == 1)
    [(outcome,)] = rows(writing.database, "SELECT outcome FROM sync_runs WHERE host = 'elsewhere'")
    assert outcome == "interrupted"


def test_state_of_a_run_changes_while_it_gets_on(writing: Writing) -> None:
    owner = writing.writer.staging.owner
    begin_elsewhere(writing, owner)
    [(run,)] = rows(writing.database, "SELECT id FROM sync_runs")
    states = [run_state(writing.database, run, owner)]
    reserve(writing.database, [Digest("sha256", "0" * 64)], owner, "elsewhere", Lifetimes())
    states.append(run_state(writing.database, run, owner))
    change(writing.database, "UPDATE intents SET received_bytes = 5")
    states.append(run_state(writing.database, run, owner))
    assert len(set(states)) == 3
    change(writing.database, "DELETE FROM intents")


def test_failure_is_tried_again_when_it_is_due(
    watching: Callable[..., Watching], remote: BadRegistry, writing: Writing
) -> None:
    remote.misbehave("/manifests/v1$", Status(500))
    watch = watching(registry(remote, poll="1h"))
    watch.until(lambda: len(watch.reports) == 1)
    remote.behave()
    change(writing.database, "UPDATE sync_items SET next_try_at = checked_at WHERE outcome = 'failed'")
    watch.until(lambda: len(watch.reports) == 2)
    assert watch.reports[1].counts.copied == 1
    assert noted(writing)["v1"] == ("copied", None, 0)
    assert rows(writing.database, "SELECT cause FROM sync_runs ORDER BY id") == [("schedule",), ("retry",)]


def test_upstream_that_hangs_keeps_no_other_policy_waiting(
    watching: Callable[..., Watching], remote: BadRegistry
) -> None:
    remote.misbehave("/slow/", Hang())
    watch = watching(registry(remote, "slow", "slow", read_timeout="1h"), registry(remote))
    watch.until(lambda: len(watch.runs_of("hub")) == 2)
    assert watch.runs_of("slow") == []


@pytest.mark.parametrize("prefix", ["app", "a*"], ids=["repository", "catalog"])
@pytest.mark.slow
def test_upstream_that_is_away_is_told_once_and_so_is_its_return(
    watching: Callable[..., Watching], remote: BadRegistry, prefix: str
) -> None:
    remote.misbehave("/v2/", Status(503))
    watch = watching(registry(remote, prefix=prefix), registry(remote, "other", "x*", retries=0))
    watch.until(lambda: bool([said for said in watch.said if said.startswith("hub")]))
    asked = remote.count()
    while remote.count() < asked + 3:
        threading.Event().wait(0.02)
    remote.behave()
    watch.until(lambda: "hub: works again" in watch.said)
    of_hub = [said for said in watch.said if said.startswith("hub")]
    assert len(of_hub) == 2
    assert "503" in of_hub[0]


def test_one_bad_image_does_not_say_that_the_upstream_is_away(
    watching: Callable[..., Watching], remote: BadRegistry, writing: Writing
) -> None:
    remote.misbehave("/manifests/v1$", Status(500))
    watch = watching(registry(remote, poll="1h"))
    due = "UPDATE sync_items SET next_try_at = checked_at WHERE outcome = 'failed'"
    watch.until(lambda: len(watch.reports) == 1)
    change(writing.database, due)
    watch.until(lambda: len(watch.reports) == 2)
    change(writing.database, due)
    watch.until(lambda: len(watch.reports) == 3)
    assert [report.counts.failed for report in watch.reports] == [1, 1, 1]
    assert watch.said == []


@pytest.mark.parametrize(
    ("where", "rule"),
    [
        ("/blobs/", Hang()),
        ("/tags/list", Hang()),
        ("/manifests/", Status(503)),
        ("/blobs/", Status(503)),
        ("/tags/list", Status(503)),
    ],
    ids=["blob", "list", "back-off of a manifest", "back-off of a blob", "back-off of a list"],
)
def test_stop_ends_what_goes_on(
    watching: Callable[..., Watching], remote: BadRegistry, writing: Writing, where: str, rule: Any
) -> None:
    remote.misbehave(where, rule)
    slow: dict[str, Any] = {"retries": 5, "retry_delay": "1h", "max_retry_delay": "1h", "read_timeout": "1h"}
    watch = watching(registry(remote, **slow))
    while not remote.count(None, where):
        threading.Event().wait(0.01)
    watch.stop()
    assert rows(writing.database, "SELECT DISTINCT outcome FROM sync_runs") == [("stopped",)]
    assert not [outcome for outcome, _, _ in noted(writing).values() if outcome == "failed"]


def test_settings_without_a_poll_interval_are_refused(settings: Settings, remote: BadRegistry) -> None:
    chosen = msgspec.structs.replace(settings, sync=Sync(registries=(registry(remote, poll=None),)))
    with pytest.raises(UsageError, match="poll"):
        sync_watch.watch(chosen, Stop(), synced=print, changed=print)
