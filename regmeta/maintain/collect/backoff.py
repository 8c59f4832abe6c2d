"""How long what has failed is left alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Final

FIRST: Final = timedelta(minutes=1)
LONGEST: Final = timedelta(hours=24)
SHORTEST: Final = timedelta(seconds=1)  # never at once
ERROR_CHARACTERS: Final = 500


def back_off(attempts: int, chance: Callable[[], float] = random.random) -> timedelta:
    """Return how long to wait after so many attempts: anything up to a time that doubles with each.

    *chance* gives a number from 0 to 1. All of it is left to chance, so that what failed together is not
    tried together again.
    """
    longest = min(FIRST * (1 << min(attempts - 1, 20)), LONGEST)
    return max(SHORTEST, chance() * longest)


def in_short(error: str) -> str:
    """Return what a row keeps of an error's message: text without NUL, and not too much of it."""
    return error.replace("\0", "")[:ERROR_CHARACTERS]
