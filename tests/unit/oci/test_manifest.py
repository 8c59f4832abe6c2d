from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regmeta.errors import InputError, InvalidDigest, InvalidManifest
from regmeta.oci import manifest, media_types
from regmeta.oci.digest import Digest
from regmeta.oci.manifest import MAX_MANIFEST_BYTES, Index, Manifest
from tests.builders import AMD64, ARM64, Json, LayoutBuilder, digest_of, dumps
from tests.unit.oci.test_strict_json import REFUSED, documents

CONTENT = b"layer"
BLOB: Json = {
    "mediaType": "application/vnd.oci.image.layer.v1.tar",
    "digest": str(Digest.of(CONTENT)),
    "size": len(CONTENT),
}
CHILD: Json = {**BLOB, "mediaType": media_types.OCI_MANIFEST}
CONFIG: Json = {**BLOB, "mediaType": media_types.OCI_CONFIG}
IMAGE: Json = {
    "schemaVersion": 2,
    "mediaType": media_types.OCI_MANIFEST,
    "config": CONFIG,
    "layers": [BLOB],
}
INDEX: Json = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": [CHILD]}
HEX = BLOB["digest"].removeprefix("sha256:")


def parse(value: object, media_type: str | None = None) -> Manifest | Index:
    content = value if isinstance(value, bytes) else dumps(value)
    return manifest.parse(content, Digest.of(content), media_type)


def without(document: Json, name: str) -> Json:
    return {key: value for key, value in document.items() if key != name}


def with_layer(**change: Any) -> Json:
    return {**IMAGE, "layers": [BLOB, {**BLOB, **change}]}


def with_child(**change: Any) -> Json:
    return {**INDEX, "manifests": [{**CHILD, **change}]}


def in_layer(field: bytes) -> bytes:
    """Return a manifest whose last layer has one field that Python would not write."""
    return dumps(IMAGE).replace(b'"size":5}]', b'"size":5,' + field + b"}]")


# --- what is accepted -------------------------------------------------------------------------


def test_image_is_read() -> None:
    content = dumps({**IMAGE, "annotations": {"a": "b", "": ""}, "unknown": {"x": [1.5]}})
    found = manifest.parse(content, Digest.of(content), media_types.OCI_MANIFEST)
    assert isinstance(found, Manifest)
    assert found.content is content
    assert found.digest == Digest.of(content)
    assert [blob.digest for blob in found.blobs] == [Digest.of(CONTENT)] * 2
    assert [blob.media_type for blob in found.blobs] == [CONFIG["mediaType"], BLOB["mediaType"]]
    assert found.annotations == {"a": "b", "": ""}
    assert (found.kind, found.subject, found.artifact_type) == ("image", None, None)
    assert found.effective_artifact_type == media_types.OCI_CONFIG


def test_index_is_read_in_its_order() -> None:
    children = [{**CHILD, "platform": platform} for platform in (ARM64, AMD64, ARM64)]
    found = parse({**INDEX, "manifests": children, "artifactType": "application/x"})
    assert isinstance(found, Index)
    assert [str(child.platform) for child in found.manifests] == [
        "linux/arm64/v8",
        "linux/amd64",
        "linux/arm64/v8",
    ]
    assert (found.kind, found.effective_artifact_type) == ("index", "application/x")


@pytest.mark.parametrize("docker", [False, True])
def test_images_of_both_kinds_keep_their_type(docker: bool) -> None:
    builder = LayoutBuilder(docker=docker)
    image = builder.image(platform=ARM64)
    index = builder.index([image])
    for descriptor, expected in ((image, Manifest), (index, Index)):
        content = builder.blobs[descriptor["digest"]]
        found = manifest.parse(content, digest_of(descriptor), descriptor["mediaType"])
        assert isinstance(found, expected)
        assert found.media_type == descriptor["mediaType"]


def test_artifact_of_an_image_is_read() -> None:
    builder = LayoutBuilder()
    image = builder.image()
    artifact = builder.artifact(b"{}", "application/spdx+json", subject=image)
    found = parse(builder.blobs[artifact["digest"]])
    assert found.subject is not None
    assert found.subject.digest == digest_of(image)
    assert found.effective_artifact_type == "application/spdx+json"


