"""``store copy``: all objects go to another store under the same keys; the one that was is closed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import msgspec
import pytest

from regmeta import app, failpoints
from regmeta.app import Writing, store_copy, verification
from regmeta.app.stores import open_store
from regmeta.db import Database
from regmeta.errors import (
    IdentityMismatch,
    IntegrityError,
    Locked,
    NotFound,
    Refused,
    StoreUnavailable,
    UsageError,
)
from regmeta.ingest.tags import remove_tag, set_tag
from regmeta.maintain.collect.run import collect
from regmeta.maintain.collect.sweep import sweep
from regmeta.maintain.progress import NoProgress
from regmeta.maintain.rebuild.listing import list_snapshots
from regmeta.maintain.setup import StoreMoved
from regmeta.maintain.store_copy import fence, run
from regmeta.maintain.store_copy.run import Moved
from regmeta.settings import Settings
from tests.builders import AMD64, ARM64, LayoutBuilder, digest_of
from tests.support.aside import SWEPT
from tests.support.consistency import assert_consistent
from tests.support.logical_dump import logical_dump
from tests.support.registry import (
    AT_ONCE,
    change,
    commit_one,
    counts,
    keys_in,
    objects,
    rows,
    scalar,
    settings_of,
    tags,
)
from tests.support.seaweed import Buckets

pytestmark = pytest.mark.inconsistent  # the store of ``settings`` is closed: the new one is checked


@pytest.fixture(params=["to a folder", "to a bucket"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where nothing is yet."""
    if request.param == "to a folder":
        return str(tmp_path / "new" / "store")
    buckets: Buckets = request.getfixturevalue("buckets")
    return buckets.url()


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A folder that is not there yet."""
    return str(tmp_path / "new" / "store")


@pytest.fixture
def filled(settings: Settings, builder: LayoutBuilder, layout: Path) -> Settings:
    """A registry with something of everything, which nobody has open."""
    with app.open_for_writing(settings) as writing:
        layers = [builder.layer(b"base"), builder.layer(b"app")]
        image = builder.image(layers, builder.config(layers, Labels={"team": "a"}), {"note": "b"}, AMD64)
        other = builder.image(platform=ARM64)
        index = builder.index([image, other])
        large = builder.image([builder.layer(bytes(range(256)) * 4096 * 9)])  # goes in parts
        commit_one(writing, builder, index, layout, tag="v1")
        commit_one(writing, builder, other, layout, "other", tag="V2")
        commit_one(writing, builder, large, layout, "large")
        set_tag(writing.writer, "app", "v1", digest_of(image))
        remove_tag(writing.writer, "other", "V2")
    return settings


@pytest.fixture
def stopped() -> Iterator[None]:
    """Nothing is armed afterwards."""
    yield
    failpoints._handler = None


def move(settings: Settings, target: str, **options: bool) -> Moved:
    return store_copy.copy(settings, target, lambda: nullcontext(NoProgress()), **options)


def at(settings: Settings, target: str) -> Settings:
    return msgspec.structs.replace(settings, store=target)


def said(settings: Settings) -> dict[str, object]:
    """Return what the rows say, and under which keys."""
    with app.open_database(settings) as database:
        return {**logical_dump(database), "keys": keys_in(database, "blobs")}


def assert_whole(settings: Settings) -> None:
    """Check that every row has its object, to the last byte, and nothing else is wrong."""
    report = verification.verify(settings, NoProgress(), read_data="all", restart=True)
    assert report.findings == []
    with app.open_database(settings) as database, closing(open_store(settings)) as store:
        if store.layouts is not None:
            assert_consistent(database, store)


def content_of(settings: Settings) -> dict[str, bytes]:
    """Return every object that a row names."""
    with app.open_for_reading(settings, check_store=True) as reading:
        found = {}
        for key in keys_in(reading.database, "blobs"):
            buffer = memoryview(bytearray(16 * 1024 * 1024))
            total = 0
            with reading.store.open(key) as stream:
                while got := stream.readinto(buffer[total:]):
                    total += got
            found[key] = bytes(buffer[:total])
        return found


@contextmanager
def when_fenced(act: Callable[[], object]) -> Iterator[None]:
    """Do something while the move is at its end. (At a failpoint the database's file may be locked.)"""
    begin = fence.fence

    def fenced(*given: Any) -> int:
        taken = begin(*given)
        act()
        return taken

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fence, "fence", fenced)
        yield


# --- what is there afterwards -----------------------------------------------------------------


