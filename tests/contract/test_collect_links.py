"""A repository's access to a blob goes with the last manifest of it that names the blob, and not before."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from regmeta import failpoints
from regmeta.app import Writing, open_for_writing
from regmeta.ingest.tags import remove_tag
from regmeta.maintain.collect.blobs import POPULAR_HOLDERS
from regmeta.maintain.collect.run import collect
from regmeta.settings import Settings
from tests.builders import Json, LayoutBuilder
from tests.support.registry import AT_ONCE, change, commit_one, import_all, rows


def is_linked(writing: Writing, layer: Json, repository: str = "app") -> bool:
    found = rows(
        writing.database,
        "SELECT 1 FROM repository_blobs l JOIN blobs b ON b.id = l.blob_id"
        " JOIN repositories r ON r.id = l.repository_id WHERE r.name = :of AND b.digest = :digest",
        of=repository,
        digest=bytes([1]) + bytes.fromhex(layer["digest"].removeprefix("sha256:")),
    )
    return bool(found)


@pytest.mark.parametrize("holders", [1, POPULAR_HOLDERS + 1])
def test_access_to_a_shared_layer_goes_with_the_last_image_that_holds_it(
    settings: Settings, layout: Path, holders: int
) -> None:
    elsewhere = LayoutBuilder()
    base = elsewhere.layer(b"base")
    for number in range(holders):
        elsewhere.tag(elsewhere.image([base, b"%d" % number]), f"v{number}")
    here = LayoutBuilder()
    own = [here.image([here.layer(b"base"), b"own %d" % number]) for number in range(2)]
    other = here.image([b"of another base"])
    with open_for_writing(settings, lifetimes=AT_ONCE) as writing:
        import_all(writing, elsewhere.write(layout / "elsewhere"), "elsewhere")
        for tag, image in (("first", own[0]), ("second", own[1]), ("other", other)):
            commit_one(writing, here, image, layout / tag, tag=tag)
        assert is_linked(writing, base)
        remove_tag(writing.writer, "app", "first")
        assert collect(writing.writer, writing.store).manifests == 1
        assert is_linked(writing, base)  # the second image holds it
        remove_tag(writing.writer, "app", "second")
        assert collect(writing.writer, writing.store).manifests == 1
        assert not is_linked(writing, base)
        assert is_linked(writing, base, "elsewhere")


def test_blob_that_is_in_use_stops_no_push_to_those_that_use_it(
    settings: Settings, builder: LayoutBuilder, layout: Path
) -> None:
    """Of a base layer that is looked at for one repository's sake, thousands of others have links."""
    with open_for_writing(settings, lifetimes=AT_ONCE) as writing:
        if writing.database.is_sqlite:
            pytest.skip("there one transaction stops all others in any case")
        image = builder.image()
        for repository in ("one", "two"):
            commit_one(writing, builder, image, layout / repository, repository)
        change(
            writing.database,
            "INSERT INTO gc_tasks (kind, target_id, reason, created_at, not_before)"
            " SELECT 'blob', id, 'deleted', 1, 1 FROM blobs",
        )
        free: list[int] = []

        def look(point: str) -> None:
            if point == "collect_blobs.committing":
                with writing.database.transaction("test") as connection:
                    found = connection.execute(sa.text("SELECT id FROM repositories FOR UPDATE SKIP LOCKED"))
                    free.append(len(found.all()))

        with failpoints.armed(look):
            assert collect(writing.writer, writing.store).tasks == 4
        assert free == [2, 2]
