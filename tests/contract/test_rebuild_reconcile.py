"""With a database present: what its rows lack comes back, beside writers, and nothing is taken away."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from regmeta import errors, failpoints
from regmeta.app import Writing, open_for_writing, rebuilding
from regmeta.db import clock
from regmeta.ingest.adopt import lock_adoption, named_keys
from regmeta.ingest.reserve import bury
from regmeta.ingest.tags import remove_tag, set_tag
from regmeta.maintain.rebuild import reconcile as reconcile_module
from regmeta.maintain.rebuild.reconcile import reconcile
from regmeta.maintain.rebuild.report import NoProgress, Report
from regmeta.oci.digest import Digest
from regmeta.settings import Settings
from regmeta.store.filesystem import FilesystemStore
from tests.builders import LayoutBuilder, digest_of, make_layout
from tests.support.copies import copy_of, put_copy_back
from tests.support.logical_dump import logical_dump
from tests.support.registry import (
    change,
    commit_one,
    dump,
    import_all,
    key_of,
    keys_in,
    objects,
    rows,
    scalar,
    tags,
)


def reconciled(writing: Writing) -> Report:
    return reconcile(writing.writer, writing.store, NoProgress())


def snapshots(writing: Writing) -> list[str]:
    return sorted(path.name for path in Path(writing.settings.store, "layouts").rglob("_*.json"))


def test_sound_registry_is_left_as_it_is(writing: Writing, layout: Path) -> None:
    make_layout(layout, 3)
    import_all(writing, layout)
    before, listed = dump(writing.database), snapshots(writing)
    report = reconciled(writing)
    assert (report.repositories, report.changed, report.problems) == (1, 0, [])
    assert dump(writing.database) == before
    assert snapshots(writing) == listed


def test_manifests_and_tags_that_the_rows_lack_are_put_back(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    images = [builder.image([b"base", b"one"]), builder.image([b"base", b"two"])]
    commit_one(writing, builder, builder.index(images), layout, tag="v1")
    before = logical_dump(writing.database)
    lose_content(writing)
    report = reconciled(writing)
    assert (report.changed, report.manifests, report.tags, report.problems) == (1, 3, 1, [])
    after = logical_dump(writing.database)
    assert scalar(writing.database, "SELECT revision FROM repositories") == 2
    for table in ("manifests", "manifest_blobs", "index_manifests", "tags", "labels", "blobs"):
        assert after[table] == before[table]


def lose_content(writing: Writing) -> None:
    """Remove rows as nothing of ours does, so that no revision is counted."""
    for table in (
        *("tags", "labels", "manifest_blobs", "index_manifests", "manifests", "repository_blobs"),
        *("blobs", "gc_tasks"),
    ):
        change(writing.database, f"DELETE FROM {table}")


def test_restored_older_copy_gets_its_manifests_and_new_tags_back(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    old, new = builder.image([b"old"]), builder.image([b"base", b"new"])
    commit_one(writing, builder, old, layout, tag="v1")
    copied = copy_of(writing.database)
    commit_one(writing, builder, new, layout, tag="v2")
    commit_one(writing, builder, builder.image([b"untagged"]), layout, tag=None)
    set_tag(writing.writer, "app", "v1", digest_of(new))
    commit_one(writing, builder, new, layout, "only/in/store")
    put_copy_back(writing.database, copied)
    report = reconciled(writing)
    assert tags(writing.database) == {"v1": digest_of(old), "v2": digest_of(new)}
    assert tags(writing.database, "only/in/store") == {"v1": digest_of(new)}
    assert report.manifests == 3
    [problem] = report.problems
    assert (problem.subject, "left as it is" in problem.detail) == ("app:v1", True)
    # Greater than any snapshot that the lost time wrote.
    assert scalar(writing.database, "SELECT revision FROM repositories WHERE name = 'app'") == 5
    assert [name.partition(".")[0] for name in snapshots(writing)] == ["_1-2", "_1-5"]
    assert reconciled(writing).problems == []


def test_tag_that_was_removed_does_not_come_back_from_a_newer_snapshot(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    image = builder.image()
    commit_one(writing, builder, image, layout, tag="v1")
    commit_one(writing, builder, image, layout, tag="gone")
    remove_tag(writing.writer, "app", "gone")
    copied = copy_of(writing.database)
    set_tag(writing.writer, "app", "gone", digest_of(image))
    put_copy_back(writing.database, copied)
    report = reconciled(writing)
    assert tags(writing.database) == {"v1": digest_of(image)}
    assert [problem.subject for problem in report.problems] == ["app:gone"]


def test_older_snapshot_changes_nothing(writing: Writing, builder: LayoutBuilder, layout: Path) -> None:
    commit_one(writing, builder, builder.image(), layout)
    lose_content(writing)
    change(writing.database, "UPDATE repositories SET revision = 2")
    change(
        writing.database,
        "INSERT INTO layout_outbox (repository_id, revision, queued_at)"
        " SELECT id, revision, updated_at FROM repositories",
    )
    before = dump(writing.database)
    assert reconciled(writing).changed == 0
    assert dump(writing.database) == before
    writing.store.delete(objects(writing.store))


def test_dead_key_is_never_adopted(writing: Writing, builder: LayoutBuilder, layout: Path) -> None:
    image = builder.image([b"one", b"two"])
    commit_one(writing, builder, image, layout)
    dead = {digest: key_of(writing.database, digest) for digest in (Digest.of(b"one"), digest_of(image))}
    other = digest_of(builder.image([b"three"]))
    commit_one(writing, builder, builder.image([b"one", b"three"]), layout, tag="v2")
    lose_content(writing)
    for key in dead.values():
        change(
            writing.database,
            "INSERT INTO tombstones (key, reason, created_at, not_before)"
            " SELECT :key, 'swept', created_at, created_at FROM repositories",
            key=key,
        )
    report = reconciled(writing)
    assert other not in tags(writing.database).values()
    assert list(tags(writing.database)) == ["v2"]
    assert {problem.subject for problem in report.problems} == {str(digest) for digest in dead}
    assert set(dead.values()) & keys_in(writing.database, "blobs") == set()
    state = rows(
        writing.database, "SELECT state FROM blobs WHERE digest = :of", of=Digest.of(b"one").to_bytes()
    )
    assert state == [("damaged",)]
    commit_one(writing, builder, image, layout)  # heals it
    forget_unnamed(writing)


def forget_unnamed(writing: Writing) -> None:
    """Remove the objects that no row names, as a sweep does in the end."""
    named = keys_in(writing.database, "blobs") | keys_in(writing.database, "tombstones")
    writing.store.delete(set(objects(writing.store)) - named)


@pytest.mark.parametrize("committed", [True, False], ids=["before", "at the same moment"])
def test_key_that_a_sweep_gives_up_between_plan_and_commit_is_not_adopted(
    writing: Writing, builder: LayoutBuilder, layout: Path, committed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = builder.image([b"one"])
    commit_one(writing, builder, image, layout)
    key = key_of(writing.database, Digest.of(b"one"))
    lose_content(writing)
    buried, waiting = threading.Event(), threading.Event()

    def sweep() -> None:
        with writing.database.transaction("test") as connection:
            lock_adoption(connection)
            assert named_keys(connection, {key}) == set()
            bury(connection, [key], "swept", clock(connection), timedelta(hours=1))
            buried.set()
            waiting.wait(0.0 if committed else 0.3)  # let the rebuild come to the lock

    commit = reconcile_module._commit
    sweeps: list[threading.Thread] = []

    def commit_after_sweep(*arguments: Any) -> Any:
        if not sweeps:
            sweeps.append(threading.Thread(target=sweep))
            sweeps[0].start()
            buried.wait()
            if committed:
                sweeps[0].join()
        return commit(*arguments)

    monkeypatch.setattr(reconcile_module, "_commit", commit_after_sweep)
    report = reconciled(writing)
    sweeps[0].join()
    assert [problem.subject for problem in report.problems] == [str(Digest.of(b"one"))]
    assert key not in keys_in(writing.database, "blobs")
    assert key in keys_in(writing.database, "tombstones")
    commit_one(writing, builder, image, layout)  # heals it
    forget_unnamed(writing)


@pytest.mark.parametrize("listing", ["walk", "walk_records"])
def test_listing_that_fails_changes_nothing(
    writing: Writing, layout: Path, listing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_layout(layout, 3)
    import_all(writing, layout)
    lose_content(writing)
    before = dump(writing.database)
    whole = getattr(FilesystemStore, listing)

    def failing(self: FilesystemStore, *arguments: Any) -> Iterator[Any]:
        yield from islice(whole(self, *arguments), 1)
        raise errors.StoreUnavailable("the disk went away")

    with monkeypatch.context() as patch:
        patch.setattr(FilesystemStore, listing, failing)
        with pytest.raises(errors.StoreUnavailable):
            reconciled(writing)
    assert dump(writing.database) == before
    assert reconciled(writing).manifests == 3


@pytest.mark.parametrize("listing", ["walk", "walk_records"])
def test_listing_that_is_empty_is_reported_and_changes_nothing(
    writing: Writing, layout: Path, listing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_layout(layout, 3)
    import_all(writing, layout)
    lose_content(writing)
    before = dump(writing.database)
    with monkeypatch.context() as patch:
        patch.setattr(FilesystemStore, listing, lambda self, *arguments: iter(()))
        report = reconciled(writing)
    assert [problem.subject for problem in report.problems] == [writing.store.location]
    assert dump(writing.database) == before
    assert reconciled(writing).manifests == 3


def test_snapshot_that_cannot_be_read_is_named_and_the_older_one_used(writing: Writing, layout: Path) -> None:
    make_layout(layout, 2)
    import_all(writing, layout)
    lose_content(writing)
    [found] = Path(writing.settings.store, "layouts", "app").glob("_*.json")
    torn = found.with_name("_1-7.0123456789abcdef0123456789abcdef.json")
    torn.write_bytes(b"{")
    report = reconciled(writing)
    assert torn.name in report.problems[0].subject
    assert report.manifests == 2
    torn.unlink()


def test_repository_without_a_snapshot_is_named(writing: Writing, layout: Path) -> None:
    make_layout(layout, 1)
    import_all(writing, layout, "one")
    import_all(writing, layout, "two")
    folder = Path(writing.settings.store, "layouts", "two")
    shutil.move(folder, layout / "aside")
    report = reconciled(writing)
    shutil.move(layout / "aside", folder)
    assert [problem.repository for problem in report.problems] == ["two"]


def test_change_between_plan_and_lock_is_seen(
    writing: Writing, builder: LayoutBuilder, layout: Path, other_writer: Any
) -> None:
    image, late = builder.image([b"one"]), builder.image([b"late"])
    commit_one(writing, builder, image, layout)
    lose_content(writing)
    other = other_writer()
    done: list[int] = []
    whole = FilesystemStore.walk

    def walk(self: FilesystemStore) -> Iterator[Any]:
        found = list(whole(self))
        if not done:
            done.append(1)
            commit_one(other, builder, late, layout, tag="late")
        return iter(found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FilesystemStore, "walk", walk)
        report = reconciled(writing)
    # The rows moved on without the image: it may have been removed on purpose, so it stays away.
    assert report.changed == 0
    assert tags(writing.database) == {"late": digest_of(late)}
    forget_unnamed(writing)


@pytest.mark.slow
def test_rebuild_beside_four_writers_loses_nothing(settings: Settings, tmp_path: Path) -> None:
    builders = [LayoutBuilder(seed=number) for number in range(4)]
    images = [[builder.image() for _ in range(12)] for builder in builders]
    lost = LayoutBuilder(seed=9)
    old = [lost.image() for _ in range(24)]
    with open_for_writing(settings) as writing:
        for at, image in enumerate(old):
            commit_one(writing, lost, image, tmp_path / "lost", f"r{at}", "old")
        lose_content(writing)
        change(writing.database, "DELETE FROM events")
        change(writing.database, "DELETE FROM repositories")
    stop = threading.Event()

    def write(number: int) -> None:
        with open_for_writing(settings) as mine:
            for at, image in enumerate(images[number]):
                folder = tmp_path / f"l{number}"
                commit_one(mine, builders[number], image, folder, f"r{at}", f"t{number}")
                set_tag(mine.writer, f"r{at}", f"moving{number}", digest_of(image))

    def rebuild() -> int:
        changed = 0
        while not stop.is_set():
            changed += rebuilding.reconcile_rows(settings, lambda: nullcontext(NoProgress())).changed
        return changed

    with ThreadPoolExecutor(6) as pool:
        rebuilds = [pool.submit(rebuild) for _ in range(2)]
        try:
            for done in [pool.submit(write, number) for number in range(4)]:
                done.result()
        finally:
            stop.set()
        assert sum(done.result() for done in rebuilds) > 0
    with open_for_writing(settings) as writing:
        assert reconciled(writing).problems == []
        for at in range(12):
            found = tags(writing.database, f"r{at}")
            for number in range(4):
                wanted = digest_of(images[number][at])
                assert (found[f"t{number}"], found[f"moving{number}"]) == (wanted, wanted)
        for at in range(12, 24):  # that no writer came to before the rebuild did
            assert tags(writing.database, f"r{at}") == {"old": digest_of(old[at])}
        forget_unnamed(writing)


def test_reconcile_stopped_at_any_point_and_run_again_puts_everything_back(
    settings: Settings, builder: LayoutBuilder, layout: Path
) -> None:
    images = [builder.image([b"base", b"one"]), builder.image([b"base", b"two"])]
    with open_for_writing(settings) as writing:
        commit_one(writing, builder, builder.index(images), layout, tag="v1")
        copied = copy_of(writing.database)
        before = logical_dump(writing.database)
    seen: list[str] = []
    with open_for_writing(settings) as writing:
        lose_content(writing)
        with failpoints.armed(seen.append):
            reconciled(writing)
    for name in sorted(set(seen)):
        with open_for_writing(settings) as writing:
            put_copy_back(writing.database, copied)
            lose_content(writing)
            change(writing.database, "UPDATE repositories SET revision = 1")
            with failpoints.armed(stopping_at(name)), pytest.raises(Stop):
                reconciled(writing)
        with open_for_writing(settings) as writing:
            reconciled(writing)
            assert logical_dump(writing.database)["tags"] == before["tags"], name
            assert logical_dump(writing.database)["index_manifests"] == before["index_manifests"], name


class Stop(BaseException):
    """The process ends here."""


def stopping_at(wanted: str) -> Any:
    left = [1]

    def handler(name: str) -> None:
        if name == wanted and left:
            left.pop()
            raise Stop

    return handler
