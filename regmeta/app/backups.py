"""Wiring of ``regmeta backup`` and ``regmeta restore``: where a copy goes, and where it comes from."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass
from typing import Any

from regmeta import app
from regmeta.app.stores import open_store
from regmeta.app.writers import require_alone, writer_of
from regmeta.db import Database
from regmeta.errors import (
    DatabaseUnavailable,
    InvalidSource,
    Refused,
    StoreUnavailable,
    UsageError,
)
from regmeta.maintain import backup as copies
from regmeta.maintain import restore as restoring
from regmeta.maintain.backup import Copy
from regmeta.maintain.rebuild.listing import list_snapshots
from regmeta.maintain.rebuild.report import Progress, Report
from regmeta.maintain.restore import Prepared
from regmeta.maintain.setup import Identity
from regmeta.settings import Settings
from regmeta.store import BlobStore, Staging, database_files
from regmeta.store.folders import make_folder

MakeProgress = Callable[[], AbstractContextManager[Progress]]

_SERVER_HINT = "install PostgreSQL's client programs of the server's release (such as postgresql-client)"


@dataclass(frozen=True, slots=True)
class Backup:
    """A copy that was made and checked."""

    path: str
    database: str
    size_bytes: int
    schema: str
    identity: Identity


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did."""

    database: str
    moved_aside: str | None
    identity: Identity
    reconciled: Report


def backup(settings: Settings, destination: str) -> Backup:
    """Copy the database, as of one moment, into a new file. Safe beside any number of writers.

    The file has its name only when it is whole, flushed and checked.

    Raises:
        UsageError: *destination* is there already.
        SchemaMismatch: there is no registry, or of another schema.
        IntegrityError: the copy is damaged, so the database is.
        Unavailable: the database cannot be read, the file not be written, or a program is missing.
    """
    with app.open_database(settings) as database:
        database.check_schema()
        expected = copies.own_copy(database)
        with database_files.new_file(destination) as partial:
            if database.is_sqlite:
                copies.copy_sqlite(database, partial)
                found = copies.read_sqlite_copy(partial)
            else:
                _dump(database, partial)
                found = _read_dump(database, partial, expected)
            copies.compare(found, expected, destination)
            size_bytes = os.stat(partial).st_size
        return Backup(
            os.path.abspath(destination), database.location, size_bytes, found.schema, found.identity
        )


def restore_file(settings: Settings, path: str, progress: MakeProgress) -> Restored:
    """Put a copy in the place of the SQLite database of the settings. No other process may run.

    Checks first; if one fails nothing has changed. Interrupted and run again, it ends the same.

    Raises:
        UsageError: the settings name a server.
        InvalidSource, IntegrityError: *path* is no copy of a registry's database, or a damaged one.
        SchemaMismatch, IdentityMismatch: it is not to be restored here.
        Locked: another process works on the store, or has the database open.
        Unavailable: a file, the store or the database did not do it.
    """
    target = app._sqlite_path(settings)
    if target is None:
        raise UsageError("the database is on a server: load the copy with pg_restore, then say --loaded")
    with ExitStack() as stack:
        store = stack.enter_context(closing(open_store(settings)))
        _check_file(path, str(target), store)
        if target.is_file():
            with database_files.unused(str(target)):
                pass
        staging = stack.enter_context(closing(store.open_staging()))
        require_alone(store, staging.owner)
        listed = list_snapshots(store)
        make_folder(str(target.parent))
        try:
            database_files.copy_for_restore(path, str(target))
            with closing(Database(f"{settings.database}{database_files.RESTORING}")) as copy:
                copy.use_write_ahead_log()
                prepared = restoring.prepare(copy, store, listed)
        except Exception:  # an interruption leaves it, and the next run begins from the copy
            database_files.remove_prepared(str(target))
            raise
        aside = database_files.put_in_place(str(target))
        return _finish(settings, stack, store, staging, prepared, aside, progress)


