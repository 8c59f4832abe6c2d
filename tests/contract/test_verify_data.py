"""Reading every byte: exact, resumable, beside writers; marking; and errors that are never answers."""

from __future__ import annotations

import random
import shutil
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from regmeta.app import Writing, open_for_writing
from regmeta.content.export import export
from regmeta.errors import DamagedBlob, Error, IntegrityError, Refused, StoreUnavailable, UsageError
from regmeta.ingest.damage import mark_damaged
from regmeta.ingest.tags import remove_tag, set_tag
from regmeta.maintain.collect.run import collect
from regmeta.maintain.verify import data, run, snapshots
from regmeta.maintain.verify.data import Subset
from regmeta.maintain.verify.findings import Kind
from regmeta.models import Blob
from regmeta.oci.digest import Digest
from regmeta.oci.names import Reference
from regmeta.settings import Settings
from regmeta.store import new_key
from regmeta.store.exports import open_export
from tests.builders import Json, LayoutBuilder, digest_of
from tests.support.registry import (
    change,
    commit_one,
    dump,
    import_all,
    key_of,
    rows,
    scalar,
)
from tests.support.verified import (
    AT_ONCE,
    EVERYTHING,
    Noted,
    Told,
    files_of,
    interrupted,
    kinds,
    spoil,
    verified,
)

Prepared = Callable[[int], list[Path]]


