"""What a 401 asks for: the ``WWW-Authenticate`` header (RFC 9110, section 11)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

_MAX_HEADER: Final = 8 * 1024
_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"  # noqa: S105
_SCHEME_RE: Final = re.compile(_TOKEN)
_PARAMETER_RE: Final = re.compile(
    rf"(?P<name>{_TOKEN})[ \t]*+=[ \t]*+"
    rf'(?:(?P<token>{_TOKEN})|"(?P<quoted>(?:[^"\\]|\\.)*+)")(?=[ \t]*+(?:,|$))'
)
_TOKEN68_RE: Final = re.compile(r"[A-Za-z0-9._~+/-]++=*+(?=[ \t]*+(?:,|$))")
_COMMAS_RE: Final = re.compile(r"[ \t]*+(?:,[ \t]*+)*+")
_BLANKS_RE: Final = re.compile(r"[ \t]++")
_ESCAPE_RE: Final = re.compile(r"\\(.)")


class BadChallenge(ValueError):
    """The header is not of the grammar."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way in that a server offers: its scheme and its parameters, both in lower case."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """Return every challenge of every header line, in order.

    Raises:
        BadChallenge: not of the grammar, a parameter twice, a control character, or longer than 8 KiB.
    """
    return [challenge for header in headers for challenge in _parse(header)]


def _parse(header: str) -> list[Challenge]:
    if len(header) > _MAX_HEADER:
        raise BadChallenge(f"longer than {_MAX_HEADER} characters")
    if any((ord(c) < 32 and c != "\t") or ord(c) == 127 for c in header):
        raise BadChallenge("a control character")
    found: list[Challenge] = []
    at = len(header) - len(header.lstrip(", \t"))
    while at < len(header):
        scheme = _SCHEME_RE.match(header, at)
        if scheme is None:
            raise BadChallenge(f"no scheme at character {at}")
        parameters, at = _parse_parameters(header, scheme.end())
        found.append(Challenge(scheme[0].lower(), parameters))
    return found


def _parse_parameters(header: str, at: int) -> tuple[dict[str, str], int]:
    """Read what follows a scheme; return it and where the next scheme begins."""
    parameters: dict[str, str] = {}
    blanks = _BLANKS_RE.match(header, at)
    if blanks is None:
        return parameters, _after_comma(header, at)
    at = blanks.end()
    if _PARAMETER_RE.match(header, at) is None:
        token68 = _TOKEN68_RE.match(header, at)
        return parameters, _after_comma(header, at if token68 is None else token68.end())
    while match := _PARAMETER_RE.match(header, at):
        name = match["name"].lower()
        if name in parameters:
            raise BadChallenge(f"the parameter {name[:40]} stands twice")
        quoted = match["quoted"]
        parameters[name] = match["token"] if quoted is None else _ESCAPE_RE.sub(r"\1", quoted)
        at = _after_comma(header, match.end())
    return parameters, at


def _after_comma(header: str, at: int) -> int:
    match = _COMMAS_RE.match(header, at)
    assert match is not None
    if match.end() < len(header) and "," not in match[0]:
        raise BadChallenge(f"no comma at character {match.end()}")
    return match.end()
