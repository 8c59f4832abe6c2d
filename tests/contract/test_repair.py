"""What verification finds is put right, from what is there, and nothing is deleted for it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from regmeta.app import Writing, open_for_writing
from regmeta.app.repairing import plan_repair, repair
from regmeta.app.verification import verify
from regmeta.ingest.plan import Lifetimes
from regmeta.ingest.tags import remove_tag, set_tag
from regmeta.maintain.collect.plausible import ImplausibleLoss
from regmeta.maintain.collect.sweep import sweep
from regmeta.maintain.delete.manifest import delete_manifest
from regmeta.maintain.repair.run import Outcome
from regmeta.maintain.verify.findings import Finding, Kind
from regmeta.oci.digest import Digest
from regmeta.settings import Settings
from regmeta.store import new_key
from tests.builders import LayoutBuilder, digest_of
from tests.support.registry import change, commit_one, key_of, objects, open_parts, rows, scalar, tags


class Silent:
    """Shows no progress."""

    def began(self, what: str, total: int | None) -> None: ...

    def advanced(self, steps: int) -> None: ...


@dataclass
class Damaged:
    """A registry to be damaged and repaired: an index of two images under one tag, moved once."""

    settings: Settings
    builder: LayoutBuilder
    layout: Path
    images: list[Digest]
    index: Digest
    old: Digest

    def sql(self, statement: str, **values: object) -> None:
        database, store = open_parts(self.settings)
        try:
            change(database, statement, **values)
        finally:
            store.close()
            database.close()

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Return what a statement selects."""
        database, store = open_parts(self.settings)
        try:
            return rows(database, statement)
        finally:
            store.close()
            database.close()

    def object(self, digest: Digest) -> Path:
        database, store = open_parts(self.settings)
        try:
            return Path(store.location) / "blobs" / key_of(database, digest)
        finally:
            store.close()
            database.close()

    def spoil(self, digest: Digest) -> None:
        path = self.object(digest)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.chmod(0o644)
        path.write_bytes(content)
        path.chmod(0o444)

    def found(self) -> list[Finding]:
        return verify(self.settings, Silent(), read_data="all").findings

    def repaired(self, source: Path | None = None, *kinds: Kind) -> list[Outcome]:
        actions = plan_repair(self.settings, Silent(), read_data="all", kinds=kinds)
        return repair(self.settings, actions, None if source is None else str(source))


@pytest.fixture
def damaged(settings: Settings, builder: LayoutBuilder, layout: Path) -> Damaged:
    images = [builder.image(annotations={"which": str(n)}) for n in range(2)]
    old = builder.image([b"old"])
    index = builder.index(images)
    with open_for_writing(settings) as writing:
        commit_one(writing, builder, old, layout / "old")
        commit_one(writing, builder, index, layout / "new")
    return Damaged(
        settings, builder, layout / "new", [digest_of(i) for i in images], digest_of(index), digest_of(old)
    )


def layer_of(damaged: Damaged) -> Digest:
    """Return the digest of a layer that only the store holds."""
    database, store = open_parts(damaged.settings)
    try:
        found = scalar(
            database,
            "SELECT b.digest FROM blobs b JOIN manifest_blobs e ON e.blob_id = b.id"
            " WHERE e.role = 'layer' ORDER BY b.id DESC LIMIT 1",
        )
        return Digest.from_bytes(bytes(found))
    finally:
        store.close()
        database.close()


def assert_repaired(damaged: Damaged, outcomes: list[Outcome], *kinds: Kind) -> None:
    assert {outcome.finding.kind for outcome in outcomes} == set(kinds)
    assert all(outcome.is_repaired for outcome in outcomes), outcomes
    assert damaged.found() == []


# --- objects ----------------------------------------------------------------------------------


def test_rotten_manifest_is_healed_from_its_row(damaged: Damaged) -> None:
    damaged.spoil(damaged.index)
    rotten = damaged.object(damaged.index)
    outcomes = damaged.repaired()
    assert_repaired(damaged, outcomes, Kind.OBJECT_CORRUPT)
    assert damaged.object(damaged.index) != rotten
    assert rotten.exists(), "repair deletes nothing"


