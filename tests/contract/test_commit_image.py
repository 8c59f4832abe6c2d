"""One image in flight: a tool writes a layout to the staging area, and the registry commits it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest

from regmeta import errors
from regmeta.app import Writing
from regmeta.ingest.local_registry import StagedImage
from regmeta.maintain.recover import recover
from regmeta.sources.open import open_source
from tests.builders import AMD64, ARM64, LayoutBuilder, digest_of, parsed
from tests.support.registry import counts, tags


def test_layout_in_flight_is_committed_and_then_skipped(writing: Writing, builder: LayoutBuilder) -> None:
    index = builder.index([builder.index([builder.image(platform=AMD64)]), builder.image(platform=ARM64)])
    folder = Path(writing.registry.scratch_layout()) / "layout"
    assert Path(writing.settings.store) in folder.parents
    assert not writing.registry.can_skip_image("app", "v1", digest_of(index))
    with closing(open_source(str(builder.write(folder)))) as source:
        staged = StagedImage(source, parsed(index))
        result = writing.registry.commit_image(staged, "app", "v1")
        by_digest = writing.registry.commit_image(staged, "other", index["digest"])
    assert (result.new_manifests, by_digest.new_manifests) == (4, 4)
    assert tags(writing.database) == {"v1": digest_of(index)}
    assert tags(writing.database, "other") == {}
    assert writing.registry.can_skip_image("app", "v1", digest_of(index))
    assert writing.registry.can_skip_image("app", index["digest"], digest_of(index))


def test_reference_by_another_digest_commits_nothing(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    image = builder.image()
    with closing(open_source(str(builder.write(layout)))) as source:
        staged = StagedImage(source, parsed(image))
        with pytest.raises(errors.InvalidDigest, match="0000"):
            writing.registry.commit_image(staged, "app", f"sha256:{'0' * 64}")
    assert counts(writing.database, "manifests", "repositories") == {"manifests": 0, "repositories": 0}


def test_layout_of_a_process_that_was_killed_is_removed_by_the_next_writer(
    writing: Writing, builder: LayoutBuilder
) -> None:
    """It lies in the staging folder of that process, and the lock of that folder is free."""
    folder = Path(writing.settings.store) / "staging" / uuid4().hex
    folder.mkdir()
    (folder / "lock").touch()
    builder.image()
    builder.write(folder / "scratch-0" / "layout")
    assert recover(writing.writer, writing.store).stagings_removed == 1
    assert not folder.exists()
