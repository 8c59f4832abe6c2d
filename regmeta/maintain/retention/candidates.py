"""Reading the live tags of one repository, with what rules ask about them: a few statements, however many."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.errors import InvalidDigest
from regmeta.ingest.immutable import ImmutableTags, immutable_tags
from regmeta.maintain.retention.policy import Policy
from regmeta.models import IndexMember, Manifest, PullStatistic, Tag
from regmeta.models.base import UtcTime
from regmeta.oci.digest import Digest
from regmeta.query.catalog import platform
from regmeta.query.statistics.days import BEFORE_DAYS

_repository: Final[Any] = sa.bindparam("repository")
_LIVE: Final = (Tag.repository_id == _repository, Tag.ended_at.is_(None))
_TAGS: Final = (
    sa.select(
        Tag.name,
        Tag.manifest_digest,
        Tag.started_at,
        Manifest.id,
        Manifest.os,
        Manifest.architecture,
        Manifest.variant,
        Manifest.subject_digest,
    )
    .join(Manifest, Manifest.id == Tag.manifest_id)
    .where(*_LIVE)
)
# Another registry counted them: they may be of any tag, and do not tell that what has none was not pulled.
_is_before: Final = (PullStatistic.day <= BEFORE_DAYS).label("is_before")
_PULLS: Final = (
    sa.select(
        PullStatistic.digest,
        PullStatistic.tag,
        sa.func.max(PullStatistic.last_pulled_at, type_=UtcTime()),
        _is_before,
    )
    .where(PullStatistic.repository_id == _repository)
    .group_by(PullStatistic.digest, PullStatistic.tag, _is_before)
)
_SUBJECTS: Final = (
    sa.select(Manifest.subject_digest)
    .where(
        Manifest.repository_id == _repository,
        Manifest.subject_digest.is_not(None),
        Manifest.deleted_at.is_(None),
    )
    .distinct()
)
_HERE: Final = sa.select(Manifest.digest).where(
    Manifest.repository_id == _repository, Manifest.deleted_at.is_(None)
)


def _platforms_below() -> sa.Select[Any]:
    """Return (root, os, architecture, variant) of all that tagged indexes list, at any depth.

    What an index says of a child comes first, what the child's configuration says where it is silent.
    """
    tagged = sa.select(Tag.manifest_id).where(*_LIVE)
    first = sa.select(
        IndexMember.index_id.label("root"),
        IndexMember.child_id,
        IndexMember.os,
        IndexMember.architecture,
        IndexMember.variant,
    ).where(IndexMember.index_id.in_(tagged))
    below = first.cte("below", recursive=True)
    below = below.union(
        sa.select(
            below.c.root,
            IndexMember.child_id,
            IndexMember.os,
            IndexMember.architecture,
            IndexMember.variant,
        ).join(IndexMember, IndexMember.index_id == below.c.child_id)
    )
    said = below.c.os.is_not(None)
    return (
        sa.select(
            below.c.root,
            sa.case((said, below.c.os), else_=Manifest.os),
            sa.case((said, below.c.architecture), else_=Manifest.architecture),
            sa.case((said, below.c.variant), else_=Manifest.variant),
        )
        .outerjoin(Manifest, Manifest.id == below.c.child_id)
        .distinct()
    )


_PLATFORMS_BELOW: Final = _platforms_below()

# sha256-<hex>, and with what signing tools put behind it: a tag that stands for a referrer.
_NAMED_AFTER: Final = re.compile(r"(sha256-[0-9a-f]{64}|sha512-[0-9a-f]{128})(\.[A-Za-z0-9._-]+)?")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One live tag, and what rules ask about it. What no rule of its policy asks is left empty."""

    tag: str
    digest: Digest
    started_at: datetime  # of this interval: a tag that was moved is new
    pulled_at: datetime | None = None
    platforms: frozenset[str] = frozenset()
    has_referrers: bool = False
    has_subject: bool = False
    locked_by: str | None = None  # the rule by which it may not be ended


@dataclass(frozen=True, slots=True)
class Candidates:
    """The live tags of one repository at one moment, by name."""

    tags: tuple[Candidate, ...]
    counts_pulls: bool = True
    """Whether any pull was ever counted here: where none was, it is not known that there was none."""


def read_candidates(
    connection: Connection, repository: tuple[int, str], policy: Policy, immutable: Sequence[ImmutableTags]
) -> Candidates:
    """Read what the rules of *policy* ask about; one to six statements, for 20,000 tags as for one."""
    repository_id, _ = repository
    of = {"repository": repository_id}
    rules = policy.keep
    rows = sorted(connection.execute(_TAGS, of).all(), key=lambda row: str(row.name))
    pulls: dict[tuple[Digest, str], datetime] = {}
    before: dict[Digest, datetime] = {}
    counts_pulls = True
    if any(rule.asks_for_pulls for rule in rules):
        found: Any = connection.execute(_PULLS, of)
        for digest, tag, at, is_before in found:
            if is_before:
                before[digest] = at
            else:
                pulls[digest, tag] = at
        counts_pulls = bool(pulls)
    platforms: Mapping[int, Collection[str]] = {}
    if any(rule.platforms for rule in rules):
        platforms = _platforms(connection, repository_id, rows)
    subjects: Collection[Digest | None] = ()
    if any(rule.has_referrers is not None for rule in rules):
        subjects = set(connection.execute(_SUBJECTS, of).scalars())
    here: Collection[Digest] = ()
    if any(rule.has_subject is not None for rule in rules):
        here = set(connection.execute(_HERE, of).scalars())
    names = [row.name for row in rows]
    locked = immutable_tags(connection, repository, names, immutable) if rules else {}
    return Candidates(
        tuple(
            Candidate(
                row.name,
                row.manifest_digest,
                row.started_at,
                _later(pulls.get((row.manifest_digest, row.name)), before.get(row.manifest_digest)),
                frozenset(platforms.get(row.id, ())),
                row.manifest_digest in subjects,
                bool(here) and _subject_of(row.name, row.subject_digest) in here,
                locked.get(row.name),
            )
            for row in rows
        ),
        counts_pulls,
    )


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return max((at for at in (one, other) if at is not None), default=None)


def _platforms(
    connection: Connection, repository_id: int, rows: Iterable[Any]
) -> Mapping[int, Collection[str]]:
    found: dict[int, set[str]] = defaultdict(set)
    for row in rows:
        if row.os:
            found[row.id].add(str(platform(row.os, row.architecture, row.variant)))
    for root, os, architecture, variant in connection.execute(
        _PLATFORMS_BELOW, {"repository": repository_id}
    ):
        if os:
            found[root].add(str(platform(os, architecture, variant)))
    return found


def _subject_of(tag: str, subject_digest: Digest | None) -> Digest | None:
    """Return what a tag's manifest refers to; where it has no subject, what the tag is named after."""
    if subject_digest is not None:
        return subject_digest
    named = _NAMED_AFTER.fullmatch(tag)
    if named is None:
        return None
    try:
        return Digest.parse(named[1].replace("-", ":", 1))
    except InvalidDigest:
        return None
