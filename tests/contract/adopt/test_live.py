"""Adoptions beside others: the old registry at work, a collector here, and a second adoption."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from msgspec.structs import replace

from regmeta.app import adopting, open_for_writing
from regmeta.ingest.tags import remove_tag
from regmeta.maintain.collect.run import collect
from regmeta.maintain.delete.manifest import delete_manifest
from regmeta.oci.digest import Digest
from regmeta.settings import Settings
from regmeta.settings.upkeep import Collection
from regmeta.sources.storage import StoredRepository
from regmeta.sync.pipeline import NoProgress
from regmeta.sync.records import ItemOutcome
from tests.builders import LayoutBuilder, digest_of
from tests.crash.processes import TIMEOUT_S, run, started
from tests.support.old_registries.docker import docker_folder
from tests.support.old_registries.growing import GrowingFolder, set_times
from tests.support.old_registries.live import LiveRegistry
from tests.support.registries import docker_registry
from tests.support.registry import AT_ONCE, change, counts, objects, open_parts, rows, tags

REPOSITORY: Final = "app"


# --- what is done -----------------------------------------------------------------------------


@pytest.fixture
def hasty(settings: Settings) -> Settings:
    """A registry in which nothing that has no name is kept: usual leases are over at once."""
    at_once = Collection(history="0s", garbage="0s", tombstone="0s", lease="0s")
    return replace(settings, collection=at_once)


@contextmanager
def collecting(settings: Settings) -> Iterator[Counter[str]]:
    """Collect all the time that the block takes, and twice after it; count runs and what they removed."""
    ended = threading.Event()
    done: Counter[str] = Counter()

    def work() -> None:
        with open_for_writing(settings, lifetimes=AT_ONCE) as registry:
            left = 2
            while left:
                left -= ended.is_set()
                report = collect(registry.writer, registry.store)
                done.update(runs=1, manifests=report.manifests)

    thread = _Thread(work)
    thread.start()
    try:
        yield done
    finally:
        ended.set()
        thread.finish()


class _Thread(threading.Thread):
    """A thread whose failure is that of who waits for it."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._failure: BaseException | None = None

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - finish() tells it
            self._failure = error

    def finish(self) -> None:
        """Wait for its end."""
        self.join(TIMEOUT_S)
        assert not self.is_alive()
        if self._failure is not None:
            raise self._failure


def collect_now(settings: Settings) -> None:
    """Collect all that may be, as if it had been garbage for long."""
    with open_for_writing(settings, lifetimes=AT_ONCE) as registry:
        for _ in range(3):
            collect(registry.writer, registry.store)


def finalize(settings: Settings, source: Path) -> None:
    adopting.finalize(settings, str(source), unchecked=False, advanced=lambda number: None)


def put(old: GrowingFolder, tag: str | None, content: bytes) -> Digest:
    """Push an image to the old registry."""
    builder = LayoutBuilder()
    image = builder.image([content])
    old.tree.image(REPOSITORY, builder, image, tag)
    set_times(old.tree, REPOSITORY)
    return digest_of(image)


@pytest.fixture
def old(tmp_path: Path) -> GrowingFolder:
    """An old registry's storage: images of all kinds, and a repository with some that have no tag."""
    found = GrowingFolder(tmp_path / "old", 8, seed=6)
    found.show_all()
    for number in range(3):
        put(found, f"v{number}", b"tagged %d" % number)
        put(found, None, b"untagged %d" % number)
    return found


# --- what is seen -----------------------------------------------------------------------------


def assert_equal(settings: Settings, source: Path) -> None:
    """Check that all is here that is there, by the comparison that users have."""
    for compared in adopting.verify(settings, str(source), deep=True, advanced=lambda name: None):
        assert compared.is_equal, compared


def manifests(settings: Settings) -> dict[str, set[Digest]]:
    """Return the manifests that are here."""
    statement = (
        "SELECT r.name, m.digest FROM manifests m JOIN repositories r ON r.id = m.repository_id"
        " WHERE m.deleted_at IS NULL"
    )
    found: dict[str, set[Digest]] = {}
    database, store = open_parts(settings)
    with closing(database), closing(store):
        for name, digest in rows(database, statement):
            found.setdefault(name, set()).add(Digest.from_bytes(bytes(digest)))
    return found


