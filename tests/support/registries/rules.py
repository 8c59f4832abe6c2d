"""What a registry can be told to do wrong; see :mod:`tests.support.registries.bad_registry`.

*times* is how many requests a rule is for; without it, for all that follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What is done to one request."""

    times: int | None = None


@dataclass(frozen=True)
class Slow(Rule):
    """Answer rightly, after a delay."""

    delay_s: float


@dataclass(frozen=True)
class Cut(Rule):
    """Close the connection when this much of the body is out; the headers promise all of it."""

    after_bytes: int


@dataclass(frozen=True)
class Status(Rule):
    """Answer with a status, whatever was asked."""

    code: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class Redirect(Rule):
    """Send the client elsewhere; ``{path}`` in the URL is the path that it asked for, with its query."""

    url: str
    code: int = 307


@dataclass(frozen=True)
class Headers(Rule):
    """Answer rightly but for these headers; None leaves one out."""

    changes: Mapping[str, str | None]


@dataclass(frozen=True)
class WrongBytes(Rule):
    """Turn over the last byte of the body. Its length and all headers stay."""


@dataclass(frozen=True)
class LyingLength(Rule):
    """Promise a body of this length, send the right one, and close the connection."""

    length: int


@dataclass(frozen=True)
class Endless(Rule):
    """Send this much in chunks in place of the body, without saying how much it is."""

    size_bytes: int


@dataclass(frozen=True)
class Hang(Rule):
    """Say nothing until the registry is closed."""
