"""A plan says what a run would do, and writes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from regmeta.errors import InvalidSource
from tests.builders import ARM64, LayoutBuilder, digest_of
from tests.contract.adopt.conftest import Adopting, OldDocker, every_byte, refusal, rights_matter
from tests.support.old_registries.layouts import zot_folder


def test_counts_are_those_of_the_run(adopt: Callable[[Path], Adopting], tmp_path: Path) -> None:
    served = zot_folder(tmp_path / "zot", 12)
    adoption = adopt(served.root)
    plan = adoption.plan()
    report = adoption.run()
    assert (plan.kind, plan.location) == ("layouts", str(served.root))
    # The child of an index without a tag comes with it, or by itself.
    assert report.brought - 2 <= plan.images <= report.brought
    assert {each.source: each.tags for each in plan.repositories if each.tags} == {
        name: len(tags) for name, tags in served.tags.items()
    }
    [(blobs, size)] = adoption.rows("SELECT count(*), sum(size_bytes) FROM blobs")
    assert (plan.blobs, plan.size_bytes) == (blobs, int(size))


def test_shared_bytes_are_counted_once_for_all_and_for_each(old: OldDocker, adoption: Adopting) -> None:
    layer = b"shared" * 1000
    for repository in ("one", "two"):
        old.push(repository, "v1", layer)
        old.push(repository, "v2", layer)
    plan = adoption.plan()
    assert plan.images == 4
    one, two = plan.repositories
    assert one.size_bytes == two.size_bytes == plan.size_bytes < 2 * len(layer)


def test_children_of_an_index_are_no_images_of_their_own(old: OldDocker, adoption: Adopting) -> None:
    builder = LayoutBuilder()
    index = builder.index([builder.image(), builder.image(platform=ARM64)])
    old.push_made("app", "v1", builder, index)
    plan = adoption.plan()
    assert (plan.images, plan.repositories[0].manifests) == (1, 3)
    assert adoption.run().brought == 1
    assert digest_of(index) in adoption.manifests("app")


def test_plan_writes_nothing_anywhere(old: OldDocker, adoption: Adopting) -> None:
    old.push("app", "v1")
    before = every_byte(old.root)
    here = every_byte(Path(adoption.settings.store))
    adoption.plan()
    assert every_byte(old.root) == before
    assert every_byte(Path(adoption.settings.store)) == here
    assert adoption.rows("SELECT count(*) FROM adoptions") == [(0,)]


def test_repository_that_may_not_be_read_is_planned_as_broken(old: OldDocker, adoption: Adopting) -> None:
    old.push("closed", "v1")
    old.push("open", "v1")
    folder = old.folder("closed") / "_manifests"
    folder.chmod(0)
    try:
        with rights_matter(adoption):
            plan = adoption.plan()
    finally:
        folder.chmod(0o755)
    assert plan.images == 1
    assert [(name, found.defect.kind) for name, found in plan.defects] == [("closed", "unreadable")]


def test_folder_of_repositories_that_may_not_be_read_is_named(old: OldDocker, adoption: Adopting) -> None:
    """What is below it has no name: who left it out without a word would be taken for whole."""
    old.push("team/app", "v1")
    good = old.push("open", "v1")
    folder = old.folder("team")
    folder.chmod(0)
    try:
        with rights_matter(adoption):
            plan = adoption.plan()
            adoption.run()
    finally:
        folder.chmod(0o755)
    assert [(name, found.defect.kind) for name, found in plan.defects] == [("team", "unreadable")]
    assert adoption.kinds() == {("team", "unreadable", "", "team")}
    assert adoption.tags("open") == {"v1": good}
    assert adoption.run().brought == 1
    assert adoption.kinds() == set()
    assert adoption.unexplained() == []


def test_empty_registry_is_planned_as_empty(old: OldDocker, adoption: Adopting) -> None:
    plan = adoption.plan()
    assert (plan.repositories, plan.images, plan.estimate_s >= 0) == ([], 0, True)
    report = adoption.run()
    assert (report.repositories, report.brought) == (0, 0)
    assert adoption.unexplained() == []
    assert adoption.finalize().finalized_at is not None


def test_place_that_went_away_is_refused(old: OldDocker, adoption: Adopting) -> None:
    adoption.root = old.root / "gone"
    assert isinstance(refusal(adoption.plan), InvalidSource)