ACCEPTED: dict[str, tuple[Json, str | None]] = {
    "22 type from outside alone": (without(IMAGE, "mediaType"), media_types.OCI_MANIFEST),
    "22 index with its type from outside": (without(INDEX, "mediaType"), media_types.OCI_INDEX),
    "24 type with parameters": (IMAGE, f"{media_types.OCI_MANIFEST}; charset=utf-8"),
    "29 no layers": ({**IMAGE, "layers": []}, None),
    "29 no children": ({**INDEX, "manifests": []}, None),
    "35 sha512": (with_layer(digest=str(Digest.of(CONTENT, "sha512"))), None),
    "41 data that is the blob": (with_layer(data=base64.b64encode(CONTENT).decode()), None),
    "43 a subject that is nowhere": ({**IMAGE, "subject": CHILD}, None),
    "51 an annotation without a name": ({**IMAGE, "annotations": {"": "x"}}, None),
    "53 annotations with escapes": ({**IMAGE, "annotations": {"\x1b[31m": "\u202e<b>"}}, None),
    "56 empty configuration without artifactType": (
        {**IMAGE, "config": {**CONFIG, "mediaType": media_types.OCI_EMPTY}},
        None,
    ),
    "57 zero bytes": (with_layer(digest=str(Digest.of(b"")), size=0), None),
    "57 configuration of zero bytes": (
        {**IMAGE, "config": {**CONFIG, "digest": str(Digest.of(b"")), "size": 0}},
        None,
    ),
    "59 no platform": (INDEX, None),
    "60 the same platform twice": (
        {**INDEX, "manifests": [{**CHILD, "platform": AMD64}] * 2},
        None,
    ),
    "61 a child of an unknown type": (with_child(mediaType="application/x.new+json"), None),
    "61 a layer of an unknown type": (with_layer(mediaType="application/x.new"), None),
    "62 Docker schema 2": ({**IMAGE, "mediaType": media_types.DOCKER_MANIFEST}, None),
    "62 Docker manifest list": ({**INDEX, "mediaType": media_types.DOCKER_LIST}, None),
    "63 a child of Docker schema 1": (with_child(mediaType=min(media_types.DOCKER_SCHEMA1)), None),
    "64 a foreign layer": (
        with_layer(mediaType=min(media_types.NON_DISTRIBUTABLE), urls=["http://x"]),
        None,
    ),
    "65 urls of a normal layer": (with_layer(urls=["file:///etc/passwd"]), None),
    "an unknown type in the shape of an image": ({**IMAGE, "mediaType": "application/x"}, None),
    "an unknown type in the shape of an index": ({**INDEX, "mediaType": "application/x"}, None),
}


@pytest.mark.parametrize(("document", "media_type"), ACCEPTED.values(), ids=ACCEPTED.keys())
def test_document_is_accepted(document: Json, media_type: str | None) -> None:
    found = parse(document, media_type)
    expected = document.get("mediaType") or str(media_type)
    assert found.media_type == expected.partition(";")[0]
    assert isinstance(found, Index) == ("manifests" in document)


# --- what is refused --------------------------------------------------------------------------

