"""Which day's samples are shown: the newest whole one."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.models import Repository, UsageSample

# Repositories are sampled in the order of their ids, so the last of a day is sampled when all others were.
# Deleted ones are sampled no more. Of those that came since a day was sampled none was, ever. The search goes
# down from the end of the key (> 0 says so to SQLite) past these two, and ends with the first that fits.
_last = (
    sa.select(Repository.id)
    .where(
        Repository.id > 0,
        Repository.state == "active",
        sa.exists().where(UsageSample.repository_id == Repository.id),
    )
    .order_by(Repository.id.desc())
    .limit(1)
    .scalar_subquery()
)
NEWEST_DAY: Final = sa.select(sa.func.max(UsageSample.day)).where(UsageSample.repository_id == _last)
"""The statement for the newest day whose samples are complete, NULL if there is none."""


def sampled_day(connection: Connection) -> int | None:
    """Return the newest day whose samples are complete, None if there is none."""
    return connection.execute(NEWEST_DAY).scalar()
