from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regmeta.errors import InvalidDigest, InvalidManifest
from regmeta.oci.descriptor import EMPTY_DIGEST, EMPTY_JSON, Descriptor, Platform
from regmeta.oci.digest import Digest
from tests.builders import Json

CONTENT = b"content"
GOOD: Json = {"mediaType": "text/plain", "digest": str(Digest.of(CONTENT)), "size": 7}
EMPTY: Json = {
    "mediaType": "application/vnd.oci.empty.v1+json",
    "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    "size": 2,
}


def parse(value: object) -> Descriptor:
    return Descriptor.parse(value, "layers[3]")


def test_descriptor_is_read() -> None:
    found = parse({**GOOD, "unknown": [1, {"x": None}]})
    assert found == Descriptor("text/plain", Digest.of(CONTENT), 7)
    assert found.annotations == {}


def test_everything_that_is_kept_is_written_back() -> None:
    value = {
        **GOOD,
        "annotations": {"a": "b", "": "", "ansi": "\x1b[31m"},
        "platform": {"architecture": "arm", "os": "linux", "os.version": "1", "variant": "v7"},
        "artifactType": "application/x",
    }
    assert parse(value).to_json() == value
    assert parse(GOOD).to_json() == GOOD


@pytest.mark.parametrize("value", [None, 5, True, "x", [], [GOOD]])
def test_what_is_no_object_is_refused(value: object) -> None:
    with pytest.raises(InvalidManifest, match=r"^layers\[3\]: not a descriptor"):
        parse(value)


@pytest.mark.parametrize(
    "size", [-1, True, False, "2", "7", None, 7.0, 1e2, 2.0, [], {}, -(2**63), float("inf")]
)
def test_size_that_is_no_count_of_bytes_is_refused(size: object) -> None:
    with pytest.raises(InvalidManifest, match=r"layers\[3\]: size"):
        parse({**GOOD, "size": size})


@pytest.mark.parametrize("name", ["mediaType", "size"])
def test_field_that_is_missing_is_named(name: str) -> None:
    with pytest.raises(InvalidManifest, match=name):
        parse({key: value for key, value in GOOD.items() if key != name})


@pytest.mark.parametrize(
    "digest",
    [
        None,
        5,
        "",
        f"SHA256:{'a' * 64}",
        f"sha256:{'A' * 64}",
        "sha256:../../../../etc/passwd",
        f"md5:{'a' * 32}",
        f"sha1:{'a' * 40}",
        f"blake3:{'a' * 64}",
        "foo+bar:Abc=",
    ],
)
def test_bad_digest_is_refused_with_its_place(digest: object) -> None:
    with pytest.raises(InvalidDigest, match=r"^layers\[3\]: "):
        parse({**GOOD, "digest": digest})


def test_sha512_is_taken() -> None:
    digest = Digest.of(CONTENT, "sha512")
    assert parse({**GOOD, "digest": str(digest)}).digest == digest


@pytest.mark.parametrize(
    "media_type",
    [
        None,
        5,
        "",
        "text",
        "text/",
        "/plain",
        "a/b/c",
        "a" * 128 + "/x",
        "x/" + "a" * 300,
        "text/plain\r\nX-Evil: 1",
        "text/plain\n",
        "text/plain; charset=utf-8",
        "text /plain",
        "te\u0455t/plain",
    ],
)
def test_media_type_out_of_the_grammar_is_refused(media_type: object) -> None:
    with pytest.raises(InvalidManifest, match="mediaType"):
        parse({**GOOD, "mediaType": media_type})


def test_zero_bytes_are_a_size() -> None:
    value = {**GOOD, "digest": str(Digest.of(b"")), "size": 0}
    assert parse(value).size_bytes == 0
    assert parse({**GOOD, "size": 2**63 - 1}).size_bytes == 2**63 - 1


def test_embedded_data_that_is_the_content_is_accepted() -> None:
    parse({**GOOD, "data": base64.b64encode(CONTENT).decode()})
    parse({**EMPTY, "data": "e30="})
    parse({**GOOD, "digest": str(Digest.of(b"")), "size": 0, "data": ""})


@pytest.mark.parametrize(
    "data",
    [
        "",
        base64.b64encode(b"CONTENT").decode(),
        base64.b64encode(CONTENT + b"x").decode(),
        base64.b64encode(CONTENT).decode().rstrip("="),
        base64.b64encode(CONTENT).decode() + "\n",
        " " + base64.b64encode(CONTENT).decode(),
        "not base64!",
        "\u0663===",
        5,
        None,
        ["Y29udGVudA=="],
    ],
)
def test_embedded_data_that_is_not_the_content_is_refused(data: object) -> None:
    with pytest.raises(InvalidManifest, match="data of sha256:"):
        parse({**GOOD, "data": data})


@pytest.mark.parametrize("size", [0, 1, 3])
def test_empty_json_of_another_size_is_refused(size: int) -> None:
    assert parse(EMPTY).digest == EMPTY_DIGEST == Digest.of(EMPTY_JSON)
    with pytest.raises(InvalidManifest, match="has 2 bytes"):
        parse({**EMPTY, "size": size})


@pytest.mark.parametrize(
    "notes", [[], "x", 5, {"a": 1}, {"a": None}, {"a": {}}, {"a": ["b"]}, {"a": "b", "c": True}]
)
def test_annotations_that_are_no_map_of_strings_are_refused(notes: object) -> None:
    with pytest.raises(InvalidManifest, match="annotation"):
        parse({**GOOD, "annotations": notes})


def test_annotations_cannot_be_changed() -> None:
    notes: Any = parse({**GOOD, "annotations": {"a": "b"}}).annotations
    with pytest.raises(TypeError):
        notes["a"] = "c"


@pytest.mark.parametrize("urls", ["x", 5, [5], {}])
def test_urls_that_are_no_list_of_strings_are_refused(urls: object) -> None:
    with pytest.raises(InvalidManifest, match="urls"):
        parse({**GOOD, "urls": urls})


def test_urls_are_never_looked_at() -> None:
    parse({**GOOD, "urls": ["file:///etc/passwd", "http://169.254.169.254/", "\0"]})


@pytest.mark.parametrize(
    "platform", ["linux/amd64", 5, [], {"os": 5}, {"architecture": []}, {"os.version": {}}]
)
def test_platform_of_the_wrong_shape_is_refused(platform: object) -> None:
    with pytest.raises(InvalidManifest, match=r"layers\[3\]: "):
        parse({**GOOD, "platform": platform})


@pytest.mark.parametrize(
    ("platform", "text"),
    [
        (Platform("linux", "amd64"), "linux/amd64"),
        (Platform("linux", "arm", "v7"), "linux/arm/v7"),
        (Platform(), "unknown/unknown"),
        (Platform(os="windows", os_version="10"), "windows/unknown"),
    ],
)
def test_platform_is_shown_as_tools_show_it(platform: Platform, text: str) -> None:
    assert str(platform) == text


optional = st.none() | st.text(max_size=10)


@given(platform=st.builds(Platform, optional, optional, optional, optional))
def test_every_platform_survives_its_json(platform: Platform) -> None:
    assert Platform.parse(platform.to_json(), "x") == platform
