"""Carrying a plan out: exactly that plan, one transaction for each repository, or nothing there.

===========  ===================================================================  ======================
step         durable effect                                                       a crash right after
===========  ===================================================================  ======================
retention    under the repository's lock: the plan's tags are ended, with their   repositories that are
             events, tasks for the collector, and the id of this plan here        done; the same command
                                                                                  does the rest
snapshot     the store's own copy of the repository                               a stale snapshot
===========  ===================================================================  ======================

The plan's id and the repository's name make the id of the ingest, so a plan takes effect in a repository
once, however often it is applied and whoever does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal
from uuid import UUID, uuid5

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import db
from regmeta.db import Database
from regmeta.errors import Error, ImmutableTag, NotFound, Refused, RepositoryNotActive
from regmeta.ingest.immutable import ImmutableTags
from regmeta.ingest.plan import CommitResult
from regmeta.ingest.retry import retried
from regmeta.ingest.statements import (
    AlreadyCommitted,
    Change,
    lock_active_repository,
    one_effect,
    record_result,
)
from regmeta.ingest.tag_moves import end_tags
from regmeta.ingest.unit_of_work import Writer
from regmeta.maintain.retention.plan import DropPlan, PlannedDrop, decide, drops_in, identity_of
from regmeta.maintain.retention.policy import Policy, fingerprint
from regmeta.models import Ingest
from regmeta.query.catalog import repository_id as repository_id_of

_INGEST: Final = sa.select(Ingest.result).where(Ingest.id == sa.bindparam("of"))


class PlanOutdated(Refused):
    """The registry or the settings are not those that a plan was made for. Make a new one."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What came of a plan in one repository; *error* says why it was refused."""

    repository: str
    status: Literal["applied", "applied before", "refused", "would be applied"]
    tags: tuple[str, ...] = ()
    error: Error | None = None


def apply_plan(writer: Writer, plan: DropPlan, policies: Sequence[Policy]) -> list[Applied]:
    """End the tags that a plan drops. A repository in which something has changed is left as it is.

    Safe beside any writer; interrupted, the same call does the rest. What an earlier call did stays done.

    Raises:
        PlanOutdated: the plan is for another registry or for other policies; nothing has happened.
        Unavailable, Locked: the database did not do it; repositories that were done before are done.
    """
    with writer.database.read() as connection:
        _check_terms(connection, plan, policies)
    found = []
    for repository, planned in sorted(plan.drops.items()):
        run = partial(_apply_once, writer, plan, repository, planned, policies)
        try:
            repository_id, outcome = retried(run)
        except (PlanOutdated, RepositoryNotActive, ImmutableTag) as error:
            found.append(Applied(repository, "refused", error=error))
            continue
        writer.snapshots.flush_quietly(repository_id, ())
        found.append(outcome)
    return found


def check_plan(
    database: Database, plan: DropPlan, policies: Sequence[Policy], immutable: Sequence[ImmutableTags]
) -> list[Applied]:
    """Say what ``apply_plan`` would do now. Changes nothing, and may be told something else a moment later.

    Raises:
        PlanOutdated: the plan is for another registry or for other policies.
    """
    found = []
    with database.read() as connection:
        _check_terms(connection, plan, policies)
        for repository, planned in sorted(plan.drops.items()):
            tags = tuple(drop.tag for drop in planned)
            if connection.execute(_INGEST, {"of": _ingest_id(plan, repository)}).first() is not None:
                found.append(Applied(repository, "applied before", tags))
                continue
            try:
                of = (_still_here(repository_id_of, connection, repository), repository)
                _check_unchanged(connection, plan, of, planned, policies, immutable)
            except PlanOutdated as error:
                found.append(Applied(repository, "refused", error=error))
                continue
            found.append(Applied(repository, "would be applied", tags))
    return found


def _apply_once(
    writer: Writer,
    plan: DropPlan,
    repository: str,
    planned: tuple[PlannedDrop, ...],
    policies: Sequence[Policy],
) -> tuple[int, Applied]:
    tags = tuple(drop.tag for drop in planned)
    try:
        with writer.database.transaction("retention") as connection:
            repository_id = _still_here(lock_active_repository, connection, repository)
            change = Change(db.stamp(connection), writer.actor, _ingest_id(plan, repository))
            one_effect(connection, change, f"retention of {repository}")
            of = (repository_id, repository)
            # Read after the lock, in new statements: whoever moved a tag before us is seen.
            _check_terms(connection, plan, policies)
            _check_unchanged(connection, plan, of, planned, policies, writer.immutable)
            changes = end_tags(connection, change, of, tags, writer.tag_terms)
            result = CommitResult((of,), tags_changed=tuple(changes))
            record_result(connection, change, result)
    except AlreadyCommitted as earlier:
        [(repository_id, _)] = earlier.result.repositories
        ended = tuple(change.tag for change in earlier.result.tags_changed)
        return repository_id, Applied(repository, "applied before", ended)
    return repository_id, Applied(repository, "applied", tags)


def _ingest_id(plan: DropPlan, repository: str) -> UUID:
    return uuid5(plan.id, repository)


def _check_terms(connection: Connection, plan: DropPlan, policies: Sequence[Policy]) -> None:
    found, made_for = identity_of(connection), plan.identity
    if found != made_for:
        raise PlanOutdated(
            f"the plan is for the store {made_for.store_id} with the database {made_for.database_id} in epoch"
            f" {made_for.epoch}; here is the store {found.store_id} with the database {found.database_id} in"
            f" epoch {found.epoch}"
        )
    if plan.moment > db.clock(connection):
        raise PlanOutdated(f"the plan was made at {plan.moment.isoformat()}, which is yet to come")
    if fingerprint(policies) != plan.policies:
        raise PlanOutdated("the retention policies of the settings are not those that the plan was made for")


def _check_unchanged(
    connection: Connection,
    plan: DropPlan,
    repository: tuple[int, str],
    planned: Iterable[PlannedDrop],
    policies: Sequence[Policy],
    immutable: Sequence[ImmutableTags],
) -> None:
    """Decide again, as of the plan's moment, and refuse unless exactly the same tags are dropped."""
    decisions = decide(connection, repository, policies, immutable, plan.moment)
    before = {drop.tag: drop for drop in planned}
    now = {drop.tag: drop for drop in drops_in(decisions)}
    if now == before:
        return
    kept = {each.tag: each for each in decisions if each.decision == "keep"}
    changed = sorted(tag for tag in before.keys() | now.keys() if before.get(tag) != now.get(tag))
    tag = changed[0]
    if tag not in before:
        what = "would be dropped now, and is not in the plan"
    elif tag in now:
        what = (
            f"is {now[tag].digest} since {now[tag].started_at.isoformat()}, and the plan drops"
            f" {before[tag].digest} since {before[tag].started_at.isoformat()}"
        )
    elif tag in kept:
        by = f" by {kept[tag].rule}" if kept[tag].rule else ""
        what = f"is in the plan, and is kept now{by} ({kept[tag].reason})"
    else:
        what = "is in the plan, and has been removed"
    others = f"; {len(changed) - 1} more tags differ" if len(changed) > 1 else ""
    raise PlanOutdated(f"{repository[1]}:{tag} {what}{others}; make a new plan")


def _still_here(find: Callable[[Connection, str], int], connection: Connection, repository: str) -> int:
    try:
        return find(connection, repository)
    except NotFound as error:
        raise PlanOutdated(f"{repository}: no such repository any more; make a new plan") from error
