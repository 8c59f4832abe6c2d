"""JSON from strangers.

The image-spec's documents are I-JSON (image-spec ``considerations.md``): UTF-8, no duplicate
names, no lone surrogates. Python's parser accepts much more (NaN, ``1e400``, the last of two equal
names, a byte-order mark in ``bytes``) and answers deep nesting with ``RecursionError``; two readers that
disagree on a document are how an image becomes another image on its way.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

MAX_DEPTH = 32
MAX_INTEGER = 2**63 - 1
# The closing quote is optional and nothing backtracks, so that an unclosed string costs one pass.
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


class StrictJSONError(ValueError):
    """The bytes are not one strict JSON document; the message says what is wrong with them."""


def loads(data: bytes) -> Any:
    """Parse one JSON document.

    Raises:
        StrictJSONError: not UTF-8, a byte-order mark, not JSON, nested deeper than 32, a duplicate
            name, a number that is no int64, a NaN, an infinity or a lone surrogate.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise StrictJSONError(f"not UTF-8 at byte {error.start}") from None
    if text.startswith("\ufeff"):
        raise StrictJSONError("starts with a byte-order mark")
    _check_depth(text)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_no_duplicates,
            parse_constant=_no_constant,
            parse_int=_bounded_integer,
            parse_float=_no_float,
        )
    except StrictJSONError:
        raise
    except ValueError as error:
        raise StrictJSONError(f"not JSON: {error}") from None
    if _SURROGATE_ESCAPE.search(text):
        _no_surrogates(value)
    return value


def load_object(data: bytes) -> dict[str, Any]:
    """Parse one JSON document that is to be an object.

    Raises:
        StrictJSONError: it is none, or not strict; see :func:`loads`.
    """
    value = loads(data)
    if not isinstance(value, dict):
        raise StrictJSONError("not a JSON object")
    return value


def _check_depth(text: str) -> None:
    depth = 0
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    for token in _STRING_OR_BRACKET.finditer(text):
        first = text[token.start()]
        if first in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise StrictJSONError(f"nested deeper than {MAX_DEPTH}")
        elif first in "]}":
            depth -= 1


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise StrictJSONError(f"the name {name[:100]!r} stands twice in one object")
            seen.add(name)
    return result


def _no_constant(text: str) -> NoReturn:
    raise StrictJSONError(f"{text} is not JSON")


def _bounded_integer(text: str) -> int:
    if len(text) > 20:
        raise StrictJSONError(f"a number of {len(text)} digits")
    value = int(text)
    if not -MAX_INTEGER - 1 <= value <= MAX_INTEGER:
        raise StrictJSONError(f"{text} does not fit 64 bits")
    return value


def _no_float(text: str) -> float:
    # Legal JSON, and legal where a document is free form (an image configuration). A float that
    # overflows is not a number any more.
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise StrictJSONError(f"{text[:40]} is out of range")
    return value


def _no_surrogates(value: Any) -> None:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            if any("\ud800" <= c <= "\udfff" for c in item):
                raise StrictJSONError("a lone surrogate in a string")
        elif isinstance(item, dict):
            stack.extend(item)
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
