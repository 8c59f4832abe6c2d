from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regmeta.errors import InvalidDigest, InvalidName
from regmeta.oci.digest import Digest
from regmeta.oci.names import Reference, is_tag, repository_name, tag_name

DIGEST = Digest.of(b"x")


@pytest.mark.parametrize(
    "name",
    ["a", "a0", "0", "a__b", "a_b", "a.b", "a-b", "a---b", "a/b", "library/nginx", "a/" * 127 + "a"],
)
def test_repository_name_is_returned(name: str) -> None:
    assert repository_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "UPPER",
        "a//b",
        "a/../b",
        "..",
        ".",
        "a/",
        "/a",
        "-a",
        "a-",
        ".a",
        "a.",
        "_a",
        "a..b",
        "a___b",
        "a._b",
        "a b",
        "a\n",
        "a\0",
        "a%2fb",
        "a\\b",
        "é",
        "a:b",
        "a@b",
        "a" * 256,
    ],
)
def test_what_is_no_repository_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidName, match="not a repository name"):
        repository_name(name)


@pytest.mark.parametrize(
    "tag", ["a", "_", "1.0", "v1.0_rc-1", "latest", "A" * 128, f"sha256-{'a' * 64}", "_..", "a--b"]
)
def test_tag_is_returned(tag: str) -> None:
    assert tag_name(tag) == tag
    assert is_tag(tag)


@pytest.mark.parametrize(
    "tag", ["", ".", "..", "-a", ".a", "a" * 129, "sha256:abc", "a/b", "a b", "a\n", "a+b", "é", "a\0"]
)
def test_what_is_no_tag_is_refused(tag: str) -> None:
    assert not is_tag(tag)
    with pytest.raises(InvalidName, match="not a tag"):
        tag_name(tag)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/b", Reference("a/b")),
        ("a/b:v1", Reference("a/b", "v1")),
        (f"a@{DIGEST}", Reference("a", None, DIGEST)),
        (f"a/b:v1@{DIGEST}", Reference("a/b", "v1", DIGEST)),
        ("5000/b:5000", Reference("5000/b", "5000")),
    ],
)
def test_reference_is_read_and_written_back(text: str, expected: Reference) -> None:
    assert Reference.parse(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize("text", ["", ":v1", "a:", "a:b:c", "host:5000/a", "A", "a/:v1", f"@{DIGEST}"])
def test_reference_with_a_bad_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidName):
        Reference.parse(text)


@pytest.mark.parametrize("text", ["a@", "a@v1", f"a@{DIGEST}@{DIGEST}", "a@sha256:../x", "a@md5:aa"])
def test_reference_with_a_bad_digest_is_refused_and_quoted(text: str) -> None:
    with pytest.raises(InvalidDigest, match="in the reference"):
        Reference.parse(text)


@given(
    repository=st.from_regex(r"[a-z0-9]{1,9}(/[a-z0-9]{1,9}(-[a-z0-9]{1,3})?){0,3}", fullmatch=True),
    tag=st.none() | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", fullmatch=True),
    content=st.none() | st.binary(),
)
def test_every_reference_survives_its_text(repository: str, tag: str | None, content: bytes | None) -> None:
    reference = Reference(repository, tag, None if content is None else Digest.of(content))
    assert Reference.parse(str(reference)) == reference
