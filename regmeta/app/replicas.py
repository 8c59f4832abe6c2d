"""Wiring of reads that a replica answers (docs/design/015-read-replica.md).

Only queries go there: what a person or a page asks and nothing is decided by. Writers, ``verify``,
``doctor``, ``recover``, the collector, plans of retention and the feed of events read the primary; so does
what reads objects, which may have been collected since the rows that a replica shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from regmeta import app
from regmeta.app import Reading, open_for_reading
from regmeta.app.stores import open_store
from regmeta.db import Database
from regmeta.errors import (
    ConnectionLost,
    Contention,
    DatabaseUnavailable,
    Error,
    IdentityMismatch,
    NotPermitted,
    UsageError,
)
from regmeta.query.replication import Instance, ReplicaLag, instance_of, replica_lag
from regmeta.settings import Settings

_GAVE_WAY: Final = frozenset({"40001", "40P01"})
"""What a standby ends a read with that stands in the way of what it replays; nothing else there does."""
_AGAIN: Final = "try again; 'hot_standby_feedback = on' there keeps it from that"


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """How far a replica is behind, or why that is not known."""

    location: str
    lag: ReplicaLag | None
    error: str | None


def replica_url(settings: Settings) -> str:
    """Return where queries are read from, empty if that is the database itself."""
    return settings.postgresql.replica


@contextmanager
def open_for_queries(settings: Settings) -> Iterator[Reading]:
    """Open a registry for queries: the replica's rows if the settings name one, else the database's.

    What a replica answers may be old: a push is seen when it has got there. There is no way back to the
    primary by itself: it would get all reads at the worst time, and answers would go forth and back in time.

    Raises:
        DatabaseUnavailable: the replica does not answer, or ended the read for what it had to replay.
        SchemaMismatch, IdentityMismatch: it is no replica of this registry, or has yet to become one.
        StoreUnavailable: the store cannot be opened.
    """
    if not replica_url(settings):
        with open_for_reading(settings) as reading:
            yield reading
        return
    with ExitStack() as stack:
        database = stack.enter_context(closing(open_replica(settings)))
        store = stack.enter_context(closing(open_store(settings)))
        from regmeta.maintain.setup import check_identity

        try:
            database.check_schema()
            check_identity(database, store)
            _check_server(settings, database)
        except (ConnectionLost, NotPermitted) as error:
            raise DatabaseUnavailable(f"the replica: {error}") from error
        try:
            yield Reading(settings, database, store)
        except Contention as error:
            if _state(error) not in _GAVE_WAY:
                raise
            raise DatabaseUnavailable(
                f"the replica {database.location} ended the read for what it had to replay: {_AGAIN}"
            ) from error
        except ConnectionLost as error:
            # So ends a transaction between two statements; the reason does not always get here.
            raise DatabaseUnavailable(
                f"the replica has gone, or ended the read for what it had to replay: {error}: {_AGAIN}"
            ) from error


def open_replica(settings: Settings) -> Database:
    """Prepare to connect to the replica of the settings, with whatever else they say of connections.

    Raises:
        UsageError: it is not a server's URL, or there is none; or the database is a file.
    """
    url = replica_url(settings)
    if app._sqlite_path(settings) is not None or not url.startswith("postgresql"):
        raise UsageError("postgresql.replica: a URL postgresql://..., beside a database of PostgreSQL")
    return app._database(replace(settings, database=url))


def lag(settings: Settings) -> ReplicaLag:
    """Return how far the replica of the settings is behind.

    Raises:
        UsageError: they name none.
        DatabaseUnavailable: it or the primary does not answer.
    """
    with closing(open_replica(settings)) as replica, app.open_database(settings) as primary:
        return replica_lag(primary, replica)


def replica_status(settings: Settings) -> ReplicaStatus | None:
    """Return what can be said of the replica of the settings, None if they name none."""
    if not replica_url(settings):
        return None
    location = ""
    try:
        with closing(open_replica(settings)) as replica:
            location = replica.location
        return ReplicaStatus(location, lag(settings), None)
    except Error as error:
        return ReplicaStatus(location, None, str(error))


def _check_server(settings: Settings, replica: Database) -> None:
    """Refuse a server that went its own way; the primary itself is as good as any replica."""
    with replica.read() as connection:
        found = instance_of(connection)
    if found.is_standby:
        return
    with app.open_database(settings) as primary:
        if not found.is_same(_instance(primary)):
            raise IdentityMismatch(
                f"the replica {replica.location} is no standby: it was promoted, and shows other rows than"
                f" {primary.location}"
            )


def _instance(database: Database) -> Instance:
    with database.read() as connection:
        return instance_of(connection)


def _state(error: Contention) -> str:
    cause = error.__cause__
    return str(getattr(getattr(cause, "orig", cause), "sqlstate", ""))
