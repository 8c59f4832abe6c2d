"""Which manifests go, which stay until a time, and which stay: decided here for the run and the dry run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.orm import aliased

from regmeta.maintain.collect.reachable import HAS_SUBJECT, IS_LISTED, IS_TAGGED
from regmeta.maintain.collect.terms import FOREVER, Terms
from regmeta.models import IndexMember, Manifest, Tag
from regmeta.models.base import UtcTime

LOOK_AGAIN: Final = timedelta(days=1)  # at what a policy keeps: it may be another one by then

_ids: Final[Any] = sa.bindparam("ids", expanding=True)
_FACTS: Final = sa.select(
    Manifest.id,
    Manifest.digest,
    Manifest.lease_until,
    Manifest.deleted_at,
    Manifest.subject_digest,
    IS_TAGGED.label("is_tagged"),
    IS_LISTED.label("is_listed"),
    HAS_SUBJECT.label("has_subject"),
    sa.select(sa.func.max(Tag.ended_at, type_=UtcTime()))
    .where(Tag.manifest_id == Manifest.id)
    .scalar_subquery()
    .label("last_tagged_at"),
).where(Manifest.id.in_(_ids))
_PARENTS: Final = sa.select(IndexMember.child_id, IndexMember.index_id).where(IndexMember.child_id.in_(_ids))
_subject = aliased(Manifest)
_SUBJECTS: Final = (
    sa.select(Manifest.id, _subject.id)
    .join(
        _subject,
        sa.and_(_subject.repository_id == Manifest.repository_id, _subject.digest == Manifest.subject_digest),
    )
    .where(Manifest.id.in_(_ids))
)


@dataclass(slots=True)
class Judgement:
    """What becomes of some manifests; those that are in neither are kept by others."""

    dead: dict[int, Any] = field(default_factory=dict)  # their facts
    put_off: dict[int, datetime] = field(default_factory=dict)


def judge(
    connection: Connection,
    repository: tuple[int, str],
    manifest_ids: Sequence[int],
    now: datetime,
    terms: Terms,
    gone: AbstractSet[int] = frozenset(),
) -> Judgement:
    """Return which manifests of a repository nothing keeps, and until when others are kept by time alone.

    *gone* are manifests that would not be there any more: what they list, and what refers to them, is not
    kept by them. The run itself has none. Changes nothing; who deletes what is dead holds the repository's
    lock and the manifests'. *manifest_ids* are to fit one IN list.
    """
    judged = Judgement()
    found = connection.execute(_FACTS, {"ids": manifest_ids}).all()
    listed = {row.id for row in found if row.is_listed}
    referring = {row.id for row in found if row.has_subject}
    if gone:
        listed = _without(connection, _PARENTS, listed, gone)
        referring = _without(connection, _SUBJECTS, referring, gone)
    history, keeps_referrers = terms.lifetimes.history, terms.keeps_referrers(repository[1])
    for row in found:
        if row.is_tagged or row.id in listed or row.id in referring:
            continue  # what stops keeping it writes a task
        until = row.lease_until
        for ended_at in (row.last_tagged_at, row.deleted_at):
            if ended_at is not None:
                until = max(until, ended_at + history)
        if until > now:
            judged.put_off[row.id] = until
        elif keeps_referrers and row.subject_digest is not None and row.deleted_at is None:
            judged.put_off[row.id] = now + LOOK_AGAIN
        else:
            judged.dead[row.id] = row
    _ask_policy(connection, repository, now, terms, judged)
    return judged


def _ask_policy(
    connection: Connection, repository: tuple[int, str], now: datetime, terms: Terms, judged: Judgement
) -> None:
    """Put off what a policy for untagged manifests keeps; what somebody has deleted it does not."""
    asked = [row.id for row in judged.dead.values() if row.deleted_at is None]
    if terms.untagged is None or not asked:
        return
    for manifest_id, until in terms.untagged(connection, *repository, asked, now).items():
        if until > now:
            del judged.dead[manifest_id]
            judged.put_off[manifest_id] = now + LOOK_AGAIN if until >= FOREVER else until


def _without(connection: Connection, keepers: Any, kept: Collection[int], gone: AbstractSet[int]) -> set[int]:
    """Return those of *kept* that something keeps which is not *gone*."""
    pairs: Any = connection.execute(keepers, {"ids": sorted(kept)})
    return {manifest_id for manifest_id, keeper_id in pairs if keeper_id not in gone}
