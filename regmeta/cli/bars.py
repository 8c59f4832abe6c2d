"""Numbers as bars: blocks, or signs that any terminal has."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

WIDTH: Final = 24  # [characters] of the longest

_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"
_STEPS: Final = "▁▂▃▄▅▆▇█"
_PLAIN_STEPS: Final = "_.-=+*#@"


def bars(values: Sequence[int], width: int = WIDTH) -> list[str]:
    """Return a bar for each value, the greatest of *width*; what is not nothing is seen."""
    greatest = max(values, default=0)
    if greatest <= 0:
        return ["" for _ in values]
    draw = _blocks if _can_show(_EIGHTHS) else _signs
    return [draw(max(0, value), greatest, width) for value in values]


def sparkline(values: Sequence[int]) -> str:
    """Return one sign for each value, higher for greater ones; a dot where there is nothing."""
    steps = _STEPS if _can_show(_STEPS) else _PLAIN_STEPS
    greatest = max(values, default=0)
    return "".join("." if value <= 0 else steps[(value * len(steps) - 1) // greatest] for value in values)


def _blocks(value: int, greatest: int, width: int) -> str:
    eighths = -(-value * width * 8 // greatest)  # rounded up
    return "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")


def _signs(value: int, greatest: int, width: int) -> str:
    return "#" * -(-value * width // greatest)


def _can_show(signs: str) -> bool:
    try:
        signs.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