def test_missing_layer_is_healed_from_a_layout(damaged: Damaged) -> None:
    layer = layer_of(damaged)
    damaged.object(layer).unlink()
    [left] = damaged.repaired()
    assert (left.is_repaired, left.finding.kind) == (False, Kind.OBJECT_MISSING)
    assert [finding.kind for finding in damaged.found()] == [Kind.BLOB_DAMAGED]
    outcomes = damaged.repaired(damaged.builder.write(damaged.layout))
    assert_repaired(damaged, outcomes, Kind.BLOB_DAMAGED)


@pytest.mark.inconsistent
def test_layer_is_healed_from_another_object_of_its_digest(damaged: Damaged) -> None:
    layer = layer_of(damaged)
    path = damaged.object(layer)
    copy = path.with_name(new_key(layer).rpartition("/")[2])
    copy.write_bytes(path.read_bytes())
    damaged.spoil(layer)
    assert [o.is_repaired for o in damaged.repaired(None, Kind.OBJECT_CORRUPT)] == [True]
    assert {finding.kind for finding in damaged.found()} == {Kind.OBJECT_UNKNOWN}
    assert copy.exists()


def test_bytes_of_another_digest_never_heal(damaged: Damaged, tmp_path: Path) -> None:
    layer = layer_of(damaged)
    damaged.spoil(layer)
    damaged.builder.blobs[str(layer)] = bytes(len(damaged.builder.blobs[str(layer)]))
    liar = damaged.builder.write(tmp_path / "liar")
    [left] = damaged.repaired(liar)
    assert not left.is_repaired
    assert str(layer) in left.detail
    assert [finding.kind for finding in damaged.found()] == [Kind.BLOB_DAMAGED]


def test_nothing_is_done_until_it_is_asked_for(damaged: Damaged) -> None:
    damaged.spoil(damaged.index)
    database, store = open_parts(damaged.settings)
    try:
        before = rows(database, "SELECT id, key, state FROM blobs ORDER BY id"), objects(store)
        actions = plan_repair(damaged.settings, Silent(), read_data="all")
        assert [action.is_possible for action in actions] == [True]
        assert (rows(database, "SELECT id, key, state FROM blobs ORDER BY id"), objects(store)) == before
    finally:
        store.close()
        database.close()
    damaged.repaired()


# --- rows -------------------------------------------------------------------------------------

DRIFT = [
    ("UPDATE manifests SET os = 'plan9' WHERE kind = 'image'", Kind.MANIFEST_DRIFT),
    ("UPDATE manifests SET total_size_bytes = 1 WHERE kind = 'image'", Kind.MANIFEST_DRIFT),
    ("DELETE FROM manifest_blobs WHERE position = 1", Kind.EDGE_DRIFT),
    ("UPDATE manifest_blobs SET chain_digest = NULL", Kind.EDGE_DRIFT),
    ("UPDATE index_manifests SET os = 'plan9'", Kind.EDGE_DRIFT),
    ("DELETE FROM index_manifests WHERE position = 0", Kind.EDGE_DRIFT),
    ("DELETE FROM labels", Kind.EDGE_DRIFT),
    ("DELETE FROM repository_blobs", Kind.LINK_MISSING),
    ("UPDATE manifests SET content = 'x' WHERE kind = 'index'", Kind.MANIFEST_CONTENT),
]


@pytest.mark.soak_on_postgresql
@pytest.mark.parametrize(("statement", "kind"), DRIFT)
@pytest.mark.slow
def test_rows_that_drifted_are_derived_from_the_bytes_again(
    damaged: Damaged, statement: str, kind: Kind, backend: str
) -> None:
    if backend == "sqlite":
        statement = statement.replace("'x'", "X'78'")
    damaged.sql(statement)
    kinds = {finding.kind for finding in damaged.found()}
    assert kind in kinds
    outcomes = damaged.repaired()
    assert all(outcome.is_repaired for outcome in outcomes), outcomes
    assert damaged.found() == []


def test_tag_that_points_at_another_manifest_points_at_its_own_again(damaged: Damaged) -> None:
    other = damaged.images[0]
    damaged.sql(
        "UPDATE tags SET manifest_id = (SELECT id FROM manifests WHERE digest = :other)"
        " WHERE ended_at IS NULL",
        other=other.to_bytes(),
    )
    outcomes = damaged.repaired()
    assert Kind.TAG_DRIFT in {outcome.finding.kind for outcome in outcomes}
    assert damaged.found() == []
    database, store = open_parts(damaged.settings)
    assert tags(database) == {"v1": damaged.index}
    store.close()
    database.close()


