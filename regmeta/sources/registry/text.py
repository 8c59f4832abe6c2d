"""What strangers wrote, made fit for a message: escaped and short."""

from __future__ import annotations

_SHOWN: int = 200


def shown(text: str, limit: int = _SHOWN) -> str:
    """Return *text* on one line, with what does not print as escapes, cut at *limit* characters."""
    cut = text if len(text) <= limit else text[:limit] + "..."
    if cut.isprintable():
        return cut
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
