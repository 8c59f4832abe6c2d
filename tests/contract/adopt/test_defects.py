"""What is broken in an old registry is named with its class, and stops nothing beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

import pytest

from regmeta.adopt.defects import BROUGHT, MEANINGS
from regmeta.adopt.records.defects import KnownDefect
from regmeta.oci.digest import Digest
from tests.contract.adopt.conftest import Adopting, every_byte
from tests.support.old_registries.defects import plant, plant_leftovers
from tests.support.old_registries.layout_defects import plant_in_layouts
from tests.support.old_registries.layouts import zot_folder
from tests.support.old_registries.planting import GOOD_TAG, Planted
from tests.support.old_registries.served import Served

IMAGES: Final = 6  # the main kinds of good ones
OldDocker = Callable[..., Served]
READ_BY_A_RUN_ONLY: Final = "damaged-blob"  # a plan looks at sizes, and reads no layers


@pytest.fixture(params=["docker", "layouts", "placeholders"])
def served(request: pytest.FixtureRequest, old_docker: OldDocker, tmp_path: Path) -> Served:
    """A good registry of each kind."""
    if request.param == "docker":
        return old_docker(tmp_path / "old", IMAGES)
    return zot_folder(tmp_path / "old", IMAGES, placeholders=request.param == "placeholders")


def planted_in(served: Served) -> list[Planted]:
    if (served.root / "docker").is_dir():
        return plant(served.root)
    return plant_in_layouts(served.root)


def of(planted: Planted, defects: Iterable[KnownDefect]) -> list[KnownDefect]:
    """Return the defects that may be this one."""
    return [each for each in defects if each.repository == planted.repository and each.kind == planted.kind]


def assert_complete(adoption: Adopting, tags: Mapping[str, Mapping[str, Digest]]) -> None:
    """All tags that were served are here."""
    for repository, expected in tags.items():
        here = adoption.tags(repository)
        assert {tag: here.get(tag) for tag in expected} == expected, repository


def test_good_registry_comes_whole_and_has_no_defects(
    served: Served, adopt: Callable[[Path], Adopting]
) -> None:
    adoption = adopt(served.root)
    report = adoption.run()
    assert report.left_out == 0
    assert not report.failures
    # An OCI manifest need not say its type, and an upload that nobody ended is no loss.
    assert {each.kind for each in adoption.defects()} <= {"no-manifests-folder", "empty-media-type"}
    assert_complete(adoption, served.tags)
    for repository, digests in served.manifests.items():
        assert adoption.manifests(repository) >= digests, repository
    assert adoption.unexplained(deep=True) == []


@pytest.mark.slow
def test_every_defect_is_named_and_what_is_beside_it_is_complete(
    served: Served, adopt: Callable[[Path], Adopting]
) -> None:
    planted = planted_in(served)
    before = every_byte(served.root)
    adoption = adopt(served.root)

    report = adoption.run()

    defects = adoption.defects()
    assert not report.failures
    assert report.left_out > 0
    for item in planted:
        named = [each for each in of(item, defects) if item.is_named_in([each])]
        assert {each.outcome for each in named} == {"brought" if item.kind in BROUGHT else "left out"}, item
    assert_complete(adoption, served.tags)
    assert_whole_and_nothing_broken(adoption, planted)
    assert adoption.unexplained(deep=True) == []
    assert every_byte(served.root) == before


def assert_whole_and_nothing_broken(adoption: Adopting, planted: Iterable[Planted]) -> None:
    for item in planted:
        here = adoption.tags(item.repository)
        if item.good is not None:
            assert str(here[GOOD_TAG]) == item.good, item
        assert (item.tag in here) == item.comes, item
        if item.tag in here and item.digest is not None:
            assert str(here[item.tag]) == item.digest, item
        if item.kind == "broken-index-child":
            child = Digest.parse(item.subject)
            assert child not in adoption.manifests(item.repository)
            found = adoption.rows(
                "SELECT absence FROM index_manifests WHERE child_digest = :child", child=child.to_bytes()
            )
            assert found
            assert all(absence is not None for (absence,) in found)


@pytest.mark.soak_on_postgresql
@pytest.mark.slow
def test_plan_names_what_a_run_does_and_a_second_run_says_it_again(
    served: Served, adopt: Callable[[Path], Adopting]
) -> None:
    planted_in(served)
    adoption = adopt(served.root)
    plan = adoption.plan()
    assert adoption.rows("SELECT count(*) FROM adoptions") == [(0,)]

    first = adoption.run()

    planned = {(name, found.defect.kind, found.defect.subject) for name, found in plan.defects}
    found = {(each.repository, each.kind, each.subject) for each in adoption.defects()}
    assert planned - found == set()
    assert {kind for _, kind, _ in found - planned} <= {READ_BY_A_RUN_ONLY}
    kinds, defects = adoption.kinds(), adoption.defects()
    second = adoption.run()
    # What could not be read is tried again; all else is as it was.
    unreadable = {each.repository for each in defects if each.kind in ("unreadable", "bad-index-file")}
    assert (second.brought, second.copied_bytes, second.left_out) == (0, 0, 0)
    assert second.unchanged >= second.repositories - len(unreadable)
    assert second.defects == first.defects
    assert adoption.kinds() == kinds
    again = adoption.run(again=True)
    # An index without a child is looked at again: it may be whole by now.
    incomplete = sum(number for (kind, _), number in first.defects.items() if kind == "broken-index-child")
    assert again.brought <= incomplete
    assert (again.copied_bytes, again.left_out, again.unchanged) == (0, first.left_out, 0)
    assert again.defects == first.defects
    assert adoption.kinds() == kinds


def test_leftovers_bring_nothing(
    old_docker: OldDocker, adopt: Callable[[Path], Adopting], tmp_path: Path
) -> None:
    served = old_docker(tmp_path / "old", 6)
    empty = plant_leftovers(served.root)
    adoption = adopt(served.root)
    report = adoption.run()
    assert not report.failures
    assert_complete(adoption, served.tags)
    for repository in empty:
        assert adoption.tags(repository) == {}
        assert adoption.manifests(repository) == set()
    assert adoption.unexplained() == []


def test_every_class_has_a_meaning() -> None:
    assert all(MEANINGS.values())
    assert set(MEANINGS) >= BROUGHT
