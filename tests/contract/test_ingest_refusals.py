"""What is bad stays out, whole, and what is good beside it goes in."""

from __future__ import annotations

from pathlib import Path

import pytest

from regmeta import errors
from regmeta.app import Writing, open_for_writing
from regmeta.ingest.local_registry import StagedImage
from regmeta.ingest.unit_of_work import PhaseError, UnitOfWork
from regmeta.oci.digest import Digest
from regmeta.settings import Lint, Settings
from tests.builders import AMD64, ARM64, Json, LayoutBuilder, digest_of, parsed
from tests.support.registry import (
    change,
    commit_one,
    counts,
    dump,
    import_layout,
    ingest_of,
    objects,
    request,
    scalar,
    settings_of,
    source_of,
    tags,
)

CONTENT = ("blobs", "manifests", "manifest_blobs", "index_manifests", "tags", "labels", "events", "ingests")


def nothing_of_it(writing: Writing) -> bool:
    """Whether no row and no object is there: it was refused before anything was published."""
    tables = (*CONTENT, "repositories", "repository_blobs", "intents", "tombstones", "layout_outbox")
    return not any(counts(writing.database, *tables).values()) and objects(writing.store) == {}


def spoil_layer(builder: LayoutBuilder, content: bytes = b"damaged!") -> Json:
    """Return an image whose layer has another content than its digest."""
    layer = builder.layer(b"original")
    builder.blobs[layer["digest"]] = content
    return builder.image([layer])


# --- one bad image ----------------------------------------------------------------------------


