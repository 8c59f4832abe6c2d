"""Patterns for names of repositories and tags.

===========  ===========================================================================
pattern      matches
===========  ===========================================================================
``*``        any characters of one part of a name: ``prod/*`` is ``prod/app``, but neither
             ``prod`` nor ``prod/app/cache``
``**``       as a whole part: any number of parts. ``prod/**`` is everything below ``prod``,
             ``**/cache`` is ``cache`` and everything that ends in ``/cache``, ``**`` is all
``?``        one character, never ``/``
``[a-c]``    one of these characters; ``[!a-c]`` one that is none of them
``{a,b}``    either of these; ``{1..9}`` one of these numbers
===========  ===========================================================================

A pattern is the whole name, not a piece of it. Tags have one part, so ``*`` and ``**`` mean the same there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from itertools import takewhile
from typing import Any, Final

from regmeta.errors import UsageError

MAX_LENGTH: Final = 500  # [characters]
MAX_ALTERNATIVES: Final = 1000
MAX_DEEP: Final = 3  # of ``**``: each more multiplies the ways in which a long name is tried
# What no name has, no pattern needs: an escape or a blank in one is a mistake.
_GRAMMAR: Final = re.compile(r"[A-Za-z0-9._/*?\[\]{},!^-]+")
_EMPTY_SET: Final = re.compile(r"\[[!^]?\]|\{\}")
_WILDCARD: Final = re.compile(r"[*?\[{]")
_EMPTY_PART: Final = re.compile(r"^/|//|/$")


def check(pattern: str) -> str:
    """Return *pattern* if it is one that can match a name.

    Raises:
        UsageError: says what is wrong with it.
    """
    shown = pattern[:100]
    if len(pattern) > MAX_LENGTH or not _GRAMMAR.fullmatch(pattern):
        raise UsageError(f"{shown!r} is no pattern of names: write letters, digits, . _ - / and * ? [] {{}}")
    if _EMPTY_PART.search(pattern):
        raise UsageError(f"{shown!r} is no pattern of names: a part of it is empty")
    if pattern.count("**") > MAX_DEEP:
        raise UsageError(f"{shown!r} is no pattern of names: more than {MAX_DEEP} times **")
    if _EMPTY_SET.search(pattern) or _is_open(pattern):
        raise UsageError(f"{shown!r} is no pattern of names: its brackets or braces do not fit")
    try:
        _compiled(pattern)
    except Exception as error:  # noqa: BLE001  (the library's own kinds are private)
        raise UsageError(f"{shown!r} is no pattern of names: {error}") from None
    return pattern


def matches(patterns: Iterable[str], name: str) -> bool:
    """Tell whether *name* is matched by one of *patterns*, each of which :func:`check` has let pass."""
    return any(_compiled(pattern).match(name) for pattern in patterns)


def has_wildcard(pattern: str) -> bool:
    """Tell whether *pattern*, or this part of one, may match more than its own text."""
    return _WILDCARD.search(pattern) is not None


def names_of(pattern: str) -> list[str] | None:
    """Return the names that *pattern* spells out, like ``team/{app,db}``; None if it has a wildcard."""
    import bracex  # what the patterns' library itself expands braces with

    found = list(dict.fromkeys(bracex.expand(pattern, limit=MAX_ALTERNATIVES)))
    return None if any(has_wildcard(name) for name in found) else found


def literal_parts(pattern: str) -> list[str]:
    """Return the parts of *pattern* before the first that has a wildcard: ``a/b/c*/d`` is below ``a/b``."""
    return list(takewhile(lambda part: not has_wildcard(part), pattern.split("/")))


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> Any:
    from wcmatch import glob  # only who has a pattern waits for it

    flags = glob.GLOBSTAR | glob.BRACE | glob.CASE | glob.FORCEUNIX
    return glob.compile(pattern, flags=flags, limit=MAX_ALTERNATIVES)


def _is_open(pattern: str) -> bool:
    """Tell whether brackets and braces are not in pairs. Inside brackets a brace is a character."""
    depth, in_bracket = 0, False
    for character in pattern:
        if in_bracket:
            in_bracket = character != "]"
        elif character == "[":
            in_bracket = True
        elif character == "]":
            return True
        else:
            depth += {"{": 1, "}": -1}.get(character, 0)
            if depth < 0:
                return True
    return in_bracket or depth != 0
