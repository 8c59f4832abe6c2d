"""Statistics of a registry that was taken over, kept beside those that are counted here.

Of the old registry's pulls only a total and the last time are known: no days, and not by which tag. So a
manifest has one row for them, on no day (``days.BEFORE_DAYS``): they count for the manifest in all, and tell
retention when each of its tags may have been pulled last; they are on no day's sum, and in no list of what
was pulled lately.

===========  ===========================  ==============================================  =================
step         durable effect               a crash right after leaves                      repaired by
===========  ===========================  ==============================================  =================
take         one transaction for each     statistics of the repositories until then       the next import
             repository
===========  ===========================  ==============================================  =================

Taken again, a total becomes the larger one, a last pull the later one, a push the earlier one; so nothing is
added twice, and what comes again changes no row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import db
from regmeta.db import Database
from regmeta.errors import UsageError
from regmeta.ingest.inserting import Conflict, many
from regmeta.ingest.plan import ADOPTED
from regmeta.ingest.reserve import chunks
from regmeta.ingest.retry import retried
from regmeta.models import Favorite, Manifest, PullStatistic, Repository
from regmeta.oci import names
from regmeta.query.statistics.days import BEFORE_DAYS
from regmeta.query.statistics.favorites import user_name
from regmeta.sources.zot import ImageStatistics, RepositoryStatistics

PUSHED: Final = "zot:"
"""What ``pushed_by`` begins with: who took it over, and who had pushed it to zot."""

MAX_PROBLEMS: Final = 1000
_SKEW: Final = timedelta(days=1)  # a time that is further in the future is none

# The repository's lock: rows of manifests change under it only. No revision: no snapshot says any of this.
_LOCK: Final = (
    sa.select(Repository.id)
    .where(Repository.name == sa.bindparam("name"), Repository.state == "active")
    .with_for_update(key_share=True)
)
_MANIFESTS: Final = sa.select(Manifest.id, Manifest.digest, Manifest.pushed_at, Manifest.pushed_by).where(
    Manifest.repository_id == sa.bindparam("of"),
    Manifest.digest.in_(sa.bindparam("digests", expanding=True)),
    Manifest.deleted_at.is_(None),
)
_PULLS: Final = sa.select(PullStatistic.digest, PullStatistic.pulls, PullStatistic.last_pulled_at).where(
    PullStatistic.repository_id == sa.bindparam("of"),
    PullStatistic.digest.in_(sa.bindparam("digests", expanding=True)),
    PullStatistic.tag == "",
    PullStatistic.day == BEFORE_DAYS,
)
_PUSHED: Final = (
    sa.update(Manifest)
    .where(Manifest.id == sa.bindparam("of"))
    .values(pushed_at=sa.bindparam("at"), pushed_by=sa.bindparam("by"))
)
_OVER: Final = Conflict(("repository_id", "digest", "tag", "day"), taken=("pulls", "last_pulled_at"))
_ONCE: Final = Conflict(("user_name", "kind", "repository_id"))


@dataclass(frozen=True, slots=True)
class StatisticsProblem:
    """Something that an old registry says and that is not kept."""

    repository: str
    what: str


@dataclass(frozen=True, slots=True)
class StatisticsReport:
    """What an old registry told, and what of it is kept.

    *manifests* of *repositories* are here; they had *pulls* in sum. *changed* rows were written: pulls,
    pushes and favourites; none when the same comes again. Of *undated* manifests the total is not kept
    because no time of a pull is known. *absent* manifests, and *absent_repositories*, are not here.
    *unnamed_stars* are those of which nobody says whose they are. The first 1,000 *problems* are told.
    """

    repositories: int = 0
    manifests: int = 0
    pulls: int = 0
    changed: int = 0
    undated: int = 0
    absent: int = 0
    absent_repositories: int = 0
    unnamed_stars: int = 0
    problems: tuple[StatisticsProblem, ...] = ()


@dataclass(slots=True)
class _Sums:
    manifests: int = 0
    pulls: int = 0
    changed: int = 0
    undated: int = 0
    absent: int = 0
    is_here: bool = True
    problems: list[str] = field(default_factory=list)


def take_statistics(
    database: Database,
    found: Iterable[RepositoryStatistics],
    *,
    name_here: Callable[[str], str] = str,
) -> StatisticsReport:
    """Keep what an old registry says of the manifests that are here, repository by repository.

    *name_here* gives a repository's name here from its old one. Push times and pushers are taken for
    manifests only that were taken over, not for those that were pushed here.

    Raises:
        Unavailable, Locked: the rest was not kept.
        Error: what *found* raises on the way; what came before it is kept.
    """
    report = StatisticsReport()
    for one in found:
        name = name_here(one.repository) if one.repository else ""
        sums = _Sums(is_here=False)
        if names.is_repository(name):
            sums = retried(lambda name=name, one=one: _take(database, name, one))  # type: ignore[misc]
        report = _added(report, one, sums)
    return report


def _added(report: StatisticsReport, one: RepositoryStatistics, sums: _Sums) -> StatisticsReport:
    room = MAX_PROBLEMS - len(report.problems)
    problems = [StatisticsProblem(one.repository, what) for what in (*one.problems, *sums.problems)[:room]]
    stars = max(0, one.stars - len(one.starred_by)) if sums.is_here else 0
    is_absent = not sums.is_here and bool(one.images or one.starred_by or one.bookmarked_by)
    return StatisticsReport(
        report.repositories + sums.is_here,
        report.manifests + sums.manifests,
        report.pulls + sums.pulls,
        report.changed + sums.changed,
        report.undated + sums.undated,
        report.absent + sums.absent,
        report.absent_repositories + is_absent,
        report.unnamed_stars + stars,
        (*report.problems, *problems),
    )


def _take(database: Database, name: str, one: RepositoryStatistics) -> _Sums:
    sums = _Sums()
    with database.transaction("take_statistics") as connection:
        of = connection.execute(_LOCK, {"name": name}).scalar()
        if of is None:
            return _Sums(is_here=False)
        now = db.clock(connection)
        # Rows of several batches are locked in one order by all.
        ordered = sorted(one.images, key=lambda image: image.digest.to_bytes())
        for some in chunks(ordered):
            _take_some(connection, of, some, now, sums)
        sums.changed += _favorites(connection, of, one, now, sums)
    return sums


def _take_some(
    connection: Connection, of: int, images: Sequence[ImageStatistics], now: datetime, sums: _Sums
) -> None:
    asked = {"of": of, "digests": [image.digest for image in images]}
    here = {row.digest: row for row in connection.execute(_MANIFESTS, asked)}
    counted = {row.digest: (row.pulls, row.last_pulled_at) for row in connection.execute(_PULLS, asked)}
    pulls: list[dict[str, Any]] = []
    pushes: list[dict[str, Any]] = []
    for image in images:
        row = here.get(image.digest)
        if row is None:
            sums.absent += 1
            continue
        sums.manifests += 1
        push = _push(image, row, now)
        if push is not None:
            pushes.append(push)
        last = _past(image.last_pulled_at, now)
        if not image.pulls:
            continue
        if last is None:
            sums.undated += 1
            continue
        sums.pulls += image.pulls
        before, before_last = counted.get(image.digest, (0, last))
        merged = max(image.pulls, before), max(last, before_last)
        if counted.get(image.digest) != merged:
            pulls.append(
                {
                    "repository_id": of,
                    "digest": image.digest,
                    "tag": "",
                    "day": BEFORE_DAYS,
                    "pulls": merged[0],
                    "last_pulled_at": merged[1],
                }
            )
    if pulls:
        connection.execute(*many(connection, PullStatistic, pulls, conflict=_OVER))
    if pushes:
        connection.execute(_PUSHED, sorted(pushes, key=lambda push: push["of"]))
    sums.changed += len(pulls) + len(pushes)


def _push(image: ImageStatistics, row: Any, now: datetime) -> dict[str, Any] | None:
    """Return what is to be said of a push to the old registry; None if that stands, or it was pushed here."""
    if not row.pushed_by.startswith((ADOPTED, PUSHED)):
        return None
    # Both may be too late: a file that was copied, a database of zot that was made again.
    at = min(row.pushed_at, _past(image.pushed_at, now) or row.pushed_at)
    by = f"{PUSHED}{image.pushed_by}" if image.pushed_by else row.pushed_by
    return None if (at, by) == (row.pushed_at, row.pushed_by) else {"of": row.id, "at": at, "by": by}


def _past(at: datetime | None, now: datetime) -> datetime | None:
    """Return a time that was; one that clocks which differ make a little later is now."""
    return None if at is None or at > now + _SKEW else min(at, now)


def _favorites(connection: Connection, of: int, one: RepositoryStatistics, now: datetime, sums: _Sums) -> int:
    """Keep whose the repository is a favourite of; return how many were not known."""
    rows: list[dict[str, Any]] = []
    for kind, users in (("star", one.starred_by), ("bookmark", one.bookmarked_by)):
        for user in sorted(set(users)):
            try:
                name = user_name(user)
            except UsageError as error:
                sums.problems.append(str(error))
                continue
            rows.append({"user_name": name, "kind": kind, "repository_id": of, "created_at": now})
    new = 0
    for some in chunks(rows):
        asked = many(connection, Favorite, some, conflict=_ONCE, returning=("user_name",))
        new += len(connection.execute(*asked).all())
    return new