def test_layer_with_other_bytes_leaves_nothing(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    with pytest.raises(errors.DigestMismatch, match="sha256:") as caught:
        commit_one(writing, builder, spoil_layer(builder), layout)
    assert caught.value.exit_code == 4
    assert nothing_of_it(writing)


@pytest.mark.parametrize("content", [b"short", b"longer than it was said to be"])
def test_layer_of_another_size_leaves_nothing(
    writing: Writing, builder: LayoutBuilder, layout: Path, content: bytes
) -> None:
    with pytest.raises(errors.SizeMismatch):
        commit_one(writing, builder, spoil_layer(builder, content), layout)
    assert nothing_of_it(writing)


def test_size_that_a_stored_blob_contradicts_is_refused(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    layer = builder.layer(b"one")
    commit_one(writing, builder, builder.image([layer]), layout)
    before = dump(writing.database)
    liar = builder.image([{**layer, "size": 4}])
    with pytest.raises(errors.SizeMismatch, match="has 3 bytes"):
        commit_one(writing, builder, liar, layout, tag="v2")
    assert {n: r for n, r in dump(writing.database).items() if n in CONTENT} == {
        n: r for n, r in before.items() if n in CONTENT
    }


def test_two_sizes_in_one_tree_are_refused(writing: Writing, builder: LayoutBuilder, layout: Path) -> None:
    layer = builder.layer(b"one")
    with pytest.raises(errors.SizeMismatch):
        commit_one(writing, builder, builder.image([layer, {**layer, "size": 4}]), layout)
    assert nothing_of_it(writing)


def test_missing_layer_leaves_nothing(writing: Writing, builder: LayoutBuilder, layout: Path) -> None:
    image = builder.image()
    layer = builder.layer(b"not there")
    del builder.blobs[layer["digest"]]
    image = builder.image([b"there", layer])
    with pytest.raises(errors.MissingContent, match=layer["digest"]):
        commit_one(writing, builder, image, layout)
    assert nothing_of_it(writing)


def test_missing_child_of_an_index_is_named(writing: Writing, builder: LayoutBuilder, layout: Path) -> None:
    children = [builder.image(platform=AMD64), builder.image(platform=ARM64)]
    del builder.blobs[children[1]["digest"]]
    with pytest.raises(errors.MissingContent, match=f"{children[1]['digest']}.*--sparse") as caught:
        commit_one(writing, builder, builder.index(children), layout)
    assert caught.value.exit_code == 3
    assert nothing_of_it(writing)


def test_image_without_a_mandatory_annotation_leaves_nothing(
    settings: Settings, builder: LayoutBuilder, layout: Path
) -> None:
    strict = settings_of(
        Path(settings.home), settings.database, lint=Lint(mandatory_annotations=("team", "contact"))
    )
    layers = [builder.layer(b"one")]
    good = builder.image(layers, builder.config(layers, Labels={"team": "a"}), {"contact": "b"})
    bad = builder.image(layers, builder.config(layers, Labels={"team": "a"}))
    with open_for_writing(strict) as writing:
        with pytest.raises(errors.LintFailed, match=f"{bad['digest']}.*contact") as caught:
            commit_one(writing, builder, builder.index([good, bad]), layout)
        assert caught.value.exit_code == 3
        assert nothing_of_it(writing)
        commit_one(writing, builder, good, layout)
        assert tags(writing.database) == {"v1": digest_of(good)}


def test_reference_by_another_digest_is_refused(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    image = builder.image()
    with source_of(builder, layout) as source:
        staged = StagedImage(source, parsed(image))
        with pytest.raises(errors.InvalidDigest):
            writing.registry.commit_image(staged, "app", str(Digest.of(b"other")))
        for repository, tag in (("App", "v1"), ("app", "-v1"), ("../app", "v1")):
            with pytest.raises(errors.InvalidName):
                writing.registry.commit_image(staged, repository, tag)
        assert nothing_of_it(writing)
        writing.registry.commit_image(staged, "app", image["digest"])
    assert counts(writing.database, "manifests", "tags") == {"manifests": 1, "tags": 0}


# --- a bad image beside good ones ------------------------------------------------------------


def three_images(builder: LayoutBuilder) -> dict[str, Digest]:
    """List a good image, a bad one and a good one; return the good ones."""
    good = {"v1": builder.image(), "v3": builder.image()}
    builder.tag(good["v1"], "v1")
    builder.tag(spoil_layer(builder), "v2")
    builder.tag(good["v3"], "v3")
    return {name: digest_of(image) for name, image in good.items()}


def test_bad_image_is_left_out_of_its_batch(writing: Writing, builder: LayoutBuilder, layout: Path) -> None:
    good = three_images(builder)
    outcomes = import_layout(writing, builder.write(layout))
    found = {outcome.image: outcome.status for outcome in outcomes}
    assert found == {"app:v1": "imported", "app:v2": "failed", "app:v3": "imported"}
    [error] = [outcome.error for outcome in outcomes if outcome.error]
    assert isinstance(error, errors.DigestMismatch)
    assert tags(writing.database) == good
    assert counts(writing.database, "ingests", "intents") == {"ingests": 1, "intents": 0}


def test_atomic_import_with_a_bad_image_takes_nothing(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    three_images(builder)
    with pytest.raises(errors.DigestMismatch):
        import_layout(writing, builder.write(layout), atomic=True)
    assert nothing_of_it(writing)


def test_atomic_import_is_one_ingest_however_many_images(
    writing: Writing, builder: LayoutBuilder, layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regmeta.ingest.local_registry.BATCH_IMAGES", 2)
    for number in range(5):
        builder.tag(builder.image(), f"v{number}")
    import_layout(writing, builder.write(layout), atomic=True)
    assert len(tags(writing.database)) == 5
    assert counts(writing.database, "ingests") == {"ingests": 1}


def test_tag_that_a_source_gives_twice_keeps_the_first(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    first, second = builder.image(), builder.image()
    builder.tag(first, "v1")
    builder.tag(second, "v1")
    builder.tag(first, "v1")
    outcomes = import_layout(writing, builder.write(layout))
    assert [outcome.status for outcome in outcomes].count("failed") == 1
    [error] = [outcome.error for outcome in outcomes if outcome.error]
    assert isinstance(error, errors.InvalidSource)
    assert second["digest"] in str(error)
    assert tags(writing.database) == {"v1": digest_of(first)}


# --- repositories and phases ------------------------------------------------------------------


def test_deleted_repository_is_revived_by_a_push(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    commit_one(writing, builder, builder.image(), layout)
    change(writing.database, "UPDATE repositories SET state = 'deleted'")
    revision = scalar(writing.database, "SELECT revision FROM repositories")
    commit_one(writing, builder, builder.image(), layout, tag="v2")
    assert scalar(writing.database, "SELECT state FROM repositories") == "active"
    assert scalar(writing.database, "SELECT revision FROM repositories") == revision + 1


def test_purging_repository_refuses_with_nothing_written(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    commit_one(writing, builder, builder.image(), layout)
    change(writing.database, "UPDATE repositories SET state = 'purging'")
    before = dump(writing.database)
    with pytest.raises(errors.RepositoryNotActive, match="app") as caught:
        commit_one(writing, builder, builder.image(), layout, tag="v2")
    assert caught.value.exit_code == 6
    after = dump(writing.database)
    assert {name for name in after if after[name] != before[name]} == {"tombstones"}
    change(writing.database, "UPDATE repositories SET state = 'active'")


def test_phases_out_of_order_raise(writing: Writing, builder: LayoutBuilder, layout: Path) -> None:
    unit = UnitOfWork(writing.writer, "test")
    for call in (unit.publish, unit.finish, lambda: unit.commit([])):
        with pytest.raises(PhaseError, match="open"):
            call()
    image = builder.image()
    with source_of(builder, layout) as source:
        ingest = ingest_of(writing, request(source, image))
        ingest.unit.reserve(ingest.image.blobs)
        with pytest.raises(PhaseError, match="reserved"):
            ingest.commit()
        ingest.stage()
        ingest.unit.publish()
        with pytest.raises(PhaseError, match="published"):
            ingest.stage([digest_of(image)])
        ingest.commit()
        for late in (ingest.unit.publish, ingest.unit.abort, ingest.commit, lambda: ingest.unit.reserve({})):
            with pytest.raises(PhaseError, match="committed"):
                late()
        ingest.unit.finish()
        with pytest.raises(PhaseError, match="finished"):
            ingest.unit.finish()


def test_aborted_ingest_leaves_tombstones_for_what_it_published(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    with source_of(builder, layout) as source:
        image = builder.image()
        builder.write(layout)
        ingest = ingest_of(writing, request(source, image))
        ingest.prepare()
        published = objects(writing.store).keys()
        ingest.unit.abort()
    assert len(published) == 4
    found = counts(writing.database, "intents", "tombstones", "blobs", "repositories")
    assert found == {"intents": 0, "tombstones": 4, "blobs": 0, "repositories": 0}
    with pytest.raises(PhaseError, match="aborted"):
        ingest.unit.publish()
