"""A sync beside whatever else changes the same tags, repositories and blobs.

A sync works in threads of its own; here all of it is done in the one thread that stands still.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from regmeta import app
from regmeta.app import Writing
from regmeta.app.mirroring import policies_of, upstream_of
from regmeta.errors import Error, ImmutableTag, LostReservation, RepositoryNotActive, StoreUnavailable
from regmeta.ingest.tag_locks import lock_tags
from regmeta.ingest.tags import remove_tag, set_tag
from regmeta.maintain.collect.run import collect
from regmeta.maintain.delete.repository import delete_repository
from regmeta.settings import Settings
from regmeta.sync import listing, pipeline
from regmeta.sync.records import ItemOutcome
from regmeta.sync.run import Mirror, SyncReport, run_policy
from tests.builders import Json, LayoutBuilder, digest_of
from tests.crash.harness.children import InlineExecutor, all_done
from tests.support.aside import Freeze, Opened, assert_only_live_objects, run_collect
from tests.support.consistency import assert_consistent
from tests.support.registries.bad_registry import BadRegistry
from tests.support.registry import AT_ONCE, change, commit_one, counts, open_parts, rows, scalar, tags
from tests.support.syncs import mirroring

Race = Callable[..., tuple[Any, Any]]

PUSHED = "ingest.committing"
DELETED = "repository_deleted.committing"


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a sync do all in one thread, in one order."""
    for module in (listing, pipeline):
        monkeypatch.setattr(module, "Threads", InlineExecutor)
    monkeypatch.setattr(pipeline, "wait", all_done)


@pytest.fixture
def upstream() -> Iterator[BadRegistry]:
    """A remote registry."""
    with BadRegistry() as found:
        yield found


@pytest.fixture
def images(upstream: BadRegistry) -> list[Json]:
    """Three images that share a layer; the first is the upstream's ``app:v1``."""
    builder = LayoutBuilder()
    base = builder.layer(b"base of them all")
    made = [builder.image([base, b"layer %d" % number]) for number in range(3)]
    builder.tag(made[0], "v1")
    upstream.push(builder, "app")
    return made


@pytest.fixture
def builder(images: list[Json], upstream: BadRegistry) -> LayoutBuilder:
    """What the upstream has, to be imported by hand."""
    found = LayoutBuilder()
    found.blobs.update(upstream.blobs)
    return found


def sync(writing: Writing, upstream: BadRegistry, **options: Any) -> SyncReport:
    """Run a policy that mirrors all of the upstream."""
    settings = mirroring(writing.settings, upstream.url, **options)
    [policy] = policies_of(settings)
    with closing(upstream_of(settings, policy.name)) as remote:
        return run_policy(Mirror(policy, remote, writing.registry, writing.writer))


def only(report: SyncReport) -> ItemOutcome:
    """Return the one outcome of a run, which has come to its end."""
    assert report.outcome == "done"
    [item] = report.items
    return item


def history(writing: Writing) -> list[tuple[str, bool]]:
    """Return what ``app:v1`` was, in order, and whether each has ended."""
    found = rows(
        writing.database,
        "SELECT manifest_digest, ended_at IS NOT NULL FROM tags WHERE name = 'v1' ORDER BY started_at, id",
    )
    return [(bytes(digest).hex()[-64:], bool(ended)) for digest, ended in found]


def of(image: Json) -> str:
    return digest_of(image).hex


# --- a tag ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("inline")
def test_tag_that_is_moved_by_hand_while_a_sync_brings_it_is_as_the_later_one_says(
    one: Writing,
    other: Writing,
    race: Race,
    upstream: BadRegistry,
    images: list[Json],
    builder: LayoutBuilder,
    layout: Path,
) -> None:
    commit_one(one, builder, images[1], layout, tag="mine")
    report, _ = race(
        lambda: sync(one, upstream),
        PUSHED,
        lambda: set_tag(other.writer, "app", "v1", digest_of(images[1])),
    )
    assert only(report).outcome == "copied"
    assert tags(one.database)["v1"] == digest_of(images[1])
    assert history(one) == [(of(images[0]), True), (of(images[1]), False)]
    # Upstream it is still the other one: the next sync says so, and brings no bytes for it.
    again = only(sync(one, upstream))
    assert (again.outcome, again.copied_bytes) == ("copied", 0)
    assert tags(one.database)["v1"] == digest_of(images[0])
    assert_only_live_objects(one)


