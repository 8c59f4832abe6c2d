"""Whether it can be that so much is garbage, or so much is missing: rather something is wrong then (I8).

A tags table that was emptied, another registry's database, a disk that is not mounted: they all look like a
great deal of garbage or of damage at once. Few things are believed in any case, and explicit deletes are not
asked about.
"""

from __future__ import annotations

from typing import Final

from regmeta.errors import Refused

FEW: Final = 1000  # up to here any share of garbage is plausible
SHARE: Final = 0.2

FEW_MISSING: Final = 10  # objects that are believed to be missing in any case
SHARE_MISSING: Final = 0.5


class ImplausibleShare(Refused):
    """Too much would be given up at once: the database is rather the wrong one, or old."""


class ImplausibleLoss(Refused):
    """Most objects are missing at once: rather the store is not all there."""


def check_share(part: int, whole: int, message: str) -> None:
    """Refuse to give up more than a fifth of more than 1,000 things; *message* says of which.

    Raises:
        ImplausibleShare: nothing has happened.
    """
    if whole > FEW and part > SHARE * whole:
        raise ImplausibleShare(f"{part} of {whole} {message}")


def check_loss(missing: int, live: int, consequence: str) -> None:
    """Refuse to believe that more than half of the objects that rows name, and more than ten, are missing.

    Raises:
        ImplausibleLoss: says how many.
    """
    if missing > FEW_MISSING and missing > SHARE_MISSING * live:
        raise ImplausibleLoss(
            f"{missing} of {live} objects are missing: is all of the store mounted? {consequence}"
        )
