"""What nothing needs is collected, rows first and objects later; what anything needs never is."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from regmeta import db
from regmeta.app import Writing, open_for_writing
from regmeta.errors import IdentityMismatch, StoreUnavailable
from regmeta.ingest.plan import Lifetimes
from regmeta.ingest.tags import remove_tag, set_tag
from regmeta.maintain.collect.again import retry_now
from regmeta.maintain.collect.hold import CollectionHeld
from regmeta.maintain.collect.plausible import ImplausibleShare
from regmeta.maintain.collect.run import collect
from regmeta.maintain.collect.sweep import sweep
from regmeta.settings import Settings
from regmeta.store import new_key
from tests.builders import LayoutBuilder, digest_of
from tests.support.registry import (
    AT_ONCE,
    NOW,
    change,
    commit_one,
    counts,
    import_all,
    ingest_of,
    keys_in,
    objects,
    request,
    rows,
    scalar,
    source_of,
    tags,
)

CONTENT = ("manifests", "manifest_blobs", "index_manifests", "labels", "repository_blobs", "blobs")


@pytest.fixture
def impatient(settings: Settings) -> Iterator[Writing]:
    """A registry whose leases and windows are over as soon as they begin."""
    with open_for_writing(settings, lifetimes=AT_ONCE) as found:
        yield found


@pytest.fixture
def with_lifetimes(settings: Settings) -> Iterator[Callable[[Lifetimes], Writing]]:
    with ExitStack() as stack:
        yield lambda lifetimes: stack.enter_context(open_for_writing(settings, lifetimes=lifetimes))


def assert_only_live_objects(writing: Writing) -> None:
    assert set(objects(writing.store)) == keys_in(writing.database, "blobs")


# --- what goes --------------------------------------------------------------------------------


def test_image_without_its_tag_goes_with_all_that_it_held(
    impatient: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    nested = builder.index([builder.index([builder.image(), builder.image()])], {"a": "b"})
    commit_one(impatient, builder, nested, layout)
    remove_tag(impatient.writer, "app", "v1")
    report = collect(impatient.writer, impatient.store)
    assert report.manifests == 4
    assert set(counts(impatient.database, *CONTENT).values()) == {0}
    assert objects(impatient.store) == {}
    assert report.objects.deleted == report.blobs == 4 + 2 + 4
    assert scalar(impatient.database, "SELECT count(*) FROM tags WHERE manifest_id IS NULL") == 1
    links = (Path(impatient.store.location) / "repositories/app/_layout/blobs").rglob("*")
    assert [path for path in links if path.is_file()] == []
    assert collect(impatient.writer, impatient.store).tasks == 0


def test_what_another_image_shares_stays(impatient: Writing, builder: LayoutBuilder, layout: Path) -> None:
    shared = builder.layer()
    one, two = builder.image([shared, b"one"]), builder.image([shared, b"two"])
    commit_one(impatient, builder, one, layout, tag="one")
    commit_one(impatient, builder, two, layout / "2", "other", tag="two")
    remove_tag(impatient.writer, "app", "one")
    assert collect(impatient.writer, impatient.store).blobs == 3
    assert set(counts(impatient.database, "manifests", "blobs").values()) == {1, 4}
    assert scalar(impatient.database, "SELECT count(*) FROM repository_blobs") == 4
    assert_only_live_objects(impatient)


def test_displaced_image_goes(impatient: Writing, builder: LayoutBuilder, layout: Path) -> None:
    for number in range(3):
        commit_one(impatient, builder, builder.image(), layout / str(number))
    assert collect(impatient.writer, impatient.store).manifests == 2
    assert len(tags(impatient.database)) == counts(impatient.database, "manifests")["manifests"] == 1
    assert_only_live_objects(impatient)


def test_referrer_goes_after_its_subject(impatient: Writing, builder: LayoutBuilder, layout: Path) -> None:
    image = builder.image()
    commit_one(impatient, builder, image, layout / "1")
    referrer = builder.artifact(b"signature", "application/vnd.example.sig", image)
    commit_one(impatient, builder, referrer, layout / "2", tag=None)
    collect(impatient.writer, impatient.store)
    assert counts(impatient.database, "manifests")["manifests"] == 2
    remove_tag(impatient.writer, "app", "v1")
    assert collect(impatient.writer, impatient.store).manifests == 2
    assert objects(impatient.store) == {}


# --- what stays -------------------------------------------------------------------------------


def test_leased_image_stays_until_its_lease_ends(
    with_lifetimes: Callable[[Lifetimes], Writing], builder: LayoutBuilder, layout: Path
) -> None:
    patient = with_lifetimes(Lifetimes(lease=timedelta(hours=1), garbage=NOW, history=NOW, tombstone=NOW))
    commit_one(patient, builder, builder.image(), layout)
    remove_tag(patient.writer, "app", "v1")
    assert collect(patient.writer, patient.store).manifests == 0
    change(patient.database, "UPDATE gc_tasks SET not_before = 0")
    assert collect(patient.writer, patient.store).manifests == 0
    assert scalar(patient.database, "SELECT count(*) FROM gc_tasks") == 1
    change(patient.database, "UPDATE manifests SET lease_until = 0")
    change(patient.database, "UPDATE gc_tasks SET not_before = 0")
    report = collect(patient.writer, patient.store)
    assert (report.manifests, report.blobs) == (1, 0)  # its blobs are leased still
    change(patient.database, "UPDATE blobs SET lease_until = 0")
    change(patient.database, "UPDATE repository_blobs SET linked_at = 0")
    change(patient.database, "UPDATE gc_tasks SET not_before = 0")
    assert collect(patient.writer, patient.store).blobs == 4
    assert objects(patient.store) == {}


def test_removed_tag_keeps_its_image_inside_the_history_window(
    with_lifetimes: Callable[[Lifetimes], Writing], builder: LayoutBuilder, layout: Path
) -> None:
    writing = with_lifetimes(Lifetimes(lease=NOW, garbage=NOW, tombstone=NOW, history=timedelta(days=1)))
    image = builder.image()
    commit_one(writing, builder, image, layout)
    remove_tag(writing.writer, "app", "v1")
    assert collect(writing.writer, writing.store).manifests == 0
    set_tag(writing.writer, "app", "v1", digest_of(image))
    remove_tag(writing.writer, "app", "v1")
    change(
        writing.database,
        "UPDATE tags SET started_at = started_at - 90000000000, ended_at = ended_at - 90000000000",
    )
    change(writing.database, "UPDATE gc_tasks SET not_before = 0")
    assert collect(writing.writer, writing.store).manifests == 1


def test_tag_that_comes_back_before_the_collector_keeps_the_image(
    impatient: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    image = builder.image()
    commit_one(impatient, builder, image, layout)
    remove_tag(impatient.writer, "app", "v1")
    set_tag(impatient.writer, "app", "again", digest_of(image))
    assert collect(impatient.writer, impatient.store).manifests == 0
    assert counts(impatient.database, "gc_tasks")["gc_tasks"] == 0


def test_dead_object_stays_for_the_read_window_and_its_tombstone_until_no_upload_is_that_old(
    with_lifetimes: Callable[[Lifetimes], Writing], builder: LayoutBuilder, layout: Path
) -> None:
    writing = with_lifetimes(Lifetimes(lease=NOW, garbage=NOW, history=NOW))
    commit_one(writing, builder, builder.image(), layout)
    remove_tag(writing.writer, "app", "v1")
    report = collect(writing.writer, writing.store)
    assert (report.blobs, report.objects.deleted, len(objects(writing.store))) == (4, 0, 4)
    change(writing.database, "UPDATE tombstones SET not_before = 0")
    assert collect(writing.writer, writing.store).objects.deleted == 4
    assert objects(writing.store) == {}
    assert counts(writing.database, "tombstones")["tombstones"] == 4
    change(writing.database, "UPDATE tombstones SET drop_after = 0")
    assert collect(writing.writer, writing.store).objects.forgotten == 4
    assert counts(writing.database, "tombstones")["tombstones"] == 0


# --- races in both orders ---------------------------------------------------------------------


def test_import_that_relies_on_a_blob_which_is_collected_meanwhile_writes_it_again(
    impatient: Writing, with_lifetimes: Callable[[Lifetimes], Writing], builder: LayoutBuilder, layout: Path
) -> None:
    image = builder.image()
    commit_one(impatient, builder, image, layout)
    with source_of(builder, layout / "2") as source:
        ingest = ingest_of(impatient, request(source, image, tag="again"))
        ingest.prepare()
        assert len(ingest.unit.stored) == 4
        remove_tag(impatient.writer, "app", "v1")
        assert collect(impatient.writer, impatient.store).objects.deleted == 4
        with pytest.raises(Exception, match="reservation lost") as lost:
            ingest.commit()
        ingest.again(lost.value.digests)  # type: ignore[attr-defined]
        ingest.commit()
        ingest.unit.finish()
    assert tags(impatient.database) == {"again": digest_of(image)}
    assert_only_live_objects(impatient)


def test_blob_that_is_leased_is_not_collected(
    impatient: Writing, with_lifetimes: Callable[[Lifetimes], Writing], builder: LayoutBuilder, layout: Path
) -> None:
    image = builder.image()
    commit_one(impatient, builder, image, layout)
    usual = with_lifetimes(Lifetimes())
    with source_of(builder, layout / "2") as source:
        ingest = ingest_of(usual, request(source, image, tag="again"))
        ingest.prepare()
        remove_tag(impatient.writer, "app", "v1")
        report = collect(impatient.writer, impatient.store)
        assert (report.manifests, report.blobs) == (1, 0)
        ingest.commit()
        ingest.unit.finish()
    assert tags(impatient.database) == {"again": digest_of(image)}
    assert collect(impatient.writer, impatient.store).blobs == 0


# --- refusals ---------------------------------------------------------------------------------


def test_nothing_is_collected_while_there_is_a_hold(
    impatient: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    commit_one(impatient, builder, builder.image(), layout)
    remove_tag(impatient.writer, "app", "v1")
    change(impatient.database, "UPDATE store_identity SET hold_reason = 'restored'")
    before = objects(impatient.store)
    for work in (
        lambda: collect(impatient.writer, impatient.store),
        lambda: sweep(impatient.database, impatient.store, AT_ONCE),
    ):
        with pytest.raises(CollectionHeld, match="restored"):
            work()
    assert objects(impatient.store) == before
    assert counts(impatient.database, "manifests")["manifests"] == 1
    change(impatient.database, "UPDATE store_identity SET hold_reason = NULL")


def test_nothing_is_deleted_from_a_store_that_another_database_has_taken_over(
    impatient: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    commit_one(impatient, builder, builder.image(), layout)
    remove_tag(impatient.writer, "app", "v1")
    record = Path(impatient.store.location) / "store.json"
    content = record.read_text()
    record.write_text(content.replace('"epoch": 1', '"epoch": 2'))
    before = objects(impatient.store)
    with pytest.raises(IdentityMismatch):
        collect(impatient.writer, impatient.store)
    assert objects(impatient.store) == before
    record.write_text(content)
    assert collect(impatient.writer, impatient.store).objects.deleted == 4


# --- sweep ------------------------------------------------------------------------------------


def stray(writing: Writing, builder: LayoutBuilder, content: bytes) -> str:
    """Put an object into the store that no row knows, as a process frozen for days would."""
    digest = digest_of(builder.blob(content))
    staging = writing.writer.staging
    staged = staging.stage(new_key(digest), digest, len(content), io.BytesIO(content))
    staging.publish([staged])
    return staged.key


def test_sweep_finds_what_no_row_knows_and_nothing_else(
    impatient: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    commit_one(impatient, builder, builder.image(), layout)
    image = builder.image()
    with source_of(builder, layout / "2") as source:
        ingest = ingest_of(impatient, request(source, image, tag="open"))
        ingest.prepare()
        unknown = stray(impatient, builder, b"stray")
        assert sweep(impatient.database, impatient.store, Lifetimes()).too_young == 1
        report = sweep(impatient.database, impatient.store, AT_ONCE)
        assert (report.unknown, report.buried) == (1, 1)
        assert keys_in(impatient.database, "tombstones") == {unknown}
        ingest.commit()
        ingest.unit.finish()
    assert collect(impatient.writer, impatient.store).objects.deleted == 1
    assert_only_live_objects(impatient)


def test_sweep_stops_at_an_implausible_share(
    impatient: Writing, builder: LayoutBuilder, layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regmeta.maintain.collect.plausible.FEW", 4)
    commit_one(impatient, builder, builder.image(), layout)
    for number in range(2):
        stray(impatient, builder, b"stray %d" % number)
    with pytest.raises(ImplausibleShare, match=r"2 of 6 objects of .* are in no table"):
        sweep(impatient.database, impatient.store, AT_ONCE)
    assert counts(impatient.database, "tombstones")["tombstones"] == 0
    assert sweep(impatient.database, impatient.store, AT_ONCE, force=True).buried == 2


@pytest.mark.inconsistent
def test_listing_that_fails_or_is_empty_deletes_nothing(
    impatient: Writing, builder: LayoutBuilder, layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_one(impatient, builder, builder.image(), layout)
    stray(impatient, builder, b"stray")
    walk = impatient.store.walk

    def failing() -> Iterator[object]:
        yield next(iter(walk()))
        raise StoreUnavailable("blobs: Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(impatient.store, "walk", failing)
        with pytest.raises(StoreUnavailable):
            sweep(impatient.database, impatient.store, AT_ONCE)
    with monkeypatch.context() as patch:
        patch.setattr(impatient.store, "walk", lambda: iter(()))
        with pytest.raises(StoreUnavailable, match="lists no object, the rows name 4"):
            sweep(impatient.database, impatient.store, AT_ONCE)
    assert counts(impatient.database, "tombstones")["tombstones"] == 0


def test_import_of_the_same_image_after_its_collection_is_whole(
    impatient: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    builder.tag(builder.index([builder.image(), builder.image()]), "v1")
    builder.write(layout)
    for _ in range(3):
        import_all(impatient, layout)
        remove_tag(impatient.writer, "app", "v1")
        collect(impatient.writer, impatient.store)
        assert objects(impatient.store) == {}
    import_all(impatient, layout)
    assert_only_live_objects(impatient)


# --- layouts ----------------------------------------------------------------------------------


def shown(writing: Writing) -> dict[str, int]:
    """Return the blobs that the repository's layout shows, with their inodes."""
    folder = Path(writing.store.location) / "repositories/app/_layout/blobs/sha256"
    return {path.name: path.stat().st_ino for path in folder.iterdir()}