def test_tag_whose_digest_is_of_nothing_keeps_the_whole_manifest_that_it_points_at(damaged: Damaged) -> None:
    lost = Digest.of(b"nowhere")
    damaged.sql("UPDATE tags SET manifest_digest = :lost", lost=lost.to_bytes())
    damaged.repaired()
    database, store = open_parts(damaged.settings)
    assert tags(database) == {"v1": damaged.index}
    store.close()
    database.close()
    assert damaged.found() == []


def test_live_tag_is_not_ended_over_the_times_of_its_history(damaged: Damaged) -> None:
    damaged.sql(
        "UPDATE tags SET started_at = started_at + 86400000000, ended_at = ended_at + 86400000000"
        " WHERE ended_at IS NOT NULL"
    )
    outcomes = damaged.repaired()
    assert [outcome.is_repaired for outcome in outcomes] == [False]
    database, store = open_parts(damaged.settings)
    assert tags(database) == {"v1": damaged.index}
    store.close()
    database.close()
    damaged.sql(
        "UPDATE tags SET started_at = started_at - 86400000000, ended_at = ended_at - 86400000000"
        " WHERE ended_at IS NOT NULL"
    )


def test_tag_whose_manifest_is_nowhere_goes_back_in_its_history(damaged: Damaged, writing: Writing) -> None:
    lost = Digest.of(b"nowhere")
    commit_one(writing, damaged.builder, damaged.builder.image(), damaged.layout / "other", "other", "x")
    damaged.sql(
        "UPDATE tags SET manifest_digest = :lost, manifest_id = (SELECT t.manifest_id FROM tags t WHERE"
        " t.name = 'x') WHERE ended_at IS NULL AND name = 'v1'",
        lost=lost.to_bytes(),
    )
    outcomes = damaged.repaired()
    assert {o.finding.kind for o in outcomes if o.is_repaired} >= {Kind.TAG_DRIFT}
    database, store = open_parts(damaged.settings)
    try:
        assert tags(database) == {"v1": damaged.old}
        found = scalar(database, "SELECT count(*) FROM tags WHERE name = 'v1'")
        assert found == 3, "no interval of the history is lost"
    finally:
        store.close()
        database.close()
    left = {finding.kind for finding in damaged.found()}
    assert left <= {Kind.TASK_MISSING}


@pytest.mark.inconsistent
def test_tag_does_not_go_back_to_an_image_that_somebody_deleted(damaged: Damaged, writing: Writing) -> None:
    delete_manifest(writing.writer, "app", damaged.old)
    commit_one(writing, damaged.builder, damaged.builder.image(), damaged.layout / "other", "other", "x")
    damaged.sql(
        "UPDATE tags SET manifest_digest = :lost, manifest_id = (SELECT t.manifest_id FROM tags t WHERE"
        " t.name = 'x') WHERE ended_at IS NULL AND name = 'v1'",
        lost=Digest.of(b"nowhere").to_bytes(),
    )
    outcomes = damaged.repaired()
    assert [o.is_repaired for o in outcomes if o.finding.kind is Kind.TAG_DRIFT] == [False]
    assert Kind.DELETED_IN_USE not in {finding.kind for finding in damaged.found()}


# --- machinery --------------------------------------------------------------------------------


def test_forgotten_garbage_is_queued(damaged: Damaged) -> None:
    damaged.sql("DELETE FROM gc_tasks")
    damaged.sql("UPDATE manifests SET lease_until = 1")
    outcomes = damaged.repaired()
    assert_repaired(damaged, outcomes, Kind.TASK_MISSING)


def test_manifest_that_was_deleted_and_is_needed_comes_back(damaged: Damaged) -> None:
    damaged.sql("UPDATE manifests SET deleted_at = 1")
    outcomes = damaged.repaired()
    assert_repaired(damaged, outcomes, Kind.DELETED_IN_USE, Kind.SNAPSHOT_DRIFT, Kind.LAYOUT_DRIFT)


def test_deleted_repository_with_tags_comes_back(damaged: Damaged) -> None:
    damaged.sql("UPDATE repositories SET state = 'deleted' WHERE name = 'app'")
    outcomes = damaged.repaired()
    assert_repaired(damaged, outcomes, Kind.REPOSITORY_STATE, Kind.SNAPSHOT_DRIFT, Kind.LAYOUT_DRIFT)
    assert damaged.rows("SELECT state, deleted_at FROM repositories") == [("active", None)]


