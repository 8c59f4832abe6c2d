"""An index that is taken in without the children that nobody asked for: it keeps its digest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from regmeta import errors
from regmeta.app import Writing
from regmeta.ingest.known import known_tags
from regmeta.ingest.plan import ImageGroup
from regmeta.oci.descriptor import Descriptor, Platform
from regmeta.oci.manifest import Index
from tests.builders import AMD64, ARM64, S390X, Json, LayoutBuilder, digest_of
from tests.support.registry import commit_one, counts, remove_content, request, rows, source_of, tags
from tests.support.sources import WatchedSource


def only(*architectures: str) -> Callable[[Index, Descriptor], bool]:
    def wants(index: Index, child: Descriptor) -> bool:
        assert child in index.manifests
        return child.platform is None or child.platform.architecture in architectures

    return wants


@pytest.fixture
def children(builder: LayoutBuilder) -> dict[str, Json]:
    return {each["architecture"]: builder.image(platform=each) for each in (AMD64, ARM64, S390X)}


@pytest.fixture
def index(builder: LayoutBuilder, children: dict[str, Json]) -> Json:
    return builder.index(children.values())


class Filtered:
    """Takes images in with a filter."""

    def __init__(self, writing: Writing, source: WatchedSource) -> None:
        self.source = source
        self._writing = writing

    def take(self, image: Json, *architectures: str, tag: str = "v1", repository: str = "app") -> None:
        made = request(self.source, image, repository, tag)
        planned = self._writing.registry.copy_manifest(made, wants=only(*architectures))
        [outcome] = self._writing.registry.commit_groups([ImageGroup(planned)])
        if outcome.image.error is not None:
            raise outcome.image.error


@pytest.fixture
def filtered(writing: Writing, builder: LayoutBuilder, layout: Path, index: Json) -> Iterator[Filtered]:
    with source_of(builder, layout) as source:
        yield Filtered(writing, WatchedSource(source))


def members(writing: Writing) -> list[tuple[str, bool, str | None]]:
    """Return of each entry of an index: its architecture, whether it is here, and why not."""
    found = rows(
        writing.database,
        "SELECT architecture, child_id IS NOT NULL, absence FROM index_manifests ORDER BY index_id, position",
    )
    return [(architecture, bool(is_here), absence) for architecture, is_here, absence in found]


def test_child_that_is_not_wanted_is_not_read_and_absent_by_policy(
    writing: Writing, filtered: Filtered, index: Json, children: dict[str, Json]
) -> None:
    filtered.take(index, "amd64")
    assert members(writing) == [("amd64", True, None), ("arm64", False, "policy"), ("s390x", False, "policy")]
    assert tags(writing.database) == {"v1": digest_of(index)}
    assert digest_of(children["amd64"]) in filtered.source.read_digests
    assert digest_of(children["arm64"]) not in filtered.source.read_digests
    assert counts(writing.database, "manifests") == {"manifests": 2}
    assert not writing.registry.can_skip_image("app", "v1", digest_of(index))


def test_later_image_that_wants_a_child_fills_it_in(
    writing: Writing, filtered: Filtered, index: Json
) -> None:
    filtered.take(index, "amd64")
    filtered.take(index, "arm64")
    assert members(writing) == [("amd64", True, None), ("arm64", True, None), ("s390x", False, "policy")]
    filtered.take(index, "amd64", "arm64", "s390x")
    assert {absence for _, _, absence in members(writing)} == {None}
    assert writing.registry.can_skip_image("app", "v1", digest_of(index))


def test_child_that_the_repository_has_is_linked_although_it_is_not_wanted(
    writing: Writing,
    filtered: Filtered,
    builder: LayoutBuilder,
    layout: Path,
    index: Json,
    children: dict[str, Json],
) -> None:
    commit_one(writing, builder, children["arm64"], layout, tag="arm")
    commit_one(writing, builder, children["s390x"], layout, "other", "s390x")
    filtered.take(index, "amd64")
    assert members(writing) == [("amd64", True, None), ("arm64", True, None), ("s390x", False, "policy")]


def test_filter_reaches_into_nested_indexes(
    writing: Writing, builder: LayoutBuilder, layout: Path, children: dict[str, Json]
) -> None:
    inner = builder.index([children["amd64"], children["arm64"]])
    outer = builder.index([inner, children["s390x"]])
    with source_of(builder, layout) as source:
        Filtered(writing, WatchedSource(source)).take(outer, "arm64")
        found = known_tags(writing.database, [("app", "v1")])["app", "v1"]
        assert sorted(str(each) for each in found.absent) == ["linux/amd64", "linux/s390x"]
        Filtered(writing, WatchedSource(source)).take(outer, "arm64", "amd64")
        found = known_tags(writing.database, [("app", "v1")])["app", "v1"]
        assert found.absent == (Platform("linux", "s390x"),)


def test_image_without_any_wanted_child_is_refused(writing: Writing, filtered: Filtered, index: Json) -> None:
    with pytest.raises(errors.NothingWanted, match=index["digest"]) as caught:
        filtered.take(index, "riscv64")
    assert caught.value.exit_code == 3
    assert counts(writing.database, "manifests", "intents") == {"manifests": 0, "intents": 0}


def test_wanted_child_that_the_source_lacks_is_an_error_still(
    writing: Writing, builder: LayoutBuilder, layout: Path, children: dict[str, Json], index: Json
) -> None:
    """What a policy leaves out may be missing upstream; what it wants may not."""
    del builder.blobs[children["s390x"]["digest"]]
    with source_of(builder, layout) as source:
        filtered = Filtered(writing, WatchedSource(source))
        with pytest.raises(errors.MissingContent):
            filtered.take(index, "amd64", "s390x")
        filtered.take(index, "amd64")
    assert members(writing)[2] == ("s390x", False, "policy")


def test_sparse_and_policy_are_told_apart(
    writing: Writing, builder: LayoutBuilder, layout: Path, children: dict[str, Json], index: Json
) -> None:
    del builder.blobs[children["s390x"]["digest"]]
    with source_of(builder, layout) as source:
        planned = writing.registry.copy_manifest(
            request(source, index), sparse=True, wants=only("amd64", "s390x")
        )
        writing.registry.commit_groups([ImageGroup(planned)])
    assert members(writing) == [("amd64", True, None), ("arm64", False, "policy"), ("s390x", False, "sparse")]


# --- local first ------------------------------------------------------------------------------


def test_what_is_here_is_not_read_from_the_source(
    writing: Writing, filtered: Filtered, index: Json, children: dict[str, Json]
) -> None:
    """Also where another repository brought it."""
    filtered.take(index, "amd64", "arm64", "s390x", repository="other")
    watched = WatchedSource(filtered.source.inner)
    local = writing.registry.local_first(watched)
    assert local.location == watched.location
    planned = writing.registry.copy_manifest(request(local, index))
    assert watched.read_digests == {}
    [outcome] = writing.registry.commit_groups([ImageGroup(planned)])
    assert outcome.image.status == "imported"
    assert watched.opened == {}
    assert tags(writing.database) == {"v1": digest_of(index)}


@pytest.mark.inconsistent
@pytest.mark.parametrize("damage", ["rotten", "gone", "marked"])
def test_stored_content_that_is_damaged_is_read_from_the_source(
    writing: Writing, filtered: Filtered, index: Json, damage: str
) -> None:
    filtered.take(index, "amd64", "arm64", "s390x")
    [(key,)] = rows(
        writing.database, "SELECT key FROM blobs WHERE digest = :of", of=digest_of(index).to_bytes()
    )
    path = Path(writing.settings.store) / "blobs" / key
    if damage == "gone":
        path.unlink()
    elif damage == "rotten":
        path.chmod(0o644)
        path.write_bytes(b"x" * path.stat().st_size)
    else:
        with writing.database.transaction("test") as connection:
            connection.exec_driver_sql("UPDATE blobs SET state = 'damaged'")
    watched = WatchedSource(filtered.source.inner)
    planned = writing.registry.copy_manifest(request(writing.registry.local_first(watched), index))
    assert planned.root == digest_of(index)
    assert watched.read_digests[digest_of(index)] == 1


def test_stored_content_does_not_hide_that_a_descriptor_lies(
    writing: Writing,
    filtered: Filtered,
    builder: LayoutBuilder,
    layout: Path,
    children: dict[str, Json],
    index: Json,
) -> None:
    filtered.take(index, "amd64", "arm64", "s390x")
    child = children["amd64"]
    liar = builder.index([{**child, "size": child["size"] - 1}])
    with source_of(builder, layout) as source:
        local = writing.registry.local_first(source)
        with pytest.raises(errors.SizeMismatch):
            writing.registry.copy_manifest(request(local, liar))


def test_what_has_gone_is_read_from_the_source_again(
    writing: Writing, filtered: Filtered, index: Json
) -> None:
    filtered.take(index, "amd64")
    remove_content(writing.database)
    watched = WatchedSource(filtered.source.inner)
    writing.registry.copy_manifest(request(writing.registry.local_first(watched), index))
    assert watched.read_digests[digest_of(index)] == 1
