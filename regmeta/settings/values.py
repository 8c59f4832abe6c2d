"""What several parts of the settings are written with: lengths of time, patterns, platforms."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Final

import msgspec

from regmeta.errors import UsageError

_DURATION: Final = re.compile(r"(\d{1,9})([smhdw])", re.ASCII)
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_LONGEST_S: Final = 100 * 366 * 86400  # what is added to a time must stay one

Count = Annotated[int, msgspec.Meta(ge=1)]


def duration(text: str) -> timedelta:
    """Return a length of time that is written like ``45s``, ``90m``, ``12h``, ``30d`` or ``2w``.

    Raises:
        UsageError: it is written otherwise, or longer than a hundred years.
    """
    match = _DURATION.fullmatch(text)
    length_s = _LONGEST_S + 1 if match is None else int(match[1]) * _UNITS_S[match[2]]
    if length_s <= _LONGEST_S:
        return timedelta(seconds=length_s)
    raise UsageError(f"{text!r} is no length of time: write 45s, 90m, 12h, 30d or 2w")


def check_globs(where: str, patterns: tuple[str, ...], *, tags: bool = False) -> None:
    """Refuse patterns that can match no name, or no tag.

    Raises:
        UsageError: says *where* it stands and what is wrong with it.
    """
    from regmeta.oci import globs  # only who has patterns waits for it

    for pattern in patterns:
        try:
            globs.check(pattern)
        except UsageError as error:
            raise UsageError(f"settings: {where}: {error}") from error
        if tags and "/" in pattern:
            raise UsageError(f"settings: {where}: {pattern!r}: no tag has a slash")


def check_regexes(where: str, texts: tuple[str, ...]) -> None:
    """Refuse what is no regular expression.

    Raises:
        UsageError: says *where* it stands and what is wrong with it.
    """
    for text in texts:
        try:
            re.compile(text)
        except (re.error, OverflowError, RecursionError) as error:
            raise UsageError(f"settings: {where}: {text[:100]!r}: {error}") from error