def restore_loaded(settings: Settings, progress: MakeProgress) -> Restored:
    """Take the rows that ``pg_restore`` has loaded into the server's database. No other process may run.

    Raises:
        UsageError: the settings name a file.
        SchemaMismatch, IdentityMismatch: the rows are not to be restored here.
        Locked: another process works on the store, or is connected to the database.
        Unavailable: the store or the database did not do it.
    """
    if app._sqlite_path(settings) is not None:
        raise UsageError("--loaded is for a database on a server: give the copy of this one")
    with ExitStack() as stack:
        store = stack.enter_context(closing(open_store(settings)))
        with app.open_database(settings) as database:
            restoring.check_loaded(database, store)
            staging = stack.enter_context(closing(store.open_staging()))
            require_alone(store, staging.owner)
            prepared = restoring.prepare(database, store, list_snapshots(store))
        return _finish(settings, stack, store, staging, prepared, None, progress)


def _finish(
    settings: Settings,
    stack: ExitStack,
    store: BlobStore,
    staging: Staging,
    prepared: Prepared,
    aside: str | None,
    progress: MakeProgress,
) -> Restored:
    database = stack.enter_context(closing(app._database(settings)))
    writer = writer_of(settings, database, store, staging)
    shown = stack.enter_context(progress())
    report = restoring.finish(writer, store, prepared, shown)
    return Restored(database.location, aside, prepared.identity, report)


def _check_file(path: str, target: str, store: BlobStore) -> None:
    record = restoring.require_record(store)
    if not os.path.isfile(path):
        raise InvalidSource(f"{path}: no such file" if not os.path.lexists(path) else f"{path}: not a file")
    if os.path.exists(target) and os.path.samefile(path, target):
        raise UsageError(f"{path}: is the database itself, not a copy of it")
    if os.path.realpath(path) == os.path.realpath(f"{target}{database_files.RESTORING}"):
        raise UsageError(f"{path}: is what an interrupted restore left, not a copy: name the copy itself")
    if database_files.has_log(path):
        raise InvalidSource(
            f"{path}: has a {path}-wal beside it: not a closed copy ('regmeta backup' makes one)"
        )
    copy = copies.read_sqlite_copy(path)
    upgrade = f"REGMETA_DATABASE=sqlite:///{os.path.abspath(path)} regmeta db upgrade"
    copies.check_restorable(copy, record, path, upgrade=f"upgrade a copy of it first with '{upgrade}'")


# --- PostgreSQL -------------------------------------------------------------------------------


def _dump(database: Database, path: str) -> None:
    """Run ``pg_dump`` into the empty file at *path*."""
    command = [_program("pg_dump"), "--format=custom", "--no-password", f"--file={path}"]
    _run(command, _environment(database))


def _read_dump(database: Database, path: str, expected: Copy) -> Copy:
    """Read a dump to its end, and look whether it says what it must."""
    program = _program("pg_restore")
    _run([program, f"--file={os.devnull}", path], {})
    tables = ["--table=store_identity", "--table=alembic_version"]
    text = _run([program, "--data-only", "--file=-", *tables, path], {})
    identity = expected.identity
    told = (str(identity.store_id), str(identity.database_id), str(identity.epoch), expected.schema)
    if not all(value in text.split() for value in told):
        raise Refused(
            f"{database.location}: changed its identity or schema while it was copied; run it again"
        )
    return expected


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise DatabaseUnavailable(f"{name} is not on PATH: {_SERVER_HINT}")
    return found


def _environment(database: Database) -> Mapping[str, str]:
    """Return how libpq is told where to connect to: other users can read arguments, but not this."""
    from psycopg.pq import Conninfo

    _, given = database.engine.dialect.create_connect_args(database.url)
    values: dict[str, Any] = {str(name): value for name, value in given.items()}
    variables = {
        option.keyword.decode(): option.envvar.decode()
        for option in Conninfo.get_defaults()
        if option.envvar is not None
    }
    return {variables[name]: str(value) for name, value in values.items() if name in variables}


def _run(command: Sequence[str], variables: Mapping[str, str]) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - a program found on PATH, arguments of ours
            command,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    except OSError as error:
        raise StoreUnavailable(f"{command[0]}: {error.strerror}") from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().replace("\n", "; ")
        hint = f" ({_SERVER_HINT})" if "version mismatch" in said else ""
        raise DatabaseUnavailable(f"{os.path.basename(command[0])}: {said or done.returncode}{hint}")
    return done.stdout.decode(errors="replace")
