from __future__ import annotations

import pytest

from regmeta.errors import InvalidSource
from regmeta.oci import media_types
from regmeta.oci.descriptor import Descriptor, Platform
from regmeta.oci.digest import Digest
from regmeta.oci.layout import (
    LAYOUT_CONTENT,
    blob_path,
    check_layout_file,
    index_content,
    parse_index_file,
)
from tests.builders import Json, dumps
from tests.unit.oci.test_strict_json import REFUSED

INDEX: Json = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": []}


@pytest.mark.parametrize(
    ("digest", "path"),
    [
        (Digest("sha256", "a" * 64), "blobs/sha256/" + "a" * 64),
        (Digest("sha512", "b" * 128), "blobs/sha512/" + "b" * 128),
    ],
)
def test_blob_stands_under_its_algorithm(digest: Digest, path: str) -> None:
    assert blob_path(digest) == path


@pytest.mark.parametrize(
    "content",
    [
        LAYOUT_CONTENT,
        LAYOUT_CONTENT + b"\n",
        dumps({"imageLayoutVersion": "1.0.0", "more": {"x": 1}}),
        dumps({"imageLayoutVersion": "1.1.0"}),
    ],
)
def test_layout_of_version_1_is_accepted(content: bytes) -> None:
    check_layout_file(content, "where")


@pytest.mark.parametrize("version", [None, "", 1, 1.0, True, [], {}, "1", "2.0.0", "10.0.0", "v1.0"])
def test_layout_of_another_version_is_refused(version: object) -> None:
    with pytest.raises(InvalidSource, match=r"^where: "):
        check_layout_file(dumps({"imageLayoutVersion": version}), "where")


@pytest.mark.parametrize("content", [b"[]", b"null", b'"1.0.0"', b"1"])
def test_documents_that_are_no_objects_are_refused(content: bytes) -> None:
    for read in (check_layout_file, parse_index_file):
        with pytest.raises(InvalidSource, match=r"^where: not a JSON object"):
            read(content, "where")


@pytest.mark.timeout(10)
@pytest.mark.parametrize("content", [data for data, _ in REFUSED.values()], ids=REFUSED.keys())
def test_documents_that_are_not_strict_json_are_refused(content: bytes) -> None:
    for read in (check_layout_file, parse_index_file):
        with pytest.raises(InvalidSource, match=r"^where: "):
            read(content, "where")


def test_entries_are_returned_as_they_are() -> None:
    entries = [5, None, {"digest": "x"}]
    assert parse_index_file(dumps({**INDEX, "manifests": entries}), "where") == entries


def test_index_may_be_without_its_type() -> None:
    assert parse_index_file(b'{"schemaVersion":2,"manifests":[]}', "where") == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schemaVersion": 1}, "schemaVersion"),
        ({"schemaVersion": "2"}, "schemaVersion"),
        ({"schemaVersion": 2.0}, "schemaVersion"),
        ({"schemaVersion": None}, "schemaVersion"),
        ({"mediaType": media_types.OCI_MANIFEST}, "mediaType"),
        ({"mediaType": media_types.DOCKER_LIST}, "mediaType"),
        ({"mediaType": 5}, "mediaType"),
        ({"layers": []}, "both an image manifest and an index"),
        ({"config": {}}, "both an image manifest and an index"),
        ({"manifests": None}, "not a list"),
        ({"manifests": {}}, "not a list"),
        ({"manifests": "x"}, "not a list"),
    ],
)
def test_what_is_no_index_is_refused(change: Json, message: str) -> None:
    with pytest.raises(InvalidSource, match=message):
        parse_index_file(dumps({**INDEX, **change}), "where")


def test_index_that_was_written_is_read_back() -> None:
    entries = [
        Descriptor(media_types.OCI_MANIFEST, Digest.of(b"a"), 1, {"note": "é"}, Platform("linux")),
        Descriptor(media_types.OCI_INDEX, Digest.of(b"b"), 2, artifact_type="application/x"),
    ]
    found = parse_index_file(index_content(entries, {"a": "b"}), "where")
    assert [Descriptor.parse(value, "x") for value in found] == entries
    assert [Descriptor.parse(value, "x").annotations for value in found] == [{"note": "é"}, {}]