def test_repository_that_is_being_purged_is_left_and_its_purge_queued(damaged: Damaged) -> None:
    damaged.sql("UPDATE repositories SET state = 'purging', deleted_at = 1 WHERE name = 'app'")
    outcomes = damaged.repaired()
    done = {outcome.finding.kind: outcome.is_repaired for outcome in outcomes}
    assert (done[Kind.REPOSITORY_STATE], done[Kind.TASK_MISSING]) == (False, True)
    assert ("repository",) in damaged.rows("SELECT kind FROM gc_tasks")
    damaged.sql("UPDATE repositories SET state = 'active', deleted_at = NULL WHERE name = 'app'")
    damaged.repaired()


def test_lost_snapshot_and_layout_are_written_again(damaged: Damaged) -> None:
    store = Path(damaged.settings.store)
    for path in (store / "layouts" / "app").iterdir():
        path.unlink()
    (store / "repositories/app/_layout/index.json").write_text("{}")
    outcomes = damaged.repaired()
    assert_repaired(damaged, outcomes, Kind.SNAPSHOT_DRIFT, Kind.LAYOUT_DRIFT)


def test_snapshot_that_is_newer_than_the_rows_is_left_for_rebuild(damaged: Damaged) -> None:
    folder = Path(damaged.settings.store) / "layouts" / "app"
    [path] = folder.iterdir()
    newer = folder / ("_1-900." + "a" * 32 + ".json")
    newer.write_bytes(path.read_bytes())
    [left] = damaged.repaired()
    assert (left.finding.kind, left.is_repaired) == (Kind.SNAPSHOT_DRIFT, False)
    assert newer.exists()
    newer.unlink()


def test_what_only_an_operator_can_judge_is_left_with_advice(damaged: Damaged) -> None:
    damaged.sql("UPDATE repositories SET name = 'NOT A NAME'")
    kinds = {Kind.ROW_INVALID}
    actions = [action for action in plan_repair(damaged.settings, Silent()) if action.finding.kind in kinds]
    assert [action.is_possible for action in actions] == [False]
    damaged.sql("UPDATE repositories SET name = 'app'")


# --- beside writers ---------------------------------------------------------------------------


def test_blob_that_an_import_heals_meanwhile_is_not_marked_again(damaged: Damaged, writing: Writing) -> None:
    layer = layer_of(damaged)
    damaged.spoil(layer)
    actions = plan_repair(damaged.settings, Silent(), read_data="all")
    damaged.sql("UPDATE blobs SET state = 'damaged' WHERE digest = :of", of=layer.to_bytes())
    index = next(d for d in damaged.builder.blobs if d == str(damaged.index))
    descriptor = {
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "digest": index,
        "size": len(damaged.builder.blobs[index]),
    }
    commit_one(writing, damaged.builder, descriptor, damaged.layout, tag="again")
    healed = damaged.object(layer)
    [outcome] = repair(damaged.settings, actions)
    assert outcome.is_repaired
    assert damaged.object(layer) == healed
    assert damaged.found() == []


def test_history_that_is_repaired_goes_on(damaged: Damaged, writing: Writing) -> None:
    damaged.sql("UPDATE tags SET manifest_id = NULL WHERE ended_at IS NOT NULL")
    damaged.repaired()
    set_tag(writing.writer, "app", "v1", damaged.old)
    remove_tag(writing.writer, "app", "v1")
    assert damaged.found() == []


# --- what an attack has found -----------------------------------------------------------------


def test_object_that_was_away_heals_its_own_row_when_it_is_back(damaged: Damaged) -> None:
    layer = layer_of(damaged)
    path = damaged.object(layer)
    path.rename(path.with_suffix(".away"))
    damaged.repaired()
    assert [finding.kind for finding in damaged.found()] == [Kind.BLOB_DAMAGED]
    path.with_suffix(".away").rename(path)
    assert_repaired(damaged, damaged.repaired(), Kind.BLOB_DAMAGED)


