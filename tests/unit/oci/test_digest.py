from __future__ import annotations

import contextlib
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regmeta.errors import InvalidDigest
from regmeta.oci.digest import Digest

HEX = "ab01" * 16
EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize("text", [f"sha256:{HEX}", f"sha512:{HEX * 2}", f"sha256:{'0' * 64}"])
def test_digest_is_read_and_written_back(text: str) -> None:
    digest = Digest.parse(text)
    assert str(digest) == text
    assert f"{digest.algorithm}:{digest.hex}" == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "sha256",
        "sha256:",
        HEX,
        f":{HEX}",
        f"SHA256:{HEX}",
        f"Sha256:{HEX}",
        f"sha256:{HEX.upper()}",
        f"sha256:{HEX[:-1]}",
        f"sha256:{HEX}0",
        f"sha256:{HEX[:-1]}g",
        f"sha256:{HEX}\n",
        f"\nsha256:{HEX}",
        f" sha256:{HEX}",
        f"sha256:{HEX} ",
        f"sha256::{HEX[1:]}",
        f"sha256: {HEX[1:]}",
        f"sha256:{HEX[:-1]}\0",
        f"sha256:{HEX[:-1]}\u0663",  # a digit, but not an ASCII one
        f"sha256:{HEX[:-1]}\u0430",  # Cyrillic, looks like an a
        "sha256:../../../../etc/passwd",
        f"sha256:{'../' * 21}a",
        f"../sha256:{HEX}",
        f"sha256/..:{HEX}",
        f"sha512:{HEX}",
        f"sha256:{HEX * 2}",
        "sha256:" + "a" * 1_000_000,
        f"sha256+:{HEX}",
        None,
        5,
        True,
        ["sha256", HEX],
        {"sha256": HEX},
        f"sha256:{HEX}".encode(),
    ],
)
def test_what_is_no_digest_is_refused(text: object) -> None:
    with pytest.raises(InvalidDigest) as caught:
        Digest.parse(text)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "text",
    [f"blake3:{HEX}", f"md5:{HEX[:32]}", f"sha1:{HEX[:40]}", "foo+bar:Abc=", f"sha384:{HEX}"],
)
def test_algorithm_that_is_not_kept_is_named_as_such(text: str) -> None:
    with pytest.raises(InvalidDigest, match=r"algorithm '.*' is not supported"):
        Digest.parse(text)


def test_digest_of_nothing_is_the_known_one() -> None:
    assert Digest.of(b"") == Digest.parse(f"sha256:{EMPTY_SHA256}")


@pytest.mark.parametrize(
    "raw",
    [b"", b"\x00", b"\x01", b"\x01" + bytes(31), b"\x01" + bytes(33), b"\x02" + bytes(32), bytes(33)],
)
def test_bytes_that_are_no_stored_digest_are_refused(raw: bytes) -> None:
    with pytest.raises(InvalidDigest, match="not a stored digest"):
        Digest.from_bytes(raw)


algorithms = st.sampled_from(["sha256", "sha512"])


@given(content=st.binary(), algorithm=algorithms)
def test_every_form_comes_back_as_the_same_digest(content: bytes, algorithm: str) -> None:
    digest = Digest.of(content, algorithm)
    assert Digest.parse(str(digest)) == digest
    assert Digest.from_bytes(digest.to_bytes()) == digest
    assert digest.hex == hashlib.new(algorithm, content).hexdigest()


@given(content=st.binary(), other=st.binary(), algorithm=algorithms)
def test_only_the_content_matches(content: bytes, other: bytes, algorithm: str) -> None:
    digest = Digest.of(content, algorithm)
    assert digest.matches(content)
    assert digest.matches(other) == (content == other)


@given(parts=st.lists(st.binary()), algorithm=algorithms)
def test_hasher_counts_all_that_was_added(parts: list[bytes], algorithm: str) -> None:
    digest = Digest.of(b"".join(parts), algorithm)
    hasher = digest.hasher()
    for part in parts:
        hasher.update(memoryview(part))
    assert hasher.hexdigest() == digest.hex


@given(text=st.text())
def test_any_text_is_a_digest_that_is_written_back_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidDigest):
        assert str(Digest.parse(text)) == text
