"""Wiring of ``regmeta db copy``: the two databases, and the store that names one of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path

import msgspec

from regmeta import app
from regmeta.app.stores import open_store
from regmeta.db import SCHEMA_HEAD, Database
from regmeta.errors import Refused, UsageError
from regmeta.maintain import schema
from regmeta.maintain.database_copy import freeze, loading, state
from regmeta.maintain.database_copy.freeze import Moved
from regmeta.maintain.database_copy.run import Copied, Target, copy_database
from regmeta.maintain.progress import Progress
from regmeta.settings import Settings
from regmeta.store.folders import make_folder

MakeProgress = Callable[[], AbstractContextManager[Progress]]


def copy(settings: Settings, target_url: str, progress: MakeProgress) -> Copied:
    """Move all rows of the settings' database to the empty one at *target_url*, and put that to use.

    An SQLite file is made. While it goes on the registry can be read, and not be written. Interrupted, run it
    again, or :func:`abandon` it.

    Raises:
        UsageError: the two are one, or *target_url* is none.
        SchemaMismatch, IdentityMismatch, Refused: they are not to be copied from, or into.
        IntegrityError: a row cannot be kept, or the target did not give back what it got.
        Unavailable, Locked: a database or the store did not do it.
    """
    aimed = msgspec.structs.replace(settings, database=target_url)
    _require_two(settings, aimed)
    with ExitStack() as stack:
        source = stack.enter_context(closing(app._database(settings)))
        if freeze.moved_to(source) is None:
            source.check_schema()
        store = stack.enter_context(closing(open_store(settings)))
        staging = stack.enter_context(closing(store.open_staging()))
        safe = stack.enter_context(closing(_prepared(aimed)))
        bulk = stack.enter_context(closing(app._database(aimed)))
        loading.tune(bulk)
        with progress() as shown:
            return copy_database(source, Target(bulk, safe), store, staging, shown)


def abandon(settings: Settings) -> Moved:
    """Give a copy up: the settings' database takes changes again. Returns where it was to go.

    Raises:
        Refused: none goes on, or it has come so far that it can only be finished.
    """
    with app.open_database(settings) as database:
        return freeze.thaw(database)


def _require_two(settings: Settings, aimed: Settings) -> None:
    here, there = app._sqlite_path(settings), app._sqlite_path(aimed)
    if here is not None and there is not None and here.resolve() == there.resolve():
        raise UsageError(f"{there}: is the database itself: name another one")


def _prepared(aimed: Settings) -> Database:
    """Return the target, with the schema of this release where it had none."""
    path = app._sqlite_path(aimed)
    if path is not None and not path.exists():
        _make_file(path)
    database = app._database(aimed)
    try:
        if database.is_sqlite:
            database.use_write_ahead_log()
        before = freeze.moved_to(database)
        if before is not None:
            raise Refused(
                f"{database.location} was moved to {before.location} by 'regmeta db copy',"
                " and its rows are old: make an empty database"
            )
        if not state.is_being_filled(database):
            _bring_up(database)
    except BaseException:
        database.close()
        raise
    return database


def _make_file(path: Path) -> None:
    make_folder(str(path.parent))
    app._make_database_file(path)


def _bring_up(database: Database) -> None:
    found = schema.current(database)
    if found == SCHEMA_HEAD:
        return
    if found is None and not state.is_empty(database):
        raise Refused(f"{database.location} has tables that are not regmeta's: make an empty database")
    # Revisions commit one by one: a run that was stopped between two of them goes on.
    schema.upgrade(database, app.migrations_folder())
