"""Text without regard to case and form, for search: the same on every database."""

from __future__ import annotations

import hashlib
import unicodedata
from typing import Final

_TOP: Final = "\U0010ffff"
MAX_TEXT: Final = 1024  # [characters] of a label's value that are searched


def folded(text: str) -> str:
    """Return *text* as it is compared: compatibility forms and cases made one (Unicode NFKC, casefold)."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def text_of(value: str) -> str:
    """Return what of a label's value is searched: folded, and cut to ``MAX_TEXT`` characters."""
    return folded(value[:MAX_TEXT])[:MAX_TEXT]


def text_key(text: str) -> int:
    """Return the 64-bit number that stands for a folded text: two texts with one number are not expected."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


def behind(prefix: str) -> str:
    """Return the least text, in byte order, behind all that start with *prefix*."""
    kept = prefix.rstrip(_TOP)
    if not kept:
        return _TOP * 256
    code = ord(kept[-1]) + 1
    return kept[:-1] + chr(0xE000 if 0xD800 <= code < 0xE000 else code)