def test_layout_shows_the_object_that_was_first_not_the_one_that_lost(
    impatient: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    image = builder.image()
    with source_of(builder, layout) as source:
        late = ingest_of(impatient, request(source, image, tag="late"))
        late.prepare()
        commit_one(impatient, builder, image, layout / "first", tag="first")
        late.commit()
        late.unit.finish()
    blobs = Path(impatient.store.location) / "blobs"
    stored = {
        key.rpartition("/")[2].partition(".")[0]: (blobs / key).stat().st_ino
        for key in keys_in(impatient.database, "blobs")
    }
    assert shown(impatient) == stored


def test_writer_that_was_overtaken_does_not_show_what_was_collected(
    impatient: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    kept, gone = builder.image(), builder.image()
    commit_one(impatient, builder, kept, layout / "1", tag="kept")
    with source_of(builder, layout / "2") as source:
        late = ingest_of(impatient, request(source, gone, tag="gone"))
        late.prepare()
        late.commit()
        remove_tag(impatient.writer, "app", "gone")
        assert collect(impatient.writer, impatient.store).manifests == 1
        late.unit.finish()
    assert len(shown(impatient)) == 4


def test_layout_lets_go_of_blobs_that_were_collected_after_their_manifest(
    impatient: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    commit_one(impatient, builder, builder.image(), layout)
    remove_tag(impatient.writer, "app", "v1")
    change(impatient.database, "UPDATE repository_blobs SET linked_at = 4000000000000000")
    assert collect(impatient.writer, impatient.store).blobs == 0
    change(impatient.database, "UPDATE repository_blobs SET linked_at = 1")
    change(impatient.database, "UPDATE gc_tasks SET not_before = 1")
    assert collect(impatient.writer, impatient.store).objects.deleted == 4
    assert shown(impatient) == {}


def test_object_that_cannot_be_deleted_keeps_no_other_from_going(
    impatient: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    commit_one(impatient, builder, builder.image(), layout)
    remove_tag(impatient.writer, "app", "v1")
    stuck = sorted(objects(impatient.store))[0]
    path = Path(impatient.store.location) / "blobs" / stuck
    path.unlink()
    path.mkdir()
    [failure] = collect(impatient.writer, impatient.store).objects.failures
    assert stuck in failure
    assert objects(impatient.store) == {}
    found = rows(impatient.database, "SELECT key, attempts FROM tombstones WHERE attempts > 0")
    assert found == [(stuck, 1)]
    path.rmdir()
    retry_now(impatient.database)
    assert collect(impatient.writer, impatient.store).objects.deleted == 1


def test_clock_that_was_set_back_does_not_keep_the_collector_at_work_for_ever(
    impatient: Writing, builder: LayoutBuilder, layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_one(impatient, builder, builder.image(), layout)
    remove_tag(impatient.writer, "app", "v1")
    change(impatient.database, "UPDATE repository_blobs SET linked_at = 4000000000000000")
    # The run begins by a clock that is two hours ahead of the one that it goes on with.
    clock = SimpleNamespace(clock=lambda connection: db.clock(connection) + timedelta(hours=2))
    monkeypatch.setattr("regmeta.maintain.collect.run.db", clock)
    assert collect(impatient.writer, impatient.store).blobs == 0
    change(impatient.database, "UPDATE repository_blobs SET linked_at = 1")
