"""Wiring of ``regmeta doctor``: everything is looked at that can be, however much is broken."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from functools import partial

from regmeta import app, failpoints
from regmeta.app import replicas
from regmeta.app.stores import open_store, scratch_folder
from regmeta.db import Database
from regmeta.errors import Error
from regmeta.maintain.doctor import buckets, engine, files, rows, server, software
from regmeta.maintain.doctor.check import Check, guarded, problem, warning
from regmeta.settings import Settings
from regmeta.settings.object_store import is_bucket
from regmeta.settings.postgresql import server_of
from regmeta.store import database_files
from regmeta.store.health import look_at, user_id
from regmeta.store.locks import FileLock

LOCK_TIMEOUT_S = 1.0  # [s] of closing: a writer that stands still in its commit is not waited for

_FILES_ADVICE = "see 'ls -l' and the host's log"
_STORE_ADVICE = "mount it, or correct 'store' in the settings"
_SERVER_ADVICE = "see the server's log, and 'database' and '[postgresql]' in the settings"
_BUCKET_ADVICE = (
    "see the keys and the endpoint, and whether 'store' names the right bucket: docs/object-storage.md"
)
_ROWS_ADVICE = "see 'regmeta db check'; a copy is put in place by 'regmeta restore COPY --yes'"


def examine(settings: Settings, *, pages: bool = False) -> list[Check]:
    """Look at everything that a registry stands on. Changes nothing.

    With *pages* SQLite looks through its whole file.
    """
    path = app._sqlite_path(settings)
    found = list(software.check_software(uses_sqlite=path is not None))
    found += _failpoint()
    if path is not None:
        found += guarded("database file", _FILES_ADVICE, lambda: _database_files(str(path)))
    if is_bucket(settings.store):
        found += guarded("store", _BUCKET_ADVICE, lambda: _bucket(settings))
    else:
        found += guarded("store", _STORE_ADVICE, lambda: _store_files(settings.store))
    if path is not None and not path.is_file():
        return found
    advice = (
        "see that it is a database of regmeta and can be read; a copy is put in place by"
        " 'regmeta restore COPY --yes'"
        if path is not None
        else "start the server, or correct 'database' in the settings"
    )
    try:
        lock = None if path is None else FileLock(f"{path}.lock", LOCK_TIMEOUT_S)
        database = Database(settings.database, file_lock=lock, server=server_of(settings.postgresql))
    except Error as error:
        return [*found, problem("database", str(error), advice)]
    with closing(database):
        found += _database(settings, database, advice, pages=pages)
    return found


def _failpoint() -> Iterator[Check]:
    if os.environ.get(failpoints.VARIABLE):
        yield warning("failpoint", f"{failpoints.VARIABLE} is set: commands fail on purpose", "unset it")


def _database_files(path: str) -> Iterator[Check]:
    folder = os.path.dirname(path) or "."
    facts, around = look_at(path), look_at(folder)
    if facts is None:
        yield problem(
            "database file",
            f"{path}: no such file",
            "'regmeta init' makes a registry; a lost database comes back by 'regmeta restore COPY --yes' or"
            " 'regmeta rebuild --lost-database --yes'",
        )
    elif facts.kind != "file":
        yield problem("database file", f"{path}: not a file", "correct 'database' in the settings")
    else:
        yield from files.check_permissions("database", facts, user_id(), private=True)
    prepared = f"{path}{database_files.RESTORING}"
    if look_at(prepared) is not None:
        advice = "run 'regmeta restore' again, or remove it"
        yield warning("restore", f"{prepared} is left of a restore that was interrupted", advice)
    if around is None:
        return
    yield from files.check_permissions("database folder", around, user_id())
    yield from files.check_file_system("database", around)
    locality = None if around.mount is None else around.mount.locality
    yield from software.check_wal_reset(f"{path}.lock", locality)


def _store_files(path: str) -> Iterator[Check]:
    facts = look_at(path)
    if facts is None or facts.kind != "folder":
        what = "no such folder" if facts is None else "not a folder"
        yield problem("store", f"{path}: {what}", _STORE_ADVICE)
        return
    yield from files.check_permissions("store", facts, user_id())
    yield from files.check_file_system("store", facts)
    blobs = look_at(os.path.join(path, "blobs"))
    if blobs is None:
        yield problem("store", f"{path}: holds no folder 'blobs': a disk is not mounted", _STORE_ADVICE)
        return
    # It is made with the first writer.
    yield from files.check_same_file_system(look_at(os.path.join(path, "staging")) or facts, blobs)


def _bucket(settings: Settings) -> Iterator[Check]:
    scratch = scratch_folder(settings)
    yield from buckets.check_scratch(scratch, look_at(scratch), user_id())
    with closing(open_store(settings)) as store:
        yield from buckets.check_bucket(store)


def _database(settings: Settings, database: Database, advice: str, *, pages: bool) -> Iterator[Check]:
    reached = guarded("database", advice, lambda: engine.check_engine(database))
    yield from reached
    if any(check.name == "database" for check in reached):
        return  # nothing else could be asked either
    yield from guarded("clock", advice, lambda: engine.check_clock(database, datetime.now(UTC)))
    if pages and database.is_sqlite:
        yield from guarded("pages", _ROWS_ADVICE, lambda: engine.check_pages(database))
    schema = guarded("schema", _ROWS_ADVICE, lambda: rows.check_schema(database))
    yield from schema
    if any(check.level != "ok" for check in schema):
        return  # the tables are others
    if not database.is_sqlite:
        yield from _server(settings, database)
    yield from guarded("identity", _STORE_ADVICE, lambda: _identity(settings, database))
    for name, look in (
        ("collection", rows.check_hold),
        ("adoption", rows.check_adoptions),
        ("ingests", rows.check_ingests),
        ("snapshots", rows.check_snapshots),
        ("collector's tasks", rows.check_overdue),
        ("attempts", rows.check_attempts),
        ("damaged blobs", rows.check_damaged),
        ("last commit", rows.check_last_commit),
    ):
        yield from guarded(name, _ROWS_ADVICE, partial(look, database))


def _server(settings: Settings, database: Database) -> Iterator[Check]:
    pool = settings.postgresql.pool_size + settings.postgresql.pool_overflow
    looks: list[tuple[str, Callable[[], Iterable[Check]]]] = [
        ("extension", lambda: server.check_extension(database)),
        ("rights", lambda: server.check_rights(database)),
        ("connections", lambda: server.check_connections(database, pool)),
        ("autovacuum", lambda: server.check_autovacuum(database)),
        ("dead rows", lambda: server.check_dead_rows(database)),
        ("old transactions", lambda: server.check_transactions(database)),
        ("replication slots", lambda: server.check_slots(database)),
        ("pooler", lambda: server.check_pooler(database, settings.postgresql.pooler)),
    ]
    if replicas.replica_url(settings):
        looks.append(("replica", lambda: _replica(settings)))
    for name, look in looks:
        yield from guarded(name, _SERVER_ADVICE, look)


def _replica(settings: Settings) -> Iterator[Check]:
    with replicas.open_for_queries(settings):
        pass  # it is of this registry, and of its schema
    yield from server.check_replica(replicas.lag(settings))


def _identity(settings: Settings, database: Database) -> list[Check]:
    with closing(open_store(settings)) as store:
        return list(rows.check_identity(database, store))