# The numbers are those of the catalogue of bad input that the tests are written after.
INVALID: dict[str, tuple[object, str | None]] = {
    "1 nested": (b"[" * 100_000, None),
    "2 nested in annotations": (
        dumps(IMAGE)[:-1] + b',"annotations":{"a":' + b"[" * 900 + b"]" * 900 + b"}}",
        None,
    ),
    "3 layers twice": (dumps(IMAGE)[:-1] + b',"layers":[]}', None),
    "5 size NaN": (dumps(IMAGE).replace(b'"size":5', b'"size":NaN'), None),
    "5 size -Infinity": (dumps(IMAGE).replace(b'"size":5', b'"size":-Infinity'), None),
    "6 size 1e400": (dumps(IMAGE).replace(b'"size":5', b'"size":1e400'), None),
    "6 size 1e2": (dumps(IMAGE).replace(b'"size":5', b'"size":1e2'), None),
    "6 size 5.0": (with_layer(size=5.0), None),
    "8 size -1 in an index": (with_child(size=-1), None),
    "8 size -1 in an image": (with_layer(size=-1), None),
    "9 size of 5,000 digits": (
        dumps(IMAGE).replace(b'"size":5', b'"size":' + b"1" * 5_000),
        None,
    ),
    "9 size of 4,300 digits": (
        dumps(IMAGE).replace(b'"size":5', b'"size":' + b"1" * 4_300),
        None,
    ),
    "11 size true": (with_layer(size=True), None),
    "11 size of text": (with_layer(size="5"), None),
    "11 size null": (with_layer(size=None), None),
    "12 invalid UTF-8": (in_layer(b'"x":"\xff"'), None),
    "14 byte-order mark": (b"\xef\xbb\xbf" + dumps(IMAGE), None),
    "16 lone surrogate": (in_layer(b'"x":"\\ud800"'), None),
    "17 trailing bytes": (dumps(IMAGE) + b" {}", None),
    "17 nothing": (b"", None),
    "17 a list": (b"[]", None),
    "17 null": (b"null", None),
    "17 a text": (b'"str"', None),
    "18 layers and manifests": ({**IMAGE, "manifests": []}, None),
    "18 config and manifests": ({**INDEX, "config": CONFIG}, None),
    "18 null counts as being there": ({**INDEX, "layers": None}, None),
    "18 both, of an unknown type": ({**IMAGE, "manifests": [], "mediaType": "a/b"}, None),
    "20 index listed as a manifest": (INDEX, media_types.OCI_MANIFEST),
    "20 manifest listed as an index": (IMAGE, media_types.OCI_INDEX),
    "20 OCI listed as Docker": (IMAGE, media_types.DOCKER_MANIFEST),
    "20 index that says it is a manifest": (
        {**INDEX, "mediaType": media_types.OCI_MANIFEST},
        None,
    ),
    "20 manifest that says it is an index": ({**IMAGE, "mediaType": media_types.OCI_INDEX}, None),
    "23 no type at all": (without(IMAGE, "mediaType"), None),
    "23 an empty type": ({**IMAGE, "mediaType": ""}, None),
    "23 no type but parameters": (without(IMAGE, "mediaType"), "; charset=utf-8"),
    "25 type of 300 characters": ({**IMAGE, "mediaType": "application/" + "x" * 300}, None),
    "25 type with a line break": ({**IMAGE, "mediaType": "application/x\r\nEvil: 1"}, None),
    "25 type of three parts": ({**IMAGE, "mediaType": "a/b/c"}, None),
    "25 type of a number": ({**IMAGE, "mediaType": 5}, None),
    "26 schemaVersion 1": ({**IMAGE, "schemaVersion": 1}, None),
    "26 schemaVersion 3": ({**INDEX, "schemaVersion": 3}, None),
    "26 schemaVersion of text": ({**IMAGE, "schemaVersion": "2"}, None),
    "26 schemaVersion 2.0": ({**IMAGE, "schemaVersion": 2.0}, None),
    "26 schemaVersion true": ({**IMAGE, "schemaVersion": True}, None),
    "26 schemaVersion absent": (without(IMAGE, "schemaVersion"), None),
    "28 layers missing": (without(IMAGE, "layers"), None),
    "28 layers null": ({**IMAGE, "layers": None}, None),
    "28 layers an object": ({**IMAGE, "layers": {}}, None),
    "28 a layer null": ({**IMAGE, "layers": [BLOB, None]}, None),
    "28 config missing": (without(IMAGE, "config"), None),
    "28 config null": ({**IMAGE, "config": None}, None),
    "28 manifests missing": (without(INDEX, "manifests"), None),
    "28 manifests an object": ({**INDEX, "manifests": {}}, None),
    "28 a child null": ({**INDEX, "manifests": [None]}, None),
    "41 data of something else": (with_layer(data=base64.b64encode(b"LAYER").decode()), None),
    "41 data that is not base64": (with_layer(data="bGF5ZXI"), None),
    "51 an annotation of a number": ({**IMAGE, "annotations": {"a": 1}}, None),
    "51 an annotation null": ({**IMAGE, "annotations": {"a": None}}, None),
    "51 an annotation of an object": ({**INDEX, "annotations": {"a": {}}}, None),
    "58 empty JSON of 3 bytes": (with_layer(digest=str(Digest.of(b"{}")), size=3), None),
    "58 empty JSON with other data": (
        with_layer(digest=str(Digest.of(b"{}")), size=2, data="e10="),
        None,
    ),
    "59 platform of text": (with_child(platform="linux/amd64"), None),
    "63 Docker schema 1": ({**IMAGE, "mediaType": min(media_types.DOCKER_SCHEMA1)}, None),
    "63 Docker schema 1, signed": ({**IMAGE, "mediaType": max(media_types.DOCKER_SCHEMA1)}, None),
    "63 Docker schema 1 by its shape": (
        {"schemaVersion": 1, "name": "x", "fsLayers": [], "history": []},
        max(media_types.DOCKER_SCHEMA1),
    ),
    "an unknown type in no known shape": (
        {"schemaVersion": 2, "mediaType": "application/x"},
        None,
    ),
    "a subject that is none": ({**IMAGE, "subject": "x"}, None),
    "an artifactType that is none": ({**IMAGE, "artifactType": "x"}, None),
    "an artifactType of a number": ({**INDEX, "artifactType": 5}, None),
    **{f"not JSON: {name}": (data, media_types.OCI_MANIFEST) for name, (data, _) in REFUSED.items()},
}


