"""Bases, derived images, and images with the very same layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from regmeta.app import Writing
from regmeta.errors import NotFound, UsageError
from regmeta.ingest.tags import set_tag
from regmeta.maintain.delete.manifest import delete_manifest
from regmeta.maintain.delete.repository import delete_repository
from regmeta.oci import media_types
from regmeta.oci.digest import Digest
from regmeta.oci.names import Reference
from regmeta.query.graph.lineage import Kin, bases, derived, same_layers
from regmeta.query.results import Page
from regmeta.query.visibility import UnderPrefixes
from tests.builders import AMD64, ARM64, Json, LayoutBuilder, digest_of, dumps
from tests.support.plans import plans, scans
from tests.support.registry import commit_one
from tests.support.statements import counted

Put = Callable[..., Digest]
SYSTEM, RUNTIME, APP, OTHER = b"system", b"runtime", b"app", b"other"


@pytest.fixture
def put(writing: Writing, builder: LayoutBuilder, layout: Path) -> Put:
    """Bring a manifest in under a name."""

    def run(descriptor: Json, name: str) -> Digest:
        reference = Reference.parse(name)
        commit_one(writing, builder, descriptor, layout, reference.repository, reference.tag)
        return digest_of(descriptor)

    return run


def names(page: Page[Kin]) -> list[str]:
    return [f"{item.repository}:{','.join(item.tags)}" for item in page.items]


def ask(verb: Callable[..., Page[Kin]], writing: Writing, name: str, **options: object) -> Page[Kin]:
    return verb(writing.database, Reference.parse(name), **options)


@pytest.fixture
def family(builder: LayoutBuilder, put: Put) -> dict[str, Digest]:
    """Images that are built on each other, and some that only look so."""
    made = {
        "system:1": builder.image([SYSTEM]),
        "runtime:1": builder.image([SYSTEM, RUNTIME]),
        "team/app:1": builder.image([SYSTEM, RUNTIME, APP]),
        "team/other:1": builder.image([SYSTEM, OTHER]),
        "team/order:1": builder.image([RUNTIME, SYSTEM, APP]),
        "copy/system:1": builder.image([SYSTEM]),
    }
    return {name: put(descriptor, name) for name, descriptor in made.items()}


def test_bases_are_the_images_whose_layers_are_the_first_of_this_one_the_nearest_first(
    writing: Writing, family: dict[str, Digest]
) -> None:
    found = ask(bases, writing, "team/app:1")

    assert names(found) == ["runtime:1", "system:1", "copy/system:1"]
    assert [(item.layers, item.shared_layers) for item in found.items] == [(2, 2), (1, 1), (1, 1)]
    assert {item.of for item in found.items} == {family["team/app:1"]}
    assert {item.platform for item in found.items} == {"linux/amd64"}
    assert found.next is None
    assert names(ask(bases, writing, "system:1")) == []
    assert names(ask(bases, writing, "team/order:1")) == []


def test_derived_are_the_images_that_begin_with_all_layers_of_this_one(
    writing: Writing, family: dict[str, Digest]
) -> None:
    found = ask(derived, writing, "system:1")

    assert names(found) == ["runtime:1", "team/app:1", "team/other:1"]
    assert [(item.layers, item.shared_layers) for item in found.items] == [(2, 1), (3, 1), (2, 1)]
    assert names(ask(derived, writing, "team/app:1")) == []


def test_images_with_the_very_same_layers_are_neither(writing: Writing, family: dict[str, Digest]) -> None:
    assert names(ask(same_layers, writing, "system:1")) == ["copy/system:1"]
    assert names(ask(same_layers, writing, "copy/system:1")) == ["system:1"]
    assert names(ask(same_layers, writing, "team/app:1")) == []


@pytest.mark.parametrize(("verb", "name"), [(bases, "team/app:1"), (derived, "system:1")])
def test_pages_of_one_make_the_whole_list(
    writing: Writing, family: dict[str, Digest], verb: Callable[..., Page[Kin]], name: str
) -> None:
    whole = ask(verb, writing, name)
    after: str | None = None
    found: list[Kin] = []
    while True:
        page = ask(verb, writing, name, limit=1, after=after)
        found.extend(page.items)
        after = page.next
        if after is None:
            break
    assert tuple(found) == whole.items
    first = ask(verb, writing, name, limit=1)
    with pytest.raises(UsageError, match="another list"):
        ask(verb, writing, "team/other:1", after=first.next)


def test_images_that_compress_a_layer_differently_are_kin(
    writing: Writing, builder: LayoutBuilder, put: Put
) -> None:
    diff = Digest.of(b"uncompressed")

    def image(layers: list[bytes]) -> Json:
        blobs = [builder.layer(layer) for layer in layers]
        ids = [str(diff), *(blob["digest"] for blob in blobs[1:])]
        config = {**AMD64, "config": {}, "rootfs": {"type": "layers", "diff_ids": ids}}
        return builder.image(blobs, builder.blob(dumps(config), media_types.OCI_CONFIG))

    put(image([b"compressed by gzip"]), "gzip:1")
    put(image([b"compressed by zstd"]), "zstd:1")
    put(image([b"compressed by zstd", APP]), "app:1")

    assert names(ask(bases, writing, "app:1")) == ["gzip:1", "zstd:1"]
    assert names(ask(derived, writing, "gzip:1")) == ["app:1"]
    assert names(ask(same_layers, writing, "gzip:1")) == ["zstd:1"]


def test_each_image_of_an_index_is_asked_about_and_is_shown_with_the_tags_of_its_index(
    writing: Writing, builder: LayoutBuilder, put: Put
) -> None:
    base = [builder.image([layer], platform=on) for layer, on in ((b"x", AMD64), (b"y", ARM64))]
    app = [builder.image([layer, APP], platform=on) for layer, on in ((b"x", AMD64), (b"y", ARM64))]
    put(builder.index(base), "base:1")
    put(builder.index(app), "app:1")

    found = ask(bases, writing, "app:1")
    assert {(item.of, item.of_platform, item.digest, item.platform) for item in found.items} == {
        (digest_of(app[0]), "linux/amd64", digest_of(base[0]), "linux/amd64"),
        (digest_of(app[1]), "linux/arm64/v8", digest_of(base[1]), "linux/arm64/v8"),
    }
    assert [(item.tags, item.index_tags) for item in found.items] == [((), ("1",))] * 2
    one = ask(derived, writing, "base:1", platform="linux/arm64")
    assert [item.digest for item in one.items] == [digest_of(app[1])]
    assert ask(derived, writing, "base:1", platform="linux/arm64/v7").items == ()
    paged = ask(bases, writing, "app:1", limit=1)
    assert ask(bases, writing, "app:1", limit=1, after=paged.next).items == found.items[1:]
    with pytest.raises(UsageError, match="no platform"):
        ask(bases, writing, "app:1", platform="linux")


def test_images_of_an_index_that_have_the_same_layers_do_not_repeat_their_kin(
    writing: Writing, builder: LayoutBuilder, put: Put
) -> None:
    put(builder.image([SYSTEM]), "system:1")
    twins = [builder.image([SYSTEM, APP], platform=on) for on in (AMD64, ARM64)]
    put(builder.index(twins), "app:1")

    assert names(ask(bases, writing, "app:1")) == ["system:1"]
    assert [item.digest for item in ask(same_layers, writing, "app:1").items] == [digest_of(twins[1])]


def test_what_has_no_layers_and_what_is_no_image_has_no_kin(
    writing: Writing, builder: LayoutBuilder, put: Put
) -> None:
    put(builder.image([]), "empty:1")
    put(builder.image([], annotations={"a": "b"}), "empty:2")
    put(builder.image([SYSTEM]), "system:1")
    put(builder.image([SYSTEM, APP]), "app:1")
    put(builder.artifact(SYSTEM, "application/x.one"), "artifact:1")

    for verb in (bases, derived, same_layers):
        assert names(ask(verb, writing, "empty:1")) == []
        assert names(ask(verb, writing, "artifact:1")) == []
    assert names(ask(bases, writing, "app:1")) == ["system:1"]
    assert names(ask(same_layers, writing, "system:1")) == []


def test_what_was_deleted_is_nobodys_kin(writing: Writing, family: dict[str, Digest]) -> None:
    delete_manifest(writing.writer, "runtime", family["runtime:1"])
    delete_repository(writing.writer, "copy/system")
    delete_repository(writing.writer, "team/other")

    assert names(ask(bases, writing, "team/app:1")) == ["system:1"]
    assert names(ask(derived, writing, "system:1")) == ["team/app:1"]
    assert names(ask(same_layers, writing, "system:1")) == []


def test_who_sees_some_repositories_is_shown_kin_in_these(
    writing: Writing, family: dict[str, Digest]
) -> None:
    team = UnderPrefixes(["team", "system"])

    assert names(ask(bases, writing, "team/app:1", visible=team)) == ["system:1"]
    assert names(ask(derived, writing, "system:1", visible=team)) == ["team/app:1", "team/other:1"]
    assert names(ask(same_layers, writing, "system:1", visible=team)) == []
    for verb in (bases, derived, same_layers):
        with pytest.raises(NotFound) as hidden:
            ask(verb, writing, "runtime:1", visible=team)
        with pytest.raises(NotFound) as absent:
            ask(verb, writing, "nothing:1", visible=team)
        assert str(hidden.value).replace("runtime", "nothing") == str(absent.value)


def test_kin_have_all_their_tags(writing: Writing, family: dict[str, Digest]) -> None:
    set_tag(writing.writer, "runtime", "stable", family["runtime:1"])

    assert names(ask(bases, writing, "team/app:1"))[0] == "runtime:1,stable"


def test_kin_are_looked_up_by_the_chain_of_layers(writing: Writing, family: dict[str, Digest]) -> None:
    def all_three() -> None:
        for verb in (bases, derived, same_layers):
            ask(verb, writing, "runtime:1")
            ask(
                verb, writing, "runtime:1", platform="linux/amd64", visible=UnderPrefixes(["runtime", "team"])
            )

    for plan in plans(writing.database, all_three):
        assert scans(plan, "manifests", "manifest_blobs", "tags", "repositories", "index_manifests") == [], (
            plan
        )
        if writing.database.is_sqlite and "(chain_digest=?" in plan:
            assert "ORDER BY" not in plan, plan  # what is read is in order already


def test_number_of_statements_does_not_grow_with_the_number_of_kin(
    writing: Writing, family: dict[str, Digest], builder: LayoutBuilder, put: Put
) -> None:
    with counted(writing.database.engine) as few:
        ask(derived, writing, "system:1")
    for number in range(5):
        put(builder.image([SYSTEM, b"%d" % number]), f"more/{number}:1")
    with counted(writing.database.engine) as many:
        assert len(ask(derived, writing, "system:1").items) == 8
    assert len(few) == len(many)
