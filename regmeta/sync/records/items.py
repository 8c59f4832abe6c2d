"""Images: the last outcome of each, when it is tried again, what became of which bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from regmeta import db
from regmeta.db import Database
from regmeta.ingest.reserve import chunks
from regmeta.ingest.retry import retried
from regmeta.models import SyncItem, SyncRun
from regmeta.models.base import UtcTime
from regmeta.sync.policy import Backoff
from regmeta.sync.records.values import ItemKey, ItemOutcome, KnownItem, short

KEYS_AT_ONCE: Final = 2_000  # [keys] asked for by one statement
LONGEST_RETRY_AFTER: Final = timedelta(days=1)  # an upstream may ask for more; it does not get it

_KEYS: Final[Any] = sa.select(SyncItem.source, SyncItem.reference, SyncItem.destination)
_KNOWN: Final[Any] = _KEYS.add_columns(
    SyncItem.upstream_digest,
    SyncItem.digest,
    SyncItem.terms,
    SyncItem.outcome,
    SyncItem.reason,
    SyncItem.attempts,
    SyncItem.next_try_at,
    SyncItem.checked_at,
)
_POLICY_OF_RUN: Final = (
    sa.select(SyncRun.policy).where(SyncRun.id == sa.bindparam("of_run")).scalar_subquery()
)


def note_items(database: Database, run_id: int, items: Sequence[ItemOutcome], backoff: Backoff) -> None:
    """Note the outcomes of some images of a run, in one transaction.

    A failure counts the attempts up and is due again after *backoff*, or later if the upstream asked for it;
    anything else sets them back. What an earlier success knew of digests outlives a failure.

    Raises:
        ConstraintViolated: there is no such run.
    """
    if not items:
        return

    def note() -> None:
        with database.transaction("sync_items") as connection:
            now = db.clock(connection)
            # In the order of keys, so that two that note the same images wait for each other in one order.
            values = [_row(item, run_id, now, backoff) for item in sorted(items, key=_key)]
            connection.execute(_upsert(connection, backoff, now), values)

    retried(note)


def known_items(
    database: Database,
    policy: str,
    keys: Sequence[ItemKey] | None = None,
    *,
    source: str | None = None,
    destination: str | None = None,
) -> Mapping[ItemKey, KnownItem]:
    """Return what is remembered of *keys*, or of all images of the upstream repository *source*, or of all.

    With *destination*, of those that go there under their own tags.

    One statement per 2,000 keys. A key that is not known is not in the answer.
    """
    with database.read() as connection:
        if keys is None:
            statement = _KNOWN.where(SyncItem.policy == policy)
            if source is not None:
                statement = statement.where(SyncItem.source == source)
            if destination is not None:
                statement = statement.where(SyncItem.destination == destination)
            return _known(connection, statement)
        found: dict[ItemKey, KnownItem] = {}
        for some in chunks(sorted(set(keys)), KEYS_AT_ONCE):
            found.update(_known(connection, _KNOWN.where(SyncItem.policy == policy, _is_one_of(some))))
        return found


def due_retries(database: Database, policy: str) -> list[ItemKey]:
    """Return the images whose next try is due now, those that wait longest first."""
    with database.read() as connection:
        due = _KEYS.where(SyncItem.policy == policy, SyncItem.next_try_at <= db.clock(connection)).order_by(
            SyncItem.next_try_at, SyncItem.id
        )
        return [ItemKey(*row) for row in connection.execute(due)]


def failing_items(database: Database, policy: str) -> list[ItemKey]:
    """Return the images of the policy whose last outcome is a failure."""
    with database.read() as connection:
        failing = _KEYS.where(SyncItem.policy == policy, SyncItem.next_try_at.is_not(None))
        return [ItemKey(*row) for row in connection.execute(failing)]


def next_retry_at(database: Database, policy: str) -> datetime | None:
    """Return when the first image of the policy is due again, None if none is."""
    with database.read() as connection:
        first = sa.select(sa.func.min(SyncItem.next_try_at, type_=UtcTime()))
        return connection.execute(
            first.where(SyncItem.policy == policy, SyncItem.next_try_at.is_not(None))
        ).scalar()


def _known(connection: Connection, statement: Any) -> dict[ItemKey, KnownItem]:
    return {ItemKey(*row[:3]): KnownItem(*row[3:]) for row in connection.execute(statement)}


def _is_one_of(keys: Sequence[ItemKey]) -> sa.ColumnElement[bool]:
    """Say that an item has one of *keys*: a join with a list of values in a table expression of its own."""
    asked = (
        sa.values(*(sa.column(name, sa.String()) for name in ItemKey._fields), name="asked")
        .data([tuple(key) for key in keys])
        .cte("asked")
    )
    return sa.tuple_(SyncItem.source, SyncItem.reference, SyncItem.destination).in_(
        sa.select(asked.c.source, asked.c.reference, asked.c.destination)
    )


def _key(item: ItemOutcome) -> ItemKey:
    return ItemKey(item.source, item.reference, item.destination)


def _row(item: ItemOutcome, run_id: int, now: datetime, backoff: Backoff) -> dict[str, Any]:
    is_failure = item.outcome == "failed"
    is_copy = item.outcome == "copied"
    return {
        "source": item.source,
        "reference": item.reference,
        "destination": item.destination,
        "of_run": run_id,
        "run_id": run_id,
        "outcome": item.outcome,
        "reason": short(item.reason),
        "error_class": item.error_class,
        "terms": item.terms,
        "upstream_digest": item.upstream_digest,
        "digest": item.digest,
        "copied_bytes": item.copied_bytes if is_copy else 0,
        "attempts": int(is_failure),
        "next_try_at": now + _first_wait(item, backoff) if is_failure else None,
        "checked_at": now,
        "copied_at": now if is_copy else None,
    }


def _first_wait(item: ItemOutcome, backoff: Backoff) -> timedelta:
    wait = backoff.after(1)
    asked_s = item.retry_after_s
    if asked_s is None or not asked_s > wait.total_seconds():
        return wait
    return timedelta(seconds=min(asked_s, LONGEST_RETRY_AFTER.total_seconds()))


def _upsert(connection: Connection, backoff: Backoff, now: datetime) -> Any:
    """Return the statement that puts one outcome in the place of the last one."""
    dialect: Any = sqlite if connection.dialect.name == "sqlite" else postgresql
    insert = dialect.insert(SyncItem).values(policy=_POLICY_OF_RUN)
    new = insert.excluded
    is_failure = new.outcome == "failed"
    stays = sa.and_(is_failure, SyncItem.digest.is_not(None))
    is_copy = new.outcome == "copied"
    again_at = _after_failures(backoff, now)
    return insert.on_conflict_do_update(
        index_elements=["policy", "source", "reference", "destination"],
        set_={
            "run_id": new.run_id,
            "outcome": new.outcome,
            "reason": new.reason,
            "error_class": new.error_class,
            # These three belong together: what came of which bytes, and by which terms.
            **{
                name: sa.case((stays, getattr(SyncItem, name)), else_=new[name])
                for name in ("terms", "upstream_digest", "digest")
            },
            "copied_bytes": sa.case((is_copy, new.copied_bytes), else_=SyncItem.copied_bytes),
            "attempts": sa.case((is_failure, SyncItem.attempts + 1), else_=0),
            "next_try_at": sa.case(
                (~is_failure, sa.null()),
                (new.next_try_at > again_at, new.next_try_at),  # the upstream asked for a longer rest
                else_=again_at,
            ),
            "checked_at": new.checked_at,
            "copied_at": sa.case((is_copy, new.copied_at), else_=SyncItem.copied_at),
        },
    )


def _after_failures(backoff: Backoff, now: datetime) -> sa.ColumnElement[datetime]:
    """Return the time of the next try of an item that has failed ``attempts`` times before this one."""
    waits = [(SyncItem.attempts == done, backoff.after(done + 1)) for done in range(backoff.doublings)]
    if not waits:
        return sa.literal(now + backoff.longest, UtcTime())
    return sa.case(
        *((is_so, sa.literal(now + wait, UtcTime())) for is_so, wait in waits),
        else_=sa.literal(now + backoff.longest, UtcTime()),
    )
