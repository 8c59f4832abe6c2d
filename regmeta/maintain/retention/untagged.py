"""Until when a policy keeps manifests that have no tag and that nothing else keeps.

The collector asks, inside its transaction and under the repository's lock, about the manifests that it would
delete. Those somebody deleted by their digest are kept by no policy.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.ingest.reserve import chunks
from regmeta.maintain.collect.reachable import IS_NOT_KEPT
from regmeta.maintain.collect.terms import FOREVER, KeepUntagged
from regmeta.maintain.retention.policy import Policy, policy_of
from regmeta.models import Manifest, PullStatistic
from regmeta.models.base import UtcTime
from regmeta.oci.digest import Digest
from regmeta.query.statistics.days import BEFORE_DAYS

_repository: Final[Any] = sa.bindparam("repository")
_ids: Final[Any] = sa.bindparam("ids", expanding=True)
_THESE: Final = sa.select(Manifest.id, Manifest.digest, Manifest.pushed_at).where(
    Manifest.repository_id == _repository, Manifest.id.in_(_ids), Manifest.deleted_at.is_(None)
)
_UNTAGGED: Final = (Manifest.repository_id == _repository, Manifest.deleted_at.is_(None), IS_NOT_KEPT)
_NEWEST_PUSHED: Final = (
    sa.select(Manifest.id)
    .where(*_UNTAGGED)
    .order_by(Manifest.pushed_at.desc(), Manifest.digest)
    .limit(sa.bindparam("count"))
)
_last_pulls: Final = (
    sa.select(
        PullStatistic.digest,
        sa.func.max(PullStatistic.last_pulled_at, type_=UtcTime()).label("pulled_at"),
    )
    .where(PullStatistic.repository_id == _repository)
    .group_by(PullStatistic.digest)
)
_NEWEST_PULLED: Final = (
    sa.select(Manifest.id)
    .join(_pulls := _last_pulls.subquery(), _pulls.c.digest == Manifest.digest)
    .where(*_UNTAGGED)
    .order_by(_pulls.c.pulled_at.desc(), Manifest.digest)
    .limit(sa.bindparam("count"))
)
_PULLS: Final = _last_pulls.where(PullStatistic.digest.in_(sa.bindparam("digests", expanding=True)))
_ANY_PULL: Final = sa.select(
    sa.exists().where(PullStatistic.repository_id == _repository, PullStatistic.day > BEFORE_DAYS)
)


def keeper_of_untagged(policies: Sequence[Policy]) -> KeepUntagged | None:
    """Return what the collector asks, None if no policy keeps untagged manifests."""
    if all(policy.untagged.keeps_none for policy in policies):
        return None
    return partial(kept_until, policies)


def kept_until(
    policies: Sequence[Policy],
    connection: Connection,
    repository_id: int,
    repository: str,
    manifest_ids: Collection[int],
    now: datetime,
) -> Mapping[int, datetime]:
    """Return until when untagged manifests are kept; those that no policy keeps after *now* are left out.

    The newest are counted among all manifests of the repository that nothing else keeps, whatever their
    leases: so this looks at the whole repository, once, if its policy counts them.
    """
    policy = policy_of(policies, repository)
    if policy is None or policy.untagged.keeps_none or not manifest_ids:
        return {}
    of = {"repository": repository_id}
    rows = [
        row
        for some in chunks(sorted(manifest_ids))
        for row in connection.execute(_THESE, {**of, "ids": some})
    ]
    terms = policy.untagged
    asks_for_pulls = terms.newest_pulled is not None or terms.pulled_within is not None
    # Where no pull was ever counted it is not known that there was none.
    knows_nothing = asks_for_pulls and not connection.execute(_ANY_PULL, of).scalar()
    if terms.keeps_all or knows_nothing:
        return {row.id: FOREVER for row in rows}
    newest = _newest(connection, of, policy)
    pulls = _pulls_of(connection, repository_id, [row.digest for row in rows]) if terms.pulled_within else {}
    until: dict[int, datetime] = {}
    for row in rows:
        times = [FOREVER] if row.id in newest else []
        if terms.pushed_within is not None:
            times.append(row.pushed_at + terms.pushed_within)
        if terms.pulled_within is not None and row.digest in pulls:
            times.append(pulls[row.digest] + terms.pulled_within)
        if times and max(times) > now:
            until[row.id] = max(times)
    return until


def _newest(connection: Connection, of: Mapping[str, int], policy: Policy) -> set[int]:
    found: set[int] = set()
    terms = policy.untagged
    for statement, count in ((_NEWEST_PUSHED, terms.newest_pushed), (_NEWEST_PULLED, terms.newest_pulled)):
        if count is not None:
            if policy.keeps_referrers:  # they stay by that, and take no place of others
                statement = statement.where(Manifest.subject_digest.is_(None))
            found.update(connection.execute(statement, {**of, "count": count}).scalars())
    return found


def _pulls_of(
    connection: Connection, repository_id: int, digests: Sequence[Digest]
) -> dict[Digest, datetime]:
    found: dict[Digest, datetime] = {}
    for some in chunks(digests):
        rows: Any = connection.execute(_PULLS, {"repository": repository_id, "digests": some})
        found.update(rows.all())
    return found
