"""Wiring of ``regmeta retention``: policies of the settings, plans, and the files that plans are kept in."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec

from regmeta.app import open_for_reading, open_for_writing
from regmeta.app.writers import immutable_of
from regmeta.errors import InvalidDigest, InvalidName, InvalidSource, StoreUnavailable
from regmeta.maintain.collect.terms import KeepUntagged
from regmeta.maintain.retention.apply import Applied, apply_plan, check_plan
from regmeta.maintain.retention.plan import DropPlan, Plan, PlannedDrop, make_plan
from regmeta.maintain.retention.policy import Policy, Rule, Untagged, policy_of
from regmeta.maintain.retention.untagged import keeper_of_untagged
from regmeta.maintain.setup import Identity
from regmeta.oci import names, strict_json
from regmeta.oci.digest import Digest
from regmeta.settings import KeepRule, RetentionPolicy, Settings, duration
from regmeta.settings import KeepUntagged as UntaggedSetting

FORMAT: Final = 1
KIND: Final = "regmeta retention plan"


def policies_of(settings: Settings) -> tuple[Policy, ...]:
    """Return the policies that the settings say, each and each rule with a name."""
    return tuple(_policy(number, each) for number, each in enumerate(settings.retention.policies, 1))


def keeps_referrers(settings: Settings) -> Callable[[str], bool]:
    """Return what tells of a repository whether untagged referrers stay when their subject has gone."""
    policies = policies_of(settings)

    def keeps(repository: str) -> bool:
        policy = policy_of(policies, repository)
        return policy is not None and policy.keeps_referrers

    return keeps


def untagged(settings: Settings) -> KeepUntagged | None:
    """Return what the collector asks about manifests without a tag; None if no policy keeps any."""
    return keeper_of_untagged(policies_of(settings))


def plan(settings: Settings, repositories: Collection[str] = ()) -> Plan:
    """Decide on every tag of *repositories*, or of all that have a policy. Changes nothing.

    Raises:
        NotFound: names a repository that is not there.
    """
    with open_for_reading(settings) as registry:
        return make_plan(registry.database, policies_of(settings), immutable_of(settings), repositories)


def apply(settings: Settings, path: str, *, dry_run: bool = False) -> list[Applied]:
    """Do what the plan in a file says, or with *dry_run* say what would be done.

    Raises:
        InvalidSource: the file is no plan.
        PlanOutdated: the plan is for another registry or for other policies; nothing has happened.
        Unavailable, Locked: it was not done everywhere; the same call does the rest.
    """
    planned = read_plan(path)
    policies = policies_of(settings)
    if dry_run:
        with open_for_reading(settings, check_store=True) as registry:
            return check_plan(registry.database, planned, policies, immutable_of(settings))
    with open_for_writing(settings) as registry:
        return apply_plan(registry.writer, planned, policies)


def write_plan(planned: DropPlan, path: str) -> None:
    """Write a plan to a file; one that is there already is replaced.

    Raises:
        StoreUnavailable: it cannot be written.
    """
    document = {
        "kind": KIND,
        "format": FORMAT,
        "id": str(planned.id),
        "moment": planned.moment.isoformat(),
        "store_id": str(planned.identity.store_id),
        "database_id": str(planned.identity.database_id),
        "epoch": planned.identity.epoch,
        "policies": planned.policies,
        "drops": {
            repository: [
                {"tag": drop.tag, "digest": str(drop.digest), "started_at": drop.started_at.isoformat()}
                for drop in drops
            ]
            for repository, drops in planned.drops.items()
        },
    }
    try:
        # One that was cut off is no JSON, and is refused.
        with open(path, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")
    except OSError as error:
        raise StoreUnavailable(f"{path}: {error.strerror}") from error


def read_plan(path: str) -> DropPlan:
    """Read a plan.

    Raises:
        InvalidSource: the file is none, or not one that this release understands.
    """
    try:
        with open(path, "rb") as file:
            document: Any = strict_json.loads(file.read())
    except OSError as error:
        raise InvalidSource(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise InvalidSource(f"{path}: not a retention plan ({error})") from error
    try:
        if (document["kind"], document["format"]) != (KIND, FORMAT):
            raise InvalidSource(
                f"{path}: {document['kind']} of format {document['format']} is not known here"
            )
        return DropPlan(
            UUID(document["id"]),
            _moment(document["moment"]),
            Identity(UUID(document["store_id"]), UUID(document["database_id"]), document["epoch"]),
            document["policies"],
            {names.repository_name(name): _drops(drops) for name, drops in document["drops"].items()},
        )
    except (InvalidDigest, InvalidName, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidSource(f"{path}: not a retention plan ({error!r})") from error


def _drops(values: list[dict[str, str]]) -> tuple[PlannedDrop, ...]:
    return tuple(
        PlannedDrop(names.tag_name(value["tag"]), Digest.parse(value["digest"]), _moment(value["started_at"]))
        for value in values
    )


def _moment(text: str) -> datetime:
    value = datetime.fromisoformat(text)
    if value.tzinfo is None:
        raise ValueError(f"a time without a time zone: {text}")
    return value


def _policy(number: int, said: RetentionPolicy) -> Policy:
    return Policy(
        said.name or f"policy {number}",
        said.repositories,
        tuple(_rule(at, rule) for at, rule in enumerate(said.keep, 1)),
        _untagged(said.untagged),
        said.referrers == "keep",
    )


def _rule(number: int, said: KeepRule) -> Rule:
    return Rule(
        said.name or f"rule {number}",
        said.tags,
        said.tags_regex,
        said.except_tags,
        said.platforms,
        said.newest_pushed,
        said.newest_pulled,
        said.newest_versions,
        _length(said.pushed_within),
        _length(said.pulled_within),
        said.has_referrers,
        said.has_subject,
    )


def _untagged(said: UntaggedSetting) -> Untagged:
    return Untagged(
        said.keep == "all",
        said.newest_pushed,
        said.newest_pulled,
        _length(said.pushed_within),
        _length(said.pulled_within),
    )


def _length(text: str | None) -> timedelta | None:
    return None if text is None else duration(text)
