from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regmeta.oci import strict_json
from regmeta.oci.strict_json import MAX_DEPTH, StrictJSONError, loads

# Row by row of what a parser may be given; the messages name the fault.
REFUSED: dict[str, tuple[bytes, str]] = {
    "nested 100,000 deep": (b"[" * 100_000, "nested deeper"),
    "nested 100,000 deep in an object": (b'{"a":' * 100_000, "nested deeper"),
    "nested 900 deep in annotations": (
        b'{"annotations":' + b"[" * 900 + b"]" * 900 + b"}",
        "nested deeper",
    ),
    "nested one too deep": (b"[" * 33 + b"]" * 33, "nested deeper"),
    "a name twice": (b'{"layers":[],"layers":[1]}', "'layers' stands twice"),
    "a name twice, once escaped": (b'{"layers":[],"l\\u0061yers":[]}', "'layers' stands twice"),
    "a name twice further down": (b'[{"a":{"b":1,"b":1}}]', "'b' stands twice"),
    "NaN": (b'{"size":NaN}', "NaN"),
    "Infinity": (b'{"size":Infinity}', "Infinity"),
    "-Infinity": (b'{"size":-Infinity}', "-Infinity"),
    "a float that overflows": (b'{"size":1e400}', "out of range"),
    "a negative float that overflows": (b"-1e400", "out of range"),
    "5,000 digits": (b"1" * 5_000, "a number of 5000 digits"),
    "4,300 digits": (b"1" * 4_300, "a number of 4300 digits"),
    "2**63": (b"9223372036854775808", "does not fit 64 bits"),
    "-2**63-1": (b"-9223372036854775809", "does not fit 64 bits"),
    "invalid UTF-8": (b'{"a":"\xff"}', "not UTF-8 at byte 6"),
    "UTF-8 of a surrogate": (b'"\xed\xa0\x80"', "not UTF-8"),
    "overlong UTF-8": (b'"\xc0\xaf"', "not UTF-8"),
    "UTF-16": ('{"a":1}'.encode("utf-16"), "not UTF-8"),
    "byte-order mark": (b"\xef\xbb\xbf{}", "byte-order mark"),
    "a lone surrogate": (b'"\\ud800"', "lone surrogate"),
    "a lone low surrogate": (b'["\\uDC00"]', "lone surrogate"),
    "surrogates in the wrong order": (b'"\\udc00\\ud800"', "lone surrogate"),
    "a lone surrogate as a name": (b'{"a":{"\\ud800":1}}', "lone surrogate"),
    "a lone surrogate behind a pair": (b'["\\ud83d\\ude00",["\\ud83d"]]', "lone surrogate"),
    "nothing": (b"", "not JSON"),
    "white space": (b" \n", "not JSON"),
    "two documents": (b"{} {}", "not JSON"),
    "trailing bytes": (b"{}x", "not JSON"),
    "trailing NUL": (b"{}\0", "not JSON"),
    "a trailing comma": (b"[1,]", "not JSON"),
    "single quotes": (b"{'a':1}", "not JSON"),
    "a comment": (b"{}//", "not JSON"),
    "a leading zero": (b"01", "not JSON"),
    "a plus sign": (b"+1", "not JSON"),
    "an underscore": (b"1_000", "not JSON"),
    "a digit that is not ASCII": ("\u0663".encode(), "not JSON"),
    "a control character in a string": (b'"\n"', "not JSON"),
    "an unclosed string": (b'"' + b"[" * 1_000_000, "not JSON|nested"),
    "an unclosed string of escapes": (b"[" * 40 + b'"' + b"\\" * 1_000_001, "nested deeper"),
    "half a document": (b'{"a":', "not JSON"),
    "half an escape": (b'"\\u00"', "not JSON"),
}


@pytest.mark.timeout(10)
@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_strict_json_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(StrictJSONError, match=message) as caught:
        loads(data)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"{}", {}),
        (b" [1 , 2]\r\n", [1, 2]),
        (b"null", None),
        (b'"str"', "str"),
        (b"1e2", 100.0),
        (b"2.0", 2.0),
        (b"-0", 0),
        (b"9223372036854775807", 2**63 - 1),
        (b"-9223372036854775808", -(2**63)),
        (b'{"":1}', {"": 1}),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        (b'"\\\\ud800"', "\\ud800"),
        (b'{"a":{"x":1},"b":{"x":1}}', {"a": {"x": 1}, "b": {"x": 1}}),
        ('"\ufeff"'.encode(), "\ufeff"),
        (b'"\\u0000"', "\0"),
    ],
)
def test_strict_json_is_read(data: bytes, value: object) -> None:
    found = loads(data)
    assert found == value
    assert type(found) is type(value)


def test_depth_counts_what_is_nested_and_not_what_stands_in_strings() -> None:
    assert loads(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    assert len(loads(b"[" + b",".join([b"[[]]"] * 1_000) + b"]")) == 1_000
    brackets = '[{"' * 1_000 + "\\"
    assert loads(json.dumps([brackets]).encode()) == [brackets]


@pytest.mark.timeout(10)
def test_four_mebibytes_of_annotations_are_read() -> None:
    document = {f"name-{number}": "[{" for number in range(190_000)}
    assert loads(json.dumps(document).encode()) == document


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=30,
)


def depth_of(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    nested = isinstance(value, dict | list)
    return int(nested) + max((depth_of(item) for item in inner), default=0)


@given(value=documents, ascii_only=st.booleans(), indent=st.none() | st.integers(0, 3))
def test_valid_documents_are_read_as_json_reads_them(
    value: Any, ascii_only: bool, indent: int | None
) -> None:
    data = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    if depth_of(value) > MAX_DEPTH:
        with pytest.raises(StrictJSONError):
            loads(data)
    else:
        assert loads(data) == value == json.loads(data)


@given(data=st.binary() | st.text(st.sampled_from('{}[]",:\\ud8 0123e.-ntf')).map(str.encode))
def test_whatever_is_read_is_what_json_reads(data: bytes) -> None:
    try:
        found = loads(data)
    except StrictJSONError:
        return
    assert found == json.loads(data)
    assert not (isinstance(found, float) and not math.isfinite(found))


def test_error_is_a_value_error() -> None:
    assert issubclass(strict_json.StrictJSONError, ValueError)