@pytest.mark.slow
def test_new_store_has_every_object_under_its_key(filled: Settings, target: str) -> None:
    before, bytes_before = said(filled), content_of(filled)
    moved = move(filled, target)
    assert moved.copied == moved.live == len(bytes_before)
    assert moved.live_bytes == sum(map(len, bytes_before.values()))
    assert moved.not_live == 0
    assert said(at(filled, target)) == before
    assert content_of(at(filled, target)) == bytes_before
    assert_whole(at(filled, target))


def test_new_store_takes_images(filled: Settings, target: str, builder: LayoutBuilder, layout: Path) -> None:
    move(filled, target)
    with app.open_for_writing(at(filled, target)) as writing:
        commit_one(writing, builder, builder.image(), layout, "new")
    assert_whole(at(filled, target))


def test_there_and_back_ends_with_the_same_bytes(filled: Settings, buckets: Buckets, tmp_path: Path) -> None:
    before, bytes_before = said(filled), content_of(filled)
    url, back = buckets.url(), str(tmp_path / "back")
    move(filled, url)
    move(at(filled, url), back, verify_data=True)
    assert said(at(filled, back)) == before
    assert content_of(at(filled, back)) == bytes_before
    assert_whole(at(filled, back))


def test_layouts_are_shown_in_a_new_folder(filled: Settings, folder: str) -> None:
    move(filled, folder)
    shown = Path(folder, "repositories", "app", "_layout")
    assert (shown / "index.json").is_file()
    names = {path.name for path in shown.rglob("*") if path.is_file() and len(path.name) == 64}
    assert names
    for path in shown.rglob("*"):
        if len(path.name) == 64:
            assert path.stat().st_nlink > 1


def test_snapshots_are_in_the_new_store_before_it_is_the_registrys(filled: Settings, folder: str) -> None:
    with closing(open_store(filled)) as store:
        expected = {name: found[0] for name, found in list_snapshots(store).versions.items()}
    seen: list[dict[str, object]] = []

    def look(name: str) -> None:
        if name == "store_move_switched.committing":
            with closing(open_store(at(filled, folder))) as store:
                seen.append({of: found[0] for of, found in list_snapshots(store).versions.items()})

    with failpoints.armed(look):
        move(filled, folder)
    assert seen == [expected]


def test_data_is_read_again_when_asked(filled: Settings, target: str) -> None:
    moved = move(filled, target, verify_data=True)
    assert moved.read_again == moved.live


# --- the old store ----------------------------------------------------------------------------


def test_old_store_opens_for_nobody_and_names_the_new_one(filled: Settings, target: str) -> None:
    move(filled, target)
    for opened in (
        app.open_for_writing(filled),
        app.open_for_reading(filled, check_store=True),
    ):
        with pytest.raises(StoreMoved, match="REGMETA_STORE") as raised, opened:
            pass
        assert target in str(raised.value)


def test_old_store_keeps_what_it_has(filled: Settings, target: str) -> None:
    with closing(open_store(filled)) as store:
        before = objects(store)
        move(filled, target)
        assert objects(store) == before


def test_collector_with_the_old_store_open_deletes_nothing(filled: Settings, folder: str) -> None:
    with app.open_for_writing(filled, lifetimes=AT_ONCE) as old:
        remove_tag(old.writer, "large", "v1")
        before = objects(old.store)
        move(filled, folder)
        with pytest.raises(IdentityMismatch):
            collect(old.writer, old.store)
        with pytest.raises(IdentityMismatch):
            sweep(old.database, old.store, SWEPT)
        assert objects(old.store) == before


def test_collector_of_the_new_store_deletes_what_an_old_one_noted_as_deleted(
    filled: Settings, folder: str
) -> None:
    """It stood still after its look at the record: the object is gone from the old store only."""
    with app.open_for_writing(filled, lifetimes=AT_ONCE) as old:
        key = min(keys_in(old.database, "blobs"))
    move(filled, folder)
    now = "(SELECT max(created_at) FROM repositories)"
    with app.open_database(filled) as database:
        change(
            database,
            "INSERT INTO tombstones (key, reason, created_at, not_before, deleted_at, drop_after)"
            f" VALUES ('{key}x', 'test', {now}, {now}, {now}, {now})".replace(f"{key}x", f"{key[:-4]}0000"),
        )
    Path(folder, "blobs", f"{key[:-4]}0000").write_bytes(b"dead")
    with app.open_for_writing(at(filled, folder), lifetimes=AT_ONCE) as new:
        collect(new.writer, new.store)
        assert f"{key[:-4]}0000" not in objects(new.store)
        assert keys_in(new.database, "tombstones") == set()


