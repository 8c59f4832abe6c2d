"""Writes values as zot's database has them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime


def varint(value: int) -> bytes:
    """Return a number; a negative one as 64 bits."""
    value %= 2**64
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def block(field: int, value: bytes | str) -> bytes:
    content = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(content)) + content


def timestamp(at: datetime | None) -> bytes:
    """Return a time; None is the empty message that zot writes for never."""
    if at is None:
        return b""
    since = at - datetime(1970, 1, 1, tzinfo=UTC)
    return number(1, since.days * 86400 + since.seconds) + number(2, since.microseconds * 1000)


def statistics(
    pulls: int, last: datetime | None, pushed: datetime | None, by: str = "", more: bytes = b""
) -> bytes:
    return number(1, pulls) + block(2, timestamp(last)) + block(3, timestamp(pushed)) + block(4, by) + more


def repository(name: str, images: Mapping[str, bytes], stars: int = 0) -> bytes:
    """Return a RepoMeta with the entry without a key that zot puts in, and fields of no interest."""
    entries = b"".join(
        block(3, block(1, key) + block(2, value)) for key, value in {"": b"", **images}.items()
    )
    tags = block(2, block(1, "v1") + block(2, block(1, "application/x") + block(2, "sha256:0")))
    return block(1, name) + tags + entries + number(9, stars) + number(10, 5) + varint(99 << 3 | 1) + b"8" * 8


def user(starred: list[str], bookmarked: list[str]) -> bytes:
    keys = {"abc": {"createdAt": "2024-01-01T00:00:00Z", "label": "x"}}
    document = {"StarredRepos": starred, "BookmarkedRepos": bookmarked, "Groups": None, "APIKeys": keys}
    return json.dumps(document).encode()
