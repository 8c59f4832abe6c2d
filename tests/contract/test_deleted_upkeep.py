"""What was deleted is neither brought back nor lost by what keeps a registry in order."""

from __future__ import annotations

from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from regmeta.app import Writing, open_for_writing, rebuilding
from regmeta.ingest.tags import set_tag
from regmeta.maintain.collect.sweep import sweep
from regmeta.maintain.delete.manifest import delete_manifest
from regmeta.maintain.delete.repository import delete_repository
from regmeta.maintain.delete.undelete import undelete_manifest, undelete_repository
from regmeta.maintain.rebuild.reconcile import reconcile
from regmeta.maintain.rebuild.report import NoProgress, Report
from regmeta.models import Base
from regmeta.settings import Settings
from tests.builders import Json, LayoutBuilder, digest_of
from tests.support.copies import copy_of, put_copy_back
from tests.support.deleting import assert_verified, here, state, stored
from tests.support.registry import AT_ONCE, change, commit_one, dump, open_parts, scalar, tags


@pytest.fixture
def images(builder: LayoutBuilder) -> list[Json]:
    """An index of two images, and another image."""
    return [builder.index([builder.image(), builder.image()]), builder.image()]


def fill(writing: Writing, builder: LayoutBuilder, layout: Path, images: list[Json]) -> None:
    """Let *app* hold an image, and an index that was deleted; *gone* was deleted as a whole."""
    for repository in ("app", "gone"):
        for image, tag in zip(images, ("v1", "v2"), strict=True):
            commit_one(writing, builder, image, layout / repository / tag, repository, tag)
    delete_manifest(writing.writer, "app", digest_of(images[0]), cascade=True)
    delete_repository(writing.writer, "gone")


def reconciled(writing: Writing, **options: Any) -> Report:
    return reconcile(writing.writer, writing.store, NoProgress(), **options)


def test_verification_and_reconciliation_leave_it_as_it_is(
    writing: Writing, builder: LayoutBuilder, layout: Path, images: list[Json]
) -> None:
    fill(writing, builder, layout, images)
    assert_verified(writing)
    before = dump(writing.database)
    report = reconciled(writing)
    assert (report.repositories, report.changed, report.problems) == (2, 0, [])
    assert dump(writing.database) == before


def test_manifest_that_the_rows_lack_comes_back_and_a_deleted_one_stays_deleted(
    writing: Writing, builder: LayoutBuilder, layout: Path, images: list[Json]
) -> None:
    fill(writing, builder, layout, images)
    lost = scalar(
        writing.database,
        "SELECT m.id FROM manifests m JOIN repositories r ON r.id = m.repository_id"
        " WHERE r.name = 'app' AND m.deleted_at IS NULL",
    )
    for statement in (
        "DELETE FROM tags WHERE manifest_id = :of",
        "DELETE FROM labels WHERE manifest_id = :of",
        "DELETE FROM manifest_blobs WHERE manifest_id = :of",
        "DELETE FROM manifests WHERE id = :of",
    ):
        change(writing.database, statement, of=lost)
    report = reconciled(writing)
    assert (report.manifests, report.tags, report.problems) == (1, 1, [])
    assert here(writing) == {digest_of(images[1])}
    assert tags(writing.database) == {"v2": digest_of(images[1])}
    assert undelete_manifest(writing.writer, "app", digest_of(images[0]), tags=True).tags == ("v1",)
    assert undelete_repository(writing.writer, "gone").tags == 2
    assert_verified(writing)


def test_old_copy_in_which_a_manifest_was_deleted_keeps_it_so_and_says_what_it_leaves(
    writing: Writing, builder: LayoutBuilder, layout: Path, images: list[Json]
) -> None:
    fill(writing, builder, layout, images)
    copied = copy_of(writing.database)
    undelete_manifest(writing.writer, "app", digest_of(images[0]))
    set_tag(writing.writer, "app", "since", digest_of(images[0]))
    put_copy_back(writing.database, copied)
    report = reconciled(writing)
    [problem] = report.problems
    assert (problem.subject, "which was deleted; left as it is" in problem.detail) == ("app:since", True)
    assert tags(writing.database) == {"v2": digest_of(images[1])}
    assert here(writing) == {digest_of(images[1])}
    assert undelete_manifest(writing.writer, "app", digest_of(images[0]), tags=True).tags == ("v1",)