@pytest.mark.usefixtures("inline")
def test_sync_that_brings_a_tag_while_it_is_moved_by_hand_comes_later(
    one: Writing,
    other: Writing,
    race: Race,
    upstream: BadRegistry,
    images: list[Json],
    builder: LayoutBuilder,
    layout: Path,
) -> None:
    commit_one(one, builder, images[1], layout, tag="v1")
    commit_one(one, builder, images[2], layout, tag="mine")
    _, report = race(
        lambda: set_tag(one.writer, "app", "v1", digest_of(images[2])),
        "tags.committing",
        lambda: sync(other, upstream),
    )
    assert only(report).outcome == "copied"
    assert history(one) == [(of(images[1]), True), (of(images[2]), True), (of(images[0]), False)]
    assert_only_live_objects(one)


@pytest.mark.usefixtures("inline")
def test_tag_that_is_deleted_by_hand_while_a_sync_moves_it_is_gone_or_the_syncs(
    one: Writing,
    other: Writing,
    race: Race,
    upstream: BadRegistry,
    images: list[Json],
    builder: LayoutBuilder,
    layout: Path,
) -> None:
    commit_one(one, builder, images[1], layout, tag="v1")
    report, _ = race(lambda: sync(one, upstream), PUSHED, lambda: remove_tag(other.writer, "app", "v1"))
    assert only(report).outcome == "copied"
    assert tags(one.database) == {}
    commit_one(one, builder, images[1], layout, tag="v1")
    _, report = race(
        lambda: remove_tag(one.writer, "app", "v1"), "tags.committing", lambda: sync(other, upstream)
    )
    assert only(report).outcome == "copied"
    assert tags(one.database) == {"v1": digest_of(images[0])}
    assert_only_live_objects(one)


@pytest.mark.usefixtures("inline")
def test_tag_that_is_locked_while_a_sync_fetches_its_image_is_not_moved(
    opened: Opened,
    aside: Freeze,
    upstream: BadRegistry,
    images: list[Json],
    builder: LayoutBuilder,
    layout: Path,
) -> None:
    one, other = opened(), opened()
    commit_one(one, builder, images[1], layout, tag="v1")
    syncing = aside(lambda: sync(one, upstream), "stage.created")
    lock_tags(other.writer, "app", "v1")
    item = only(syncing.go_on())
    assert item.outcome == "failed"
    assert isinstance(item.error, ImmutableTag)
    assert tags(one.database) == {"v1": digest_of(images[1])}
    assert scalar(one.database, "SELECT error_class FROM sync_items") == "ImmutableTag"
    assert_only_live_objects(one)


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("at", ["stage.created", "publish.renamed", PUSHED])
def test_image_that_is_imported_by_hand_while_a_sync_fetches_it_is_stored_once(
    one: Writing,
    other: Writing,
    race: Race,
    upstream: BadRegistry,
    images: list[Json],
    builder: LayoutBuilder,
    layout: Path,
    at: str,
) -> None:
    report, result = race(
        lambda: sync(one, upstream),
        at,
        lambda: commit_one(other, builder, images[0], layout, tag="v1"),
        waits="always" if at == PUSHED else "never",
    )
    assert only(report).outcome == "copied"
    assert not isinstance(result, Error)
    assert tags(one.database) == {"v1": digest_of(images[0])}
    assert history(one) == [(of(images[0]), False)]
    assert counts(one.database, "manifests", "blobs") == {"manifests": 1, "blobs": 4}
    assert_only_live_objects(one)


# --- what the upstream has no more ------------------------------------------------------------