def live_tags(settings: Settings, *names: str) -> dict[str, dict[str, Digest]]:
    """Return the tags of repositories that have some."""
    database, store = open_parts(settings)
    with closing(database), closing(store):
        found = {name: tags(database, name) for name in names}
    return {name: of for name, of in found.items() if of}


# --- the old registry at work -----------------------------------------------------------------


@pytest.mark.soak_on_postgresql
@pytest.mark.skipif(not docker_registry.is_installed(), reason="no docker-registry")
@pytest.mark.slow
def test_all_that_the_old_registry_acknowledged_is_here_after_the_last_run(
    hasty: Settings, tmp_path: Path
) -> None:
    """It pushes, moves and deletes while it is adopted, and a collector works here all the time."""
    served = docker_folder(tmp_path / "old", 12, seed=7, skopeo=False)
    with LiveRegistry(served.root, seed=7) as live, collecting(hasty) as collected:
        for pushes in (3, 12, 24):
            live.wait_for(pushes)
            assert adopting.run(hasty, str(served.root)).failures == {}
        acknowledged = live.stop()
        report = adopting.run(hasty, str(served.root))
        assert report.failures == {}
        now = live.served()
    assert acknowledged.pushed >= 24
    assert any(acknowledged.deleted.values())
    assert collected["runs"] >= 3
    assert collected["manifests"] == 0
    assert_equal(hasty, served.root)
    names = {*now.tags, *acknowledged.tags}
    assert live_tags(hasty, *names) == {name: dict(of) for name, of in acknowledged.tags.items() if of}
    here = manifests(hasty)
    for name, digests in acknowledged.manifests.items():
        assert digests <= here.get(name, set()), name
    for name, served_digests in now.manifests.items():
        assert served_digests <= here[name], name


# --- a collector ------------------------------------------------------------------------------


def test_nothing_that_was_adopted_is_collected_before_it_is_finalized(
    hasty: Settings, old: GrowingFolder
) -> None:
    with collecting(hasty) as collected:
        adopting.run(hasty, str(old.root))
    assert collected["manifests"] == 0
    assert_equal(hasty, old.root)
    untagged = manifests(hasty)[REPOSITORY] - set(live_tags(hasty, REPOSITORY)[REPOSITORY].values())
    assert len(untagged) == 3


def test_tags_that_are_gone_there_leave_their_images_here_until_it_is_finalized(
    hasty: Settings, old: GrowingFolder
) -> None:
    adopting.run(hasty, str(old.root))
    before = manifests(hasty)
    shutil.rmtree(old.tree.tag_folder(REPOSITORY, "v1"))
    assert adopting.run(hasty, str(old.root)).removed_tags == 1
    collect_now(hasty)
    assert "v1" not in live_tags(hasty, REPOSITORY)[REPOSITORY]
    assert manifests(hasty) == before
    assert_equal(hasty, old.root)


def test_what_has_no_tag_is_collected_when_the_lease_after_finalize_is_over(
    settings: Settings, old: GrowingFolder
) -> None:
    adopting.run(settings, str(old.root))
    before = manifests(settings)
    finalize(settings, old.root)
    collect_now(settings)
    assert manifests(settings) == before
    end_leases(settings)
    collect_now(settings)
    left = manifests(settings)
    named = live_tags(settings, *left)
    assert left[REPOSITORY] == set(named[REPOSITORY].values())
    assert all(set(of.values()) <= left[name] for name, of in named.items())
    assert named == {name: found for name in old.tree.repositories() if (found := old.tree.tags(name))}


def test_blobs_of_what_was_deleted_before_finalize_are_collected_after_it(
    settings: Settings, old: GrowingFolder
) -> None:
    """A collector that finds a blob leased looks again when that is over: in a hundred years, as it was."""
    adopting.run(settings, str(old.root))
    with open_for_writing(settings, lifetimes=AT_ONCE) as registry:
        doomed = tags(registry.database, REPOSITORY)["v0"]
        remove_tag(registry.writer, REPOSITORY, "v0")
        delete_manifest(registry.writer, REPOSITORY, doomed)
        change(registry.database, "UPDATE manifests SET lease_until = pushed_at WHERE deleted_at IS NOT NULL")
    collect_now(settings)
    old.tree.revision_link(REPOSITORY, str(doomed)).unlink()
    shutil.rmtree(old.tree.tag_folder(REPOSITORY, "v0"))
    adopting.run(settings, str(old.root))
    finalize(settings, old.root)
    end_leases(settings)
    collect_now(settings)
    database, store = open_parts(settings)
    with closing(database), closing(store):
        needed = rows(
            database,
            "SELECT DISTINCT b.key FROM blobs b JOIN (SELECT blob_id AS id FROM manifests UNION"
            " SELECT blob_id FROM manifest_blobs) n ON n.id = b.id",
        )
        assert objects(store).keys() == {key for (key,) in needed}
        assert counts(database, "gc_tasks", "tombstones") == {"gc_tasks": 0, "tombstones": 0}