def test_index_that_an_old_copy_lacks_brings_its_deleted_child_back(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    """What an index that is here lists is here."""
    child = builder.image()
    index = builder.index([child])
    commit_one(writing, builder, child, layout / "1")
    delete_manifest(writing.writer, "app", digest_of(child))
    copied = copy_of(writing.database)
    commit_one(writing, builder, index, layout / "2", tag="v2")
    put_copy_back(writing.database, copied)
    reconciled(writing)
    assert here(writing) == {digest_of(child), digest_of(index)}
    assert tags(writing.database) == {"v2": digest_of(index)}


@pytest.mark.parametrize("since", ["pushed", "deleted again"])
def test_old_copy_of_a_deleted_repository(
    writing: Writing, builder: LayoutBuilder, layout: Path, images: list[Json], since: str
) -> None:
    fill(writing, builder, layout, images)
    copied = copy_of(writing.database)
    if since == "pushed":
        commit_one(writing, builder, images[1], layout / "2", "gone", "new")
    else:
        undelete_repository(writing.writer, "gone")
        delete_repository(writing.writer, "gone")
    put_copy_back(writing.database, copied)
    reconciled(writing)
    if since == "pushed":
        assert (state(writing, "gone"), tags(writing.database, "gone")) == (
            "active",
            {"new": digest_of(images[1])},
        )
    else:
        assert (state(writing, "gone"), tags(writing.database, "gone")) == ("deleted", {})
        assert undelete_repository(writing.writer, "gone").tags == 2
    assert_verified(writing)


def test_old_copy_from_before_a_deletion_keeps_the_repository_and_says_so(
    writing: Writing, builder: LayoutBuilder, layout: Path, images: list[Json]
) -> None:
    commit_one(writing, builder, images[0], layout)
    copied = copy_of(writing.database)
    delete_repository(writing.writer, "app")
    put_copy_back(writing.database, copied)
    report = reconciled(writing)
    assert [problem.detail for problem in report.problems] == [
        "is active, the snapshot says deleted; left as it is"
    ]
    assert tags(writing.database) == {"v1": digest_of(images[0])}


@pytest.mark.parametrize("purging", [False, True])
def test_lost_database_forgets_what_was_deleted(
    settings: Settings, builder: LayoutBuilder, layout: Path, images: list[Json], purging: bool
) -> None:
    """Snapshots do not list it. Its objects are swept in the end, and pushes are taken."""
    with open_for_writing(settings) as writing:
        fill(writing, builder, layout, images)
        if purging:
            change(
                writing.database,
                "UPDATE repositories SET state = 'purging', revision = revision + 1 WHERE name = 'gone'",
            )
            change(
                writing.database,
                "INSERT INTO layout_outbox (repository_id, revision, queued_at)"
                " SELECT id, revision, 1 FROM repositories WHERE name = 'gone'",
            )
            writing.writer.snapshots.flush_outbox()
        assert writing.database.is_sqlite == settings.database.startswith("sqlite")
    lose_database(settings)
    report = rebuilding.rebuild_lost_database(settings, lambda: nullcontext(NoProgress()))
    assert report.problems == []
    with open_for_writing(settings) as writing:
        assert stored(writing) == here(writing) == {digest_of(images[1])}
        assert state(writing, "gone") == "deleted"
        change(writing.database, "UPDATE store_identity SET hold_reason = NULL")
        assert sweep(writing.database, writing.store, AT_ONCE).buried == 9
        commit_one(writing, builder, images[0], layout / "again", "gone", "new")
        assert tags(writing.database, "gone") == {"new": digest_of(images[0])}
        assert_verified(writing)


def lose_database(settings: Settings) -> None:
    database, store = open_parts(settings)
    with closing(store), closing(database):
        if not database.is_sqlite:
            with database.transaction("test") as connection:
                Base.metadata.drop_all(connection)
                connection.execute(sa.text("DROP TABLE alembic_version"))
    for path in Path(settings.home).glob("regmeta.db*"):
        path.unlink()