def test_tag_that_an_old_process_moves_gets_into_a_snapshot_of_the_new_store(
    filled: Settings, folder: str
) -> None:
    with app.open_for_writing(filled) as old:
        digest = tags(old.database)["v1"]
        move(filled, folder)
        set_tag(old.writer, "app", "late", digest)  # it needs no object
        revision = scalar(old.database, "SELECT revision FROM repositories WHERE name = 'app'")
        assert counts(old.database, "layout_outbox")["layout_outbox"] == 1
    with app.open_for_writing(at(filled, folder)) as new:
        assert list_snapshots(new.store).versions["app"][0] == (1, revision)
        assert counts(new.database, "layout_outbox")["layout_outbox"] == 0
    assert_whole(at(filled, folder))


def test_verification_with_the_old_store_open_marks_nothing(
    filled: Settings, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with app.open_database(filled) as database:
        path = Path(filled.store, "blobs", min(keys_in(database, "blobs")))
        content = path.read_bytes()
        path.unlink()

        def meanwhile(*_: object) -> None:
            path.write_bytes(content)
            move(filled, folder)

        # What is asked between the last look at an object and the marking.
        monkeypatch.setattr("regmeta.maintain.verify.run.check_plausible", meanwhile)
        verification.verify(filled, NoProgress(), mark=True)
        assert scalar(database, "SELECT count(*) FROM blobs WHERE state <> 'live'") == 0


# --- beside writers ---------------------------------------------------------------------------


def test_what_is_committed_during_the_bulk_is_moved_too(
    filled: Settings, target: str, builder: LayoutBuilder, layout: Path
) -> None:
    done: list[int] = []
    with app.open_for_writing(filled) as old:

        def commit(name: str) -> None:
            if name == "store_move_fenced.committing" and old.database.is_sqlite:
                return
            if name in ("publish.flushed", "bucket.published") and not done:
                done.append(1)
                commit_one(old, builder, builder.image(), layout, "meanwhile")

        with failpoints.armed(commit):
            move(filled, target)
    assert done
    with app.open_database(filled) as database:
        assert "v1" in tags(database, "meanwhile")
    assert_whole(at(filled, target))


def test_writer_is_refused_new_objects_while_the_move_is_at_its_end(
    filled: Settings, folder: str, builder: LayoutBuilder, layout: Path
) -> None:
    told: list[str] = []
    with app.open_for_writing(filled) as old:

        def commit() -> None:
            with pytest.raises(Locked, match="are being moved") as raised:
                commit_one(old, builder, builder.image(), layout, "meanwhile")
            told.append(str(raised.value))
            set_tag(old.writer, "app", "meanwhile", tags(old.database)["v1"])  # it needs none

        with when_fenced(commit):
            move(filled, folder)
    assert folder in told[0]
    with app.open_database(filled) as database:
        assert tags(database, "meanwhile") == {}
        assert "meanwhile" in tags(database)
    assert_whole(at(filled, folder))


def test_writer_of_before_is_refused_after_the_switch(
    filled: Settings, folder: str, builder: LayoutBuilder, layout: Path
) -> None:
    with app.open_for_writing(filled) as old:
        move(filled, folder)
        with pytest.raises(IdentityMismatch, match="REGMETA_STORE"):
            commit_one(old, builder, builder.image(), layout, "late")
        assert tags(old.database, "late") == {}
    assert_whole(at(filled, folder))


def test_object_that_was_collected_after_it_was_copied_is_found_by_the_sweep(
    filled: Settings, folder: str, monkeypatch: pytest.MonkeyPatch, builder: LayoutBuilder, layout: Path
) -> None:
    with app.open_for_writing(filled, lifetimes=AT_ONCE) as old:
        commit_one(old, builder, builder.image(), layout, "doomed")  # without a lease
        doomed = keys_in(old.database, "blobs")

        def collect_some(*given: Any) -> None:
            judge(*given)
            if not tags(old.database, "doomed"):
                return
            remove_tag(old.writer, "doomed", "v1")
            for _ in range(3):  # the tombstones go as well
                collect(old.writer, old.store)
            doomed.difference_update(keys_in(old.database, "blobs"))
            assert keys_in(old.database, "tombstones") == set()

        judge = run._Move._judge
        monkeypatch.setattr(run._Move, "_judge", collect_some)
        moved = move(filled, folder)
    assert doomed
    assert moved.not_live == len(doomed)
    with app.open_for_writing(at(filled, folder), lifetimes=AT_ONCE) as new:
        assert doomed <= objects(new.store).keys()
        sweep(new.database, new.store, SWEPT, force=True)
        collect(new.writer, new.store)
        assert objects(new.store).keys() == keys_in(new.database, "blobs")


# --- interrupted ------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, StoreUnavailable])
def test_second_run_copies_only_the_rest(
    filled: Settings, folder: str, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    from regmeta.maintain.store_copy import objects as copying

    monkeypatch.setattr(copying, "GROUP_OBJECTS", 1)
    flushed: list[str] = []

    def fail(name: str) -> None:
        if name == "publish.flushed":
            flushed.append(name)
            if len(flushed) == 3:
                raise error("stopped")

    with failpoints.armed(fail), pytest.raises(error):
        move(filled, folder)
    there = len(objects(open_store(at(filled, folder))))
    assert 0 < there < len(keys_in_rows(filled))
    with app.open_for_writing(filled):
        pass  # the old store is the registry's still
    moved = move(filled, folder)
    assert moved.copied == moved.live - there
    assert_whole(at(filled, folder))


def keys_in_rows(settings: Settings) -> set[str]:
    with app.open_database(settings) as database:
        return keys_in(database, "blobs")


def test_error_in_the_last_pass_lets_writers_go_on(
    filled: Settings, folder: str, builder: LayoutBuilder, layout: Path
) -> None:
    def fail(name: str) -> None:
        if name == "store_move_switched.committing":
            raise StoreUnavailable("stopped")

    with app.open_for_writing(filled) as old:
        with failpoints.armed(fail), pytest.raises(StoreUnavailable):
            move(filled, folder)
        commit_one(old, builder, builder.image(), layout, "after")
    move(filled, folder)
    assert_whole(at(filled, folder))


def test_run_whose_mark_was_lifted_does_not_switch(filled: Settings, folder: str) -> None:
    def give_up() -> None:
        assert store_copy.abandon(filled).location == folder

    with when_fenced(give_up), pytest.raises(Refused, match="given up meanwhile"):
        move(filled, folder)
    with app.open_for_writing(filled):
        pass
    with pytest.raises(NotFound):
        store_copy.abandon(filled)


def test_switch_without_its_records_is_finished_by_a_second_run(filled: Settings, target: str) -> None:
    with pytest.MonkeyPatch.context() as patch:

        def fail(*_: object) -> None:
            raise StoreUnavailable("stopped")

        patch.setattr(run, "_write_records", fail)
        with pytest.raises(StoreUnavailable):
            move(filled, target)
    with pytest.raises(IdentityMismatch, match="store copy"), app.open_for_writing(filled):
        pass
    with app.open_for_writing(at(filled, target)):
        pass
    assert move(filled, target).was_moved
    with pytest.raises(StoreMoved), app.open_for_writing(filled):
        pass
    assert move(filled, target).was_moved
    assert_whole(at(filled, target))


def test_store_that_is_being_filled_opens_for_nobody(filled: Settings, folder: str) -> None:
    def fail(name: str) -> None:
        if name == "publish.flushed":
            raise StoreUnavailable("stopped")

    with failpoints.armed(fail), pytest.raises(StoreUnavailable):
        move(filled, folder)
    with pytest.raises(IdentityMismatch, match="being filled"), app.open_for_writing(at(filled, folder)):
        pass
    other = msgspec.structs.replace(at(filled, folder), database=f"sqlite:///{folder}.db")
    with pytest.raises(IdentityMismatch):
        app.initialise(other)


def test_full_disk_ends_the_copy_and_nothing_was_switched(
    filled: Settings, folder: str, stopped: None
) -> None:
    failpoints.arm("stage.flushed:2=raise:ENOSPC")
    with pytest.raises(StoreUnavailable, match="ENOSPC"):
        move(filled, folder)
    failpoints._handler = None
    with app.open_for_writing(filled):
        pass
    move(filled, folder)
    assert_whole(at(filled, folder))


# --- damage -----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["bytes", "size", "gone"])
def test_damaged_object_is_not_moved_as_good(filled: Settings, folder: str, how: str) -> None:
    with app.open_database(filled) as database:
        key = max(keys_in(database, "blobs"))
        path = Path(filled.store, "blobs", key)
        content = path.read_bytes()
        path.unlink()
        if how != "gone":
            path.write_bytes(bytes(len(content)) if how == "bytes" else content[:-1])
        with pytest.raises(IntegrityError, match="--mark"):
            move(filled, folder)
        with app.open_for_writing(filled):
            pass
        moved = move(filled, folder, mark=True)
        assert moved.marked == 1
        assert [damage.key for damage in moved.damaged] == [key]
        assert rows(database, "SELECT key FROM blobs WHERE state = 'damaged'") == [(key,)]
        assert key not in objects(open_store(at(filled, folder)))


def test_object_of_another_size_in_the_new_store_is_not_overwritten(filled: Settings, folder: str) -> None:
    def fail(name: str) -> None:
        if name == "store_move_fenced.committing":
            raise StoreUnavailable("stopped")

    with failpoints.armed(fail), pytest.raises(StoreUnavailable):
        move(filled, folder)
    key = min(keys_in_rows(filled))
    path = Path(folder, "blobs", key)
    path.chmod(0o644)
    path.write_bytes(b"?")
    with pytest.raises(IntegrityError, match="has 1 bytes"):
        move(filled, folder)


def test_other_bytes_in_the_new_store_are_found_when_read_again(filled: Settings, folder: str) -> None:
    def fail(name: str) -> None:
        if name == "store_move_fenced.committing":
            raise StoreUnavailable("stopped")

    with failpoints.armed(fail), pytest.raises(StoreUnavailable):
        move(filled, folder)
    path = Path(folder, "blobs", min(keys_in_rows(filled)))
    path.chmod(0o644)
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(IntegrityError, match="another digest"):
        move(filled, folder, verify_data=True)
    with app.open_for_writing(filled):
        pass


# --- refusals ---------------------------------------------------------------------------------


def test_name_of_nothing_is_no_target(
    filled: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a variable gives it that is not set: it must not mean the folder that a command is started in."""
    monkeypatch.chdir(tmp_path)
    for target in ("", " "):
        with pytest.raises(UsageError, match="no name"):
            move(filled, target)
    assert not (tmp_path / "blobs").exists()


def test_store_itself_is_no_target(filled: Settings, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(filled.store)
    for target in (filled.store, f"{filled.store}/blobs", str(Path(filled.store).parent), str(link)):
        with pytest.raises(UsageError, match="itself"):
            move(filled, target)


def test_folder_with_objects_is_no_target(filled: Settings, tmp_path: Path) -> None:
    (tmp_path / "new" / "blobs").mkdir(parents=True)
    (tmp_path / "new" / "blobs" / "x").touch()
    with pytest.raises(Refused, match="blobs/x"):
        move(filled, str(tmp_path / "new"))


def test_store_of_another_registry_is_no_target(filled: Settings, tmp_path: Path) -> None:
    home = tmp_path / "other"
    other = settings_of(home, f"sqlite:///{home / 'regmeta.db'}")
    app.initialise(other)
    with pytest.raises(Refused, match="another store already"):
        move(filled, other.store)


def test_nothing_is_moved_while_collection_is_on_hold(filled: Settings, folder: str) -> None:
    with app.open_database(filled) as database:
        change(database, "UPDATE store_identity SET hold_reason = 'restored'")
    with pytest.raises(Refused, match="on hold: restored"):
        move(filled, folder)


def test_bucket_that_does_not_answer_ends_the_copy(
    filled: Settings, monkeypatch: pytest.MonkeyPatch, buckets: Buckets
) -> None:
    url = buckets.url()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    quick = msgspec.structs.replace(
        filled, object_store=msgspec.structs.replace(filled.object_store, retry_for="1s")
    )
    with pytest.raises(StoreUnavailable) as raised:
        move(quick, url)
    assert url in str(raised.value)
    with app.open_for_writing(filled):
        pass


def test_mark_is_not_lifted_by_a_verification(filled: Settings, folder: str) -> None:
    def verify() -> None:
        assert not verification.verify(filled, NoProgress(), mark=True).hold_released

    with when_fenced(verify):
        move(filled, folder)
    assert_whole(at(filled, folder))


def test_mark_reads_back_as_it_was_written(database: Database, writing: Writing) -> None:
    from uuid import uuid4

    from regmeta.ingest.store_moves import Mark, mark_of

    mark = Mark("s3://a/b (move x)", uuid4(), uuid4(), "host/1")
    assert mark_of(mark.text) == mark
    assert mark_of("restored") is None
    assert mark_of(None) is None
    assert fence.lift_any(writing.database) is None
