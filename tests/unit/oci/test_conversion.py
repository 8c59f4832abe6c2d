"""Docker's types become OCI's, the same way each time, and nothing else changes."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regmeta.errors import InvalidDigest, InvalidManifest, MissingContent, SizeMismatch
from regmeta.oci import media_types
from regmeta.oci.conversion import MAX_DEPTH, MAX_MANIFESTS, OCI_TYPES, Converted, convert, convert_tree
from regmeta.oci.descriptor import Descriptor
from regmeta.oci.digest import Digest
from regmeta.oci.manifest import Index, Manifest, parse

Json = dict[str, Any]
GZIP: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"
FOREIGN: Final = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
EXAMPLE: Final = Path(__file__).parents[3] / "examples" / "sample-docker"


class Tree:
    """Manifests by their digests, as a registry has them."""

    def __init__(self) -> None:
        self.contents: dict[Digest, bytes] = {}
        self.reads: list[Digest] = []

    def add(self, document: Json, **pretty: Any) -> Descriptor:
        content = json.dumps(document, **pretty).encode()
        digest = Digest.of(content)
        self.contents[digest] = content
        return Descriptor(document["mediaType"], digest, len(content))

    def read(self, descriptor: Descriptor) -> bytes:
        self.reads.append(descriptor.digest)
        try:
            return self.contents[descriptor.digest]
        except KeyError:
            raise MissingContent(str(descriptor.digest)) from None

    def convert(self, root: Descriptor) -> dict[Digest, Converted]:
        return convert_tree(root, self.contents[root.digest], self.read)


def entry(media_type: str, name: str, **others: Any) -> Json:
    return {"mediaType": media_type, "size": 7, "digest": str(Digest.of(name.encode())), **others}


def image(name: str = "a", *layers: str, docker: bool = True, **others: Any) -> Json:
    return {
        "schemaVersion": 2,
        "mediaType": media_types.DOCKER_MANIFEST if docker else media_types.OCI_MANIFEST,
        "config": entry(media_types.DOCKER_CONFIG if docker else media_types.OCI_CONFIG, f"config {name}"),
        "layers": [entry(kind, f"{name} {number}") for number, kind in enumerate(layers or (GZIP,))],
        **others,
    }


def index(*children: Json, docker: bool = True, **others: Any) -> Json:
    kind = media_types.DOCKER_LIST if docker else media_types.OCI_INDEX
    return {"schemaVersion": 2, "mediaType": kind, "manifests": list(children), **others}


def listed(descriptor: Descriptor, **others: Any) -> Json:
    return {**descriptor.to_json(), **others}


def test_types_change_and_all_else_stays_in_its_order() -> None:
    tree = Tree()
    subject = entry(media_types.DOCKER_MANIFEST, "subject")
    made = image(
        "é",
        GZIP,
        FOREIGN,
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/x-other",
        annotations={"b": "2", "a": "ü"},
        subject=subject,
        other={"z": [1, None, 2.5], "a": True},
    )
    made["layers"][1]["urls"] = ["https://example.org/layer"]
    root = tree.add(made, indent=3)

    converted = tree.convert(root)[root.digest]
    document = json.loads(converted.content)

    assert list(document) == list(made)
    assert document["mediaType"] == converted.descriptor.media_type == media_types.OCI_MANIFEST
    assert document["config"] == {**made["config"], "mediaType": media_types.OCI_CONFIG}
    assert [layer["mediaType"] for layer in document["layers"]] == [
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar",
        "application/x-other",
    ]
    assert [list(layer) for layer in document["layers"]] == [list(layer) for layer in made["layers"]]
    for key in ("annotations", "subject", "other"):
        assert document[key] == made[key]
    assert converted.descriptor.digest == Digest.of(converted.content)
    assert converted.descriptor.size_bytes == len(converted.content)


def test_bytes_of_a_conversion_are_the_same_in_every_release() -> None:
    """A poll holds what it would store against what is stored: other bytes would be another image."""
    tree = Tree()
    root = tree.add(image(annotations={"ü": "é/\n"}))

    assert str(tree.convert(root)[root.digest].descriptor.digest) == (
        "sha256:9ce8992b1e3914cc98dd161228d0f887ee430c2f8c425a88a79f909364571402"
    )


@pytest.mark.parametrize("made", [image(docker=False, name="x"), index(docker=False)])
def test_what_has_none_of_dockers_types_keeps_its_bytes(made: Json) -> None:
    if "layers" in made:
        made["layers"][0]["mediaType"] = "application/vnd.oci.image.layer.v1.tar+gzip"
    tree = Tree()
    root = tree.add(made, indent=2)

    converted = tree.convert(root)[root.digest]

    assert converted.content == tree.contents[root.digest]
    assert converted.descriptor == root


def test_oci_manifest_with_dockers_layers_is_converted() -> None:
    tree = Tree()
    root = tree.add(image(docker=False, name="hybrid"))

    document = json.loads(tree.convert(root)[root.digest].content)

    assert document["layers"][0]["mediaType"] == OCI_TYPES[GZIP]


def test_list_says_where_its_images_are_now() -> None:
    tree = Tree()
    amd64, arm64 = tree.add(image("amd64")), tree.add(image("arm64"))
    platform = {"os": "linux", "architecture": "amd64"}
    made = index(
        listed(amd64, platform=platform),
        listed(arm64),
        entry("application/x-unknown", "unread"),
    )
    root = tree.add(made)

    converted = tree.convert(root)
    found = parse(converted[root.digest].content, converted[root.digest].descriptor.digest)

    assert list(converted) == [amd64.digest, arm64.digest, root.digest]  # children first
    assert isinstance(found, Index)
    assert found.media_type == media_types.OCI_INDEX
    assert [(c.media_type, c.digest, c.size_bytes) for c in found.manifests[:2]] == [
        (each.media_type, each.digest, each.size_bytes)
        for each in (converted[amd64.digest].descriptor, converted[arm64.digest].descriptor)
    ]
    assert found.manifests[0].platform is not None
    assert str(found.manifests[0].platform) == "linux/amd64"
    assert found.manifests[2].digest == Digest.of(b"unread")


def test_oci_index_over_a_docker_image_is_rewritten_at_every_level() -> None:
    tree = Tree()
    leaf = tree.add(image())
    middle = tree.add(index(listed(leaf), docker=False))
    root = tree.add(index(listed(middle), docker=False))

    converted = tree.convert(root)

    assert str(converted[leaf.digest].descriptor.digest) in converted[middle.digest].content.decode()
    assert str(converted[middle.digest].descriptor.digest) in converted[root.digest].content.decode()
    assert converted[root.digest].descriptor.digest != root.digest


def test_attestation_refers_to_the_image_under_its_new_digest() -> None:
    tree = Tree()
    leaf = tree.add(image())
    attestation = tree.add(image("attestation", "application/vnd.in-toto+json", docker=False))
    about = {
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": str(leaf.digest),
    }
    root = tree.add(index(listed(leaf), listed(attestation, annotations=about), docker=False))

    converted = tree.convert(root)
    document = json.loads(converted[root.digest].content)

    assert document["manifests"][1]["annotations"] == {
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": str(converted[leaf.digest].descriptor.digest),
    }
    assert document["manifests"][1]["digest"] == str(attestation.digest)


def test_embedded_copy_of_a_child_goes_when_the_child_changes() -> None:
    tree = Tree()
    leaf = tree.add(image())
    data = base64.b64encode(tree.contents[leaf.digest]).decode()
    root = tree.add(index(listed(leaf, data=data)))

    assert "data" not in json.loads(tree.convert(root)[root.digest].content)["manifests"][0]


def test_child_that_is_listed_twice_is_read_once() -> None:
    tree = Tree()
    leaf = tree.add(image())
    root = tree.add(index(listed(leaf), listed(leaf), listed(tree.add(index(listed(leaf))))))

    tree.convert(root)

    assert tree.reads.count(leaf.digest) == 1


def test_child_that_is_not_there_ends_the_prediction() -> None:
    tree = Tree()
    root = tree.add(index(entry(media_types.DOCKER_MANIFEST, "gone")))

    with pytest.raises(MissingContent):
        tree.convert(root)


@pytest.mark.parametrize(("deep", "is_refused"), [(MAX_DEPTH, False), (MAX_DEPTH + 1, True)])
def test_tree_that_is_too_deep_is_refused(deep: int, is_refused: bool) -> None:
    tree = Tree()
    root = tree.add(image())
    for _ in range(deep - 1):
        root = tree.add(index(listed(root)))

    check(lambda: tree.convert(root), is_refused)


@pytest.mark.parametrize(("manifests", "is_refused"), [(MAX_MANIFESTS, False), (MAX_MANIFESTS + 1, True)])
def test_tree_of_too_many_manifests_is_refused(manifests: int, is_refused: bool) -> None:
    tree = Tree()
    root = tree.add(index(*(listed(tree.add(image(str(number)))) for number in range(manifests - 1))))

    check(lambda: tree.convert(root), is_refused)


def check(convert: Callable[[], object], is_refused: bool) -> None:
    if is_refused:
        with pytest.raises(InvalidManifest, match="more than 16 levels or 256 manifests"):
            convert()
    else:
        convert()


def test_docker_schema_1_is_refused() -> None:
    schema1 = "application/vnd.docker.distribution.manifest.v1+json"
    tree = Tree()
    old = tree.add({"schemaVersion": 1, "mediaType": schema1, "name": "x"})
    root = tree.add(index(listed(old)))

    with pytest.raises(InvalidManifest, match="schema 1"):
        tree.convert(root)


def test_bytes_that_are_something_else_are_refused() -> None:
    tree = Tree()
    leaf = tree.add(image())
    root = tree.add(index(listed(leaf)))
    content = tree.contents[leaf.digest]

    tree.contents[leaf.digest] = content.replace(b'"size": 7', b'"size": 8')
    with pytest.raises(InvalidDigest):
        tree.convert(root)
    tree.contents[leaf.digest] = content + b" "
    with pytest.raises(SizeMismatch):
        tree.convert(root)


KINDS = st.sampled_from(sorted({*OCI_TYPES, *OCI_TYPES.values(), "application/x-other"}))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
FREE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@given(
    st.booleans(),
    st.lists(KINDS, max_size=4),
    st.dictionaries(TEXTS, TEXTS, max_size=3),
    FREE,
    st.sampled_from([None, 1, 4]),
)
def test_conversion_is_done_once_and_for_all(
    docker: bool, layers: list[str], annotations: dict[str, str], free: Any, indent: int | None
) -> None:
    made = image("any", *layers, docker=docker, annotations=annotations, free=free)
    content = json.dumps(made, indent=indent).encode()
    digest = Digest.of(content)

    once = convert(content, digest, made["mediaType"])
    again = convert(once.content, once.descriptor.digest, once.descriptor.media_type)

    assert again == once
    assert convert(content, digest) == once
    before, after = parse(content, digest), parse(once.content, once.descriptor.digest)
    assert isinstance(before, Manifest)
    assert isinstance(after, Manifest)
    assert [blob.digest for blob in after.blobs] == [blob.digest for blob in before.blobs]
    assert not {blob.media_type for blob in after.blobs} & OCI_TYPES.keys()
    assert {**json.loads(once.content), "config": 0, "layers": 0, "mediaType": 0} == {
        **made,
        "config": 0,
        "layers": 0,
        "mediaType": 0,
    }


def test_example_becomes_an_oci_image() -> None:
    listed_in_layout = json.loads((EXAMPLE / "index.json").read_bytes())["manifests"]
    root = Descriptor.parse(listed_in_layout[0], "the example")

    def read(descriptor: Descriptor) -> bytes:
        return (EXAMPLE / "blobs" / descriptor.digest.algorithm / descriptor.digest.hex).read_bytes()

    converted = convert_tree(root, read(root), read)

    assert converted[root.digest].descriptor.media_type in (media_types.OCI_MANIFEST, media_types.OCI_INDEX)
    assert all(b"vnd.docker.distribution" not in each.content for each in converted.values())
