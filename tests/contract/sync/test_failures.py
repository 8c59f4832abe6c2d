"""One bad image stops no other; what failed is noted, due again, and mended."""

from __future__ import annotations

import re
import threading
from datetime import timedelta
from typing import Any

import pytest

from regmeta.app import Writing
from regmeta.errors import RemoteUnavailable, StoreUnavailable
from regmeta.ingest.tag_locks import lock_tags
from regmeta.oci.digest import Digest
from regmeta.sources.registry.credentials import NoCredentials
from regmeta.sources.registry.terms import Terms
from regmeta.sources.registry.transport import Endpoint
from regmeta.sources.registry.upstream import Upstream
from regmeta.sync.items import ALL_TAGS
from regmeta.sync.pipeline import NoProgress
from regmeta.sync.policy import Backoff, ContentRule
from regmeta.sync.run import Mirror, run_policy
from tests.builders import LayoutBuilder
from tests.support.mirroring import blobs_fetched, mirror_of, noted, outcome_of, policy_of, sync, tags_of
from tests.support.registries.bad_registry import BadRegistry
from tests.support.registries.rules import Cut, LyingLength, Redirect, Rule, Slow, Status, WrongBytes
from tests.support.registry import rows, scalar, tags
from tests.support.statements import counted

SCHEMA_1 = b'{"schemaVersion": 1, "name": "app", "tag": "v1", "fsLayers": [], "history": []}'
TYPE_1 = {"Content-Type": "application/vnd.docker.distribution.manifest.v1+prettyjws"}
OCI = {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}


@pytest.fixture
def remote(bad_registry: BadRegistry, builder: LayoutBuilder) -> BadRegistry:
    """A registry with v0 to v4, and layers that are told apart."""
    for number in range(5):
        builder.tag(builder.image([b"layer %d" % number * 100]), f"v{number}")
    bad_registry.push(builder, "app")
    return bad_registry


def layer_of(builder: LayoutBuilder, number: int) -> str:
    return next(of for of, content in builder.blobs.items() if content == b"layer %d" % number * 100)


