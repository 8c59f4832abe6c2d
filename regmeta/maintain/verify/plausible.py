"""Whether it can be that so much is missing: a disk that is not mounted looks like that (I8)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import sqlalchemy as sa

from regmeta.db import Database
from regmeta.maintain.collect.plausible import check_loss
from regmeta.maintain.verify.findings import Finding, Kind
from regmeta.models import Blob

_LIVE: Final = sa.select(sa.func.count()).select_from(Blob).where(Blob.state == "live")


def check_plausible(database: Database, findings: Iterable[Finding]) -> None:
    """Refuse to mark anything as damaged where most objects are missing.

    Raises:
        ImplausibleLoss: says how many; nothing has been marked.
    """
    missing = sum(finding.kind is Kind.OBJECT_MISSING for finding in findings)
    with database.read() as connection:
        live = connection.execute(_LIVE).scalar_one()
    check_loss(missing, live, "Nothing is marked.")
