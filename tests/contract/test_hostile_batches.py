"""Images that were built to spoil the ones beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from regmeta import errors
from regmeta.app import Writing
from tests.builders import AMD64, LayoutBuilder, digest_of
from tests.support.registry import change, commit_one, counts, request, source_of, tags

FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar"


def image_of(builder: LayoutBuilder, layers: list[dict[str, Any]]) -> dict[str, Any]:
    """Add a manifest that names just these layers."""
    config = builder.blob(b"{}", "application/vnd.oci.image.config.v1+json")
    document = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": layers,
    }
    return builder.document(document)


def test_atomic_source_that_says_two_sizes_of_a_blob_leaves_nothing(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    layer = builder.blob(b"layer", "application/vnd.oci.image.layer.v1.tar")
    good = image_of(builder, [layer])
    liar = image_of(builder, [{**layer, "size": layer["size"] + 1}])
    with source_of(builder, layout) as source:
        wanted = [request(source, good, tag="good"), request(source, liar, tag="liar")]
        with pytest.raises(errors.SizeMismatch, match=layer["digest"]):
            list(writing.registry.import_images(wanted, atomic=True))
    assert counts(writing.database, "manifests", "blobs", "tags") == {"manifests": 0, "blobs": 0, "tags": 0}


def test_sizes_that_overflow_together_spoil_their_own_image_only(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    good = builder.image()
    foreign = [
        {"mediaType": FOREIGN, "digest": f"sha256:{number:064x}", "size": 2**62 + 5} for number in range(3)
    ]
    huge = image_of(builder, foreign)
    with source_of(builder, layout) as source:
        wanted = [request(source, huge, tag="huge"), request(source, good, tag="good")]
        outcomes = {o.image: o for o in writing.registry.import_images(wanted)}
    assert isinstance(outcomes["app:huge"].error, errors.InvalidManifest)
    assert tags(writing.database) == {"good": digest_of(good)}


@pytest.mark.parametrize(
    "change", [{"size": 99999}, {"mediaType": "application/vnd.oci.image.index.v1+json"}]
)
def test_child_that_is_listed_twice_and_differently_is_refused(
    writing: Writing, builder: LayoutBuilder, layout: Path, change: dict[str, Any]
) -> None:
    child = builder.image(platform=AMD64)
    index = builder.document(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [child, {**child, **change}],
        }
    )
    with pytest.raises((errors.SizeMismatch, errors.InvalidManifest), match=child["digest"]):
        commit_one(writing, builder, index, layout)
    assert counts(writing.database, "manifests") == {"manifests": 0}


def test_good_source_serves_a_blob_that_another_source_holds_damaged(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    image = builder.image()
    with source_of(builder, layout) as good:
        damaged_folder = layout.parent / "damaged"
        with source_of(builder, damaged_folder) as damaged:
            for path in (damaged_folder / "blobs" / "sha256").iterdir():
                if path.read_bytes()[:1] != b"{":
                    path.chmod(0o644)
                    path.write_bytes(b"\0" * path.stat().st_size)
            wanted = [request(damaged, image, tag="a"), request(good, image, tag="b")]
            outcomes = [o.status for o in writing.registry.import_images(wanted)]
    assert outcomes == ["imported", "imported"]
    assert tags(writing.database) == {"a": digest_of(image), "b": digest_of(image)}


def test_source_whose_path_is_no_text_is_recorded_all_the_same(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    image = builder.image()
    result = commit_one(writing, builder, image, layout.with_name("l\udcff"))
    assert result.new_manifests == 1


def test_lost_intent_of_an_image_that_was_left_out_does_not_stop_its_batch(
    writing: Writing, builder: LayoutBuilder, layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All keys are taken back before the first commit, also those that no good image needs."""
    good = builder.image()
    kept = builder.blob(b"kept", "application/vnd.oci.image.layer.v1.tar")
    missing = builder.blob(b"missing", "application/vnd.oci.image.layer.v1.tar")
    bad = image_of(builder, [kept, missing])
    del builder.blobs[missing["digest"]]
    publish = writing.writer.staging.publish
    done: list[bool] = []

    def publish_and_lose(staged: Any) -> None:
        publish(staged)
        if not done:
            done.append(True)
            change(
                writing.database,
                "INSERT INTO tombstones (key, reason, created_at, not_before)"
                " SELECT key, 'abandoned', created_at, expires_at FROM intents",
            )
            change(writing.database, "DELETE FROM intents")

    monkeypatch.setattr(writing.writer.staging, "publish", publish_and_lose)
    with source_of(builder, layout) as source:
        wanted = [request(source, bad, tag="bad"), request(source, good, tag="good")]
        outcomes = {o.image: o.status for o in writing.registry.import_images(wanted)}
    assert outcomes == {"app:bad": "failed", "app:good": "imported"}
    assert tags(writing.database) == {"good": digest_of(good)}
    assert counts(writing.database, "intents") == {"intents": 0}