@pytest.mark.usefixtures("inline")
def test_tag_that_is_moved_by_hand_while_a_sync_is_about_to_remove_it_stays(
    opened: Opened,
    aside: Freeze,
    upstream: BadRegistry,
    images: list[Json],
    builder: LayoutBuilder,
    layout: Path,
) -> None:
    one, other = opened(), opened()
    upstream.tags["app"]["v2"] = images[2]["digest"]
    sync(one, upstream)
    commit_one(one, builder, images[1], layout, tag="mine")
    del upstream.tags["app"]["v1"]
    syncing = aside(lambda: sync(one, upstream, upstream_deletes="delete"), "tags.begin")
    set_tag(other.writer, "app", "v1", digest_of(images[1]))
    item = only(syncing.go_on())
    assert (item.outcome, item.reference) == ("removed", "v1")
    assert "was moved" in str(item.reason)
    assert tags(one.database)["v1"] == digest_of(images[1])
    assert_only_live_objects(one)


# --- a repository -----------------------------------------------------------------------------


@pytest.mark.usefixtures("inline")
def test_repository_that_is_deleted_while_a_sync_commits_to_it_is_deleted_with_the_new_tag(
    one: Writing,
    other: Writing,
    race: Race,
    upstream: BadRegistry,
    images: list[Json],
    builder: LayoutBuilder,
    layout: Path,
) -> None:
    commit_one(one, builder, images[1], layout, tag="old")
    report, _ = race(lambda: sync(one, upstream), PUSHED, lambda: delete_repository(other.writer, "app"))
    assert only(report).outcome == "copied"
    assert tags(one.database) == {}
    assert scalar(one.database, "SELECT state FROM repositories") == "deleted"
    # The upstream still has it, so it comes again.
    assert only(sync(one, upstream)).outcome == "copied"
    assert tags(one.database) == {"v1": digest_of(images[0])}
    assert scalar(one.database, "SELECT state FROM repositories") == "active"
    assert_only_live_objects(one)


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("at", ["stage.created", "publish.renamed"])
def test_repository_that_is_deleted_while_a_sync_fetches_for_it_has_only_what_the_sync_brings(
    one: Writing,
    other: Writing,
    race: Race,
    upstream: BadRegistry,
    images: list[Json],
    builder: LayoutBuilder,
    layout: Path,
    at: str,
) -> None:
    commit_one(one, builder, images[1], layout, tag="old")
    report, _ = race(
        lambda: sync(one, upstream), at, lambda: delete_repository(other.writer, "app"), waits="never"
    )
    assert only(report).outcome == "copied"
    assert tags(one.database) == {"v1": digest_of(images[0])}
    assert scalar(one.database, "SELECT state FROM repositories") == "active"
    assert_only_live_objects(one)


@pytest.mark.usefixtures("inline")
def test_repository_whose_purge_has_begun_while_a_sync_fetches_for_it_is_left_alone_and_the_others_come(
    opened: Opened,
    aside: Freeze,
    upstream: BadRegistry,
    images: list[Json],
    builder: LayoutBuilder,
    layout: Path,
) -> None:
    one, other = opened(), opened()
    commit_one(one, builder, images[1], layout, tag="old")
    upstream.tags["lib"] = {"v1": images[2]["digest"]}
    syncing = aside(lambda: sync(one, upstream), "publish.renamed")
    change(other.database, "UPDATE repositories SET state = 'purging' WHERE name = 'app'")
    report = syncing.go_on()
    change(other.database, "UPDATE repositories SET state = 'active' WHERE name = 'app'")
    assert report.outcome == "done"
    assert {item.source: item.outcome for item in report.items} == {"app": "failed", "lib": "copied"}
    [error] = [item.error for item in report.items if item.error is not None]
    assert isinstance(error, RepositoryNotActive)
    assert tags(one.database) == {"old": digest_of(images[1])}
    assert tags(one.database, "lib") == {"v1": digest_of(images[2])}
    assert_only_live_objects(one)


