"""May an image be skipped? Yes only for what readers see, whole, and no collector will take."""

from __future__ import annotations

from pathlib import Path

import pytest

from regmeta import errors
from regmeta.app import Writing, open_for_writing
from regmeta.ingest.tags import remove_tag, set_tag
from regmeta.maintain.collect.run import collect
from regmeta.maintain.delete.manifest import delete_manifest
from regmeta.oci.digest import Digest
from regmeta.settings import Settings
from tests.builders import AMD64, ARM64, Json, LayoutBuilder, digest_of
from tests.support.registry import (
    AT_ONCE,
    change,
    commit_one,
    import_all,
    import_layout,
    key_of,
    keys_in,
    objects,
    remove_content,
    scalar,
)


def can_skip(writing: Writing, image: Json, reference: str = "v1", repository: str = "app") -> bool:
    return writing.registry.can_skip_image(repository, reference, digest_of(image))


@pytest.fixture
def image(writing: Writing, builder: LayoutBuilder, layout: Path) -> Json:
    """An index that is tagged v1."""
    made = builder.index([builder.image(platform=AMD64), builder.image(platform=ARM64)])
    commit_one(writing, builder, made, layout)
    return made


def test_image_under_its_live_tag_is_skipped(writing: Writing, image: Json) -> None:
    assert can_skip(writing, image)
    assert can_skip(writing, image, image["digest"])


