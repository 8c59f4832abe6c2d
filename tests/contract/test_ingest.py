"""What stands in rows and in the store after images have been brought in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from regmeta.app import Writing
from regmeta.ingest.plan import ImageRequest
from regmeta.oci import media_types
from regmeta.oci.descriptor import REF_NAME
from tests.builders import AMD64, ARM64, S390X, LayoutBuilder, digest_of, make_layout, parsed
from tests.support.registry import (
    commit_one,
    counts,
    dump,
    import_all,
    import_layout,
    keys_in,
    objects,
    requests,
    rows,
    scalar,
    source_of,
    tags,
)

ARTIFACT = "application/vnd.example.signature"


def test_single_image_is_committed_whole(writing: Writing, layout: Path) -> None:
    named = make_layout(layout, {"v1": [b"one", b"two"]})
    [outcome] = import_layout(writing, layout)
    assert (outcome.status, outcome.error) == ("imported", None)
    assert tags(writing.database) == named
    found = counts(
        writing.database, "blobs", "repository_blobs", "manifests", "manifest_blobs", "tags", "ingests"
    )
    assert found == {
        "blobs": 4,
        "repository_blobs": 4,
        "manifests": 1,
        "manifest_blobs": 3,
        "tags": 1,
        "ingests": 1,
    }
    assert outcome.copied_bytes == sum(objects(writing.store).values())
    assert keys_in(writing.database, "blobs") == objects(writing.store).keys()


def test_feed_tells_of_pushes_and_of_the_tag(writing: Writing, layout: Path) -> None:
    make_layout(layout, {"v1": [b"one"]}, platforms=[AMD64, ARM64])
    import_all(writing, layout)
    found = rows(writing.database, "SELECT kind, tag, actor FROM events ORDER BY id")
    assert found == [("manifest.pushed", None, "tester")] * 3 + [("tag.created", "v1", "tester")]
    assert scalar(writing.database, "SELECT count(DISTINCT ingest_id) FROM events") == 1


def test_multi_platform_index_has_its_children(writing: Writing, layout: Path) -> None:
    make_layout(layout, 1, platforms=[AMD64, ARM64, S390X])
    import_all(writing, layout)
    found = rows(
        writing.database,
        "SELECT e.position, e.architecture, e.variant, c.architecture FROM index_manifests e"
        " JOIN manifests c ON c.id = e.child_id ORDER BY e.position",
    )
    assert found == [(0, "amd64", None, "amd64"), (1, "arm64", "v8", "arm64"), (2, "s390x", None, "s390x")]


def test_index_of_indexes_of_indexes_is_committed(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    lowest = builder.index([builder.image(platform=AMD64), builder.image(platform=ARM64)])
    middle = builder.index([lowest, builder.image()])
    builder.tag(builder.index([middle, lowest]), "v1")
    import_all(writing, builder.write(layout))
    assert counts(writing.database, "manifests", "index_manifests") == {"manifests": 6, "index_manifests": 6}
    parents = rows(
        writing.database,
        "SELECT count(*) FROM index_manifests WHERE child_digest = :of",
        of=digest_of(lowest).to_bytes(),
    )
    assert parents == [(2,)]


def test_docker_types_are_kept_as_they_came(writing: Writing, layout: Path) -> None:
    make_layout(layout, 1, platforms=[AMD64, ARM64], docker=True)
    import_all(writing, layout)
    found = rows(
        writing.database, "SELECT DISTINCT kind, media_type, config_media_type FROM manifests ORDER BY 1"
    )
    assert found == [
        ("image", media_types.DOCKER_MANIFEST, media_types.DOCKER_CONFIG),
        ("index", media_types.DOCKER_LIST, None),
    ]


def test_sha512_digests_are_taken(writing: Writing, layout: Path) -> None:
    builder = LayoutBuilder(algorithm="sha512")
    builder.tag(builder.image([b"one"]), "v1")
    import_all(writing, builder.write(layout))
    assert {key.partition("/")[0] for key in objects(writing.store)} == {"sha512"}


def test_referrer_may_come_before_its_subject(writing: Writing, builder: LayoutBuilder, layout: Path) -> None:
    image = builder.image()
    signature = builder.artifact(b"signed", ARTIFACT, image)
    commit_one(writing, builder, signature, layout, tag=None)
    subject = digest_of(image).to_bytes()
    found = rows(
        writing.database, "SELECT artifact_type FROM manifests WHERE subject_digest = :of", of=subject
    )
    assert found == [(ARTIFACT,)]
    assert counts(writing.database, "manifests") == {"manifests": 1}
    commit_one(writing, builder, image, layout)
    assert counts(writing.database, "manifests") == {"manifests": 2}


def test_foreign_layer_is_absent_and_not_asked_for(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    foreign = builder.blob(b"windows", "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip")
    del builder.blobs[foreign["digest"]]
    builder.tag(builder.image([b"one", foreign, b"two"]), "v1")
    import_all(writing, builder.write(layout))
    found = rows(
        writing.database,
        "SELECT position, blob_id IS NULL, absent_digest IS NULL FROM manifest_blobs ORDER BY position",
    )
    assert [tuple(map(bool, row[1:])) for row in found] == [
        (False, True),
        (False, True),
        (True, False),
        (False, True),
    ]
    assert bytes(
        scalar(writing.database, "SELECT absent_digest FROM manifest_blobs WHERE blob_id IS NULL")
    ) == (digest_of(foreign).to_bytes())


def test_child_of_an_unknown_type_is_kept_as_a_blob(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    other = builder.blob(b"anything", "application/vnd.example.other")
    builder.tag(builder.index([builder.image(), other]), "v1")
    import_all(writing, builder.write(layout))
    found = rows(
        writing.database, "SELECT child_id IS NULL, blob_id IS NULL FROM index_manifests ORDER BY position"
    )
    assert [tuple(map(bool, row)) for row in found] == [(False, True), (True, False)]


def test_labels_come_from_annotations_and_configuration(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    layers = [builder.layer(b"one")]
    config = builder.config(layers, Labels={"team": "a\0b", "same": "config"})
    builder.tag(builder.image(layers, config, {"same": "annotation", "long": "x" * 5000}), "v1")
    import_all(writing, builder.write(layout))
    found = rows(writing.database, "SELECT origin, name, value FROM labels ORDER BY origin, name")
    assert found == [
        ("annotation", "long", "x" * 4096),
        ("annotation", "same", "annotation"),
        ("config", "same", "config"),
        ("config", "team", "a\ufffdb"),
    ]


def test_same_digest_in_two_repositories_is_stored_once(writing: Writing, layout: Path) -> None:
    make_layout(layout, {"v1": [b"one", b"two"]})
    import_all(writing, layout, "app")
    before = objects(writing.store)
    [outcome] = import_layout(writing, layout, "team/other")
    assert (outcome.status, outcome.copied_bytes) == ("imported", 0)
    assert objects(writing.store) == before
    assert counts(writing.database, "blobs", "repository_blobs", "manifests", "intents", "tombstones") == {
        "blobs": 4,
        "repository_blobs": 8,
        "manifests": 2,
        "intents": 0,
        "tombstones": 0,
    }


def test_one_layout_under_two_tags_is_stored_once(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    image = builder.image()
    builder.tag(image, "v1")
    builder.tag(image, "latest")
    import_all(writing, builder.write(layout))
    assert tags(writing.database) == {"v1": digest_of(image), "latest": digest_of(image)}
    assert counts(writing.database, "manifests", "ingests") == {"manifests": 1, "ingests": 1}


def test_import_again_writes_no_row_and_copies_no_byte(writing: Writing, layout: Path) -> None:
    make_layout(layout, 3, platforms=[AMD64, ARM64])
    import_all(writing, layout)
    rows_before, objects_before = dump(writing.database), objects(writing.store)
    outcomes = import_layout(writing, layout)
    assert {outcome.status for outcome in outcomes} == {"skipped"}
    assert dump(writing.database) == rows_before
    assert objects(writing.store) == objects_before


def test_commit_again_copies_no_byte_and_moves_no_tag(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    image = builder.image()
    commit_one(writing, builder, image, layout)
    before, objects_before = dump(writing.database), objects(writing.store)
    again = commit_one(writing, builder, image, layout)
    assert (again.new_blobs, again.new_manifests, again.tags_changed) == (0, 0, ())
    after = dump(writing.database)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"repositories", "ingests"}
    assert objects(writing.store) == objects_before


def test_image_without_a_tag_is_left_to_its_lease(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    image = builder.index([builder.image(platform=AMD64)])
    commit_one(writing, builder, image, layout, tag=None)
    assert tags(writing.database) == {}
    assert rows(writing.database, "SELECT kind, target_id FROM gc_tasks") == [
        ("manifest", scalar(writing.database, "SELECT id FROM manifests WHERE kind = 'index'"))
    ]


def test_snapshot_lists_tags_in_byte_order_then_the_rest(writing: Writing, layout: Path) -> None:
    builder = LayoutBuilder()
    images = {name: builder.tag(builder.image(), name) for name in ("a", "B", "_x", "1", "A")}
    untagged = builder.tag(builder.image())
    import_all(writing, builder.write(layout))
    [path] = (Path(writing.settings.store) / "layouts" / "app").iterdir()
    found = json.loads(path.read_bytes())
    listed = [(entry.get("annotations", {}).get(REF_NAME), entry["digest"]) for entry in found["manifests"]]
    expected = [(name, images[name]["digest"]) for name in ("1", "A", "B", "_x", "a")]
    assert listed == [*expected, (None, untagged["digest"])]


@pytest.mark.parametrize("tar", [False, True])
def test_tar_and_directory_give_the_same_rows(writing: Writing, tmp_path: Path, tar: bool) -> None:
    named = make_layout(tmp_path / "source", 2, platforms=[AMD64], nested=True, tar=tar)
    import_all(writing, tmp_path / "source")
    assert tags(writing.database) == named


def test_two_repositories_in_one_batch(writing: Writing, builder: LayoutBuilder, layout: Path) -> None:
    one, two = builder.image(), builder.image()
    with source_of(builder, layout) as source:
        wanted = [
            ImageRequest(source, parsed(one), "app", "v1"),
            ImageRequest(source, parsed(two), "team/app", "v1"),
            ImageRequest(source, parsed(one), "team/app", "v2"),
        ]
        outcomes = list(writing.registry.import_images(wanted))
    assert {outcome.status for outcome in outcomes} == {"imported"}
    assert tags(writing.database, "app") == {"v1": digest_of(one)}
    assert tags(writing.database, "team/app") == {"v1": digest_of(two), "v2": digest_of(one)}
    assert counts(writing.database, "ingests") == {"ingests": 1}


def test_batches_are_cut_and_all_go_in(
    writing: Writing, layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regmeta.ingest.local_registry.BATCH_IMAGES", 2)
    named = make_layout(layout, 5)
    import_all(writing, layout)
    assert tags(writing.database) == named
    assert counts(writing.database, "ingests")["ingests"] >= 3


def test_requests_of_a_source_without_images_do_nothing(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    before = dump(writing.database)
    with source_of(builder, layout) as source:
        assert list(writing.registry.import_images(requests(source))) == []
    assert dump(writing.database) == before
