"""Where a page of a list ends, as an opaque text that the next page starts behind.

A cursor holds the values of the sort keys in the last row, the unique tie-break included, and no row number:
so rows that others insert and delete meanwhile move no other row over the edge of a page. It also holds a
mark of the question, since the keys of one order mean nothing in another.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

from regmeta.errors import IntegrityError, UsageError

Key = int | str | None
Kind = type[int] | type[str]

MAX_PAGE: Final = 1_000_000  # [rows]
_MARK_BYTES: Final = 6
MAX_LENGTH: Final = 4096  # [characters] of a cursor


def check_limit(limit: int) -> int:
    """Return how many rows a page, or an answer without pages, has at most.

    Raises:
        UsageError: none, or too many.
    """
    if not 1 <= limit <= MAX_PAGE:
        raise UsageError(f"limit {limit}: give 1 to {MAX_PAGE} rows")
    return limit


def following(
    question: str,
    rows: Sequence[Any],
    limit: int,
    keys: Callable[[Any], Sequence[Any]],
    kinds: Sequence[Kind],
) -> str | None:
    """Return the cursor behind the last row of a page; None if of *limit* + 1 wanted rows no more came.

    *keys* gives the sort keys of a row; see :func:`encode`.
    """
    return encode(question, keys(rows[limit - 1]), kinds) if len(rows) > limit else None


def encode(question: str, keys: Sequence[Any], kinds: Sequence[Kind]) -> str:
    """Return the cursor behind the row that has these sort keys, each of its kind or None.

    *question* names the list, its order and its filters: what must be the same for the next page.

    Raises:
        IntegrityError: the row is damaged: no list can go on behind such a key.
    """
    for key, kind in zip(keys, kinds, strict=True):
        if key is not None and not _is_sound(key, kind):
            raise _damaged(key)
    text = json.dumps(list(keys), ensure_ascii=False, separators=(",", ":"))
    cursor = base64.urlsafe_b64encode(_mark(question) + text.encode()).decode().rstrip("=")
    if len(cursor) > MAX_LENGTH:
        raise _damaged(text)
    return cursor


def decode(
    question: str, cursor: str, kinds: Sequence[Kind], nullable: Collection[int] = ()
) -> tuple[Any, ...]:
    """Return the sort keys that a cursor holds, each of its kind; None where *nullable* names its place.

    They are such as both databases take: integers of 64 bits, and text that UTF-8 has, without NUL.

    Raises:
        UsageError: it is no cursor, or that of another question.
    """
    try:
        if len(cursor) > MAX_LENGTH or not cursor.isascii():
            raise ValueError
        content = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        mark, keys = content[:_MARK_BYTES], json.loads(content[_MARK_BYTES:].decode())
    except (ValueError, binascii.Error, RecursionError):
        raise UsageError(
            f"--after {cursor[:80]!r}: no cursor; give what the page before calls next"
        ) from None
    if mark != _mark(question):
        raise UsageError(
            f"--after {cursor[:80]!r}: the cursor is of another list; keep filters and order as they were"
        )
    fits = isinstance(keys, list) and len(keys) == len(kinds)
    if not fits or not all(
        place in nullable if key is None else _is_sound(key, kind)
        for place, (key, kind) in enumerate(zip(keys, kinds, strict=True))
    ):
        raise UsageError(f"--after {cursor[:80]!r}: no cursor; give what the page before calls next")
    return tuple(keys)


def _is_sound(key: Any, kind: Kind) -> bool:
    if type(key) is not kind:
        return False
    if isinstance(key, int):
        return -(2**63) <= key < 2**63
    try:
        return b"\0" not in key.encode()
    except UnicodeEncodeError:
        return False


def _damaged(key: Any) -> IntegrityError:
    return IntegrityError(
        f"a page ends with a damaged row, that is ordered by {str(key)[:40]!r}: 'regmeta verify' says which;"
        " another order or limit may pass it"
    )


def _mark(question: str) -> bytes:
    return hashlib.blake2b(question.encode(), digest_size=_MARK_BYTES).digest()
