"""The check that every test of a registry ends with notices each kind of damage."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from regmeta.app import Writing
from tests.builders import LayoutBuilder
from tests.support import consistency
from tests.support.damaged import Registry
from tests.support.registry import change, commit_one, objects


def test_sound_registry_has_no_finding(registry: Registry) -> None:
    consistency.assert_consistent(registry.database, registry.store)
    assert len(objects(registry.store)) > 8


def test_all_findings_are_listed(registry: Registry) -> None:
    registry.path("id = 1").unlink()
    registry.path("id = 2").unlink()
    with pytest.raises(AssertionError) as caught:
        consistency.assert_consistent(registry.database, registry.store)
    assert str(caught.value).count("is not there") >= 2


IMAGE = "manifest_id = (SELECT max(manifest_id) FROM labels)"
INDEX = "index_id = (SELECT manifest_id FROM tags WHERE name = 'v1' AND ended_at IS NULL LIMIT 1)"
CASES = {
    "a repository_blobs row is missing": (
        "DELETE FROM repository_blobs WHERE blob_id = 1",
        "no repository_blobs",
    ),
    "a blob is missing": ("DELETE FROM blobs WHERE id = 1", "foreign key"),
    "a size is wrong": ("UPDATE blobs SET size_bytes = size_bytes + 1 WHERE id = 1", "the row says"),
    "a key is dead": (
        "INSERT INTO tombstones (key, reason, created_at, not_before)"
        " SELECT key, '', 1, 1 FROM blobs LIMIT 1",
        "in blobs and tombstones",
    ),
    "manifest bytes are others": ("UPDATE manifests SET content = x'7b7d'", "another digest"),
    "a manifest's blob is another": ("UPDATE manifests SET blob_id = 1", "its blob is another"),
    "a manifest's kind is wrong": ("UPDATE manifests SET kind = 'image'", "kind is 'image'"),
    "a manifest's size is wrong": ("UPDATE manifests SET size_bytes = 1", "size_bytes is 1"),
    "a media type is wrong": ("UPDATE manifests SET media_type = 'a/b'", "media_type is a/b"),
    "an artifact type is wrong": ("UPDATE manifests SET artifact_type = 'a/b'", "artifact_type is"),
    "a subject is lost": ("UPDATE manifests SET subject_digest = NULL", "subject_digest is None"),
    "a platform is wrong": ("UPDATE manifests SET architecture = 'vax'", "architecture is 'vax'"),
    "a time is wrong": ("UPDATE manifests SET image_created_at = 1", "image_created_at is 1"),
    "a count is wrong": ("UPDATE manifests SET layer_count = 9", "layer_count is 9"),
    "a sum is wrong": ("UPDATE manifests SET total_size_bytes = 9", "total_size_bytes is 9"),
    "an edge is missing": (
        f"DELETE FROM manifest_blobs WHERE position = 1 AND {IMAGE}",
        "manifest_blobs are",
    ),
    "edges are in another order": (
        "UPDATE manifest_blobs SET blob_id = (SELECT max(m.blob_id) FROM manifest_blobs m"
        " WHERE m.manifest_id = manifest_blobs.manifest_id)",
        "manifest_blobs are",
    ),
    "a role is wrong": ("UPDATE manifest_blobs SET role = 'config' WHERE position = 1", "manifest_blobs are"),
    "a chain is wrong": ("UPDATE manifest_blobs SET chain_digest = x'01aa'", "manifest_blobs are"),
    "an absent layer is another": (
        "UPDATE manifest_blobs SET absent_digest = x'01aa' WHERE blob_id IS NULL",
        "manifest_blobs are",
    ),
    "a child is missing": (
        f"DELETE FROM index_manifests WHERE position = 1 AND {INDEX}",
        "index_manifests are",
    ),
    "children are in another order": (
        f"UPDATE index_manifests SET position = 1 - position + 10 WHERE {INDEX}",
        "index_manifests are",
    ),
    "a child's platform is wrong": ("UPDATE index_manifests SET variant = 'v9'", "index_manifests are"),
    "a child is another manifest": (
        f"UPDATE index_manifests SET child_id = {INDEX.partition('= ')[2]} WHERE child_id IS NOT NULL",
        "is another manifest",
    ),
    "a child is another blob": (
        "UPDATE index_manifests SET blob_id = 1 WHERE blob_id IS NOT NULL",
        "is another blob",
    ),
    "a child is here and marked absent": (
        f"UPDATE index_manifests SET child_id = NULL, absence = 'sparse' WHERE position = 0 AND {INDEX}",
        "marked sparse",
    ),
    "a child is nothing": (
        f"UPDATE index_manifests SET child_id = NULL WHERE position = 0 AND {INDEX}",
        "is nothing",
    ),
    "a label is missing": ("DELETE FROM labels WHERE origin = 'config'", "labels are"),
    "a label is wrong": ("UPDATE labels SET value = 'z'", "labels are"),
    "a label is made up": (
        "INSERT INTO labels (manifest_id, origin, name, value)"
        " SELECT max(id), 'config', 'x', 'y' FROM manifests",
        "labels are",
    ),
    "a tag points at nothing": ("UPDATE tags SET manifest_id = 99 WHERE ended_at IS NULL", "not there (99)"),
    "a tag's digest is another": ("UPDATE tags SET manifest_digest = x'01aa'", "not that of its manifest"),
    "an interval ends before it starts": (
        "UPDATE tags SET ended_at = started_at - 1 WHERE ended_at IS NOT NULL",
        "ends before it starts",
    ),
    "intervals overlap": (
        "UPDATE tags SET ended_at = ended_at + 1000000000 WHERE ended_at IS NOT NULL",
        "two intervals overlap",
    ),
    "a snapshot is behind": ("UPDATE repositories SET revision = revision + 1", "newest snapshot is"),
    "a snapshot lists another tag": ("UPDATE tags SET name = 'v3' WHERE name = 'v2'", "lists something else"),
    "an outbox row is ahead": (
        "INSERT INTO layout_outbox (repository_id, revision, queued_at) VALUES (1, 99, 1)",
        "is not there yet",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_rows_are_found_wrong_when(registry: Registry, case: str) -> None:
    statement, words = CASES[case]
    registry.sql(statement)
    assert any(words in line for line in registry.findings()), registry.findings()


def test_second_live_interval_is_found(registry: Registry) -> None:
    registry.sql(
        "DROP INDEX uq_tags_live",
        "INSERT INTO tags (repository_id, name, manifest_digest, manifest_id, started_at, started_by)"
        " SELECT repository_id, name, manifest_digest, manifest_id, started_at + 1, '' FROM tags"
        " WHERE ended_at IS NULL",
    )
    assert any("two intervals overlap" in line for line in registry.findings())


def remove(registry: Registry) -> None:
    registry.path("id = 1").unlink()


def overwrite(registry: Registry) -> None:
    path = registry.path("size_bytes > 0")
    path.chmod(0o644)
    path.write_bytes(b"x" * path.stat().st_size)
    path.chmod(0o444)


def spoil_manifest(registry: Registry) -> None:
    path = registry.path("id = (SELECT min(blob_id) FROM manifests)")
    path.chmod(0o644)
    path.write_bytes(b"{}")


def cut(registry: Registry) -> None:
    path = registry.path("size_bytes > 1")
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])


def make_writable(registry: Registry) -> None:
    registry.path("id = 1").chmod(0o644)


def add_object(registry: Registry) -> None:
    path = registry.path("id = 1")
    path.with_name(path.name[:-32] + "0" * 32).write_bytes(b"")


def add_junk(registry: Registry) -> None:
    (registry.root / "blobs" / "junk").write_bytes(b"")


def link(registry: Registry) -> None:
    path = registry.path("id = 1")
    path.rename(registry.root / "moved")
    path.symlink_to(registry.root / "moved")


def remove_snapshot(registry: Registry) -> None:
    shutil.rmtree(registry.root / "layouts" / "app")


def spoil_snapshot(registry: Registry) -> None:
    [path] = (registry.root / "layouts" / "app").iterdir()
    path.write_bytes(path.read_bytes().replace(b'"v2"', b'"v9"'))


def leave_staging(registry: Registry) -> None:
    (registry.root / "staging" / ("0" * 32)).mkdir()
    (registry.root / "staging" / ("0" * 32) / "lock").write_bytes(b"")


FILES: list[tuple[Callable[[Registry], None], str]] = [
    (remove, "is not there"),
    (overwrite, "stored bytes have another digest"),
    (spoil_manifest, "not those of its object"),
    (cut, "the row says"),
    (make_writable, "mode 644"),
    (add_object, "no row knows it"),
    (add_junk, "not an object"),
    (link, "not an object"),
    (remove_snapshot, "newest snapshot is None"),
    (spoil_snapshot, "lists something else"),
    (leave_staging, "a process that has ended"),
]


@pytest.mark.parametrize(("damage", "words"), FILES, ids=[damage.__name__ for damage, _ in FILES])
def test_files_are_found_wrong(registry: Registry, damage: Callable[[Registry], None], words: str) -> None:
    damage(registry)
    assert any(words in line for line in registry.findings()), registry.findings()


@pytest.mark.inconsistent
@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE blobs SET size_bytes = size_bytes + 1", "the row says"),
        ("UPDATE labels SET value = 'z'", "labels are"),
        ("UPDATE manifest_blobs SET position = position + 10", "manifest_blobs are"),
        (
            "UPDATE tags SET manifest_digest = (SELECT max(digest) FROM blobs WHERE size_bytes = 3)",
            "not that of",
        ),
        ("UPDATE manifests SET os = 'plan9'", "os is 'plan9'"),
        ("DELETE FROM repository_blobs", "no repository_blobs"),
    ],
)
def test_damage_is_found_on_both_databases(
    writing: Writing, builder: LayoutBuilder, layout: Path, statement: str, words: str
) -> None:
    commit_one(writing, builder, builder.image([b"one"], annotations={"a": "b"}), layout)
    assert consistency.findings(writing.database, writing.store) == []
    change(writing.database, statement)
    assert any(words in line for line in consistency.findings(writing.database, writing.store))
