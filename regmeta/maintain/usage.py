"""Sampling how much room repositories take, once a day or more often; the last sample of a day stands.

==========  =====================================  ===========================================  ==============
step        durable effect                         a crash right after leaves                   repaired
==========  =====================================  ===========================================  ==============
measure     none: some hundred are read            --                                           --
record      one transaction: their samples         a day that is not whole: lists show the      the next run
                                                   one before
==========  =====================================  ===========================================  ==============

Repositories are read outside the transaction that writes, so writers wait for a short one only.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import sqlalchemy as sa

from regmeta import db
from regmeta.db import Database
from regmeta.ingest.inserting import inserting
from regmeta.ingest.retry import retried
from regmeta.maintain.progress import Progress
from regmeta.models import Repository, UsageSample
from regmeta.query.statistics.days import day_of
from regmeta.query.statistics.measure import SOME, measure

_active = Repository.state == "active"
_COUNT: Final = sa.select(sa.func.count()).select_from(Repository).where(_active)
_SAMPLED: Final = sa.exists().where(
    UsageSample.day == sa.bindparam("day"), UsageSample.repository_id == Repository.id
)
_NEXT: Final = (
    sa.select(Repository.id, _SAMPLED)
    .where(Repository.id > sa.bindparam("behind"), _active)
    .order_by(Repository.id)
    .limit(sa.bindparam("batch"))
)


@dataclass(frozen=True, slots=True)
class UsageReport:
    """How many repositories were measured, and how many had a sample of today and were left as they are."""

    measured: int
    left: int


def record_usage(
    database: Database, progress: Progress, *, resume: bool = False, batch: int = SOME
) -> UsageReport:
    """Write today's sample of each repository, in place of an earlier one of today.

    With *resume* those that have one are left: for a run that goes on where another was interrupted. The day
    is that of the database's clock when the run begins. Safe beside writers and itself.

    Raises:
        Unavailable, Locked: the database did not do it; run it again.
    """
    with database.read() as connection:
        day = day_of(db.clock(connection))
        progress.began("measure", connection.execute(_COUNT).scalar())
    measured = left = behind = 0
    while True:
        with database.read() as connection:
            found: Any = connection.execute(_NEXT, {"behind": behind, "batch": batch, "day": day}).all()
            wanted = [number for number, is_sampled in found if not (resume and is_sampled)]
            now = db.clock(connection)
            samples = measure(connection, wanted) if wanted else {}
        if samples:
            rows = [
                {"day": day, "repository_id": number, "sampled_at": now, **asdict(sample)}
                for number, sample in samples.items()
            ]
            retried(lambda rows=rows: _write(database, rows))  # type: ignore[misc]
        measured, left = measured + len(wanted), left + len(found) - len(wanted)
        progress.advanced(len(found))
        if len(found) < batch:
            return UsageReport(measured, left)
        behind = found[-1][0]


def _write(database: Database, rows: list[dict[str, Any]]) -> None:
    with database.transaction("record_usage") as connection:
        insert = inserting(connection, UsageSample)
        values = {name: insert.excluded[name] for name in rows[0] if name not in ("day", "repository_id")}
        # One that two runs measured at once is what the later of them saw.
        newer = insert.excluded.sampled_at >= UsageSample.sampled_at
        connection.execute(
            insert.on_conflict_do_update(index_elements=["day", "repository_id"], set_=values, where=newer),
            rows,
        )
