"""Wiring of ``regmeta rebuild``: who else works here, a new database if there is none, and its rows."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path

from regmeta import app
from regmeta.app.stores import open_store
from regmeta.app.writers import require_alone, writer_of
from regmeta.db import Database
from regmeta.errors import IdentityMismatch, NotFound
from regmeta.maintain import schema, setup
from regmeta.maintain.rebuild import identity
from regmeta.maintain.rebuild.listing import SNAPSHOTS, SnapshotList, list_snapshots
from regmeta.maintain.rebuild.lost import rebuild_lost
from regmeta.maintain.rebuild.reconcile import reconcile
from regmeta.maintain.rebuild.report import Progress, Report
from regmeta.settings import Settings
from regmeta.store import BlobStore
from regmeta.store.folders import make_folder

MakeProgress = Callable[[], AbstractContextManager[Progress]]


def reconcile_rows(settings: Settings, progress: MakeProgress) -> Report:
    """Put back what the rows of a database that is there lack. Safe beside any number of writers.

    Raises:
        SchemaMismatch, IdentityMismatch: there is no registry, or database and store do not match.
        Unavailable, Locked: the store or the database did not do it.
    """
    with app.open_for_writing(settings) as registry, progress() as shown:
        return reconcile(registry.writer, registry.store, shown)


def rebuild_lost_database(settings: Settings, progress: MakeProgress) -> Report:
    """Make a new database, with the rows that the store alone can tell. No other process may run.

    Interrupted and run again, it goes on.

    Raises:
        IdentityMismatch: there is no store, or the database is of another registry.
        Refused: another process holds a staging folder, or the database is in use.
        NotFound: the store has objects, or nothing at all, but no snapshot.
        Unavailable: a listing, the store or the database failed; nothing was switched.
    """
    with ExitStack() as stack:
        store = stack.enter_context(closing(open_store(settings)))
        listed = _look_first(store)
        database = stack.enter_context(closing(_make_database(settings)))
        tied = identity.tie(database, store, listed.greatest_epoch)
        staging = stack.enter_context(closing(store.open_staging()))
        writer = writer_of(settings, database, store, staging)
        shown = stack.enter_context(progress())
        return rebuild_lost(writer, store, tied, listed, shown)


def _look_first(store: BlobStore) -> SnapshotList:
    """List the snapshots, if this is a store that nobody works on. Nothing was made yet."""
    if setup.read_record(store) is None:
        raise IdentityMismatch(f"{store.location} holds no {setup.RECORD}: it is no store, or is not mounted")
    require_alone(store)
    listed = list_snapshots(store)
    if not listed.versions:
        has_objects = next(iter(store.walk()), None) is not None
        what = "holds objects, but" if has_objects else "holds no object, and"
        raise NotFound(f"{store.location} {what} {SNAPSHOTS} has no snapshot: nothing tells what was where")
    return listed


def _make_database(settings: Settings) -> Database:
    """Return the database, made with an empty schema if there is none."""
    path = app._sqlite_path(settings)
    if path is not None and not Path(path).is_file():
        make_folder(str(path.parent))
        app._make_database_file(path)
    database = app._database(settings)
    try:
        if database.is_sqlite:
            database.use_write_ahead_log()
        if not setup.is_tied(database):
            schema.upgrade(database, app.migrations_folder())
        database.check_schema()
    except BaseException:
        database.close()
        raise
    return database
