"""What a location names is found by looking."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from regmeta.errors import InvalidSource
from regmeta.sources.storage import Kind
from regmeta.sources.storage.open import folders_above, open_storage
from tests.builders import LayoutBuilder
from tests.support.old_registries.docker_tree import DockerTree


@pytest.fixture
def docker(tmp_path: Path) -> Path:
    builder = LayoutBuilder()
    root = tmp_path / "registry"
    DockerTree(root).image("team/app", builder, builder.image(), "v1")
    return root


@pytest.fixture
def layouts(tmp_path: Path) -> Path:
    builder = LayoutBuilder()
    builder.tag(builder.image(), "v1")
    builder.write(tmp_path / "zot/team/app")
    return tmp_path / "zot"


@pytest.mark.parametrize("below", ["", "docker", "docker/", "docker/registry", "docker/registry/v2/"])
def test_folder_of_dockers_registry_may_be_named_at_any_level(docker: Path, below: str) -> None:
    with closing(open_storage(f"{docker}/{below}", links=False)) as storage:
        assert (storage.kind, storage.location) == ("docker", str(docker))
        assert list(storage.repositories()) == ["team/app"]


def test_copy_of_v2_under_another_name_is_found(docker: Path, tmp_path: Path) -> None:
    (docker / "docker/registry/v2").rename(tmp_path / "copy")
    with closing(open_storage(str(tmp_path / "copy"), links=False)) as storage:
        assert (storage.kind, storage.location) == ("docker", str(tmp_path / "copy"))
        [tag] = storage.repository("team/app").tags
        assert storage.blob_size("team/app", tag.digest)


def test_path_may_be_relative(docker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(docker / "docker/registry")
    with closing(open_storage(".", links=False)) as storage:
        assert storage.location == str(docker)


def test_tree_of_layouts_is_found(layouts: Path) -> None:
    for path, name in ((layouts, "team/app"), (layouts / "team", "app"), (layouts / "team/app", "app")):
        with closing(open_storage(str(path), links=False)) as storage:
            assert storage.kind == "layouts"
            assert list(storage.repositories()) == [name]


def test_kind_that_is_given_is_not_looked_for(layouts: Path, docker: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with closing(open_storage(str(tmp_path / "empty"), links=False, kind="layouts")) as storage:
        assert list(storage.repositories()) == []
    with closing(open_storage(str(docker), links=False, kind="docker")) as storage:
        assert storage.kind == "docker"
    for path, kind in ((layouts, "docker"), (tmp_path / "empty", "docker")):
        with pytest.raises(InvalidSource, match="expected"):
            open_storage(str(path), links=False, kind=kind)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [None, "docker"])
def test_folder_that_is_neither_is_told_what_was_expected(tmp_path: Path, kind: Kind | None) -> None:
    (tmp_path / "x/y").mkdir(parents=True)
    with pytest.raises(InvalidSource, match=r"expected docker's registry .*docker/registry/v2.*OCI layouts"):
        open_storage(str(tmp_path), links=False, kind=kind)


@pytest.mark.parametrize(
    "path", ["", "/nowhere/at/all", "nul\0", "/etc/passwd", "/nowhere/docker/registry/v2"]
)
def test_location_that_is_no_folder_is_refused(path: str) -> None:
    with pytest.raises(InvalidSource):
        open_storage(path, links=False)


def test_link_below_the_root_is_said_to_be_one(docker: Path, tmp_path: Path) -> None:
    (docker / "docker").rename(tmp_path / "moved")
    (docker / "docker").symlink_to(tmp_path / "moved")
    with pytest.raises(InvalidSource, match="symbolic link"):
        open_storage(str(docker), links=False)


@pytest.mark.parametrize(
    ("location", "above"),
    [
        ("/var/lib/registry", []),
        ("/var/lib/docker", ["/var/lib"]),
        ("/docker/registry/v2", ["/"]),
        ("/mydocker/registry/v2", []),
        ("s3://bucket/docker/registry/v2/", ["s3://bucket"]),
        ("s3://bucket/old/docker", ["s3://bucket/old"]),
        ("s3://docker", []),
        ("s3://docker/registry/v2", []),
    ],
)
def test_what_a_location_may_lie_in(location: str, above: list[str]) -> None:
    assert list(folders_above(location)) == above


def test_nothing_is_left_open(docker: Path, layouts: Path, tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for path in (docker, docker / "docker/registry/v2", layouts):
        open_storage(str(path), links=True).close()
    with pytest.raises(InvalidSource):
        open_storage(str(tmp_path / "registry/docker/registry/v2/blobs"), links=True)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_links_are_given_only_where_they_are_asked_for(docker: Path) -> None:
    for links in (False, True):
        with closing(open_storage(str(docker), links=links)) as storage:
            [tag] = storage.repository("team/app").tags
            with storage.source("team/app").open(tag.digest) as stream:
                assert hasattr(stream, "linkable_fd") is links
