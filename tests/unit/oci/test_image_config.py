from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regmeta.oci import image_config
from regmeta.oci.digest import Digest
from regmeta.oci.image_config import MAX_CONFIG_BYTES, UNKNOWN, ImageConfig, parse, parse_time
from tests.builders import dumps
from tests.unit.oci.test_strict_json import REFUSED, documents

DIFF_ID = Digest.of(b"layer")


def test_fields_that_are_searched_for_are_read() -> None:
    content = dumps(
        {
            "os": "linux",
            "architecture": "arm64",
            "variant": "v8",
            "created": "2024-02-29T12:00:00.123456789+02:00",
            "config": {"Labels": {"a": "b", "": "", "markup": "<script>"}},
            "rootfs": {"type": "layers", "diff_ids": [str(DIFF_ID), str(DIFF_ID)]},
            "history": [{"created_by": "x"}],
        }
    )
    assert parse(content) == ImageConfig(
        "linux",
        "arm64",
        "v8",
        datetime(2024, 2, 29, 10, 0, 0, 123456, UTC),
        {"a": "b", "": "", "markup": "<script>"},
        (DIFF_ID, DIFF_ID),
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"5",
        b"\x1f\x8b\x08gzip",
        b'{"os":"linux"}' + b" " * MAX_CONFIG_BYTES,
        *(data for data, _ in REFUSED.values()),
    ],
)
def test_configuration_that_cannot_be_understood_leaves_all_empty(content: bytes) -> None:
    assert parse(content) == UNKNOWN


def test_configuration_of_the_largest_size_is_read() -> None:
    content = b'{"os":"linux"}'
    assert parse(content + b" " * (MAX_CONFIG_BYTES - len(content))).os == "linux"


@pytest.mark.parametrize("value", [5, None, True, "", [], {}, "a\0b"])
@pytest.mark.parametrize("name", ["os", "architecture", "variant"])
def test_text_that_is_none_is_unknown(name: str, value: object) -> None:
    assert parse(dumps({name: value})) == UNKNOWN


@pytest.mark.parametrize(
    ("inner", "labels"),
    [
        (None, {}),
        ([], {}),
        ({}, {}),
        ({"Labels": None}, {}),
        ({"Labels": []}, {}),
        ({"labels": {"a": "b"}}, {}),
        ({"Labels": {"a": "b", "c": 5, "d": None, "e": ["f"]}}, {"a": "b"}),
    ],
)
def test_labels_that_are_strings_are_kept(inner: object, labels: dict[str, str]) -> None:
    assert parse(dumps({"config": inner})).labels == labels


@pytest.mark.parametrize(
    "rootfs",
    [
        None,
        [],
        {},
        {"diff_ids": None},
        {"diff_ids": str(DIFF_ID)},
        {"diff_ids": {}},
        {"diff_ids": [str(DIFF_ID), None]},
        {"diff_ids": [str(DIFF_ID), "sha256:../../x"]},
        {"diff_ids": [f"blake3:{'a' * 64}"]},
    ],
)
def test_diff_ids_are_all_known_or_none(rootfs: object) -> None:
    assert parse(dumps({"rootfs": rootfs})).diff_ids == ()


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2024-01-02T03:04:05Z", datetime(2024, 1, 2, 3, 4, 5, 0, UTC)),
        ("2024-01-02t03:04:05z", datetime(2024, 1, 2, 3, 4, 5, 0, UTC)),
        ("2024-01-02T03:04:05.5Z", datetime(2024, 1, 2, 3, 4, 5, 500000, UTC)),
        ("2024-01-02T03:04:05.999999999Z", datetime(2024, 1, 2, 3, 4, 5, 999999, UTC)),
        ("2024-01-02T00:30:00+01:00", datetime(2024, 1, 1, 23, 30, 0, 0, UTC)),
        ("0001-01-01T00:00:00Z", datetime(1, 1, 1, 0, 0, 0, 0, UTC)),
    ],
)
def test_time_is_read_to_the_microsecond(text: str, moment: datetime) -> None:
    assert parse_time(text) == moment


@pytest.mark.parametrize(
    "value",
    [
        None,
        0,
        1704164645,
        "",
        "now",
        "2024-01-02",
        "2024-01-02 03:04:05Z",
        "2024-01-02T03:04:05",
        "20240102T030405Z",
        "2024-W01-2T03:04:05Z",
        "2024-01-02T03:04Z",
        "2024-01-02T03:04:60Z",
        "2024-01-02T03:04:05,5Z",
        "2024-01-02T03:04:05+00:00:30",
        "\u0662024-01-02T03:04:05Z",
        "2024-13-02T03:04:05Z",
        "2024-02-30T03:04:05Z",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59",
        "10000-01-01T00:00:00Z",
        "2024-01-02T03:04:05Z\0",
        ["2024-01-02T03:04:05Z"],
    ],
)
def test_what_is_no_time_is_unknown(value: object) -> None:
    assert parse_time(value) is None


@given(content=st.binary() | documents.map(dumps))
def test_nothing_raises(content: bytes) -> None:
    assert isinstance(image_config.parse(content), ImageConfig)


@given(
    content=st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(("os", "variant", "created", "config", "rootfs", "x"), documents),
    ).map(dumps)
)
def test_nothing_raises_for_fields_of_any_type(content: bytes) -> None:
    assert isinstance(image_config.parse(content), ImageConfig)


@given(text=st.text())
def test_no_text_makes_the_time_raise(text: str) -> None:
    assert parse_time(text) is None or isinstance(parse_time(text), datetime)
