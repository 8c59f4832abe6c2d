"""The feed of changes: every committed event, in the order of each repository's commits (docs/events.md).

A position by id alone loses events on PostgreSQL: ids are given out before commits are made, so a lower one
may show up after a higher one was read. Stopping below the oldest transaction at work loses none, but stands
still behind any idle one, and ordered by transaction it turns changes of one repository round: a transaction
has its number before it waits for the repository's lock. So a batch is what one snapshot shows and the one
before did not, by id. Ids are given out under the repository's lock, and who sees a commit sees those that it
waited for: both orders agree within a batch and between batches.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import models
from regmeta.db import Database
from regmeta.errors import IdentityMismatch, NotFound, Refused
from regmeta.query.catalog import PAGE
from regmeta.query.cursors import check_limit
from regmeta.query.feed_cursors import CursorRefused, Moment, Position, decode
from regmeta.query.feed_events import Event, event_of
from regmeta.query.stored import raw_digest, raw_time
from regmeta.query.visibility import Visibility, seen

SCANNED: Final = 20_000  # [events] that one page looks at, at most, where a filter leaves most of them out

_event = models.Event
_transaction = sa.func.coalesce(
    _event.transaction_id, 0
)  # as an expression, so that the index on ids is used
_IDENTITY: Final = (
    models.StoreIdentity.database_id,
    models.StoreIdentity.epoch,
    models.StoreIdentity.feed_pruned_transaction,
    models.StoreIdentity.feed_pruned_id,
    sa.select(sa.func.max(_event.id)).scalar_subquery().label("head"),
)
_HEAD: Final = sa.select(*_IDENTITY)
_HEAD_AND_SNAPSHOT: Final = sa.select(
    *_IDENTITY,
    sa.select(sa.func.max(_event.transaction_id))
    .where(_event.transaction_id.is_not(None))
    .scalar_subquery()
    .label("greatest"),
    sa.cast(sa.func.pg_current_snapshot(), sa.Text).label("snapshot"),
    sa.func.pg_is_in_recovery().label("is_standby"),
)
# Of an expression, so that the range of transactions is read and not the ids from the first one on.
_FIRST_UNSEEN: Final = sa.select(sa.func.min(_event.id + 0)).where(
    _event.transaction_id.is_not(None),
    sa.or_(
        _event.transaction_id >= sa.bindparam("next"),
        _event.transaction_id.in_(sa.bindparam("running", expanding=True)),
    ),
    _event.transaction_id >= sa.bindparam("oldest"),
)
_CEILING: Final = (
    sa.select(_event.id)
    .where(_event.id > sa.bindparam("after"))
    .order_by(_event.id)
    .offset(SCANNED - 1)
    .limit(1)
)
_REPOSITORY_ID: Final = sa.select(models.Repository.id).where(
    models.Repository.name == sa.bindparam("repository")
)


@dataclass(frozen=True, slots=True)
class EventPage:
    """Events, and the cursor behind them: there is one even where there is no event.

    When it *is_caught_up* there were no more at that moment; else the next page can be read at once.
    """

    items: tuple[Event, ...]
    cursor: str
    is_caught_up: bool


@dataclass(frozen=True, slots=True)
class _Now:
    """The feed at the moment of a call."""

    database_id: UUID
    epoch: int
    moment: Moment
    pruned_transaction: int
    pruned_id: int


@dataclass(frozen=True, slots=True)
class _Wanted:
    kinds: tuple[str, ...]
    repository_id: int | None
    visible: Visibility | None

    @property
    def leaves_out(self) -> bool:
        """Whether no index finds just these."""
        return bool(self.kinds) or self.visible is not None


def events(
    database: Database,
    *,
    after: str | None = None,
    limit: int = PAGE,
    kinds: Collection[str] = (),
    repository: str | None = None,
    visible: Visibility | None = None,
) -> EventPage:
    """Return the events behind a cursor, from the beginning of the feed without one.

    No committed event is ever skipped. Keep the cursor *after* what it brought is done: then each event is
    handled at least once. *kinds* and *repository* leave events out, and the cursor passes those as well; it
    may be used on with other filters. Events of repositories that were deleted are among them.

    Raises:
        UsageError: *after* is no cursor, or *limit* is out of range.
        CursorRefused: it cannot be followed: of another database, or events behind it were deleted.
        NotFound: there never was such a repository.
        Refused: the database cannot tell the order: a standby, or rows that no ``regmeta restore`` prepared.
    """
    check_limit(limit)
    with database.read() as connection:
        now = _now(database, connection)
        position = _start(database, now, after)
        wanted = _Wanted(tuple(sorted(set(kinds))), _repository(connection, repository, visible), visible)
        items: list[Event] = []
        while True:
            if position.until is None:
                if position.seen == now.moment:
                    return EventPage(tuple(items), position.encoded(), is_caught_up=True)
                position = _next_batch(database, connection, position, now)
            rows, position = _some(database, connection, position, wanted, limit - len(items))
            items.extend(map(event_of, rows))
            if len(items) >= limit or position.until is not None:
                return EventPage(tuple(items), position.encoded(), is_caught_up=False)


def newest_cursor(database: Database) -> str:
    """Return the cursor behind all that is committed now: of who wants only what comes."""
    with database.read() as connection:
        now = _now(database, connection)
    moment = now.moment
    return Position(now.database_id, now.epoch, moment, None, moment.head, now.pruned_id).encoded()


def _now(database: Database, connection: Connection) -> _Now:
    row = connection.execute(_HEAD if database.is_sqlite else _HEAD_AND_SNAPSHOT).first()
    if row is None:
        raise IdentityMismatch(f"{database.location}: the database belongs to no store")
    # Deleted events had ids as well.
    head = max(row.head or 0, row.feed_pruned_id)
    moment = Moment(head)
    if not database.is_sqlite:
        if row.is_standby:
            raise Refused(
                f"{database.location}: a standby does not know who is at work; read the primary's feed"
            )
        oldest, end, running = row.snapshot.split(":")
        moment = Moment(head, int(oldest), int(end), tuple(int(each) for each in running.split(",") if each))
        if (row.greatest or 0) >= moment.next_transaction:
            raise Refused(
                f"{database.location}: events are of transactions that this server has yet to come to:"
                " the rows were loaded from another server; 'regmeta restore' makes them its own"
            )
    return _Now(row.database_id, row.epoch, moment, row.feed_pruned_transaction, row.feed_pruned_id)


def _start(database: Database, now: _Now, after: str | None) -> Position:
    if after is None:
        return Position(now.database_id, now.epoch, None, None, 0, now.pruned_id)
    found = decode(after)
    if (found.database_id, found.epoch) != (now.database_id, now.epoch):
        raise CursorRefused(
            "the cursor is of another life of this registry: its database was restored, rebuilt or replaced"
        )
    for moment in (found.seen, found.until):
        if moment is not None and (
            moment.head > now.moment.head or moment.next_transaction > now.moment.next_transaction
        ):
            raise CursorRefused("the cursor is ahead of the feed: the database is an older copy")
    if found.pruned_id != now.pruned_id and not _has_passed(database, found, now):
        raise CursorRefused("events behind the cursor were deleted since (events prune)")
    return found


def _has_passed(database: Database, position: Position, now: _Now) -> bool:
    """Whether all that was deleted had been given out."""
    if database.is_sqlite:
        return position.id >= now.pruned_id
    of_old, of_new = position.seen, position.until
    if of_old is not None and of_old.oldest_transaction > now.pruned_transaction:
        return True
    if of_new is None or position.id < now.pruned_id:
        return False
    return of_new.oldest_transaction > now.pruned_transaction


def _repository(connection: Connection, name: str | None, visible: Visibility | None) -> int | None:
    if name is None:
        return None
    found = connection.execute(seen(_REPOSITORY_ID, visible), {"repository": name}).scalar()
    if found is None:
        raise NotFound(f"{name}: no such repository")
    return found


def _next_batch(database: Database, connection: Connection, position: Position, now: _Now) -> Position:
    """Begin with what this moment shows and the last one did not."""
    before = 0
    if position.seen is not None:
        before = position.seen.head
        if not database.is_sqlite:
            # What was at work may have taken its ids before the greatest one that was seen. Not all of it is
            # among ``running``: a snapshot ends behind the last transaction that has ended, and there may be
            # numbers behind that.
            of = {
                "oldest": position.seen.oldest_transaction,
                "next": position.seen.next_transaction,
                "running": list(position.seen.running),
            }
            first = connection.execute(_FIRST_UNSEEN, of).scalar()
            before = before if first is None else min(before, first - 1)
    return replace(position, until=now.moment, id=before, pruned_id=now.pruned_id)


def _some(
    database: Database, connection: Connection, position: Position, wanted: _Wanted, limit: int
) -> tuple[list[Any], Position]:
    """Return some events of the batch, and the position behind them."""
    assert position.until is not None
    of = {
        "after": position.id,
        "upto": position.until.head,
        "page": limit,
        **_transactions(database, position),
    }
    ceiling = None
    if wanted.leaves_out:
        ceiling = connection.execute(_CEILING, of).scalar()
        if ceiling is not None and ceiling < position.until.head:
            of["upto"] = ceiling
        else:
            ceiling = None
    if wanted.repository_id is not None:
        of["of"] = wanted.repository_id
    if wanted.kinds:
        of["kinds"] = list(wanted.kinds)
    statement = _statement(
        database.is_sqlite, position.seen is not None, bool(wanted.kinds), wanted.repository_id is not None
    )
    rows = list(connection.execute(seen(statement, wanted.visible), of))
    if len(rows) >= limit:
        return rows, replace(position, id=rows[-1].id)
    if ceiling is not None:
        return rows, replace(position, id=ceiling)
    return rows, replace(position, seen=position.until, until=None, id=position.until.head)


def _transactions(database: Database, position: Position) -> dict[str, Any]:
    if database.is_sqlite:
        return {}
    assert position.until is not None
    of: dict[str, Any] = {
        "until_next": position.until.next_transaction,
        "until_running": list(position.until.running),
    }
    if position.seen is not None:
        of |= {
            "seen_next": position.seen.next_transaction,
            "seen_running": list(position.seen.running),
        }
    return of


@lru_cache
def _statement(is_sqlite: bool, has_seen: bool, has_kinds: bool, of_one: bool) -> Any:
    statement: Any = (
        sa.select(
            _event.id,
            raw_time(_event.occurred_at).label("at"),
            _event.kind,
            models.Repository.name,
            _event.tag,
            raw_digest(_event.digest).label("digest"),
            raw_digest(_event.previous_digest).label("previous"),
            _event.actor,
            _event.ingest_id,
        )
        .join(models.Repository, models.Repository.id == _event.repository_id)
        .where(_event.id > sa.bindparam("after"), _event.id <= sa.bindparam("upto"))
        .order_by(_event.id)
        .limit(sa.bindparam("page"))
    )
    if not is_sqlite:
        statement = statement.where(
            _transaction < sa.bindparam("until_next"),
            _transaction.not_in(sa.bindparam("until_running", expanding=True)),
        )
        if has_seen:
            statement = statement.where(
                sa.or_(
                    _transaction >= sa.bindparam("seen_next"),
                    _transaction.in_(sa.bindparam("seen_running", expanding=True)),
                )
            )
    if has_kinds:
        statement = statement.where(_event.kind.in_(sa.bindparam("kinds", expanding=True)))
    if of_one:
        statement = statement.where(_event.repository_id == sa.bindparam("of"))
    return statement
