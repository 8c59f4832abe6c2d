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
from collections.abc import Sequence
from typing import Final

from regmeta.errors import UsageError

Key = int | str | None

_MARK_BYTES: Final = 6
MAX_LENGTH: Final = 4096  # [characters] of a cursor


def encode(question: str, keys: Sequence[Key]) -> str:
    """Return the cursor behind the row that has these sort keys.

    *question* names the list, its order and its filters: what must be the same for the next page.
    """
    text = json.dumps(list(keys), ensure_ascii=False, separators=(",", ":"))
    return base64.urlsafe_b64encode(_mark(question) + text.encode()).decode().rstrip("=")


def decode(question: str, cursor: str, kinds: Sequence[type[int] | type[str]]) -> tuple[Key, ...]:
    """Return the sort keys that a cursor holds, each of its kind or None.

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
    if not fits or not all(key is None or type(key) is kind for key, kind in zip(keys, kinds, strict=True)):
        raise UsageError(f"--after {cursor[:80]!r}: no cursor; give what the page before calls next")
    return tuple(keys)


def _mark(question: str) -> bytes:
    return hashlib.blake2b(question.encode(), digest_size=_MARK_BYTES).digest()
