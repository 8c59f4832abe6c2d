"""Content digests (image-spec, ``descriptor.md``, "Digests")."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Protocol

from regmeta.errors import InvalidDigest

# image-spec descriptor.md: algorithm ::= component (separator component)*; encoded per algorithm.
_GRAMMAR = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+")
_HEX_LENGTHS = {"sha256": 64, "sha512": 128}
_HEX = re.compile(r"[a-f0-9]+")
_CODES = {"sha256": 1, "sha512": 2}
_ALGORITHMS = {code: algorithm for algorithm, code in _CODES.items()}


class Hasher(Protocol):
    """What ``hashlib`` objects offer."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Add bytes."""

    def hexdigest(self) -> str:
        """Return the digest of what was added so far."""


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A content digest of an algorithm that regmeta can verify: sha256 or sha512."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: object) -> Digest:
        """Read ``algorithm:hex``.

        Raises:
            InvalidDigest: not a string of the registered grammar (an upper-case hex digit or
                algorithm is not), or of an algorithm that is not kept here.
        """
        if not isinstance(text, str) or len(text) > 256 or not _GRAMMAR.fullmatch(text):
            raise InvalidDigest(f"not a digest: {str(text)[:100]!r}")
        algorithm, _, encoded = text.partition(":")
        length = _HEX_LENGTHS.get(algorithm)
        if length is None:
            raise InvalidDigest(f"digest algorithm {algorithm!r} is not supported: {text}")
        if len(encoded) != length or not _HEX.fullmatch(encoded):
            raise InvalidDigest(f"not a {algorithm} digest: {text}")
        return cls(algorithm, encoded)

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Digest:
        """Return the digest of *data*."""
        return cls(algorithm, hashlib.new(algorithm, data).hexdigest())

    @classmethod
    def from_bytes(cls, raw: object) -> Digest:
        """Read the form that rows hold: one byte for the algorithm, then the hash.

        Raises:
            InvalidDigest: it is not of that form, or no bytes: SQLite keeps whatever is written to it.
        """
        if not isinstance(raw, bytes):
            raise InvalidDigest(f"not a stored digest: {str(raw)[:100]!r}")
        algorithm = _ALGORITHMS.get(raw[0]) if raw else None
        if algorithm is None or len(raw) * 2 - 2 != _HEX_LENGTHS[algorithm]:
            raise InvalidDigest(f"not a stored digest: {raw.hex()}")
        return cls(algorithm, raw[1:].hex())

    def to_bytes(self) -> bytes:
        """Return the form that rows hold: one byte for the algorithm, then the hash."""
        return bytes((_CODES[self.algorithm],)) + bytes.fromhex(self.hex)

    def hasher(self) -> Hasher:
        """Return a new hasher of this digest's algorithm."""
        return hashlib.new(self.algorithm)

    def matches(self, data: bytes) -> bool:
        """Tell whether *data* has this digest."""
        return hashlib.new(self.algorithm, data).hexdigest() == self.hex

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


def stored_ranges(digits: str, algorithm: str | None = None) -> list[tuple[bytes, bytes]]:
    """Return, for what begins with some lower-case hex digits, the least stored form and the least behind.

    One range for each algorithm that may be meant: all, or the one that is given; none where there are more
    digits than a digest has.
    """
    return [
        (_padded(code, digits), _behind(code, digits))
        for name, code in _CODES.items()
        if algorithm in (None, name) and len(digits) <= _HEX_LENGTHS[name]
    ]


def _padded(code: int, digits: str) -> bytes:
    return bytes((code,)) + bytes.fromhex(digits + "0" * (len(digits) % 2))


def _behind(code: int, digits: str) -> bytes:
    kept = digits.rstrip("f")
    return _padded(code, f"{kept[:-1]}{int(kept[-1], 16) + 1:x}") if kept else bytes((code + 1,))
