"""A comparison finds whatever is not here as it is there, and says nothing where it is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from regmeta.errors import NotFound
from regmeta.ingest.tags import remove_tag, set_tag
from regmeta.oci.digest import Digest
from tests.builders import LayoutBuilder
from tests.contract.adopt.conftest import Adopting, OldDocker, refusal
from tests.support.old_registries.planting import turned
from tests.support.registry import change, commit_one, open_parts

LAYER: Final = b"one layer of the image that is spoilt here" * 20
# What is spoilt here is a copy: a link would spoil the old registry with it.
pytestmark = pytest.mark.inconsistent


@pytest.fixture
def adopted(old: OldDocker, adoption: Adopting) -> Adopting:
    """Two repositories that were brought."""
    old.push("app", "v1", LAYER)
    old.push("app", "v2")
    old.push("app")
    old.push("other", "v1")
    adoption.run(links=False)
    return adoption


def object_of(adopted: Adopting, digest: Digest) -> Path:
    [(key,)] = adopted.rows("SELECT key FROM blobs WHERE digest = :of", of=digest.to_bytes())
    return Path(adopted.settings.store) / "blobs" / str(key)


def spoil_object(adopted: Adopting, digest: Digest, content: bytes | None) -> None:
    path = object_of(adopted, digest)
    path.chmod(0o644)
    path.unlink()
    if content is not None:
        path.write_bytes(content)


def spoil_rows(adopted: Adopting, statement: str, **values: object) -> None:
    with closing(open_parts(adopted.settings)[0]) as database:
        change(database, statement, **values)


def test_what_was_just_brought_is_equal(adopted: Adopting) -> None:
    for deep in (False, True):
        found = adopted.verify(deep=deep)
        assert all(each.is_equal and not each.differences for each in found)
        assert {(each.source, each.tags, each.manifests) for each in found} == {
            ("app", 2, 3),
            ("other", 1, 1),
        }
        assert all(each.blobs >= 2 * each.manifests for each in found)


@pytest.mark.parametrize("content", [None, b"", LAYER[:-1], LAYER + b"more"])
def test_object_that_is_gone_or_has_another_size_is_found(adopted: Adopting, content: bytes | None) -> None:
    spoil_object(adopted, Digest.of(LAYER), content)
    for deep in (False, True):
        assert adopted.unexplained(deep=deep) == [("app", "damaged here", str(Digest.of(LAYER)))]


def test_bytes_that_were_changed_are_found_by_a_deep_comparison(adopted: Adopting) -> None:
    spoil_object(adopted, Digest.of(LAYER), turned(LAYER))
    assert adopted.unexplained() == []
    assert adopted.unexplained(deep=True) == [("app", "damaged here", str(Digest.of(LAYER)))]


@pytest.mark.parametrize("change_", [None, "turned", "cut"])
def test_object_of_a_manifest_is_read_in_any_case(adopted: Adopting, change_: str | None) -> None:
    digest = adopted.tags("app")["v1"]
    content = object_of(adopted, digest).read_bytes()
    spoil_object(adopted, digest, {None: None, "turned": turned(content), "cut": content[:-1]}[change_])
    assert adopted.unexplained() == [("app", "damaged here", str(digest))]


def test_content_of_a_row_is_hashed(adopted: Adopting) -> None:
    digest = adopted.tags("app")["v1"]
    content = object_of(adopted, digest).read_bytes()
    spoil_rows(
        adopted,
        "UPDATE manifests SET content = :to WHERE digest = :of",
        to=turned(content),
        of=digest.to_bytes(),
    )
    assert adopted.unexplained() == [("app", "damaged here", str(digest))]


def test_blob_that_is_marked_as_damaged_is_found(adopted: Adopting) -> None:
    digest = Digest.of(LAYER)
    spoil_rows(adopted, "UPDATE blobs SET state = 'damaged' WHERE digest = :of", of=digest.to_bytes())
    assert ("app", "damaged here", str(digest)) in adopted.unexplained()


def test_tag_that_was_moved_or_removed_here_is_found(adopted: Adopting) -> None:
    tags = adopted.tags("app")
    with adopted.writing() as here:
        set_tag(here.writer, "app", "v1", tags["v2"])
        set_tag(here.writer, "app", "new", tags["v2"])
        remove_tag(here.writer, "app", "v2")
    assert adopted.unexplained() == [
        ("app", "different", "v1"),
        ("app", "missing", "v2"),
        ("app", "only here", "new"),
    ]


def test_manifest_that_is_gone_here_is_found(adopted: Adopting) -> None:
    digest = adopted.tags("app")["v2"]
    spoil_rows(
        adopted, "UPDATE manifests SET deleted_at = pushed_at WHERE digest = :of", of=digest.to_bytes()
    )
    assert adopted.unexplained() == [("app", "missing", str(digest))]


def test_repository_that_is_gone_here_is_found(adopted: Adopting) -> None:
    spoil_rows(adopted, "UPDATE repositories SET state = 'deleted' WHERE name = 'other'")
    found = adopted.unexplained()
    assert {(source, kind) for source, kind, _ in found} == {("other", "missing")}
    assert len(found) == 2


def test_image_that_somebody_pushed_here_is_only_here(
    adopted: Adopting, builder: LayoutBuilder, tmp_path: Path
) -> None:
    image = builder.image([b"new"])
    with adopted.writing() as here:
        commit_one(here, builder, image, tmp_path / "new", "app", "mine")
    assert adopted.unexplained() == [
        ("app", "only here", "mine"),
        ("app", "only here", image["digest"]),
    ]


def test_what_the_old_registry_got_since_is_a_difference(old: OldDocker, adopted: Adopting) -> None:
    digest = old.push("app", "later")
    assert adopted.unexplained() == [("app", "missing", "later"), ("app", "missing", str(digest))]


def test_image_that_is_gone_there_is_explained_until_it_is_collected(
    old: OldDocker, adopted: Adopting
) -> None:
    digest = adopted.tags("app")["v2"]
    old.untag("app", "v2")
    old.revision_link("app", str(digest)).unlink()
    adopted.run()
    [app] = [each for each in adopted.verify() if each.source == "app"]
    assert [(item.kind, item.subject, item.explained_by) for item in app.differences] == [
        ("only here", str(digest), "gone-there")
    ]
    assert app.is_equal


def test_comparison_changes_nothing(adopted: Adopting) -> None:
    tables = ("adoptions", "adoption_repositories", "adoption_defects", "manifests", "blobs", "tags")
    before = [adopted.rows(f"SELECT * FROM {name}") for name in tables]
    adopted.verify(deep=True)
    assert [adopted.rows(f"SELECT * FROM {name}") for name in tables] == before


def test_what_was_never_adopted_cannot_be_compared(old: OldDocker, adopt: Callable[[Path], Adopting]) -> None:
    adoption = adopt(old.root)
    for work in (adoption.verify, adoption.defects, adoption.finalize):
        error = refusal(work)
        assert isinstance(error, NotFound)
        assert str(old.root) in str(error)


def test_repository_with_a_bad_name_is_never_just_equal(adopted: Adopting, old: OldDocker) -> None:
    """Nothing of it is read, and still it is told that nothing of it is here."""
    old.push("Team", "v1")
    assert adopted.unexplained() == [("Team", "missing", "Team")]
    adopted.run(links=False)
    [found] = [each for each in adopted.verify() if each.source == "Team"]
    [difference] = found.differences
    assert (difference.subject, difference.explained_by) == ("Team", "bad-repository-name")
