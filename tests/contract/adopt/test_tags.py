"""Tags that move on both sides: what was set here stays, what an adoption set follows the old registry."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from regmeta.ingest.tag_locks import lock_tags
from regmeta.ingest.tags import remove_tag, set_tag
from tests.builders import LayoutBuilder
from tests.contract.adopt.conftest import Adopting, OldDocker
from tests.support.old_registries.defects import lose_tags
from tests.support.old_registries.layouts import read_index, write_index, zot_folder
from tests.support.registry import commit_one


def kinds(adoption: Adopting) -> list[tuple[str, str]]:
    return [(each.kind, each.image or each.subject) for each in adoption.defects()]


def test_tag_that_was_moved_there_moves_here(old: OldDocker, adoption: Adopting) -> None:
    first = old.push("app", "v1")
    adoption.run()
    second = old.push("app", "v1")
    report = adoption.run()
    assert (report.brought, report.unchanged) == (1, 0)
    assert adoption.tags("app") == {"v1": second}
    assert adoption.manifests("app") == {first, second}
    assert kinds(adoption) == []
    assert adoption.unexplained() == []


def test_tag_that_was_moved_here_stays_and_is_reported(old: OldDocker, adoption: Adopting) -> None:
    first, other = old.push("app", "v1"), old.push("app", "other")
    adoption.run()
    with adoption.writing() as here:
        set_tag(here.writer, "app", "v1", other)
    old.push("app", "new")
    report = adoption.run()
    assert (report.brought, report.left_out) == (1, 1)
    assert adoption.tags("app")["v1"] == other
    assert kinds(adoption) == [("moved-here", "v1")]
    assert adoption.unexplained() == [("app", "different", "v1")]
    assert adoption.run(overwrite=True, again=True).brought == 1
    assert adoption.tags("app")["v1"] == first
    assert (kinds(adoption), adoption.unexplained()) == ([], [])


def test_tag_that_was_removed_here_does_not_come_back(old: OldDocker, adoption: Adopting) -> None:
    first = old.push("app", "v1")
    old.push("app", "v2")
    adoption.run()
    with adoption.writing() as here:
        remove_tag(here.writer, "app", "v1")
    report = adoption.run(again=True)
    assert (report.brought, report.left_out) == (0, 1)
    assert set(adoption.tags("app")) == {"v2"}
    assert kinds(adoption) == [("moved-here", "v1")]
    adoption.run(again=True, overwrite=True)
    assert adoption.tags("app")["v1"] == first


def test_tag_that_somebody_moved_back_is_no_defect_any_more(old: OldDocker, adoption: Adopting) -> None:
    first, other = old.push("app", "v1"), old.push("app", "other")
    adoption.run()
    with adoption.writing() as here:
        set_tag(here.writer, "app", "v1", other)
    adoption.run(again=True)
    assert kinds(adoption) == [("moved-here", "v1")]
    with adoption.writing() as here:
        set_tag(here.writer, "app", "v1", first)
    adoption.run(again=True)
    assert kinds(adoption) == []


def test_tag_that_was_here_before_the_first_run_stays(
    old: OldDocker, adoption: Adopting, builder: LayoutBuilder, tmp_path: Path
) -> None:
    image = builder.image([b"mine"])
    with adoption.writing() as here:
        commit_one(here, builder, image, tmp_path / "mine", "app", "v1")
    theirs = old.push("app", "v2")
    old.push("app", "v1")
    report = adoption.run()
    assert (report.brought, report.left_out) == (1, 1)
    assert str(adoption.tags("app")["v1"]) == image["digest"]
    assert adoption.tags("app")["v2"] == theirs
    assert kinds(adoption) == [("moved-here", "v1")]


def test_tag_that_is_gone_there_goes_here_if_an_adoption_set_it(old: OldDocker, adoption: Adopting) -> None:
    for tag in ("v1", "v2", "v3"):
        old.push("app", tag)
    adoption.run()
    with adoption.writing() as here:
        set_tag(here.writer, "app", "mine", adoption.tags("app")["v1"])
        set_tag(here.writer, "app", "v2", adoption.tags("app")["v3"])
    old.untag("app", "v1")
    old.untag("app", "v2")
    report = adoption.run()
    assert report.removed_tags == 1
    assert set(adoption.tags("app")) == {"mine", "v2", "v3"}


def test_tag_that_is_broken_there_is_not_gone(old: OldDocker, adoption: Adopting) -> None:
    first = old.push("app", "v1")
    old.push("app", "v2")
    adoption.run()
    old.tag_link("app", "v1").write_bytes(b"")
    assert adoption.run().removed_tags == 0
    assert adoption.tags("app")["v1"] == first
    assert kinds(adoption) == [("empty-link", "v1")]


@pytest.mark.parametrize(("count", "keep", "is_believed"), [(10, 0, True), (11, 0, False), (30, 15, True)])
def test_most_tags_gone_at_once_are_not_believed(
    old: OldDocker, adoption: Adopting, count: int, keep: int, is_believed: bool
) -> None:
    old.push("app")
    old.add_tags("app", count)
    adoption.run()
    lose_tags(old.root, "app", keep=keep)
    report = adoption.run()
    assert (report.removed_tags == count - keep) == is_believed
    assert len(adoption.tags("app")) == (keep if is_believed else count)
    assert kinds(adoption) == ([] if is_believed else [("tags-gone", "app")])
    assert adoption.run(believe_deletes=True, again=True).removed_tags == (0 if is_believed else count)
    assert kinds(adoption) == []


def hide_manifests(old: OldDocker) -> None:
    shutil.rmtree(old.folder("app") / "_manifests")
    (old.folder("app") / "_manifests").write_bytes(b"#1234")


def lose_manifests(old: OldDocker) -> None:
    shutil.rmtree(old.folder("app") / "_manifests")


@pytest.mark.parametrize("spoil", [hide_manifests, lose_manifests])
def test_tags_of_a_repository_that_cannot_be_read_are_not_gone(
    old: OldDocker, adoption: Adopting, spoil: Callable[[OldDocker], None]
) -> None:
    old.push("app", "v1")
    old.push("app", "v2")
    adoption.run()
    spoil(old)
    report = adoption.run()
    assert report.removed_tags == 0
    assert set(adoption.tags("app")) == {"v1", "v2"}
    assert ("tags-gone", "app") in kinds(adoption)


@pytest.mark.parametrize("content", [b'{"schemaVersion": 2, "mani', b"", b"[]"])
def test_tags_of_a_layout_that_is_cut_off_are_not_gone(
    adopt: Callable[[Path], Adopting], tmp_path: Path, content: bytes
) -> None:
    served = zot_folder(tmp_path / "zot", 6)
    adoption = adopt(served.root)
    adoption.run()
    (served.root / "a/index.json").write_bytes(content)
    assert adoption.run().removed_tags == 0
    assert adoption.tags("a") == served.tags["a"]


@pytest.mark.parametrize("entry", [7, None, "v1", {"digest": "sha256:1"}])
def test_tag_of_an_entry_that_is_none_any_more_is_not_gone(
    adopt: Callable[[Path], Adopting], tmp_path: Path, entry: Any
) -> None:
    served = zot_folder(tmp_path / "zot", 6)
    adoption = adopt(served.root)
    adoption.run()
    rows = read_index(served.root / "a")["manifests"]
    write_index(served.root / "a", [entry] * len(rows))
    assert adoption.run().removed_tags == 0
    assert adoption.tags("a") == served.tags["a"]


def test_repository_that_is_gone_there_stays_here_and_is_a_difference(
    old: OldDocker, adoption: Adopting
) -> None:
    old.push("app", "v1")
    other = old.push("other", "v1")
    adoption.run()
    shutil.rmtree(old.folder("other"))
    assert adoption.run().removed_tags == 0
    assert adoption.tags("other") == {"v1": other}
    assert adoption.unexplained() == [("other", "only here", "other")]


def test_tag_that_is_immutable_here_is_neither_moved_nor_removed_and_stops_nothing(
    old: OldDocker, adoption: Adopting
) -> None:
    first = old.push("app", "v1")
    old.push("app", "v2")
    adoption.run()
    with adoption.writing() as here:
        lock_tags(here.writer, "app", "v*")
    old.push("app", "v1")
    new = old.push("app", "new")
    assert adoption.run().left_out == 1
    assert kinds(adoption) == [("refused-here", "v1")]
    assert adoption.unexplained() == []
    old.untag("app", "v2")
    other = old.push("other", "v1")
    assert adoption.run().removed_tags == 0
    assert adoption.tags("app")["v1"] == first
    assert adoption.tags("app").keys() == {"v1", "v2", "new"}
    assert adoption.tags("app")["new"] == new
    assert adoption.tags("other") == {"v1": other}
    assert kinds(adoption) == [("refused-here", "v1"), ("refused-here", "v2")]