@pytest.mark.parametrize(
    ("where", "rule", "error"),
    [
        ("manifest", WrongBytes(), "DigestMismatch"),
        ("manifest", Status(500), "RemoteUnavailable"),
        ("manifest", Status(404), "NotFound"),
        ("manifest", Status(403), "RemoteRefused"),
        ("manifest", Status(200, OCI, b"{"), "InvalidManifest"),
        ("manifest", Status(200, OCI, b"{}"), "InvalidManifest"),
        ("manifest", Status(200, TYPE_1, SCHEMA_1), "InvalidManifest"),
        ("manifest", Cut(after_bytes=10), "RemoteUnavailable"),
        ("manifest", LyingLength(length=10_000), "RemoteUnavailable"),
        ("layer", WrongBytes(), "DigestMismatch"),
        ("layer", Status(500), "RemoteUnavailable"),
        ("layer", Status(404), "MissingContent"),
        ("layer", Status(401), "RemoteRefused"),
        ("layer", Cut(after_bytes=0), "RemoteUnavailable"),
        ("layer", Redirect("http://169.254.169.254/latest"), "UnsafeRemote"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Rule) else str(value),
)
@pytest.mark.slow
def test_bad_image_is_left_out_noted_and_mended(
    writing: Writing, remote: BadRegistry, builder: LayoutBuilder, where: str, rule: Rule, error: str
) -> None:
    of = "/manifests/v2" if where == "manifest" else layer_of(builder, 2)
    remote.misbehave(of, rule)
    for attempt in (1, 2):
        report = sync(remote, writing)
        assert report.outcome == "done"
        assert report.counts.failed == 1
        found = outcome_of(report, "v2")
        assert found.reason
        assert found.error_class == error
        assert noted(writing)["v2"] == ("failed", error, attempt)
        assert tags(writing.database).keys() == {"v0", "v1", "v3", "v4"}
    remote.behave()
    report = sync(remote, writing, only_due=True)
    assert (report.counts.copied, report.counts.failed, report.counts.unchanged) == (1, 0, 0)
    assert tags(writing.database) == tags_of(builder)
    assert noted(writing)["v2"] == ("copied", None, 0)


def test_what_is_not_due_is_left_alone(writing: Writing, remote: BadRegistry) -> None:
    later = Backoff(timedelta(hours=1), timedelta(hours=8))
    remote.misbehave("/manifests/v2", Status(500))
    sync(remote, writing, backoff=later)
    remote.behave()
    remote.requests.clear()
    assert sync(remote, writing, only_due=True, backoff=later).counts.copied == 0
    assert remote.count() == 0
    assert (
        scalar(writing.database, "SELECT next_try_at - checked_at FROM sync_items WHERE reference = 'v2'")
        == 3600 * 10**6
    )


def test_longer_rest_that_the_upstream_asks_for_is_given(writing: Writing, remote: BadRegistry) -> None:
    remote.misbehave("/manifests/v2", Status(429, {"Retry-After": "7200"}))
    sync(remote, writing)
    assert remote.count(None, "/manifests/v2") == 1  # it is not asked again in this run
    wait = "SELECT next_try_at - checked_at FROM sync_items WHERE reference = 'v2'"
    assert scalar(writing.database, wait) == 7200 * 10**6


def test_all_that_is_due_is_looked_up_at_once(writing: Writing, remote: BadRegistry) -> None:
    remote.misbehave("/manifests/", Status(500))
    sync(remote, writing)
    with counted(writing.database.engine) as statements:
        assert sync(remote, writing, only_due=True).counts.failed == 5
    assert len(statements) <= 14, str(statements)


def test_failure_that_is_not_wanted_any_more_is_not_tried_again(
    writing: Writing, remote: BadRegistry
) -> None:
    remote.misbehave("/manifests/v2", Status(500))
    sync(remote, writing)
    remote.behave()
    narrow = (ContentRule("app", exclude=(re.compile("v2"),)),)
    remote.requests.clear()
    sync(remote, writing, only_due=True, content=narrow)
    assert remote.count() == 0
    assert noted(writing)["v2"][0] == "removed"
    assert "v2" not in tags(writing.database)


def test_failure_of_a_tag_that_vanished_settles(writing: Writing, remote: BadRegistry) -> None:
    remote.misbehave("/manifests/v2", Status(500))
    sync(remote, writing)
    remote.behave()
    del remote.tags["app"]["v2"]
    assert sync(remote, writing).counts.failed == 0
    assert noted(writing)["v2"][0] == "removed"


def test_failure_of_a_repository_that_is_not_wanted_any_more_settles(
    writing: Writing, remote: BadRegistry, builder: LayoutBuilder
) -> None:
    remote.push(builder, "other")
    remote.misbehave("/other/manifests/v2", Status(500))
    sync(remote, writing, "app", "other")
    sync(remote, writing, "app")
    assert noted(writing)["v2"][0] != "failed"
    assert rows(writing.database, "SELECT count(*) FROM sync_items WHERE next_try_at IS NOT NULL") == [(0,)]


def test_repository_that_cannot_be_listed_does_not_stop_the_others(
    writing: Writing, remote: BadRegistry, builder: LayoutBuilder
) -> None:
    remote.push(builder, "other", "third")
    remote.misbehave("/other/tags/list", Status(500))
    report = sync(remote, writing, "app", "other", "third")
    assert (report.counts.copied, report.counts.failed) == (10, 1)
    assert outcome_of(report, ALL_TAGS).source == "other"
    assert noted(writing)[ALL_TAGS] == ("failed", "RemoteUnavailable", 1)
    remote.behave()
    remote.requests.clear()
    report = sync(remote, writing, "app", "other", "third", only_due=True)
    assert report.counts.copied == 5
    assert remote.count(None, "/(app|third)/") == 0  # only what failed is asked for
    assert noted(writing)[ALL_TAGS][0] == "removed"


def test_broken_pages_fail_the_repository_and_nothing_is_taken_for_the_whole(
    writing: Writing, remote: BadRegistry
) -> None:
    remote.page_size = 2
    remote.misbehave("/tags/list.*last=v3", Status(200, {"Content-Type": "application/json"}, b"<html>"))
    report = sync(remote, writing, upstream_deletes="delete")
    assert report.counts.failed == 1
    assert tags(writing.database) == {}
    remote.behave()
    assert sync(remote, writing).counts.copied == 5


def test_repository_that_vanishes_is_a_failure_and_its_tags_stay(
    writing: Writing, remote: BadRegistry
) -> None:
    sync(remote, writing)
    del remote.tags["app"]
    report = sync(remote, writing, upstream_deletes="delete")
    assert outcome_of(report, ALL_TAGS).error_class == "NotFound"
    assert len(tags(writing.database)) == 5


def test_catalog_that_cannot_be_read_fails_the_run(writing: Writing, remote: BadRegistry) -> None:
    remote.misbehave("/_catalog", Status(500))
    with pytest.raises(RemoteUnavailable):
        sync(remote, writing, "*")
    [(outcome, error)] = rows(writing.database, "SELECT outcome, error FROM sync_runs")
    assert outcome == "failed"
    assert "_catalog" in error


def test_immutable_tag_is_not_moved_and_the_others_are(
    writing: Writing, remote: BadRegistry, builder: LayoutBuilder
) -> None:
    sync(remote, writing)
    before = tags(writing.database)
    lock_tags(writing.writer, "app", "v1")
    for tag in ("v1", "v2"):
        builder.tag(builder.image([tag.encode()]), tag)
    remote.push(builder, "app")
    report = sync(remote, writing)
    assert (report.counts.copied, report.counts.failed) == (1, 1)
    assert noted(writing)["v1"] == ("failed", "ImmutableTag", 1)
    assert tags(writing.database) == {**tags_of(builder), "v1": before["v1"]}


def test_bad_name_of_a_repository_here_fails_it_alone(
    writing: Writing, remote: BadRegistry, builder: LayoutBuilder
) -> None:
    remote.push(builder, "a" * 120 + "/" + "b" * 120)
    rules = (ContentRule("app"), ContentRule("a*/*", "mirror" * 10))
    report = sync(remote, writing, content=rules)
    assert report.counts.copied == 5
    assert outcome_of(report, ALL_TAGS).error_class == "InvalidName"


def test_layers_that_contradict_each_other_harm_only_the_wrong_one(
    writing: Writing, remote: BadRegistry, builder: LayoutBuilder
) -> None:
    layer = builder.layer(b"shared")
    builder.tag(builder.image([layer]), "good")
    builder.tag(builder.image([{**layer, "size": 7}]), "lying")
    remote.push(builder, "app")
    report = sync(remote, writing)
    assert report.counts.failed == 1
    assert outcome_of(report, "lying").error_class == "SizeMismatch"
    assert tags(writing.database).keys() == {"good", *(f"v{number}" for number in range(5))}


# --- the registry here ------------------------------------------------------------------------


def test_full_disk_ends_the_run_and_what_was_committed_is_noted(
    writing: Writing, remote: BadRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regmeta.sync.pipeline.BATCH_IMAGES", 1)
    monkeypatch.setattr("regmeta.sync.pipeline.COMMITTING", 1)
    monkeypatch.setattr("regmeta.sync.pipeline.BATCH_S", 0.0)
    real = writing.registry.commit_groups
    calls: list[int] = []

    def second_fails(groups: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise StoreUnavailable("no space left")
        return real(groups, **options)

    monkeypatch.setattr(writing.registry, "commit_groups", second_fails)
    with pytest.raises(StoreUnavailable):
        sync(remote, writing, images_at_once=1)
    [(outcome, error, copied)] = rows(writing.database, "SELECT outcome, error, copied FROM sync_runs")
    assert (outcome, error, copied) == ("failed", "no space left", len(tags(writing.database)))
    assert 1 <= copied < 5
    assert {outcome for outcome, _, _ in noted(writing).values()} == {"copied"}
    assert noted(writing).keys() == tags(writing.database).keys()
    monkeypatch.undo()
    report = sync(remote, writing)
    assert (report.counts.copied, report.counts.unchanged) == (5 - copied, copied)


# --- stopping ---------------------------------------------------------------------------------


class Interrupted(NoProgress):
    """Does something when so many bytes have come."""

    def __init__(self, then: Any, after_bytes: int = 1) -> None:
        self._then = then
        self._left = after_bytes
        self._lock = threading.Lock()

    def advanced(self, size_bytes: int) -> None:
        with self._lock:
            self._left -= size_bytes
            if self._left <= 0:
                self._then()


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("after_bytes", [1, 2000, 4000])
def test_interrupt_ends_the_run_and_the_next_one_fetches_only_the_rest(
    writing: Writing,
    remote: BadRegistry,
    builder: LayoutBuilder,
    monkeypatch: pytest.MonkeyPatch,
    after_bytes: int,
) -> None:
    monkeypatch.setattr("regmeta.sync.pipeline.BATCH_IMAGES", 1)
    monkeypatch.setattr("regmeta.sync.pipeline.COMMITTING", 1)
    progress = Interrupted(interrupt, after_bytes)
    with mirror_of(remote, writing, progress=progress) as mirror, pytest.raises(KeyboardInterrupt):
        run_policy(mirror)
    assert rows(writing.database, "SELECT outcome FROM sync_runs") == [("stopped",)]
    assert {outcome for outcome, _, _ in noted(writing).values()} <= {"copied"}
    here = {str(Digest.from_bytes(bytes(of))) for (of,) in rows(writing.database, "SELECT digest FROM blobs")}
    remote.requests.clear()
    report = sync(remote, writing)
    assert not here & set(blobs_fetched(remote))
    assert (report.outcome, report.counts.failed) == ("done", 0)
    assert tags(writing.database) == tags_of(builder)


def test_stop_ends_the_run_and_nothing_is_noted_as_failed(
    writing: Writing, remote: BadRegistry, builder: LayoutBuilder
) -> None:
    stops: list[threading.Event] = []
    with mirror_of(remote, writing, progress=Interrupted(lambda: stops[0].set())) as mirror:
        stops.append(mirror.stopped)
        report = run_policy(mirror)
    assert report.outcome == "stopped"
    assert report.counts.failed == 0
    assert all(outcome == "copied" for outcome, _, _ in noted(writing).values())
    assert rows(writing.database, "SELECT outcome FROM sync_runs") == [("stopped",)]
    assert sync(remote, writing).outcome == "done"
    assert tags(writing.database) == tags_of(builder)


@pytest.mark.parametrize("where", ["/_catalog", "/tags/list", "/manifests/v1", "/blobs/"])
def test_stop_during_back_off_ends_at_once(writing: Writing, remote: BadRegistry, where: str) -> None:

    remote.misbehave(where, Status(503))
    stopped = threading.Event()
    terms = Terms(retries=5, retry_delay_s=300, max_retry_delay_s=300)
    endpoint = Endpoint(remote.url, terms=terms, credentials=NoCredentials(), stopped=stopped)
    upstream = Upstream([endpoint], name=remote.host)
    mirror = Mirror(policy_of("a*"), upstream, writing.registry, writing.writer, stopped)
    reports: list[Any] = []
    thread = threading.Thread(target=lambda: reports.append(run_policy(mirror)))
    thread.start()
    while not remote.count(None, where):
        thread.join(0.01)
    stopped.set()
    thread.join(60)
    assert not thread.is_alive()
    upstream.close()
    assert reports[0].outcome == "stopped"
    assert reports[0].counts.failed == 0
    assert rows(writing.database, "SELECT outcome FROM sync_runs") == [("stopped",)]
    assert {outcome for outcome, _, _ in noted(writing).values()} <= {"copied"}


def test_image_that_takes_too_long_fails_and_the_others_come(
    writing: Writing, remote: BadRegistry, builder: LayoutBuilder
) -> None:
    remote.misbehave(f"/blobs/{layer_of(builder, 2)}", Slow(0.5))
    # A batch of its own for each image, so that only the slow one is late.
    report = sync(remote, writing, image_timeout=timedelta(seconds=0.25))
    assert outcome_of(report, "v2").error_class == "RemoteUnavailable"
    assert "image_timeout" in str(outcome_of(report, "v2").reason)