@pytest.mark.usefixtures("inline")
def test_only_repository_whose_purge_has_begun_is_an_outcome_and_not_the_end_of_the_run(
    opened: Opened,
    aside: Freeze,
    upstream: BadRegistry,
    images: list[Json],
    builder: LayoutBuilder,
    layout: Path,
) -> None:
    one, other = opened(), opened()
    commit_one(one, builder, images[1], layout, tag="old")
    syncing = aside(lambda: sync(one, upstream), "publish.renamed")
    change(other.database, "UPDATE repositories SET state = 'purging' WHERE name = 'app'")
    item = only(syncing.go_on())
    change(other.database, "UPDATE repositories SET state = 'active' WHERE name = 'app'")
    assert item.outcome == "failed"
    assert isinstance(item.error, RepositoryNotActive)
    assert tags(one.database) == {"old": digest_of(images[1])}
    assert_only_live_objects(one)


# --- a collector --------------------------------------------------------------------------------


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("at", ["stage.created", "publish.renamed"])
def test_layer_that_a_sync_relied_on_and_a_collector_took_is_fetched_again(
    opened: Opened,
    aside: Freeze,
    upstream: BadRegistry,
    images: list[Json],
    builder: LayoutBuilder,
    layout: Path,
    at: str,
) -> None:
    """The base was here when the sync began, of an image that nothing keeps."""
    one, other = opened(), opened()
    commit_one(one, builder, images[1], layout, tag="gone")
    remove_tag(one.writer, "app", "gone")
    base = images_layer(upstream, images[0])
    syncing = aside(lambda: sync(one, upstream), at)
    run_collect(other)
    assert only(syncing.go_on()).outcome == "copied"
    assert tags(one.database) == {"v1": digest_of(images[0])}
    assert upstream.count("GET", f"/blobs/{base}") == 1
    assert_only_live_objects(one)


def images_layer(upstream: BadRegistry, image: Json) -> str:
    """Return the digest of an image's first layer."""
    document = json.loads(upstream.blobs[image["digest"]])
    return str(document["layers"][0]["digest"])


@contextmanager
def collecting(settings: Settings) -> Iterator[list[BaseException]]:
    """Collect again and again, everything as soon as nobody needs it, in a thread of its own."""
    stop = threading.Event()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with app.open_for_writing(settings, lifetimes=AT_ONCE) as writing:
                while not stop.is_set():
                    collect(writing.writer, writing.store)
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield errors
    finally:
        stop.set()
        thread.join(60)
        assert not thread.is_alive()


@pytest.mark.slow
def test_syncs_beside_a_collector_that_takes_all_that_nobody_needs_end_whole(
    settings: Settings, upstream: BadRegistry
) -> None:
    """Upstream tags move from image to image, which share layers with images that are garbage by then.

    A blob may be taken between its reservation and the commit: the sync goes back for it, or at worst says
    that it could not be done; then it is done by the next.
    """
    builder = LayoutBuilder()
    layers = [builder.layer(b"shared layer %d" % number) for number in range(6)]
    rounds = 12
    made = [
        [
            builder.image([layers[(n + r) % 6], layers[(n * r + 1) % 6], b"own %d %d" % (r, n)])
            for n in range(5)
        ]
        for r in range(rounds)
    ]
    upstream.push(builder, "app")
    gave_up = 0
    with collecting(settings) as errors, app.open_for_writing(settings, lifetimes=AT_ONCE) as writing:
        for images in made:
            wanted = {f"v{number}": digest_of(image) for number, image in enumerate(images)}
            upstream.tags["app"] = {tag: str(digest) for tag, digest in wanted.items()}
            for _ in range(10):
                try:
                    report = sync(writing, upstream)
                except (StoreUnavailable, LostReservation):
                    gave_up += 1
                    continue
                if report.counts.failed == 0:
                    break
                gave_up += 1
            assert report.outcome == "done"
            assert tags(writing.database) == wanted
            assert errors == []
    assert gave_up <= rounds
    database, store = open_parts(settings)
    with closing(database), closing(store):
        assert_consistent(database, store)
    with app.open_for_writing(settings, lifetimes=AT_ONCE) as writing:
        assert_only_live_objects(writing)
