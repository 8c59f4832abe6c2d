"""Whether it can be that so much is missing: a disk that is not mounted looks like that (I8)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import sqlalchemy as sa

from regmeta.db import Database
from regmeta.errors import Refused
from regmeta.maintain.verify.findings import Finding, Kind
from regmeta.models import Blob

FEW: Final = 10  # missing objects that are believed in any case
SHARE: Final = 0.5  # of all blobs

_LIVE: Final = sa.select(sa.func.count()).select_from(Blob).where(Blob.state == "live")


class ImplausibleLoss(Refused):
    """Most objects would be called damaged at once: rather the store is not all there."""


def check_plausible(database: Database, findings: Iterable[Finding]) -> None:
    """Refuse to mark anything as damaged where most objects are missing.

    Raises:
        ImplausibleLoss: says how many; nothing has been marked.
    """
    missing = sum(finding.kind is Kind.OBJECT_MISSING for finding in findings)
    with database.read() as connection:
        live = connection.execute(_LIVE).scalar_one()
    if missing > FEW and missing > SHARE * live:
        raise ImplausibleLoss(
            f"{missing} of {live} objects are missing: is all of the store mounted? Nothing is marked."
        )
