"""Decisions on every tag of many repositories, as of one moment. Nothing is changed and nobody waits."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import db
from regmeta.db import Database
from regmeta.errors import IdentityMismatch, NotFound
from regmeta.ingest.immutable import ImmutableTags
from regmeta.maintain.retention.candidates import read_candidates
from regmeta.maintain.retention.policy import Policy, fingerprint, policy_of
from regmeta.maintain.retention.rules import judge
from regmeta.maintain.setup import Identity, read_identity
from regmeta.models import Repository
from regmeta.oci.digest import Digest

NO_POLICY: Final = Policy("no policy", ("**",))

_REPOSITORIES: Final = (
    sa.select(Repository.id, Repository.name).where(Repository.state == "active").order_by(Repository.name)
)


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one tag, and why. *policy* is None where none is for its repository."""

    repository: str
    tag: str
    digest: Digest
    started_at: datetime
    decision: Literal["keep", "drop"]
    policy: str | None
    rule: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class PlannedDrop:
    """A tag to be ended: this interval of it, and no other."""

    tag: str
    digest: Digest
    started_at: datetime


@dataclass(frozen=True, slots=True)
class DropPlan:
    """What ``apply`` is given: the tags to be dropped, and all that must still be as it was."""

    id: UUID
    moment: datetime  # by the database's clock
    identity: Identity
    policies: str  # their fingerprint
    drops: dict[str, tuple[PlannedDrop, ...]]  # by repository; one without any is left out


@dataclass(frozen=True, slots=True)
class Plan:
    """All decisions, and what is needed to carry them out."""

    moment: datetime
    repositories: int
    decisions: tuple[Decision, ...]
    drop_plan: DropPlan


def make_plan(
    database: Database,
    policies: Sequence[Policy],
    immutable: Sequence[ImmutableTags],
    repositories: Collection[str] = (),
) -> Plan:
    """Decide on the tags of *repositories*, or of all that a policy is for. Safe beside any writer.

    Raises:
        NotFound: names a repository that is not there.
        UsageError: a pattern of a policy cannot be used.
    """
    with database.read() as connection:
        chosen = _choose(connection, policies, repositories)
        moment = db.clock(connection)
        identity = identity_of(connection)
        decisions: list[Decision] = []
        for repository_id, name in chosen:
            decisions += decide(connection, (repository_id, name), policies, immutable, moment)
    drops = {name: drops_in(decisions_of) for name, decisions_of in _by_repository(decisions).items()}
    return Plan(
        moment,
        len(chosen),
        tuple(decisions),
        DropPlan(
            uuid4(),
            moment,
            identity,
            fingerprint(policies),
            {name: found for name, found in drops.items() if found},
        ),
    )


def decide(
    connection: Connection,
    repository: tuple[int, str],
    policies: Sequence[Policy],
    immutable: Sequence[ImmutableTags],
    moment: datetime,
) -> list[Decision]:
    """Decide on the tags of one repository (id and name) as of *moment*, from the rows of now."""
    name = repository[1]
    policy = policy_of(policies, name)
    used = policy or NO_POLICY
    found = read_candidates(connection, repository, used, immutable)
    verdicts = judge(found, used.keep, moment)
    return [
        Decision(
            name,
            each.tag,
            each.digest,
            each.started_at,
            "keep" if verdicts[each.tag].is_kept else "drop",
            None if policy is None else policy.name,
            verdicts[each.tag].rule,
            "no policy is for it" if policy is None else verdicts[each.tag].reason,
        )
        for each in found.tags
    ]


def drops_in(decisions: Iterable[Decision]) -> tuple[PlannedDrop, ...]:
    """Return the tags that are dropped, by name."""
    return tuple(
        PlannedDrop(each.tag, each.digest, each.started_at) for each in decisions if each.decision == "drop"
    )


def identity_of(connection: Connection) -> Identity:
    """Return which registry this is.

    Raises:
        IdentityMismatch: the database belongs to no store.
    """
    found = read_identity(connection)
    if found is None:
        raise IdentityMismatch("this database belongs to no store: 'regmeta init' ties them")
    return found


def _choose(
    connection: Connection, policies: Sequence[Policy], wanted: Collection[str]
) -> list[tuple[int, str]]:
    rows: Any = connection.execute(_REPOSITORIES)
    here = [(repository_id, name) for repository_id, name in rows]
    if not wanted:
        return [each for each in here if policy_of(policies, each[1]) is not None]
    missing = sorted(set(wanted) - {name for _, name in here})
    if missing:
        raise NotFound(f"{missing[0]}: no such repository")
    return [each for each in here if each[1] in wanted]


def _by_repository(decisions: Iterable[Decision]) -> dict[str, list[Decision]]:
    found: dict[str, list[Decision]] = {}
    for each in decisions:
        found.setdefault(each.repository, []).append(each)
    return found