@pytest.mark.timeout(10)
@pytest.mark.parametrize(("document", "media_type"), INVALID.values(), ids=INVALID.keys())
def test_invalid_document_is_refused_by_name(document: object, media_type: str | None) -> None:
    content = document if isinstance(document, bytes) else dumps(document)
    with pytest.raises(InvalidManifest) as caught:
        manifest.parse(content, Digest.of(content), media_type)
    assert str(Digest.of(content)) in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "digest",
    [
        f"SHA256:{HEX}",
        f"sha256:{HEX.upper()}",
        "sha256:../../../../etc/passwd",
        f"md5:{HEX[:32]}",
        f"sha1:{HEX[:40]}",
        f"blake3:{HEX}",
        "foo+bar:Abc=",
        None,
    ],
)
@pytest.mark.parametrize(
    ("document", "place"),
    [
        (lambda wrong: {**IMAGE, "config": {**CONFIG, **wrong}}, "config"),
        (lambda wrong: with_layer(**wrong), r"layers\[1\]"),
        (lambda wrong: with_child(**wrong), r"manifests\[0\]"),
        (lambda wrong: {**IMAGE, "subject": {**CHILD, **wrong}}, "subject"),
    ],
    ids=["config", "layer", "child", "subject"],
)
def test_bad_digest_is_refused_with_its_place(document: Any, place: str, digest: object) -> None:
    with pytest.raises(InvalidDigest, match=f": {place}: "):
        parse(document({"digest": digest}))


def test_bytes_of_another_digest_are_refused() -> None:
    content = dumps(IMAGE)
    other = Digest.of(b"other")
    with pytest.raises(InvalidDigest, match=str(other)):
        manifest.parse(content, other)
    assert manifest.parse(content, other, verified=True).digest == other


def test_manifest_of_the_largest_size_is_read_and_a_larger_one_refused() -> None:
    content = dumps(IMAGE)
    content += b" " * (MAX_MANIFEST_BYTES - len(content))
    assert parse(content).content == content
    with pytest.raises(InvalidManifest, match="are more than"):
        parse(content + b" ")


@pytest.mark.parametrize(
    ("media_type", "understood"),
    [
        (media_types.OCI_MANIFEST, True),
        (media_types.OCI_INDEX, True),
        (media_types.DOCKER_MANIFEST, True),
        (media_types.DOCKER_LIST, True),
        (min(media_types.DOCKER_SCHEMA1), True),
        (media_types.OCI_CONFIG, False),
        ("application/x", False),
    ],
)
def test_child_of_a_known_type_must_be_understood(media_type: str, understood: bool) -> None:
    assert manifest.may_be_manifest(media_type) is understood


# --- anything at all --------------------------------------------------------------------------


def parse_or_refuse(content: bytes, media_type: str | None = None) -> None:
    try:
        found = manifest.parse(content, Digest.of(content), media_type)
    except InputError:
        return
    assert found.content == content


@given(content=st.binary(), media_type=st.none() | st.text())
def test_any_bytes_are_read_or_refused(content: bytes, media_type: str | None) -> None:
    parse_or_refuse(content, media_type)


@given(
    content=st.sampled_from([dumps(IMAGE), dumps(INDEX)]),
    edits=st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_damaged_documents_are_read_or_refused(content: bytes, edits: list[tuple[int, int]]) -> None:
    changed = bytearray(content)
    for position, value in edits:
        changed[position % len(changed)] = value
    parse_or_refuse(bytes(changed))


descriptors = st.fixed_dictionaries(
    {},
    optional={
        "mediaType": st.just("a/b") | documents,
        "digest": st.just(BLOB["digest"]) | documents,
        "size": st.just(5) | documents,
        "data": documents,
        "urls": documents,
        "annotations": documents,
        "platform": documents,
        "artifactType": documents,
    },
)


@given(
    document=st.fixed_dictionaries(
        {},
        optional={
            "schemaVersion": st.just(2) | documents,
            "mediaType": st.sampled_from([media_types.OCI_MANIFEST, media_types.OCI_INDEX]) | documents,
            "config": st.just(CONFIG) | descriptors | documents,
            "layers": st.lists(descriptors, max_size=2) | documents,
            "manifests": st.lists(descriptors, max_size=2) | documents,
            "subject": descriptors | documents,
            "artifactType": documents,
            "annotations": documents,
        },
    )
)
def test_fields_of_any_type_are_read_or_refused(document: Json) -> None:
    parse_or_refuse(dumps(document))
