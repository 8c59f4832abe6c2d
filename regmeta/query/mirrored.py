"""How mirroring gets on: each policy's last run and what fails, and the runs before. Looks at rows only."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa

from regmeta.db import Database
from regmeta.models import SyncItem, SyncRun
from regmeta.models.base import UtcTime
from regmeta.query.catalog import PAGE

SHOWN: Final = 100  # failures of a policy, those with most attempts first


@dataclass(frozen=True, slots=True)
class MirrorRun:
    """One run. It has no end while it goes on, or if its process was killed and none has followed."""

    id: int
    policy: str
    cause: str
    actor: str
    host: str
    owner: UUID
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None
    error: str | None
    copied: int
    unchanged: int
    left_out: int
    failed: int
    removed: int
    copied_bytes: int
    requests: int


@dataclass(frozen=True, slots=True)
class FailingImage:
    """An image whose last try failed, how often in a row that was, and when it is tried again."""

    source: str
    reference: str
    destination: str
    error_class: str
    reason: str | None
    attempts: int
    next_try_at: datetime | None
    checked_at: datetime


@dataclass(frozen=True, slots=True)
class MirrorStatus:
    """How one policy stands. ``images`` counts them by their last outcome, ``failing`` are at most 100."""

    policy: str
    last_run: MirrorRun | None
    running: tuple[MirrorRun, ...]
    images: Mapping[str, int]
    failing: tuple[FailingImage, ...]
    next_try_at: datetime | None

    @property
    def is_running(self) -> bool:
        """Whether a run has no end yet; that of a killed process counts until the next run notes it."""
        return bool(self.running)


@dataclass(slots=True)
class _Found:
    """What is put together of one policy."""

    last_run: MirrorRun | None = None
    running: list[MirrorRun] = field(default_factory=list)
    images: dict[str, int] = field(default_factory=dict)
    failing: list[FailingImage] = field(default_factory=list)
    next_try_at: datetime | None = None


_RUNS: Final[Any] = sa.select(
    SyncRun.id,
    SyncRun.policy,
    SyncRun.cause,
    SyncRun.actor,
    SyncRun.host,
    SyncRun.owner,
    SyncRun.started_at,
    SyncRun.ended_at,
    SyncRun.outcome,
    SyncRun.error,
    SyncRun.copied,
    SyncRun.unchanged,
    SyncRun.left_out,
    SyncRun.failed,
    SyncRun.removed,
    SyncRun.copied_bytes,
    SyncRun.requests,
)
_LAST: Final = _RUNS.where(SyncRun.id.in_(sa.select(sa.func.max(SyncRun.id)).group_by(SyncRun.policy)))
_RUNNING: Final = _RUNS.where(SyncRun.ended_at.is_(None)).order_by(SyncRun.id)
_IMAGES: Final = sa.select(
    SyncItem.policy,
    SyncItem.outcome,
    sa.func.count(),
    sa.func.min(SyncItem.next_try_at, type_=UtcTime()),
).group_by(SyncItem.policy, SyncItem.outcome)
_ranked = (
    sa.select(
        SyncItem.id,
        sa.func.row_number()
        .over(partition_by=SyncItem.policy, order_by=(SyncItem.attempts.desc(), SyncItem.id))
        .label("rank"),
    )
    # Each failure has a next try, which is what the index is of.
    .where(SyncItem.next_try_at.is_not(None), SyncItem.outcome == "failed")
    .subquery("ranked")
)
_FAILING: Final = (
    sa.select(
        SyncItem.policy,
        SyncItem.source,
        SyncItem.reference,
        SyncItem.destination,
        SyncItem.error_class,
        SyncItem.reason,
        SyncItem.attempts,
        SyncItem.next_try_at,
        SyncItem.checked_at,
    )
    .join(_ranked, _ranked.c.id == SyncItem.id)
    .where(_ranked.c.rank <= SHOWN)
    .order_by(SyncItem.policy, _ranked.c.rank)
)


def status(database: Database, policies: Collection[str] = ()) -> list[MirrorStatus]:
    """Return how each policy stands that was ever run, and each of *policies*, by name and of one moment."""
    found: dict[str, _Found] = {name: _Found() for name in policies}

    def of(policy: str) -> _Found:
        return found.setdefault(policy, _Found())

    with database.read() as connection:
        for row in connection.execute(_LAST):
            of(row.policy).last_run = MirrorRun(*row)
        for row in connection.execute(_RUNNING):
            of(row.policy).running.append(MirrorRun(*row))
        for policy, outcome, count, next_try_at in connection.execute(_IMAGES):
            of(policy).images[outcome] = count
            if next_try_at is not None:  # only failures have one
                of(policy).next_try_at = next_try_at
        for failing in connection.execute(_FAILING):
            values: Any = failing[1:]
            of(failing.policy).failing.append(FailingImage(*values))
    return [
        MirrorStatus(
            name,
            each.last_run,
            tuple(each.running),
            each.images,
            tuple(each.failing),
            each.next_try_at,
        )
        for name, each in sorted(found.items())
    ]


def history(
    database: Database, *, policy: str | None = None, before: int | None = None, limit: int = PAGE
) -> list[MirrorRun]:
    """Return one page of runs, the newest first, of one policy or of all; *before* is a run's id."""
    statement = _RUNS.order_by(SyncRun.id.desc()).limit(limit)
    if policy is not None:
        statement = statement.where(SyncRun.policy == policy)
    if before is not None:
        statement = statement.where(SyncRun.id < before)
    with database.read() as connection:
        return [MirrorRun(*row) for row in connection.execute(statement)]