def test_child_of_a_tagged_index_is_skipped_by_digest(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    child = builder.image()
    commit_one(writing, builder, builder.index([builder.index([child])]), layout)
    assert can_skip(writing, child, child["digest"])
    assert not can_skip(writing, child, "v1")


def test_referrer_is_skipped_while_a_tag_reaches_what_it_refers_to(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    """Of a child of an index, and a referrer of a referrer: the collector keeps both as long."""
    child = builder.image()
    sbom = builder.artifact(b"sbom", "application/sbom", child)
    signature = builder.artifact(b"signed", "application/signature", sbom)
    stray = builder.artifact(b"stray", "application/sbom", builder.image())
    for image in (sbom, signature, stray):
        commit_one(writing, builder, image, layout, tag=None)
    assert not can_skip(writing, sbom, sbom["digest"])
    commit_one(writing, builder, builder.index([child]), layout)
    assert can_skip(writing, sbom, sbom["digest"])
    assert can_skip(writing, signature, signature["digest"])
    assert not can_skip(writing, stray, stray["digest"])
    assert not can_skip(writing, signature, signature["digest"], repository="elsewhere")
    remove_tag(writing.writer, "app", "v1")
    assert not can_skip(writing, sbom, sbom["digest"])
    assert not can_skip(writing, signature, signature["digest"])


def test_subject_of_another_repository_keeps_no_referrer_here(
    writing: Writing, builder: LayoutBuilder, layout: Path, image: Json
) -> None:
    signature = builder.artifact(b"signed", "application/signature", image)
    commit_one(writing, builder, signature, layout, "other", None)
    assert not can_skip(writing, signature, signature["digest"], repository="other")


def test_referrer_that_was_deleted_is_not_skipped(
    writing: Writing, builder: LayoutBuilder, layout: Path, image: Json
) -> None:
    signature = builder.artifact(b"signed", "application/signature", image)
    commit_one(writing, builder, signature, layout, tag=None)
    assert can_skip(writing, signature, signature["digest"])
    delete_manifest(writing.writer, "app", digest_of(signature))
    assert not can_skip(writing, signature, signature["digest"])


def test_untagged_referrers_are_not_imported_again(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    image = builder.image()
    builder.tag(image, "v1")
    builder.tag(builder.artifact(b"signed", "application/signature", image))
    import_all(writing, builder.write(layout))
    assert [outcome.status for outcome in import_layout(writing, layout)] == ["skipped", "skipped"]


def test_skipped_referrer_is_not_collected(settings: Settings, builder: LayoutBuilder, layout: Path) -> None:
    """Its lease has run out and is not renewed: that its subject is tagged is enough."""
    with open_for_writing(settings, lifetimes=AT_ONCE) as writing:
        image = builder.image()
        signature = builder.artifact(b"signed", "application/signature", image)
        commit_one(writing, builder, image, layout)
        commit_one(writing, builder, signature, layout, tag=None)
        assert can_skip(writing, signature, signature["digest"])
        change(writing.database, "UPDATE manifests SET lease_until = 1")
        change(writing.database, "UPDATE blobs SET lease_until = 1")
        collect(writing.writer, writing.store)
        assert can_skip(writing, signature, signature["digest"])


def test_image_that_is_not_there_is_not_skipped(
    writing: Writing, builder: LayoutBuilder, image: Json
) -> None:
    other = builder.image()
    assert not can_skip(writing, other)
    assert not can_skip(writing, other, other["digest"])
    assert not can_skip(writing, image, "v2")
    assert not can_skip(writing, image, repository="elsewhere")
    assert not can_skip(writing, image, image["digest"], repository="elsewhere")


def test_image_whose_tag_moved_away_is_not_skipped(
    writing: Writing, builder: LayoutBuilder, layout: Path, image: Json
) -> None:
    """Only its lease keeps it: the import must renew that."""
    commit_one(writing, builder, builder.image(), layout, tag="other")
    other = writing.registry.can_skip_image
    assert other("app", image["digest"], digest_of(image))
    remove_tag(writing.writer, "app", "v1")
    assert not can_skip(writing, image)
    assert not can_skip(writing, image, image["digest"])
    set_tag(writing.writer, "app", "v1", digest_of(image))
    assert can_skip(writing, image)


def test_image_that_was_collected_is_not_skipped(writing: Writing, image: Json) -> None:
    remove_content(writing.database)
    assert not can_skip(writing, image)
    assert not can_skip(writing, image, image["digest"])


@pytest.mark.parametrize("state", ["deleted", "purging"])
def test_image_of_a_repository_that_is_not_active_is_not_skipped(
    writing: Writing, image: Json, state: str
) -> None:
    change(writing.database, "UPDATE repositories SET state = :state", state=state)
    assert not can_skip(writing, image)
    assert not can_skip(writing, image, image["digest"])
    change(writing.database, "UPDATE repositories SET state = 'active'")


def test_sparse_image_is_not_skipped_by_who_wants_it_whole(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    children = [builder.image(platform=AMD64), builder.image(platform=ARM64)]
    index = builder.index([builder.index(children)])
    builder.tag(index, "v1")
    content = builder.blobs.pop(children[1]["digest"])
    import_all(writing, builder.write(layout), sparse=True)
    assert not can_skip(writing, index)
    assert not can_skip(writing, index, index["digest"])
    assert [o.status for o in import_layout(writing, layout, sparse=True)] == ["skipped"]
    [outcome] = import_layout(writing, layout)
    assert isinstance(outcome.error, errors.MissingContent)
    builder.blobs[children[1]["digest"]] = content
    [outcome] = import_layout(writing, builder.write(layout))
    assert outcome.status == "imported"
    assert can_skip(writing, index)


def test_database_that_does_not_answer_is_an_error_and_not_a_no(writing: Writing, image: Json) -> None:
    change(writing.database, "ALTER TABLE index_manifests RENAME TO hidden")
    try:
        with pytest.raises(errors.DatabaseUnavailable) as caught:
            can_skip(writing, image)
        assert caught.value.exit_code == 5
        with pytest.raises(errors.DatabaseUnavailable):
            can_skip(writing, image, image["digest"])
    finally:
        change(writing.database, "ALTER TABLE hidden RENAME TO index_manifests")


# --- damage -----------------------------------------------------------------------------------


def damage(writing: Writing, image: Json) -> str:
    """Spoil the object of a manifest, and let its row say so as ``verify`` does; return its key."""
    key = key_of(writing.database, digest_of(image))
    path = Path(writing.settings.store) / "blobs" / key
    path.chmod(0o644)
    path.write_bytes(b"rotten")
    path.chmod(0o444)
    change(writing.database, "UPDATE blobs SET state = 'damaged' WHERE key = :key", key=key)
    return key


def test_damaged_image_is_not_skipped_and_the_next_import_heals_it_under_a_new_key(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    index = builder.index([builder.image(platform=AMD64), builder.image(platform=ARM64)])
    builder.tag(index, "v1")
    import_all(writing, builder.write(layout))
    old = damage(writing, index)
    assert not can_skip(writing, index)
    assert not can_skip(writing, index, index["digest"])
    import_all(writing, layout)
    assert scalar(writing.database, "SELECT count(*) FROM blobs WHERE state <> 'live'") == 0
    assert keys_in(writing.database, "tombstones") == {old}
    new = key_of(writing.database, digest_of(index))
    assert new != old
    assert {old, new} <= objects(writing.store).keys()
    assert can_skip(writing, index)


def test_blob_whose_object_is_gone_is_healed(writing: Writing, builder: LayoutBuilder, layout: Path) -> None:
    layer = builder.layer(b"one")
    builder.tag(builder.image([layer]), "v1")
    import_all(writing, builder.write(layout))
    old = key_of(writing.database, digest_of(layer))
    (Path(writing.settings.store) / "blobs" / old).unlink()
    change(writing.database, "UPDATE blobs SET state = 'damaged' WHERE key = :key", key=old)
    import_all(writing, layout)
    assert key_of(writing.database, digest_of(layer)) != old


def test_damaged_configuration_is_never_read_as_good(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    """A layout without the configuration relies on the stored one: what rots there is found out."""
    layers = [builder.layer(b"one")]
    config = builder.config(layers)
    commit_one(writing, builder, builder.image(layers, config), layout)
    again = builder.image(layers, config, {"more": "said"})
    del builder.blobs[config["digest"]]
    thin = layout.parent / "thin"
    commit_one(writing, builder, again, thin, tag="v2")
    key = key_of(writing.database, digest_of(config))
    path = Path(writing.settings.store) / "blobs" / key
    content = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(content.replace(b"linux", b"linuy"))
    third = builder.image(layers, config, {"still more": "said"})
    with pytest.raises(errors.DamagedBlob, match=config["digest"]) as caught:
        commit_one(writing, builder, third, thin, tag="v3")
    assert caught.value.exit_code == 4
    path.unlink()
    with pytest.raises(errors.DamagedBlob, match=config["digest"]):
        commit_one(writing, builder, third, thin, tag="v3")
    change(writing.database, "UPDATE blobs SET state = 'damaged' WHERE key = :key", key=key)
    with pytest.raises(errors.MissingContent, match=config["digest"]):
        commit_one(writing, builder, third, thin, tag="v3")
    change(writing.database, "UPDATE blobs SET state = 'live' WHERE key = :key", key=key)
    path.write_bytes(content)
    path.chmod(0o444)


def test_reference_that_is_another_digest_is_refused(writing: Writing, image: Json) -> None:
    with pytest.raises(errors.InvalidDigest):
        can_skip(writing, image, str(Digest.of(b"other")))
    with pytest.raises(errors.InvalidName):
        can_skip(writing, image, "v1", "../app")
