"""Wiring of ``regmeta health``: does the registry answer, and is its work being done? Quick; changes nothing.

One statement, and one record of the store. ``regmeta doctor`` looks at everything
(:mod:`regmeta.app.health`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

from regmeta import app
from regmeta.app.stores import open_store
from regmeta.db import SCHEMA_HEAD, Database
from regmeta.errors import Error, SchemaMismatch, UsageError
from regmeta.maintain.setup import RECORD, Identity, read_record
from regmeta.query.queues import QueueAge, Queues, Replica, queues
from regmeta.settings import Settings
from regmeta.settings.postgresql import server_of
from regmeta.store.locks import FileLock

LOCK_TIMEOUT_S: Final = 1.0  # [s] of closing: a writer that stands still in its commit is not waited for

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Part:
    """What was asked, how long that took, and what is wrong with it."""

    is_ok: bool
    latency_s: float | None = None  # [s] None where nothing was asked for it alone
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """How the registry is. *late* is said where all answer and a queue is older than it should be."""

    status: Literal["ok", "late", "down"]
    database: Part
    schema: Part
    store: Part
    identity: Part
    queues: tuple[QueueAge, ...]
    late: tuple[str, ...]  # names of queues
    is_held: bool  # nothing may be collected now
    is_paused: bool
    replica: Replica | None  # None on a primary


def probe(settings: Settings, *, max_age_s: float | None = None) -> Health:
    """Ask the database and the store. An error of theirs is part of the answer.

    *max_age_s* is for how long [s] something may be due before its queue is late.

    Raises:
        UsageError: the settings are wrong.
    """
    found, database, error = _asked(lambda: _look(settings))
    record, store, _ = _asked(lambda: _read_record(settings))
    if isinstance(error, SchemaMismatch):
        # It does answer, unless there is no file.
        schema = Part(False, error=str(error))
    else:
        schema = Part(False, error="the database did not answer") if found is None else _schema(found)
    identity = _identity(found, record, store)
    late = () if found is None or max_age_s is None else tuple(each.name for each in found.late(max_age_s))
    is_up = all(part.is_ok for part in (database, schema, store, identity))
    return Health(
        status="down" if not is_up else "late" if late else "ok",
        database=database,
        schema=schema,
        store=store,
        identity=identity,
        queues=() if found is None else found.queues,
        late=late,
        is_held=found is not None and found.is_held,
        is_paused=found is not None and found.is_paused,
        replica=None if found is None else found.replica,
    )


def open_briefly(settings: Settings) -> Database:
    """Open the database for a look, without waiting long for anybody.

    Raises:
        SchemaMismatch: there is none.
    """
    path = app._sqlite_path(settings)
    if path is None:
        return Database(settings.database, server=server_of(settings.postgresql))
    if not path.is_file():
        raise SchemaMismatch(f"{path}: no such database: 'regmeta init' makes one")
    return Database(settings.database, file_lock=FileLock(f"{path}.lock", LOCK_TIMEOUT_S))


def _asked(ask: Callable[[], _T]) -> tuple[_T | None, Part, Error | None]:
    began_s = time.perf_counter()
    try:
        found = ask()
    except UsageError:
        raise
    except Error as error:
        return None, Part(False, time.perf_counter() - began_s, str(error)), error
    return found, Part(True, time.perf_counter() - began_s), None


def _look(settings: Settings) -> Queues:
    with closing(open_briefly(settings)) as database:
        return queues(database, counts=False)


def _read_record(settings: Settings) -> Identity | None:
    with closing(open_store(settings)) as store:
        return read_record(store)


def _schema(found: Queues) -> Part:
    if found.schema == SCHEMA_HEAD:
        return Part(True)
    return Part(False, error=f"revision {found.schema}, this release needs {SCHEMA_HEAD}")


def _identity(found: Queues | None, record: Identity | None, store: Part) -> Part:
    if found is None or not store.is_ok:
        return Part(False, error="database or store did not answer")
    if found.store_id is None or found.database_id is None or found.epoch is None:
        return Part(False, error="the database belongs to no store yet: run 'regmeta init'")
    if record is None:
        return Part(False, error=f"the store holds no {RECORD}: it is no store, or is not mounted")
    if Identity(found.store_id, found.database_id, found.epoch) != record:
        return Part(False, error="store and database do not belong together: see 'regmeta doctor'")
    return Part(True)