@pytest.mark.inconsistent
def test_store_that_is_not_all_there_marks_nothing(
    damaged: Damaged, writing: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regmeta.maintain.collect.plausible.FEW_MISSING", 3)
    algorithms = Path(damaged.settings.store) / "blobs"
    (algorithms / "sha256").rename(algorithms.with_name("away"))
    with pytest.raises(ImplausibleLoss, match="is all of the store mounted"):
        verify(damaged.settings, Silent(), mark=True)
    actions = plan_repair(damaged.settings, Silent())
    with pytest.raises(ImplausibleLoss):
        repair(damaged.settings, actions)
    assert scalar(writing.database, "SELECT count(*) FROM blobs WHERE state = 'damaged'") == 0


def test_wrong_size_in_a_row_is_put_right_by_the_object_itself(damaged: Damaged, writing: Writing) -> None:
    layer = layer_of(damaged)
    damaged.sql("UPDATE blobs SET size_bytes = size_bytes + 1 WHERE digest = :of", of=layer.to_bytes())
    assert_repaired(damaged, damaged.repaired(), Kind.OBJECT_SIZE)


def test_import_heals_a_wrong_size_as_well(damaged: Damaged, writing: Writing) -> None:
    layer = layer_of(damaged)
    damaged.sql(
        "UPDATE blobs SET size_bytes = size_bytes + 1, state = 'damaged' WHERE digest = :of",
        of=layer.to_bytes(),
    )
    content = damaged.builder.blobs[str(damaged.index)]
    descriptor = {
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "digest": str(damaged.index),
        "size": len(content),
    }
    commit_one(writing, damaged.builder, descriptor, damaged.layout, tag="again")
    assert damaged.found() == []


@pytest.mark.inconsistent
def test_sweep_leaves_what_may_heal_a_damaged_blob(damaged: Damaged, writing: Writing) -> None:
    layer = layer_of(damaged)
    path = damaged.object(layer)
    copy = path.with_name(new_key(layer).rpartition("/")[2])
    copy.write_bytes(path.read_bytes())
    damaged.sql("UPDATE blobs SET state = 'damaged' WHERE digest = :of", of=layer.to_bytes())
    report = sweep(writing.database, writing.store, Lifetimes(max_upload=timedelta(seconds=-5)))
    assert (report.unknown, report.kept, report.buried) == (1, 1, 0)


@pytest.mark.inconsistent
def test_snapshot_is_not_written_from_rows_that_are_wrong_still(damaged: Damaged) -> None:
    damaged.sql("UPDATE tags SET name = 'not a tag' WHERE ended_at IS NULL")
    [path] = (Path(damaged.settings.store) / "layouts" / "app").iterdir()
    content = path.read_bytes()
    outcomes = damaged.repaired()
    assert {o.finding.kind: o.is_repaired for o in outcomes} == {
        Kind.ROW_INVALID: False,
        Kind.SNAPSHOT_DRIFT: False,
        Kind.LAYOUT_DRIFT: False,
    }
    assert path.read_bytes() == content


def test_wrong_media_type_in_a_row_is_taken_from_the_bytes(damaged: Damaged) -> None:
    damaged.sql("UPDATE manifests SET media_type = 'text/plain' WHERE kind = 'index'")
    outcomes = damaged.repaired()
    assert all(outcome.is_repaired for outcome in outcomes), outcomes
    assert damaged.found() == []


def test_deleted_repository_is_not_brought_back_by_a_repair(damaged: Damaged) -> None:
    damaged.sql("UPDATE repositories SET state = 'deleted'")
    damaged.sql("UPDATE tags SET ended_at = started_at + 1 WHERE ended_at IS NULL")
    damaged.sql("UPDATE manifests SET architecture = 'wrong'")
    damaged.repaired()
    database, store = open_parts(damaged.settings)
    assert scalar(database, "SELECT state FROM repositories") == "deleted"
    store.close()
    database.close()


def test_hold_is_lifted_though_what_collection_cannot_harm_was_found(
    damaged: Damaged, writing: Writing
) -> None:
    damaged.sql("UPDATE store_identity SET hold_reason = 'rebuilt'")
    damaged.sql("DELETE FROM gc_tasks")
    damaged.sql("UPDATE manifests SET lease_until = 1")
    report = verify(damaged.settings, Silent(), mark=True)
    assert {finding.kind for finding in report.findings} == {Kind.TASK_MISSING}
    assert report.hold_released
    damaged.sql("UPDATE store_identity SET hold_reason = 'rebuilt'")
    damaged.sql("UPDATE manifests SET os = 'plan9'")
    assert not verify(damaged.settings, Silent(), mark=True).hold_released
    damaged.repaired()
    assert verify(damaged.settings, Silent(), mark=True).hold_released
