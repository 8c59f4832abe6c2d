"""Layers, the choice of an image, histories beside layers, and what differs between two images."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from regmeta import errors
from regmeta.app import Writing
from regmeta.content import configs
from regmeta.oci import media_types
from regmeta.oci.names import Reference
from regmeta.query import tree
from regmeta.query.images.choose import parse_platform
from regmeta.query.images.diff import diff
from regmeta.query.images.layers import layers
from regmeta.query.images.results import Change, ImageDiff, ImageLayers
from regmeta.query.visibility import UnderPrefixes
from tests.builders import AMD64, ARM64, S390X, Json, LayoutBuilder, digest_of, dumps
from tests.support.registry import change, commit_one, key_of

ARM32: Json = {"architecture": "arm", "os": "linux"}


@pytest.fixture
def put(writing: Writing, builder: LayoutBuilder, layout: Path) -> Any:
    def commit(image: Json, tag: str | None = "v1", repository: str = "app", **options: Any) -> Json:
        commit_one(writing, builder, image, layout, repository, tag, **options)
        return image

    return commit


def layers_of(writing: Writing, reference: str = "app:v1", platform: str | None = None) -> ImageLayers:
    of = None if platform is None else parse_platform(platform)
    return layers(writing.database, Reference.parse(reference), platform=of)


def diff_of(writing: Writing, first: str, second: str, platform: str | None = None) -> ImageDiff:
    of = None if platform is None else parse_platform(platform)
    return diff(writing.database, Reference.parse(first), Reference.parse(second), platform=of)


def configured(builder: LayoutBuilder, layers: list[Json], **fields: Any) -> Json:
    """Return an image whose configuration has further fields."""
    rootfs = {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]}
    document = {**AMD64, "rootfs": rootfs, **fields}
    return builder.image(layers, builder.blob(dumps(document), media_types.OCI_CONFIG))


# --- layers -----------------------------------------------------------------------------------


def test_layers_are_listed_from_the_base_up(writing: Writing, builder: LayoutBuilder, put: Any) -> None:
    made = [builder.layer(), builder.layer()]
    foreign = builder.blob(b"foreign", "application/vnd.oci.image.layer.nondistributable.v1.tar")
    del builder.blobs[foreign["digest"]]
    put(builder.image([*made, made[0], foreign]))
    found = layers_of(writing)
    assert [layer.position for layer in found.layers] == [1, 2, 3, 4]
    assert [layer.digest for layer in found.layers] == list(map(digest_of, [*made, made[0], foreign]))
    assert [layer.state for layer in found.layers] == ["live", "live", "live", "absent"]
    assert found.total_bytes - found.size_bytes == made[0]["size"]
    assert found.layers[0].chain_digest == digest_of(made[0])
    assert found.platform == "linux/amd64"


@pytest.fixture
def index(builder: LayoutBuilder, put: Any) -> dict[str, Json]:
    platforms = {"amd64": AMD64, "arm64": ARM64, "arm": ARM32, "s390x": S390X}
    images = {name: builder.image(platform=each) for name, each in platforms.items()}
    unknown = builder.image(platform={"os": "unknown", "architecture": "unknown"})
    nested = builder.index([images["arm"], images["s390x"]])
    del builder.blobs[images["s390x"]["digest"]]
    put(builder.index([images["amd64"], images["arm64"], nested, unknown]), sparse=True)
    return images


@pytest.mark.parametrize(
    ("platform", "name"),
    [("linux/amd64", "amd64"), ("linux/arm64", "arm64"), ("linux/arm64/v8", "arm64"), ("linux/arm", "arm")],
)
def test_image_of_a_platform_is_chosen(
    writing: Writing, index: dict[str, Json], platform: str, name: str
) -> None:
    assert layers_of(writing, platform=platform).digest == digest_of(index[name])


@pytest.mark.parametrize(
    ("platform", "error", "message"),
    [
        (None, errors.UsageError, "--platform: linux/amd64, linux/arm64/v8, linux/arm, linux/s390x"),
        ("linux/riscv64", errors.NotFound, "no image for linux/riscv64; it has: linux/amd64"),
        ("linux/arm64/v7", errors.NotFound, "no image for linux/arm64/v7"),
        ("unknown/unknown", errors.NotFound, "no image for unknown/unknown"),
        ("linux/s390x", errors.NotFound, r"is not here \(sparse\)"),
    ],
)
def test_platform_that_chooses_none_is_refused_with_those_that_there_are(
    writing: Writing, index: dict[str, Json], platform: str | None, error: type[errors.Error], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        layers_of(writing, platform=platform)
    assert "app:v1" in str(caught.value)


def test_index_of_one_image_needs_no_platform(writing: Writing, builder: LayoutBuilder, put: Any) -> None:
    image = builder.image(platform=AMD64)
    unknown = builder.image(platform={"os": "unknown", "architecture": "unknown"})
    put(builder.index([image, unknown]))
    assert layers_of(writing).digest == digest_of(image)


def test_image_of_another_platform_is_not_found(writing: Writing, builder: LayoutBuilder, put: Any) -> None:
    put(builder.image())
    assert layers_of(writing, platform="linux/amd64").platform == "linux/amd64"
    with pytest.raises(errors.NotFound, match="app:v1: is for linux/amd64, not for linux/arm64"):
        layers_of(writing, platform="linux/arm64")


def test_two_images_of_one_platform_are_named_by_digest(
    writing: Writing, builder: LayoutBuilder, put: Any
) -> None:
    images = [builder.image(platform=AMD64), builder.image(platform=AMD64)]
    put(builder.index(images))
    with pytest.raises(errors.UsageError, match=images[1]["digest"]):
        layers_of(writing, platform="linux/amd64")


@pytest.mark.parametrize("text", ["", "linux", "linux/", "/amd64", "a/b/c/d"])
def test_text_that_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(errors.UsageError, match="--platform"):
        parse_platform(text)


def test_layers_of_what_may_not_be_seen_are_not_found(
    writing: Writing, builder: LayoutBuilder, put: Any
) -> None:
    put(builder.image())
    of, team = Reference.parse("app:v1"), UnderPrefixes(["team"])
    reads: list[Any] = [
        lambda: layers(writing.database, of, visible=team),
        lambda: diff(writing.database, of, of, visible=team),
        lambda: tree.image(writing.database, of, visible=team),
        lambda: tree.content(writing.database, of, visible=team),
        lambda: configs.view(writing.database, writing.store, of, visible=team),
        lambda: configs.read_config(writing.database, writing.store, of, visible=team),
        lambda: configs.history(writing.database, writing.store, of, visible=team),
        lambda: configs.compare(writing.database, writing.store, of, of, visible=team),
    ]
    for read in reads:
        with pytest.raises(errors.NotFound, match=r"^app:v1: no such tag$"):
            read()


# --- trees ------------------------------------------------------------------------------------


@pytest.mark.inconsistent
def test_image_that_cannot_be_understood_hides_no_other_in_the_tree(
    writing: Writing, builder: LayoutBuilder, put: Any
) -> None:
    images = [builder.image(platform=AMD64), builder.image(platform=ARM64)]
    put(builder.index(images))
    change(
        writing.database,
        "UPDATE manifests SET content = :bad WHERE digest = :of",
        bad=b"{",
        of=digest_of(images[0]).to_bytes(),
    )
    found = tree.image(writing.database, Reference.parse("app:v1"))
    assert [(child.platform, child.absence) for child in found.tree.children] == [
        ("linux/amd64", "damaged"),
        ("linux/arm64/v8", None),
    ]


# --- configurations ---------------------------------------------------------------------------


def test_history_stands_beside_layers(writing: Writing, builder: LayoutBuilder, put: Any) -> None:
    made = [builder.layer(), builder.layer()]
    steps = [{"created_by": "ADD"}, {"created_by": "ENV", "empty_layer": True}, {"created_by": "RUN"}]
    put(configured(builder, made, history=steps))
    found = configs.history(writing.database, writing.store, Reference.parse("app:v1"))
    assert found.aligned.problem is None
    assert [
        (step.entry and step.entry.created_by, step.layer and step.layer.digest)
        for step in found.aligned.steps
    ] == [("ADD", digest_of(made[0])), ("ENV", None), ("RUN", digest_of(made[1]))]


def test_history_of_another_number_of_layers_is_said_and_lists_all(
    writing: Writing, builder: LayoutBuilder, put: Any
) -> None:
    put(configured(builder, [builder.layer(), builder.layer()], history=[{"created_by": "ADD"}]))
    found = configs.history(writing.database, writing.store, Reference.parse("app:v1"))
    assert found.aligned.problem == "the history tells of 1 layers, the manifest has 2"
    assert sum(step.layer is not None for step in found.aligned.steps) == 2


def test_artifact_has_layers_and_no_configuration(writing: Writing, builder: LayoutBuilder, put: Any) -> None:
    put(builder.artifact(b"chart", "application/vnd.example.chart"))
    found = configs.history(writing.database, writing.store, Reference.parse("app:v1"))
    assert (found.config.details, len(found.aligned.steps)) == (None, 1)
    assert found.config.problem == f"{media_types.OCI_EMPTY} is not the configuration of an image"


@pytest.mark.inconsistent
@pytest.mark.parametrize("damage", ["rotten", "gone", "marked"])
def test_damaged_configuration_is_said_beside_what_rows_say(
    writing: Writing, builder: LayoutBuilder, put: Any, damage: str
) -> None:
    made = [builder.layer()]
    config = builder.config(made)
    put(builder.image(made, config))
    path = Path(writing.settings.store) / "blobs" / key_of(writing.database, digest_of(config))
    if damage == "gone":
        path.unlink()
    elif damage == "rotten":
        path.chmod(0o644)
        path.write_bytes(b"x" * path.stat().st_size)
    else:
        change(writing.database, "UPDATE blobs SET state = 'damaged'")
    found = configs.view(writing.database, writing.store, Reference.parse("app:v1"))
    assert found.summary.platforms == ("linux/amd64",)
    assert found.config is not None
    assert found.config.details is None
    assert config["digest"] in str(found.config.problem)


def test_index_is_viewed_without_a_configuration_and_its_image_with_one(
    writing: Writing, index: dict[str, Json]
) -> None:
    of = Reference.parse("app:v1")
    assert configs.view(writing.database, writing.store, of).config is None
    found = configs.view(writing.database, writing.store, of, platform=parse_platform("linux/arm64"))
    assert found.summary.digest == digest_of(index["arm64"])
    assert found.config is not None
    assert found.config.details is not None
    assert found.config.details.architecture == "arm64"


# --- differences ------------------------------------------------------------------------------


def test_image_differs_in_nothing_from_itself(writing: Writing, builder: LayoutBuilder, put: Any) -> None:
    image = put(builder.image())
    put(image, "v1", "other")
    for second in ("app:v1", "other:v1"):
        found = diff_of(writing, "app:v1", second)
        assert found.is_same
        assert (found.only_first_bytes, found.only_second_bytes) == (0, 0)
        assert found.shared_bytes == found.first.size_bytes
        [pair] = found.pairs
        assert (pair.common_base, len(pair.common), pair.added, pair.removed, pair.labels) == (
            2,
            2,
            (),
            (),
            (),
        )


def test_layers_are_common_removed_and_added(writing: Writing, builder: LayoutBuilder, put: Any) -> None:
    base, old, new, top = (builder.layer() for _ in range(4))
    first = put(builder.image([base, old, top], annotations={"a": "1", "b": "1"}), "v1")
    second = put(builder.image([base, new, top, new], annotations={"b": "2", "c": "2"}), "v2")
    found = diff_of(writing, "app:v1", "app:v2")
    assert (found.first.digest, found.second.digest) == (digest_of(first), digest_of(second))
    assert found.shared_bytes == base["size"] + top["size"]
    assert found.shared_bytes + found.only_first_bytes == found.first.size_bytes
    assert found.shared_bytes + found.only_second_bytes == found.second.size_bytes
    assert found.annotations == (Change("a", "1", None), Change("b", "1", "2"), Change("c", None, "2"))
    [pair] = found.pairs
    assert (pair.platform, pair.common_base) == ("linux/amd64", 1)
    assert [layer.digest for layer in pair.common] == [digest_of(base), digest_of(top)]
    assert [layer.digest for layer in pair.removed] == [digest_of(old)]
    assert [layer.position for layer in pair.added] == [2, 4]


def test_base_that_is_compressed_differently_is_common(
    writing: Writing, builder: LayoutBuilder, put: Any
) -> None:
    plain, top = builder.layer(), builder.layer()
    content = gzip.compress(builder.blobs[plain["digest"]])
    packed = builder.blob(content, "application/vnd.oci.image.layer.v1.tar+gzip")
    config = builder.config([plain, top])
    put(builder.image([plain, top], config), "v1")
    put(builder.image([packed, top], config), "v2")
    [pair] = diff_of(writing, "app:v1", "app:v2").pairs
    assert (pair.common_base, len(pair.common), len(pair.removed), len(pair.added)) == (2, 1, 1, 1)


def test_indexes_are_compared_by_platform(writing: Writing, builder: LayoutBuilder, put: Any) -> None:
    same = builder.image(platform=AMD64)
    put(builder.index([same, builder.image(platform=S390X), builder.image(platform=ARM64)]), "v1")
    put(builder.index([builder.image(platform=ARM64), same, builder.image(platform=ARM32)]), "v2")
    found = diff_of(writing, "app:v1", "app:v2")
    assert found.platforms_common == ("linux/amd64", "linux/arm64/v8")
    assert (found.platforms_removed, found.platforms_added) == (("linux/s390x",), ("linux/arm",))
    assert [(pair.platform, pair.first == pair.second) for pair in found.pairs] == [
        ("linux/amd64", True),
        ("linux/arm64/v8", False),
    ]
    [only] = diff_of(writing, "app:v1", "app:v2", "linux/arm64").pairs
    assert only == found.pairs[1]


def test_image_and_index_need_a_platform_if_there_are_several(
    writing: Writing, builder: LayoutBuilder, put: Any
) -> None:
    image = put(builder.image(platform=AMD64), "v1")
    put(builder.index([image]), "one")
    put(builder.index([image, builder.image(platform=ARM64)]), "two")
    assert diff_of(writing, "app:v1", "app:one").is_same
    with pytest.raises(errors.UsageError, match="app:two: is an index"):
        diff_of(writing, "app:two", "app:v1")
    assert diff_of(writing, "app:two", "app:v1", "linux/amd64").is_same


def test_configurations_are_compared_by_field(writing: Writing, builder: LayoutBuilder, put: Any) -> None:
    made = [builder.layer()]
    labels = {"kept": "x", "old": "x"}
    one = {
        "Env": ["PATH=/bin", "A=1", "SAME=x"],
        "Cmd": ["a b"],
        "ExposedPorts": {"80/tcp": {}},
        "User": "root",
        "Labels": labels,
    }
    two = {
        "Env": ["SAME=x", "PATH=/usr/bin"],
        "Cmd": ["a", "b"],
        "ExposedPorts": {"80/tcp": {}, "443/tcp": {}},
        "WorkingDir": "/srv",
        "Labels": {"kept": "x"},
    }
    put(configured(builder, made, config=one), "v1")
    put(configured(builder, made, config=two, created="2024-01-01T00:00:00Z"), "v2")
    first, second = Reference.parse("app:v1"), Reference.parse("app:v2")
    found = configs.compare(writing.database, writing.store, first, second)
    [pair], [config] = found.images.pairs, found.configs
    assert pair.labels == (Change("old", "x", None),)
    assert config.changes == (
        Change("Cmd", '["a b"]', '["a", "b"]'),
        Change("Env A", "1", None),
        Change("Env PATH", "/bin", "/usr/bin"),
        Change("ExposedPorts 443/tcp", None, ""),
        Change("User", "root", None),
        Change("WorkingDir", None, "/srv"),
        Change("created", None, "2024-01-01T00:00:00Z"),
    )
    assert config.problems == ()