class Through:
    """A store that passes calls on, counts what is opened, and can fail."""

    def __init__(self, store: Any, fails: str = "", after: int = 0) -> None:
        self._store = store
        self._fails = fails
        self._left = after
        self._lock = threading.Lock()
        self.opened: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        if name == self._fails:
            with self._lock:
                self._left -= 1
                if self._left < 0:
                    raise StoreUnavailable(f"{name}: no answer")
        return getattr(self._store, name)

    def open(self, key: str, start: int = 0) -> Any:
        if self._fails == "open":
            raise StoreUnavailable("open: no answer")
        with self._lock:
            self.opened[key] += 1
        return self._store.open(key, start)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Nobody else works on these registries, so nothing is waited for."""
    if "beside" not in request.node.name:
        monkeypatch.setattr(snapshots, "SETTLING_S", 0.0)


@pytest.fixture
def blobs(writing: Writing, builder: LayoutBuilder, layout: Path) -> Prepared:
    """Import images of one layer each, of some KiB; give the objects of the layers."""

    def prepare(number: int) -> list[Path]:
        chance = random.Random(7)
        layers = []
        for _ in range(number):
            content = bytearray(chance.randbytes(chance.randrange(2, 30_000)))
            content[-2:] = b"\1\1"
            layers.append(builder.layer(bytes(content)))
        for start in range(0, number, 50):
            builder.tag(builder.image(layers[start : start + 50]), f"v{start}")
        import_all(writing, builder.write(layout))
        root = Path(writing.store.location) / "blobs"
        return [root / key_of(writing.database, digest_of(layer)) for layer in layers]

    return prepare


def digest_at(path: Path) -> str:
    return f"sha256:{path.name.partition('.')[0]}"


# --- each of them, and no other ---------------------------------------------------------------


@pytest.mark.inconsistent
def test_each_of_120_damaged_objects_of_500_is_reported_and_no_other(
    writing: Writing, blobs: Prepared
) -> None:
    paths = blobs(500)
    assert len(set(paths)) == 500
    chosen = random.Random(1).sample(paths, 120)
    flipped, cut, grown, gone, swapped, zeroed = (chosen[start : start + 20] for start in range(0, 120, 20))
    for path in flipped:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        spoil(path, bytes(content))
    for path in cut:
        spoil(path, path.read_bytes()[:-1])
    for path in grown:
        spoil(path, path.read_bytes() + b"\0")
    for path in gone:
        path.unlink()
    for one, other in zip(swapped[::2], swapped[1::2], strict=True):
        contents = one.read_bytes(), other.read_bytes()
        spoil(one, contents[1])
        spoil(other, contents[0])
    for path in zeroed:
        spoil(path, path.read_bytes()[:-2] + b"\0\0")
    report = verified(writing.database, writing.store)
    found = {finding.subject: str(finding.kind) for finding in report.findings}
    assert found.keys() == {digest_at(path) for path in chosen}
    assert len(report.findings) == 120
    assert {found[digest_at(path)] for path in gone} == {"object-missing"}
    assert {found[digest_at(path)] for path in cut + grown} == {"object-size"}
    assert {found[digest_at(path)] for path in flipped + zeroed} == {"object-corrupt"}
    assert {found[digest_at(path)] for path in swapped} <= {"object-corrupt", "object-size"}


@pytest.mark.inconsistent
def test_blobs_of_one_size_that_were_swapped_are_both_wrong(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    layers = [builder.layer(b"one"), builder.layer(b"two")]
    commit_one(writing, builder, builder.image(layers), layout)
    for layer, content in zip(layers, (b"two", b"one"), strict=True):
        spoil(object_of(writing, layer), content)
    report = verified(writing.database, writing.store)
    assert kinds(report) == {("object-corrupt", layer["digest"]) for layer in layers}


def object_of(writing: Writing, descriptor: Json) -> Path:
    return Path(writing.store.location) / "blobs" / key_of(writing.database, digest_of(descriptor))


# --- stopped and gone on ----------------------------------------------------------------------


@pytest.mark.inconsistent
def test_run_that_was_stopped_goes_on_and_keeps_what_it_had_found(
    writing: Writing, blobs: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "GROUP_BYTES", 50_000)
    monkeypatch.setattr(data, "GROUPS_AHEAD", 4)
    paths = sorted(blobs(100))
    spoil(paths[0], b"x" * paths[0].stat().st_size)
    spoil(paths[-1], b"x" * paths[-1].stat().st_size)
    expected = {("object-corrupt", digest_at(path)) for path in (paths[0], paths[-1])}
    checkpoint, first = Noted(), Through(writing.store)
    with pytest.raises(KeyboardInterrupt):
        verified(
            writing.database,
            first,
            checkpoint=checkpoint,
            progress=Told(500_000, interrupted),
            jobs=1,
        )
    assert checkpoint.state is not None
    after = checkpoint.state["after"]
    assert after != ""
    assert [found["subject"] for found in checkpoint.state["findings"]] == [digest_at(paths[0])]
    second, told = Through(writing.store), Told()
    report = verified(writing.database, second, checkpoint=checkpoint, progress=told)
    assert report.resumed_at == after
    assert kinds(report) == expected
    hashed = {key for key in second.opened if key in layer_keys(paths)}
    assert hashed == {key for key in layer_keys(paths) if key > after}
    assert 0 < len(hashed) < 100
    assert report.objects_read == report.blobs
    assert told.bytes_read >= report.bytes_read
    assert checkpoint.load() is None
    again = verified(writing.database, writing.store, checkpoint=checkpoint)
    assert again.resumed_at is None
    assert kinds(again) == expected


def layer_keys(paths: list[Path]) -> set[str]:
    return {"/".join(path.parts[-3:]) for path in paths}


def test_checkpoint_is_saved_while_the_run_goes_on(
    writing: Writing, blobs: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "CHECKPOINT_S", 0.0)
    monkeypatch.setattr(data, "GROUP_OBJECTS", 5)
    blobs(30)
    checkpoint = Noted()
    verified(writing.database, writing.store, checkpoint=checkpoint)
    places = [state["after"] for state in checkpoint.saved]
    assert len(places) >= 6
    assert places == sorted(set(places))


@pytest.mark.parametrize("other", ["options", "epoch", "store", "shape"])
def test_checkpoint_of_another_run_is_not_gone_on_from(
    writing: Writing, builder: LayoutBuilder, layout: Path, other: str
) -> None:
    commit_one(writing, builder, builder.image(), layout)
    checkpoint = Noted()
    with pytest.raises(KeyboardInterrupt):
        verified(writing.database, writing.store, checkpoint=checkpoint, progress=Told(1, interrupted))
    assert checkpoint.state is not None
    checkpoint.state["after"] = "sha256/zz"
    subset = EVERYTHING
    key = checkpoint.state["key"].split()
    if other == "options":
        subset = Subset.parse("100%")
    elif other == "epoch":
        key[2] = "7"
    elif other == "store":
        key[0] = "0" * 32
    else:
        key = []
    checkpoint.state["key"] = " ".join(key)
    report = verified(writing.database, writing.store, checkpoint=checkpoint, read_data=subset)
    assert report.resumed_at is None
    assert report.objects_read == 4


@pytest.mark.inconsistent
def test_what_was_healed_after_the_interruption_is_not_reported(
    writing: Writing, blobs: Prepared, layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "GROUP_BYTES", 50_000)
    monkeypatch.setattr(data, "GROUPS_AHEAD", 4)
    paths = sorted(blobs(60))
    spoil(paths[0], b"x" * paths[0].stat().st_size)
    checkpoint = Noted()
    told = Told(400_000, interrupted)
    with pytest.raises(KeyboardInterrupt):
        verified(writing.database, writing.store, checkpoint=checkpoint, progress=told, jobs=1)
    assert checkpoint.state is not None
    assert len(checkpoint.state["findings"]) == 1
    change(
        writing.database,
        "UPDATE blobs SET state = 'damaged' WHERE key = :at",
        at=next(iter(layer_keys(paths[:1]))),
    )
    import_all(writing, layout)
    report = verified(writing.database, writing.store, checkpoint=checkpoint)
    assert report.resumed_at is not None
    assert report.findings == []


# --- parts ------------------------------------------------------------------------------------


def test_slices_cover_each_blob_once(writing: Writing, blobs: Prepared) -> None:
    blobs(60)
    read: Counter[str] = Counter()
    for number in range(1, 8):
        store = Through(writing.store)
        report = verified(writing.database, store, read_data=Subset.parse(f"{number}/7"), jobs=3)
        configs = scalar(writing.database, "SELECT count(*) FROM manifest_blobs WHERE role = 'config'")
        assert report.objects_read <= sum(store.opened.values()) <= report.objects_read + configs
        read[str(number)] = report.objects_read
    assert sum(read.values()) == scalar(writing.database, "SELECT count(*) FROM blobs")
    assert all(0 < number < 30 for number in read.values())


def test_slices_are_disjoint_and_whole() -> None:
    digests = [Digest.of(str(number).encode()) for number in range(500)]
    slices = [Subset.parse(f"{number}/7") for number in range(1, 8)]
    assert all(sum(part.has(digest, "") for part in slices) == 1 for digest in digests)


def test_sample_is_about_its_share_and_the_same_within_a_run() -> None:
    digests = [Digest.of(str(number).encode()) for number in range(4000)]
    sample = Subset.parse("5%")
    chosen = [digest for digest in digests if sample.has(digest, "seed")]
    assert 130 < len(chosen) < 270
    assert chosen == [digest for digest in digests if sample.has(digest, "seed")]
    assert chosen != [digest for digest in digests if sample.has(digest, "another")]
    assert all(Subset.parse("100%").has(digest, "") for digest in digests)


@pytest.mark.parametrize(
    "text",
    [
        "0/3",
        "4/3",
        "1/0",
        "x",
        "-5%",
        "101%",
        "0%",
        "\u0661/\u0663",
        "\u0665%",
        "1/2/3",
        "/",
        "%",
        "",
        "nan%",
        "1.5.5%",
        "+1/3",
    ],
)
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="read-data"):
        Subset.parse(text)


# --- marking ----------------------------------------------------------------------------------


def test_marked_blobs_are_not_served_and_an_import_heals_them(
    writing: Writing, builder: LayoutBuilder, layout: Path, tmp_path: Path
) -> None:
    layers = [builder.layer(b"one"), builder.layer(b"two"), builder.layer(b"sound")]
    image = builder.image(layers)
    builder.tag(image, "v1")
    import_all(writing, builder.write(layout))
    spoil(object_of(writing, layers[0]), b"no!")
    object_of(writing, layers[1]).unlink()
    wrong = {layer["digest"] for layer in layers[:2]}
    report = verified(writing.database, writing.store)
    assert report.marked == 0
    assert damaged(writing) == set()
    report = verified(writing.database, writing.store, mark=True)
    assert (report.marked, {finding.subject for finding in report.findings}) == (2, wrong)
    assert damaged(writing) == wrong
    assert kinds(verified(writing.database, writing.store, mark=True)) == {
        ("blob-damaged", digest) for digest in wrong
    }
    with pytest.raises(DamagedBlob) as caught:
        export(writing.database, writing.store, Reference("app", "v1"), open_export(str(tmp_path / "out")))
    assert caught.value.exit_code == IntegrityError.exit_code == 4
    import_all(writing, layout)
    assert damaged(writing) == set()
    assert verified(writing.database, writing.store).findings == []


def damaged(writing: Writing) -> set[str]:
    found = rows(writing.database, "SELECT digest FROM blobs WHERE state = 'damaged'")
    return {str(Digest.from_bytes(bytes(digest))) for (digest,) in found}


def test_blob_that_was_healed_before_it_was_marked_stays_live(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    layer = builder.layer(b"one")
    builder.tag(builder.image([layer]), "v1")
    import_all(writing, builder.write(layout))
    old, spoilt = key_of(writing.database, digest_of(layer)), object_of(writing, layer)
    spoil(spoilt, b"no!")
    [finding] = verified(writing.database, writing.store).findings
    assert finding.row_id is not None
    assert finding.key == old
    change(writing.database, "UPDATE blobs SET state = 'damaged' WHERE key = :at", at=old)
    import_all(writing, layout)
    assert mark_damaged(writing.database, [(finding.row_id, old)]) == 0
    assert damaged(writing) == set()
    new = key_of(writing.database, digest_of(layer))
    assert mark_damaged(writing.database, [(finding.row_id, new)]) == 1
    change(writing.database, "UPDATE blobs SET state = 'live'")


@pytest.mark.inconsistent
def test_hold_is_lifted_by_a_run_that_marks_and_finds_nothing_new(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    layer = builder.layer(b"one")
    commit_one(writing, builder, builder.image([layer]), layout)
    change(writing.database, "UPDATE store_identity SET hold_reason = 'restored'")

    def hold() -> Any:
        return scalar(writing.database, "SELECT hold_reason FROM store_identity")

    assert not verified(writing.database, writing.store).hold_released
    assert hold() == "restored"
    spoil(object_of(writing, layer), b"no!")
    report = verified(writing.database, writing.store, mark=True)
    assert (report.hold_released, hold()) == (False, "restored")
    # What is known to be damaged is nothing that a collection could make worse.
    assert verified(writing.database, writing.store, mark=True).hold_released
    assert hold() is None
    assert not verified(writing.database, writing.store, mark=True).hold_released


def test_nothing_is_written_by_a_run_that_is_stopped(writing: Writing, blobs: Prepared) -> None:
    blobs(20)
    seen = dump(writing.database), files_of(Path(writing.store.location))
    with pytest.raises(KeyboardInterrupt):
        verified(writing.database, writing.store, progress=Told(1000, interrupted), mark=True)
    assert (dump(writing.database), files_of(Path(writing.store.location))) == seen


# --- errors are no answers --------------------------------------------------------------------


@pytest.mark.parametrize("call", ["stat", "walk", "list_records", "read_record", "staging_exists"])
def test_store_that_does_not_answer_ends_the_run(
    writing: Writing, builder: LayoutBuilder, layout: Path, call: str
) -> None:
    commit_one(writing, builder, builder.image(), layout)
    if call == "staging_exists":
        change(
            writing.database,
            "INSERT INTO intents (key, digest, owner, host, created_at, expires_at) SELECT :key, digest,"
            " :owner, 'here', 1, 4000000000000000 FROM blobs LIMIT 1",
            key=new_key(Digest.of(b"new")),
            owner="0" * 32,
        )
    with pytest.raises(StoreUnavailable) as caught:
        verified(writing.database, Through(writing.store, call), mark=True, host="here")
    assert caught.value.exit_code == 5
    assert damaged(writing) == set()
    if call == "staging_exists":
        change(writing.database, "DELETE FROM intents")


def test_read_error_in_the_middle_is_not_taken_for_damage_and_the_next_run_goes_on(
    writing: Writing, blobs: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "GROUP_OBJECTS", 4)
    monkeypatch.setattr(data, "FAILED_READS", 4)
    blobs(40)
    broken = FailingReads(writing.store, after=25)
    checkpoint = Noted()
    with pytest.raises(StoreUnavailable, match="input/output"):
        verified(writing.database, broken, checkpoint=checkpoint, mark=True)
    assert damaged(writing) == set()
    assert checkpoint.state is not None
    assert {item["kind"] for item in checkpoint.state["findings"]} <= {Kind.OBJECT_UNREADABLE}
    checkpoint.state["findings"] = []
    report = verified(writing.database, writing.store, checkpoint=checkpoint)
    assert report.resumed_at is not None
    assert (report.findings, report.objects_read) == ([], report.blobs)


class FailingReads(Through):
    """Objects whose reading fails, after so many of them."""

    def __init__(self, store: Any, after: int) -> None:
        super().__init__(store)
        self._opens_left = after

    @contextmanager
    def open(self, key: str, start: int = 0) -> Iterator[Any]:
        with self._store.open(key, start) as stream:
            self._opens_left -= 1
            yield stream if self._opens_left > 0 else self

    def readinto(self, buffer: memoryview) -> int:
        raise StoreUnavailable("input/output error")


class OneBadSector(Through):
    """A store of which one object cannot be read."""

    def __init__(self, store: Any, key: str) -> None:
        super().__init__(store)
        self._bad = key

    def open(self, key: str, start: int = 0) -> Any:
        if key == self._bad:
            raise StoreUnavailable(f"{key}: input/output error")
        return super().open(key, start)


def test_object_that_cannot_be_read_is_reported_and_does_not_keep_the_others_from_being_read(
    writing: Writing, blobs: Prepared
) -> None:
    paths = blobs(12)
    key = str(paths[3].relative_to(Path(writing.store.location) / "blobs"))
    bad = OneBadSector(writing.store, key)
    report = verified(writing.database, bad, mark=True)
    assert [(f.kind, f.key) for f in report.findings] == [(Kind.OBJECT_UNREADABLE, key)]
    assert report.objects_read == report.blobs
    assert damaged(writing) == set(), "a failure to read is not known to be damage"


def test_store_without_its_folder_of_blobs_misses_nothing(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    commit_one(writing, builder, builder.image(), layout)
    root = Path(writing.store.location)
    (root / "blobs").rename(root / "away")
    with pytest.raises(StoreUnavailable):
        verified(writing.database, writing.store, mark=True)
    (root / "away").rename(root / "blobs")
    assert damaged(writing) == set()


@pytest.mark.inconsistent
def test_store_of_another_database_is_refused(writing: Writing) -> None:
    change(writing.database, "UPDATE store_identity SET epoch = 9")
    with pytest.raises(Refused):
        verified(writing.database, writing.store)


# --- beside writers and collectors ------------------------------------------------------------


@pytest.mark.parametrize("collecting", [True, False], ids=["collector", "layouts"])
@pytest.mark.slow
def test_nothing_is_found_beside_writers_and_a_collector(
    settings: Settings, tmp_path: Path, collecting: bool
) -> None:
    """Layouts are looked at where nobody collects and each writer has bytes of its own.

    Otherwise they do differ at times: a late writer links what was collected meanwhile, or its own copy of
    bytes that another one has committed.
    """
    stop = threading.Event()
    turns: Counter[str] = Counter()

    def work(name: str, turn: Callable[[Writing, int], object]) -> None:
        with open_for_writing(settings, lifetimes=AT_ONCE) as writing:
            while not stop.is_set():
                with suppress(Refused):
                    turn(writing, turns[name])
                    turns[name] += 1

    def push(repository: str) -> Callable[[Writing, int], None]:
        def turn(writing: Writing, number: int) -> None:
            builder = LayoutBuilder(seed=number + (1000 if not collecting and repository == "b" else 0))
            one, two = builder.image(), builder.image()
            index = builder.index([one, two], {"turn": f"{repository}{number}"})
            folder = tmp_path / f"{repository}-{number}"
            commit_one(writing, builder, index, folder, repository, f"v{number % 3}")
            with suppress(Error):  # the collector may have taken it
                set_tag(writing.writer, repository, "moving", digest_of(index))
            if number % 3 == 2:
                remove_tag(writing.writer, repository, "v1")
            shutil.rmtree(folder)

        return turn

    found = []
    until_s = time.monotonic() + 6
    with ThreadPoolExecutor(3) as pool, open_for_writing(settings) as mine:
        others = [
            pool.submit(work, "a", push("a")),
            pool.submit(work, "b", push("b")),
        ]
        if collecting:
            others.append(pool.submit(work, "gc", lambda writing, _: collect(writing.writer, writing.store)))
        try:
            while time.monotonic() < until_s or turns["a"] < 3:
                assert not any(other.done() for other in others)
                found += verified(mine.database, mine.store, host="here", layouts=not collecting).findings
                turns["verify"] += 1
        finally:
            stop.set()
        for other in others:
            other.result()
    assert found == []
    assert turns["verify"] >= 2
    assert (turns["gc"] > 0) is collecting


# --- values that regmeta never writes ---------------------------------------------------------

NONSENSE = {
    "a negative size": "UPDATE blobs SET size_bytes = -5 WHERE id = 2",
    "a size that is text": "UPDATE blobs SET size_bytes = 'many' WHERE id = 2",
    "an immense size": "UPDATE blobs SET size_bytes = 9223372036854775807",
    "a key with NUL": "UPDATE blobs SET key = key || char(0) || 'x' WHERE id = 2",
    "a key that is no text": "UPDATE blobs SET key = x'ff00' WHERE id = 2",
    "a key that is not UTF-8": "UPDATE blobs SET key = CAST(x'ff41' AS TEXT) WHERE id = 2",
    "a key out of the store": "UPDATE blobs SET key = '../../etc/passwd' WHERE id = 2",
    "a key of another digest": "UPDATE blobs SET key = 'sha256/00' || substr(key, 10) WHERE id = 2",
    "a digest that is none": "UPDATE blobs SET digest = x'01ff' WHERE id = 2",
    "a digest that is text": "UPDATE blobs SET digest = 'sha256:abc' WHERE id = 2",
    "a digest of no algorithm": "UPDATE blobs SET digest = x'77' || substr(digest, 2) WHERE id = 2",
    "a state": "UPDATE blobs SET state = 'odd' WHERE id = 2",
    "a time that is text": "UPDATE manifests SET pushed_at = 'never'",
    "a time after all times": "UPDATE manifests SET pushed_at = 9000000000000000000",
    "a repository's time": "UPDATE repositories SET updated_at = x'00'",
    "a manifest's digest": "UPDATE manifests SET digest = x'00'",
    "a media type that is no text": "UPDATE manifests SET media_type = x'00ff'",
    "content that is text": "UPDATE manifests SET content = 'text'",
    "a repository's name with NUL": "UPDATE repositories SET name = 'a' || char(0)",
    "a repository's name that is not UTF-8": "UPDATE repositories SET name = CAST(x'61ff' AS TEXT)",
    "a repository's name that is no text": "UPDATE repositories SET name = x'61'",
    "a revision": "UPDATE repositories SET revision = -1",
    "a revision that is text": "UPDATE repositories SET revision = 'x'",
    "a tag's name": "UPDATE tags SET name = CAST(x'ff' AS TEXT)",
    "a tag's digest": "UPDATE tags SET manifest_digest = x''",
    "a tag's time": "UPDATE tags SET started_at = 'x'",
    "a label that is not UTF-8": "UPDATE labels SET value = CAST(x'ff00ff' AS TEXT)",
    "an intent's owner": "INSERT INTO intents (key, digest, owner, host, created_at, expires_at)"
    " VALUES ('k', x'00', 'nobody', 'here', 1, 1)",
    "an intent's time": "INSERT INTO intents (key, digest, owner, host, created_at, expires_at)"
    " VALUES ('k', x'00', 'nobody', 'here', 'x', x'00')",
    "a tombstone": "INSERT INTO tombstones (key, reason, created_at, not_before, attempts)"
    " VALUES (CAST(x'ff' AS TEXT), '', 1, 'x', 'x')",
    "a position": "UPDATE manifest_blobs SET position = 'x' WHERE position = 1",
    "an edge's digest": "UPDATE manifest_blobs SET chain_digest = 'x'",
    "a lease": "UPDATE manifests SET lease_until = 'x'",
}


@pytest.mark.inconsistent
@pytest.mark.parametrize("case", NONSENSE)
@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.slow
def test_values_of_other_programs_are_found_and_crash_nothing(
    writing: Writing, builder: LayoutBuilder, layout: Path, case: str, backend: str
) -> None:
    commit_one(writing, builder, builder.image(annotations={"a": "b"}), layout)
    with writing.database.schema_connection() as connection:
        connection.exec_driver_sql("PRAGMA ignore_check_constraints = ON")
        assert connection.execute(sa.text(NONSENSE[case].replace(":", "\\:"))).rowcount > 0
        connection.commit()
        connection.exec_driver_sql("PRAGMA ignore_check_constraints = OFF")
    report = verified(writing.database, writing.store, host="here", mark=True)
    found = {str(finding.kind) for finding in report.findings}
    expected = {
        "an immense size": "object-size",
        "a label that is not UTF-8": "edge-drift",
    }.get(case, "row-invalid")
    assert expected in found, report.findings


@pytest.mark.inconsistent
@pytest.mark.parametrize("backend", ["postgresql"])
def test_values_that_constraints_let_in_are_found_on_a_server(
    writing: Writing, builder: LayoutBuilder, layout: Path, backend: str
) -> None:
    commit_one(writing, builder, builder.image(annotations={"a": "b"}), layout)
    with writing.database.transaction("test") as connection:
        connection.execute(sa.text("ALTER TABLE blobs DROP CONSTRAINT ck_blobs_size_bytes"))
    change(writing.database, "UPDATE blobs SET size_bytes = -5 WHERE id = 1")
    change(writing.database, "UPDATE blobs SET size_bytes = 9223372036854775807 WHERE id > 1")
    change(writing.database, "UPDATE tags SET name = '../x', manifest_digest = '\\x00'")
    change(writing.database, "UPDATE repositories SET name = 'Not A Name'")
    change(writing.database, "UPDATE manifests SET pushed_at = 9000000000000000000")
    report = verified(writing.database, writing.store)
    found = Counter(str(finding.kind) for finding in report.findings)
    assert found["row-invalid"] >= 4
    assert found["object-size"] == 4


@pytest.mark.inconsistent
@pytest.mark.parametrize("backend", ["sqlite"])
def test_a_page_of_keys_that_are_no_text_comes_to_an_end(writing: Writing, backend: str) -> None:
    with writing.database.transaction("test") as connection:
        connection.exec_driver_sql(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500)"
            " INSERT INTO blobs (digest, size_bytes, key, state, created_at, lease_until)"
            " SELECT x'01' || randomblob(32), 1, CAST(x'ff' || i AS TEXT), 'live', 1, 1 FROM n"
        )
    report = verified(writing.database, writing.store)
    assert sum(finding.kind == "row-invalid" for finding in report.findings) >= 2500


# --- bounds -----------------------------------------------------------------------------------


@pytest.mark.inconsistent
@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_blobs(writing: Writing, backend: str) -> None:
    peaks = []
    for number in (2_000, 18_000):
        add_blobs(writing, number)
        tracemalloc.start()
        report = verified(writing.database, Sound(writing.store), read_data=None)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert {str(finding.kind) for finding in report.findings} == {"task-missing"}
    assert report.blobs == 20_000
    assert peaks[1] < 2 * peaks[0]


class Sound(Through):
    """A store in which every object is there."""

    def __getattr__(self, name: str) -> Any:
        if name == "stat":
            return lambda key: type("Info", (), {"size_bytes": 1})
        return super().__getattr__(name)


def add_blobs(writing: Writing, number: int) -> None:
    with writing.database.transaction("test") as connection:
        digests = [Digest.of(random.randbytes(16)) for _ in range(number)]
        connection.execute(
            sa.insert(Blob),
            [
                {"digest": digest, "size_bytes": 1, "key": new_key(digest), "state": "live", **TIMES}
                for digest in digests
            ],
        )


TIMES = dict.fromkeys(("created_at", "lease_until"), datetime(2000, 1, 1, tzinfo=UTC))
