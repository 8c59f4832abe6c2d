"""What cannot be told is never taken for garbage (I8): nothing is deleted, and the exit code says so.

An object is garbage once it has a tombstone, so none may be written either.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa

from regmeta import db
from regmeta.app import Writing, open_for_writing
from regmeta.errors import Error, IdentityMismatch, StoreUnavailable
from regmeta.ingest.tags import remove_tag, set_tag
from regmeta.maintain.collect.dry_run import plan_collection
from regmeta.maintain.collect.older import DatabaseIsOlder
from regmeta.maintain.collect.plausible import ImplausibleLoss
from regmeta.maintain.collect.reconcile import reconcile_queue
from regmeta.maintain.collect.run import collect
from regmeta.maintain.collect.sweep import sweep
from regmeta.maintain.collect.terms import Terms
from regmeta.maintain.progress import NoProgress
from regmeta.maintain.rebuild.reconcile import reconcile as put_back
from regmeta.maintain.rebuild.report import NoProgress as NothingShown
from regmeta.models import Intent, Tombstone
from regmeta.settings import Settings
from regmeta.store import BlobStore, new_key
from tests.builders import LayoutBuilder, digest_of
from tests.support.copies import copy_of, put_copy_back
from tests.support.fault_store import Fault, FaultStore, Kind, Plan
from tests.support.registry import (
    AT_ONCE,
    change,
    commit_one,
    counts,
    ingest_of,
    objects,
    request,
    source_of,
    tags,
)

Work = Callable[[Writing, BlobStore], object]


def _sweep(of: Writing, store: BlobStore) -> object:
    return sweep(of.database, store, AT_ONCE)


def _forced_sweep(of: Writing, store: BlobStore) -> object:
    return sweep(of.database, store, AT_ONCE, force=True)


def _run(of: Writing, store: BlobStore) -> object:
    return collect(of.writer, store)


def _dry_run(of: Writing, store: BlobStore) -> object:
    return plan_collection(of.database, store, Terms(AT_ONCE))


def _reconcile(of: Writing, store: BlobStore) -> object:
    return reconcile_queue(of.database, store, "tester", AT_ONCE, NoProgress())


EVERY: dict[str, Work] = {
    "sweep": _sweep,
    "sweep --force": _forced_sweep,
    "run": _run,
    "run --dry-run": _dry_run,
    "reconcile": _reconcile,
}
every = pytest.mark.parametrize("work", EVERY.values(), ids=EVERY.keys())
sweeps = pytest.mark.parametrize("work", [_sweep, _forced_sweep], ids=["sweep", "sweep --force"])


@dataclass
class Registry:
    """A registry with images, garbage that is due, and objects that no row knows."""

    writing: Writing
    builder: LayoutBuilder
    layout: Path

    def refuses(self, work: Work, expected: type[Error], match: str, *faults: Fault) -> None:
        """Check that *work* ends with an error, and that nothing was given up or deleted."""
        store = FaultStore(self.writing.store, Plan(*faults)) if faults else self.writing.store
        before, queued = objects(self.writing.store), self.garbage()
        with pytest.raises(expected, match=match) as raised:
            work(self.writing, store)
        assert raised.value.exit_code in (5, 6)
        assert objects(self.writing.store) == before
        assert self.garbage() == queued

    def garbage(self) -> dict[str, int]:
        return dict(counts(self.writing.database, "tombstones", "gc_tasks", "manifests", "blobs"))


@pytest.fixture
def registry(settings: Settings, builder: LayoutBuilder, layout: Path) -> Iterator[Registry]:
    with open_for_writing(settings, lifetimes=AT_ONCE) as writing:
        for number in range(4):
            commit_one(writing, builder, builder.image(), layout / str(number), tag=f"v{number}")
        remove_tag(writing.writer, "app", "v0")
        yield Registry(writing, builder, layout)


# --- the store's answers ----------------------------------------------------------------------


@sweeps
@pytest.mark.parametrize("kind", [Kind.RAISE, Kind.FAIL_MIDWAY], ids=["fails", "fails in the middle"])
def test_objects_are_not_given_up_after_a_listing_that(registry: Registry, work: Work, kind: Kind) -> None:
    registry.refuses(work, StoreUnavailable, "walk: fails", Fault("walk", kind))


@sweeps
def test_empty_listing_is_not_believed(registry: Registry, work: Work, tmp_path: Path) -> None:
    blobs = Path(registry.writing.store.location) / "blobs"
    blobs.rename(tmp_path / "elsewhere")
    blobs.mkdir()
    registry.refuses(work, StoreUnavailable, "lists no object, the rows name 16: is all of it mounted")
    blobs.rmdir()
    (tmp_path / "elsewhere").rename(blobs)


def test_objects_of_a_store_that_is_not_mounted_are_not_taken_for_gone(
    registry: Registry, tmp_path: Path
) -> None:
    at_work = replace(AT_ONCE, tombstone=timedelta(hours=1))
    collect(registry.writing.writer, registry.writing.store, Terms(at_work))
    dead = counts(registry.writing.database, "tombstones")["tombstones"]
    assert dead
    with registry.writing.database.transaction("test") as connection:
        connection.execute(sa.update(Tombstone).values(not_before=Tombstone.created_at))
    blobs = Path(registry.writing.store.location) / "blobs"
    blobs.rename(tmp_path / "elsewhere")
    blobs.mkdir()
    registry.refuses(_run, StoreUnavailable, "not one of 10 live objects is there.*is all of it mounted")
    assert registry.garbage()["tombstones"] == dead
    blobs.rmdir()
    (tmp_path / "elsewhere").rename(blobs)


@sweeps
def test_half_a_listing_is_not_believed(registry: Registry, work: Work, tmp_path: Path) -> None:
    blobs = Path(registry.writing.store.location) / "blobs"
    for number, key in enumerate(sorted(objects(registry.writing.store))):
        if number >= 5:
            (tmp_path / str(number)).write_text(key)
            (blobs / key).rename(tmp_path / f"{number}.bytes")
    registry.refuses(work, ImplausibleLoss, "11 of 16 objects are missing")
    for path in tmp_path.glob("*.bytes"):
        path.rename(blobs / path.with_suffix("").read_text())


@every
@pytest.mark.parametrize("kind", [Kind.RAISE, Kind.FAIL_MIDWAY], ids=["fails", "fails in the middle"])
def test_nothing_is_collected_after_a_listing_of_snapshots_that(
    registry: Registry, work: Work, kind: Kind
) -> None:
    registry.refuses(work, StoreUnavailable, "walk_records: fails", Fault("walk_records", kind))


@every
def test_snapshots_that_are_not_listed_are_not_taken_for_old(
    registry: Registry, work: Work, tmp_path: Path
) -> None:
    layouts = Path(registry.writing.store.location) / "layouts"
    layouts.rename(tmp_path / "elsewhere")
    registry.refuses(work, StoreUnavailable, "lists no snapshot at all, not even of app")
    (tmp_path / "elsewhere").rename(layouts)


@every
def test_store_that_does_not_say_whose_it_is_loses_nothing(registry: Registry, work: Work) -> None:
    registry.refuses(work, StoreUnavailable, "read_record: fails", Fault("read_record", Kind.RAISE))


def test_store_that_refuses_to_delete_loses_nothing_and_is_asked_again(registry: Registry) -> None:
    store = FaultStore(registry.writing.store, Plan(Fault("delete", Kind.RAISE, for_good=True)))
    before = objects(store)
    failed: list[object] = []
    try:
        failed += collect(registry.writing.writer, store).objects.failures
    except StoreUnavailable as error:
        failed.append(error)
    assert failed, "the command ends with exit code 5"
    assert objects(store) == before
    assert counts(registry.writing.database, "tombstones")["tombstones"] == 4


# --- the database -----------------------------------------------------------------------------


@every
def test_older_database_gives_up_nothing_until_the_rows_are_put_back(registry: Registry, work: Work) -> None:
    writing = registry.writing
    copied = copy_of(writing.database)
    newer = registry.builder.image()
    commit_one(writing, registry.builder, newer, registry.layout / "newer", "app", "newer")
    put_copy_back(writing.database, copied)
    registry.refuses(work, DatabaseIsOlder, "app has the snapshot 1-6, its row is at 1-5.* 'regmeta rebuild'")
    put_back(writing.writer, writing.store, NothingShown())
    assert tags(writing.database)["newer"] == digest_of(newer)
    work(writing, writing.store)
    assert tags(writing.database)["newer"] == digest_of(newer)
    assert {digest_of(newer).hex in key for key in objects(writing.store)} == {True, False}


@every
def test_database_that_lacks_a_repository_gives_up_nothing(registry: Registry, work: Work) -> None:
    writing = registry.writing
    copied = copy_of(writing.database)
    commit_one(writing, registry.builder, registry.builder.image(), registry.layout / "newer", "new/one")
    put_copy_back(writing.database, copied)
    registry.refuses(work, DatabaseIsOlder, "new/one has the snapshot 1-1, its row is not there")
    put_back(writing.writer, writing.store, NothingShown())


@every
def test_empty_database_of_the_same_identity_gives_up_nothing(registry: Registry, work: Work) -> None:
    writing = registry.writing
    copied = copy_of(writing.database)
    empty = {name: rows if name == "store_identity" else [] for name, rows in copied.items()}
    put_copy_back(writing.database, empty)
    registry.refuses(work, DatabaseIsOlder, "app has the snapshot 1-5, its row is not there")
    put_copy_back(writing.database, copied)


@every
def test_database_of_an_earlier_epoch_gives_up_nothing(registry: Registry, work: Work) -> None:
    folder = Path(registry.writing.store.location) / "layouts" / "app"
    [path] = folder.iterdir()
    later = path.with_name(path.name.replace("_1-5", "_2-1"))
    shutil.copyfile(path, later)
    registry.refuses(work, DatabaseIsOlder, "app has the snapshot 2-1, its row is at 1-5")
    later.unlink()


@every
def test_database_of_another_store_gives_up_nothing(registry: Registry, work: Work) -> None:
    change(registry.writing.database, "UPDATE store_identity SET epoch = 7")
    registry.refuses(work, IdentityMismatch, "belongs to the database")
    change(registry.writing.database, "UPDATE store_identity SET epoch = 1")


def test_snapshot_that_is_behind_and_a_file_of_others_hold_nothing_up(registry: Registry) -> None:
    folder = Path(registry.writing.store.location) / "layouts" / "app"
    [path] = folder.iterdir()
    shutil.copyfile(path, path.with_name(path.name.replace("_1-5", "_1-2")))
    (folder / "README").write_text("not ours")
    (folder / f"_9-{2**70}.{'a' * 32}.json").write_text("{}")
    assert _run(registry.writing, registry.writing.store) is not None
    for work in (_sweep, _dry_run, _reconcile):
        assert work(registry.writing, registry.writing.store) is not None
    for name in ("README", f"_9-{2**70}.{'a' * 32}.json"):
        with suppress(FileNotFoundError):
            (folder / name).unlink()


def test_writer_at_work_is_not_taken_for_a_newer_store(
    registry: Registry, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing = registry.writing
    walk = writing.store.walk_records
    image = registry.builder.image()

    def walk_while_others_write(folder: str) -> Iterator[str]:
        yield from list(walk(folder))
        commit_one(writing, registry.builder, image, registry.layout / "late", "late")
        set_tag(writing.writer, "late", "again", digest_of(image))

    monkeypatch.setattr(writing.store, "walk_records", walk_while_others_write)
    assert _run(writing, writing.store) is not None


def test_older_database_does_not_give_up_what_was_being_written_then(
    settings: Settings, registry: Registry
) -> None:
    """The copy was made while an import was under way that was committed after it."""
    image = registry.builder.image()
    with (
        source_of(registry.builder, registry.layout / "late") as source,
        open_for_writing(settings) as other,
    ):
        late = ingest_of(other, request(source, image, tag="late"))
        late.prepare()
        copied = copy_of(other.database)
        late.commit()
        late.unit.finish()
    put_copy_back(registry.writing.database, copied)
    with open_for_writing(settings, lifetimes=AT_ONCE) as again:
        assert counts(again.database, "intents", "tombstones") == {"intents": 0, "tombstones": 0}
        registry.refuses(_run, DatabaseIsOlder, "'regmeta rebuild'")
        assert put_back(again.writer, again.store, NothingShown()).problems == []
        collect(again.writer, again.store)
        assert tags(again.database)["late"] == digest_of(image)


@pytest.mark.inconsistent  # the intents stay: nobody knows whether their objects are dead
def test_intents_are_not_given_up_while_the_store_does_not_list_its_snapshots(
    settings: Settings, registry: Registry
) -> None:
    database = registry.writing.database
    digest = digest_of(registry.builder.image())
    with database.transaction("test") as connection:
        now = db.clock(connection)
        values = {"key": new_key(digest), "digest": digest, "owner": uuid4(), "host": "elsewhere"}
        connection.execute(sa.insert(Intent).values(**values, created_at=now, expires_at=now))
    layouts = Path(registry.writing.store.location) / "layouts"
    layouts.rename(layouts.with_name("away"))
    with open_for_writing(settings, lifetimes=AT_ONCE) as again:
        assert again.recovered.intents_taken_back == 0
    assert counts(database, "intents", "tombstones") == {"intents": 1, "tombstones": 0}
    layouts.with_name("away").rename(layouts)
    with open_for_writing(settings, lifetimes=AT_ONCE) as again:
        assert again.recovered.intents_taken_back == 1
    assert counts(database, "intents", "tombstones") == {"intents": 0, "tombstones": 1}
