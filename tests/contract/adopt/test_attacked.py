"""Schedules and storages that have broken an adoption once: each was shown by a failing run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from regmeta import failpoints
from regmeta.adopt.look import Looker
from regmeta.errors import InvalidSource, Refused
from regmeta.ingest.plan import PlannedImage
from regmeta.sources.open import open_source
from tests.builders import LayoutBuilder, tar_layer
from tests.contract.adopt.conftest import Adopting, OldDocker, refusal, rights_matter
from tests.support.old_registries.planting import turned
from tests.support.registry import change, open_parts, request

DAY_US = 86_400_000_000


class Died(BaseException):
    """A process that ends where it stands."""


@contextmanager
def dying_at(point: str) -> Iterator[None]:
    def die(name: str) -> None:
        if name == point:
            raise Died(name)

    with pytest.raises(Died), failpoints.armed(die):
        yield


def test_rotten_copy_of_a_layer_in_one_layout_leaves_a_whole_one_in_another_alone(
    adopt: Callable[[Path], Adopting], tmp_path: Path
) -> None:
    layer = tar_layer(b"x" * 5000)
    root = tmp_path / "layouts"
    rotten = LayoutBuilder()
    rotten.tag(rotten.image([layer]), "v1")
    rotten.write(root / "aaa")
    many = LayoutBuilder(seed=3)
    image = many.image([b"f"])
    for number in range(700):  # so that the next one is looked at after the first was read
        many.tag(image, f"t{number:04d}")
    many.write(root / "mmm")
    whole = LayoutBuilder(seed=5)
    whole.tag(whole.image([layer], annotations={"a": "b"}), "v1")
    whole.write(root / "zzz")
    [name] = [digest for digest, content in rotten.blobs.items() if content == layer]
    (root / "aaa/blobs/sha256" / name.partition(":")[2]).write_bytes(turned(layer))
    adoption = adopt(root)
    adoption.run()
    adoption.run()
    assert {(each.repository, each.kind) for each in adoption.defects()} == {("aaa", "damaged-blob")}
    assert set(adoption.tags("zzz")) == {"v1"}


def test_place_belongs_to_the_source_that_began_there_first(
    old: OldDocker, adoption: Adopting, adopt: Callable[[Path], Adopting], tmp_path: Path
) -> None:
    for tag in ("a1", "a2"):
        old.push("app", tag)
    other = OldDocker(tmp_path / "other")
    other.push("app", "b1")
    with dying_at("adoption_step.committing"):
        adoption.run()
    second = adopt(other.root)
    for _ in range(2):
        second.run()
        assert {(each.kind, each.subject) for each in second.defects()} == {("refused-here", "app")}
        other.push("app")
    adoption.run()
    assert set(adoption.tags("app")) == {"a1", "a2"}
    assert (adoption.defects(), adoption.unexplained()) == ([], [])


def test_tag_that_went_there_while_no_run_had_noted_it_goes_here(old: OldDocker, adoption: Adopting) -> None:
    old.push("app", "gone")
    old.push("app", "v1")
    with dying_at("adoption_step.committing"):
        adoption.run()
    assert set(adoption.tags("app")) == {"gone", "v1"}
    old.untag("app", "gone")
    adoption.run()
    assert set(adoption.tags("app")) == {"v1"}


def test_defect_that_was_noted_explains_nothing_of_what_was_pushed_since(
    old: OldDocker, adoption: Adopting
) -> None:
    old.push("app", "ok")
    old.data(str(old.push("app", "v1"))).write_bytes(b"{}")
    adoption.run()
    assert adoption.unexplained() == []
    old.push("app", "v1")
    assert ("app", "missing", "v1") in adoption.unexplained()
    adoption.run()
    assert adoption.unexplained() == []


def test_folder_that_may_not_be_read_is_neither_equal_nor_done(old: OldDocker, adoption: Adopting) -> None:
    old.push("team/app", "v1")
    folder = old.v2 / "repositories/team"
    folder.chmod(0)
    try:
        with rights_matter(adoption):
            adoption.run()
            assert [kind for _, kind, _ in adoption.unexplained()] == ["unreadable there"]
            assert isinstance(refusal(adoption.finalize), Refused)
    finally:
        folder.chmod(0o755)
    adoption.run()
    assert (adoption.defects(), adoption.unexplained()) == ([], [])
    adoption.finalize()


def test_file_of_nobody_that_may_not_be_read_hides_no_later_push(old: OldDocker, adoption: Adopting) -> None:
    old.push("app", "v1")
    link = next((old.v2 / "repositories/app/_manifests/revisions/sha256").iterdir())
    (link / ".nfs0001").write_text("x")
    (link / ".nfs0001").chmod(0)
    with rights_matter(adoption):
        adoption.run()
        old.push("app", "v2")
        adoption.run()
        assert adoption.run().unchanged == 1
        adoption.finalize()
    assert set(adoption.tags("app")) == {"v1", "v2"}


def test_overwritten_tag_was_here_until_now_whatever_the_old_files_say(
    old: OldDocker, adoption: Adopting, tmp_path: Path
) -> None:
    old.push("app", "v1")
    old.spread_times()
    mine = LayoutBuilder(seed=9)
    mine.tag(mine.image([b"mine"]), "v1")
    mine.write(tmp_path / "mine")
    with adoption.writing() as here:
        source = open_source(str(tmp_path / "mine"))
        assert list(here.registry.import_images([request(source, mine.entries[0], "app", "v1")]))
        source.close()
    database, store = open_parts(adoption.settings)
    change(database, f"UPDATE tags SET started_at = started_at - {10 * DAY_US}")
    store.close()
    database.close()
    adoption.run(overwrite=True)
    [(started, ended)] = adoption.rows(
        "SELECT started_at, ended_at FROM tags WHERE ended_at IS NOT NULL AND started_by NOT LIKE 'adopt:%'"
    )
    assert ended - started >= 10 * DAY_US


def test_index_that_is_listed_again_and_again_is_looked_at_once(
    adopt: Callable[[Path], Adopting], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = LayoutBuilder()
    bad = builder.image([b"bad"])
    missing = [builder.image([b"m%d" % number]) for number in range(50)]
    group = builder.index(missing)
    builder.tag(builder.index([bad, *[group] * 2000]), "v1")
    builder.write(tmp_path / "layouts/app")
    blobs = tmp_path / "layouts/app/blobs/sha256"
    for each in missing:
        (blobs / each["digest"].partition(":")[2]).unlink()
    (blobs / bad["digest"].partition(":")[2]).write_bytes(b"{}")
    adoption = adopt(tmp_path / "layouts")
    looks = 0
    whole = Looker._whole

    def counted(self: Looker, *given: Any) -> PlannedImage:
        nonlocal looks
        looks += 1
        return whole(self, *given)

    with monkeypatch.context() as patched:
        patched.setattr(Looker, "_whole", counted)
        assert adoption.run().brought == 1
    assert looks < 200
    assert {each.kind for each in adoption.defects()} == {"broken-index-child"}


def test_storage_that_lists_nothing_any_more_is_not_empty(old: OldDocker, adoption: Adopting) -> None:
    old.push("app", "v1")
    adoption.run()
    folder = old.v2 / "repositories"
    folder.rename(old.v2 / "aside")
    folder.mkdir()
    for work in (adoption.run, adoption.finalize):
        error = refusal(work)
        assert isinstance(error, InvalidSource)
        assert "is it mounted?" in str(error)
    assert set(adoption.tags("app")) == {"v1"}