def end_leases(settings: Settings) -> None:
    """Let a little more time pass than a usual lease takes."""
    passed = timedelta(hours=25) // timedelta(microseconds=1)
    database, store = open_parts(settings)
    with closing(database), closing(store):
        for statement in (
            "UPDATE manifests SET lease_until = lease_until - :passed",
            "UPDATE blobs SET lease_until = lease_until - :passed",
            "UPDATE gc_tasks SET not_before = not_before - :passed",
        ):
            change(database, statement, passed=passed)


# --- two at once ------------------------------------------------------------------------------


@pytest.mark.soak_on_postgresql
@pytest.mark.slow
def test_two_adoptions_of_one_source_at_once_bring_all_of_it(settings: Settings, old: GrowingFolder) -> None:
    with ExitStack() as stack:
        both = [stack.enter_context(started(settings, "adopt", str(old.root))) for _ in range(2)]
        for process in both:
            _, said = process.communicate(timeout=TIMEOUT_S)
            assert process.returncode == 0, said
            assert "Traceback" not in said
    run(settings, "adopt", str(old.root))
    assert_equal(settings, old.root)
    finalize(settings, old.root)


class _Storage:
    """A storage that waits after it has listed a repository."""

    def __init__(self, storage: Any, listed: Callable[[], None]) -> None:
        self._storage = storage
        self._listed = listed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def repository(self, name: str) -> StoredRepository:
        found: StoredRepository = self._storage.repository(name)
        if name == REPOSITORY:
            self._listed()
        return found


class _Waiting(NoProgress):
    """Waits when a tag was brought."""

    def __init__(self, tag: str, brought: Callable[[], None]) -> None:
        self._tag = tag
        self._brought = brought

    def done(self, outcomes: Iterable[ItemOutcome]) -> None:
        """Images are done."""
        if any(item.reference == self._tag for item in outcomes):
            self._brought()


@pytest.fixture
def slow_listing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Let the first run of an adoption do something after it has listed the repository."""
    opened = adopting.opened

    def set_listed(listed: Callable[[], None]) -> None:
        left = [listed]

        @contextmanager
        def waiting(*arguments: Any, **options: Any) -> Iterator[Any]:
            with opened(*arguments, **options) as storage:
                yield _Storage(storage, left.pop()) if left else storage

        monkeypatch.setattr(adopting, "opened", waiting)

    return set_listed


def test_run_that_listed_earlier_removes_nothing_that_another_has_brought_since(
    settings: Settings, old: GrowingFolder, slow_listing: Callable[[Callable[[], None]], None]
) -> None:
    listed, brought, ended = threading.Event(), threading.Event(), threading.Event()

    def wait_in_listing() -> None:
        listed.set()
        assert brought.wait(TIMEOUT_S)

    def early_run() -> None:
        try:
            adopting.run(settings, str(old.root))
        finally:
            ended.set()

    def wait_for_early_run() -> None:
        brought.set()
        assert ended.wait(TIMEOUT_S)

    slow_listing(wait_in_listing)
    early = _Thread(early_run)
    early.start()
    assert listed.wait(TIMEOUT_S)
    new = put(old, "new", b"new")
    adopting.run(settings, str(old.root), progress=_Waiting("new", wait_for_early_run))
    early.finish()
    assert live_tags(settings, REPOSITORY)[REPOSITORY]["new"] == new
    # What two have noted of different listings is looked at again.
    report = adopting.run(settings, str(old.root))
    assert report.repositories - report.unchanged >= 1
    assert_equal(settings, old.root)
    report = adopting.run(settings, str(old.root))
    assert report.repositories == report.unchanged
