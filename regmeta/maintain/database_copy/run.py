"""The whole of ``regmeta db copy``: see the table of steps in the package."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.db import Database
from regmeta.errors import IdentityMismatch, IntegrityError, Refused
from regmeta.ingest.retry import retried
from regmeta.maintain.database_copy import freeze, loading, parts, sequences, state, streams
from regmeta.maintain.database_copy.freeze import Moved
from regmeta.maintain.database_copy.shapes import Shape, shapes
from regmeta.maintain.database_copy.state import TableCopy
from regmeta.maintain.progress import Progress
from regmeta.maintain.restore import require_record
from regmeta.maintain.setup import RECORD, Identity, read_identity, read_record
from regmeta.models import StoreIdentity
from regmeta.store import BlobStore, Staging

_SORTING: Final = "SET LOCAL maintenance_work_mem = '256MB'"
_IDENTITY: Final = sa.select(*StoreIdentity.__table__.columns)


@dataclass(frozen=True, slots=True)
class Copied:
    """A copy that was made, compared and put to use.

    *resumed* are tables that an earlier run had brought over. *tables* is empty where that one had done all
    but the switch.
    """

    source: str
    target: str
    identity: Identity
    tables: tuple[TableCopy, ...]
    resumed: tuple[str, ...]

    @property
    def rows(self) -> int:
        """How many rows were brought over."""
        return sum(table.rows for table in self.tables)


@dataclass(frozen=True, slots=True)
class Target:
    """The same database twice: *bulk* is tuned for rows (see ``loading.tune``), *safe* is like any other."""

    bulk: Database
    safe: Database


def copy_database(
    source: Database, target: Target, store: BlobStore, staging: Staging, progress: Progress
) -> Copied:
    """Bring all rows of *source* into *target*, compare them, and let the store name *target*.

    From the first step on nobody can change *source*; reading goes on until it is retired. Interrupted and
    run again, it goes on from there.

    Raises:
        Refused, IdentityMismatch, SchemaMismatch: this is no database to copy from, or none to copy into.
        IntegrityError: a row of the source cannot be kept, or the target did not give back what it got.
        Unavailable, Locked: a database or the store did not do it; run it again.
    """
    record = require_record(store)
    with source.read() as connection:
        identity = read_identity(connection)
    if identity is None or identity.store_id != record.store_id:
        raise IdentityMismatch(f"{source.location} is not of the store {record.store_id}")
    moved = freeze.moved_to(source)
    new = record.database_id if moved is not None and moved.database_id == record.database_id else None
    if new is None and identity != record:
        raise IdentityMismatch(f"{store.location} belongs to the database {record.database_id}, not to this")
    begun = retried(lambda: state.start(target.safe, identity, moved))
    if moved is not None:
        freeze.require_same(source, moved, begun.database_id)
    tables: tuple[TableCopy, ...] = ()
    resumed: tuple[str, ...] = ()
    if not begun.is_complete:
        _require_reachable(source, moved)
        freeze.freeze(source, target.safe.location, begun.database_id)
        tables, resumed = _copy_tables(source, target, begun.database_id, progress)
        _make_parts(target, begun.database_id, progress)
        _complete(source, target, begun.database_id)
    freeze.retire(source, begun.database_id)
    switched = replace(identity, database_id=begun.database_id)
    _switch(store, staging, identity, switched)
    return Copied(source.location, target.safe.location, switched, tables, resumed)


def _require_reachable(source: Database, moved: Moved | None) -> None:
    if moved is not None and moved.state == "retired":
        raise Refused(
            f"{source.location} was retired, and {moved.location} is not whole: restore a copy of it"
        )


def _copy_tables(
    source: Database, target: Target, database_id: UUID, progress: Progress
) -> tuple[tuple[TableCopy, ...], tuple[str, ...]]:
    done: Mapping[str, TableCopy] = state.copied_tables(target.safe)
    tables = [
        done.get(shape.name) or _copy_table(source, target, shape, database_id, progress)
        for shape in shapes()
    ]
    return tuple(tables), tuple(done)


def _copy_table(
    source: Database, target: Target, shape: Shape, database_id: UUID, progress: Progress
) -> TableCopy:
    """Bring one table over; what is compared is what the target gives back.

    On PostgreSQL in one transaction, on SQLite in several: the last one compares.
    """
    with source.read() as reading:
        streams.without_timeouts(reading)
        expected = streams.count(reading, shape)
        progress.began(f"rows: {shape.name}", expected)
        begun = loading.load(reading, source.location, target.bulk, shape, progress.advanced)
        with closing(begun) as load:
            while True:
                with target.bulk.transaction("copy_rows") as connection:
                    streams.without_timeouts(connection)
                    state.fence(connection, database_id, shape.name)
                    if load.rows == 0:
                        loading.empty(connection, shape)
                    if not load.some(connection):
                        progress.began(f"comparing: {shape.name}", None)
                        copied = _compared(connection, source, target, shape, expected, load)
                        state.mark_copied(connection, copied)
                        break
    return copied


def _compared(
    connection: Connection, source: Database, target: Target, shape: Shape, expected: int, load: loading.Load
) -> TableCopy:
    found_rows = streams.count(connection, shape)
    found = loading.read_again(connection, target.bulk.location, shape)
    if found != load.digest or not load.rows == expected == found_rows:
        raise IntegrityError(
            f"{target.safe.location}: table {shape.name} has {found_rows} rows ({found[:12]}),"
            f" {source.location} {expected} ({load.digest[:12]}, {load.rows} were sent): they differ"
        )
    return TableCopy(shape.name, expected, found)


def _make_parts(target: Target, database_id: UUID, progress: Progress) -> None:
    left = state.parts_left(target.safe)
    progress.began("indexes and constraints", len(left))
    for _, of_one in groupby(left, key=lambda part: part.what):
        with target.bulk.transaction("copy_parts") as connection:
            state.fence(connection, database_id)
            streams.without_timeouts(connection)
            if not target.bulk.is_sqlite:
                connection.execute(sa.text(_SORTING))
            for part in of_one:
                parts.make(connection, part.statement)
                state.mark_part(connection, part)
                progress.advanced(1)


def _complete(source: Database, target: Target, database_id: UUID) -> None:
    """Let the target be a database like any other, in one flushed transaction."""
    with source.read() as connection:
        greatest = sequences.read(connection)
        values = dict(connection.execute(_IDENTITY).one()._mapping)
    # The numbers of transactions are another server's; see ``shapes``.
    values |= {"database_id": database_id, "feed_pruned_transaction": 0}
    with target.safe.transaction("copy_completed") as connection:
        streams.without_timeouts(connection)
        state.fence(connection, database_id)
        _check(target.safe, connection)
        sequences.write(connection, greatest)
        connection.execute(sa.insert(StoreIdentity), values)
        state.forget(connection)


def _check(target: Database, connection: Connection) -> None:
    """On SQLite, check what was not checked row by row; on PostgreSQL, tell the planner what there is."""
    if not target.is_sqlite:
        connection.execute(sa.text("ANALYZE"))
        return
    broken = connection.execute(sa.text("PRAGMA foreign_key_check")).fetchmany(5)
    if broken:
        names = ", ".join(f"{table} row {row} -> {other}" for table, row, other, _ in broken)
        raise IntegrityError(f"{target.location}: rows refer to what is not there: {names}")


def _switch(store: BlobStore, staging: Staging, before: Identity, after: Identity) -> None:
    record = read_record(store)
    if record == after:
        return
    if record != before:
        raise IdentityMismatch(f"{store.location}: its {RECORD} has changed meanwhile; nothing was switched")
    staging.write_record(RECORD, after.to_record())
