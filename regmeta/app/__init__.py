"""Wiring: settings become a store, a database and use cases. Nothing below reads settings."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from regmeta.app.stores import open_store
from regmeta.db import Database
from regmeta.errors import Error, SchemaMismatch, StoreUnavailable, UsageError
from regmeta.settings import Settings
from regmeta.settings.postgresql import server_of
from regmeta.store import BlobStore, durable

if TYPE_CHECKING:
    from regmeta.ingest.local_registry import LocalRegistry
    from regmeta.ingest.plan import ImageOutcome, Lifetimes, Progress
    from regmeta.ingest.unit_of_work import Writer
    from regmeta.maintain.recover import RecoverReport

_log = logging.getLogger(__name__)

LOCK_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Reading:
    """A registry that is open for reading."""

    settings: Settings
    database: Database
    store: BlobStore


@dataclass(frozen=True, slots=True)
class Writing(Reading):
    """A registry that is open for writing."""

    writer: Writer
    registry: LocalRegistry
    recovered: RecoverReport  # what was cleared up when it was opened


@contextmanager
def open_database(settings: Settings) -> Iterator[Database]:
    """Open the database whatever schema it has; for ``regmeta db``.

    Raises:
        SchemaMismatch: there is none.
    """
    database = _database(settings)
    try:
        yield database
    finally:
        database.close()


@contextmanager
def open_for_reading(settings: Settings, *, check_store: bool = False) -> Iterator[Reading]:
    """Open a registry for reading. Changes nothing and clears nothing up.

    With *check_store*, for who reads objects: a wrong store must not look like a damaged one.

    Raises:
        SchemaMismatch: there is no registry, or of another schema.
        IdentityMismatch: the store is not this database's.
        StoreUnavailable: the store cannot be opened.
    """
    with open_database(settings) as database:
        database.check_schema()
        store = open_store(settings)
        try:
            if check_store:
                from regmeta.maintain.setup import check_identity

                check_identity(database, store)
            yield Reading(settings, database, store)
        finally:
            store.close()


@contextmanager
def open_for_writing(settings: Settings, *, lifetimes: Lifetimes | None = None) -> Iterator[Writing]:
    """Open a registry for writing, and clear up after processes that have ended.

    *lifetimes* are other than the usual ones in tests.

    Raises:
        SchemaMismatch, IdentityMismatch: there is no registry, or database and store do not match.
        Unavailable, Locked: it cannot be opened now.
    """
    # What only writers need is not imported by readers: they start faster.
    from regmeta.app.writers import writer_of
    from regmeta.ingest.local_registry import LocalRegistry
    from regmeta.maintain.recover import recover

    with ExitStack() as stack:
        reading = stack.enter_context(open_for_reading(settings, check_store=True))
        database, store = reading.database, reading.store
        staging = store.open_staging()
        stack.callback(staging.close)
        writer = writer_of(settings, database, store, staging, lifetimes)
        # Before the folder goes: an intent without a folder is one of a process that has ended.
        stack.callback(_release, writer)
        stack.callback(writer.snapshots.flush_postponed)
        registry = LocalRegistry(writer, store, mandatory_annotations=settings.lint.mandatory_annotations)
        stack.callback(registry.close)
        recovered = recover(writer, store)
        yield Writing(settings, database, store, writer, registry, recovered)


def _release(writer: Writer) -> None:
    """Give back what an ingest could not. What was committed is; the rest is left for the next writer."""
    from regmeta.ingest.reserve import give_back_all
    from regmeta.ingest.retry import retried

    try:
        retried(lambda: give_back_all(writer.database, writer.staging.owner, writer.lifetimes))
    except Error as error:
        _log.warning("intents are left for the next writer: %s", error)


def import_source(
    settings: Settings,
    path: str,
    destination: str | None,
    *,
    only_tags: Collection[str] = (),
    with_untagged: bool = False,
    atomic: bool = False,
    sparse: bool = False,
    progress: Callable[[int], AbstractContextManager[Progress]],
) -> Generator[ImageOutcome, None, None]:
    """Import images of the layout or archive at *path*; see ``ingest.selection`` for which.

    Each outcome is given when it is final: what was committed before an error is known. Close it when it is
    not read to its end: it holds the registry open.

    Without *destination* the source's own name is the repository. *progress* is made with the number of
    images.

    Raises:
        UsageError, InvalidSource, InvalidName: nothing can be imported from there, or to there.
        Unavailable, Locked, Refused: what was reported before is committed, the rest is not.
    """
    from regmeta.ingest.selection import select_images
    from regmeta.oci.names import Reference
    from regmeta.sources.open import open_source

    target = Reference.parse(destination or _name_of(path))
    with closing(open_source(path)) as source:
        chosen = select_images(source, target, only_tags=only_tags, with_untagged=with_untagged)
        if atomic and chosen.rejected:
            assert chosen.rejected[0].error is not None
            raise chosen.rejected[0].error
        with open_for_writing(settings) as registry, progress(len(chosen.requests)) as shown:
            outcomes = registry.registry.import_images(
                chosen.requests, sparse=sparse, atomic=atomic, progress=shown
            )
            yield from chosen.rejected
            yield from outcomes


def _name_of(path: str) -> str:
    name = Path(path.rpartition(":")[2]).absolute().name.lower()
    return name.removesuffix(".tar")


def initialise(settings: Settings) -> bool:
    """Make a registry where the settings say; tells whether there was none.

    Raises:
        IdentityMismatch: the store or the database belongs to another.
        StoreUnavailable, DatabaseUnavailable: it cannot be made.
    """
    from regmeta.app.stores import make_store_folder
    from regmeta.maintain import schema, setup
    from regmeta.store.folders import make_folder

    make_folder(settings.home)
    make_store_folder(settings)
    path = _sqlite_path(settings)
    if path is not None:
        make_folder(str(path.parent))
        _make_database_file(path)
    database = _database(settings)
    try:
        if database.is_sqlite:
            database.use_write_ahead_log()
        is_new = schema.current(database) is None
        if is_new or not setup.is_tied(database):
            # Revisions commit one by one: an ``init`` that was stopped between two of them goes on.
            schema.upgrade(database, migrations_folder())
        database.check_schema()
        store = open_store(settings)
        try:
            setup.make_identity(database, store)
        finally:
            store.close()
    finally:
        database.close()
    return is_new


def is_initialised(settings: Settings) -> bool:
    """Tell whether ``initialise`` was run here to its end, or nearly: a second run does the rest."""
    from regmeta.maintain import setup

    path = _sqlite_path(settings)
    if path is not None and not path.is_file():
        return False
    with open_database(settings) as database:
        if not setup.is_tied(database):
            return False
    try:
        store = open_store(settings)
    except StoreUnavailable:
        return False
    with closing(store):
        return store.read_record(setup.RECORD) is not None


def migrations_folder() -> str:
    """Return where the revisions are: beside the package in a checkout, inside it when installed.

    Raises:
        UsageError: they are nowhere.
    """
    package = Path(__file__).parents[1]
    for folder in (package / "migrations", package.parent / "migrations"):
        if (folder / "env.py").is_file():
            return str(folder)
    raise UsageError(f"no migrations beside {package}: the installation is incomplete")


def _database(settings: Settings) -> Database:
    path = _sqlite_path(settings)
    if path is None:
        return Database(settings.database, server=server_of(settings.postgresql))
    from regmeta.store.locks import FileLock

    if not path.is_file():
        raise SchemaMismatch(f"{path}: no such database: 'regmeta init' makes one")
    return Database(settings.database, file_lock=FileLock(f"{path}.lock", LOCK_TIMEOUT_S))


def _sqlite_path(settings: Settings) -> Path | None:
    prefix, separator, path = settings.database.partition(":///")
    if prefix != "sqlite":
        return None
    if not separator or not path:
        raise UsageError(f"database {settings.database!r}: write sqlite:////absolute/path")
    return Path(path)


def _make_database_file(path: Path) -> None:
    try:
        os.close(durable.create(str(path), os.O_RDWR, 0o600, None, "init.database_made"))
    except OSError as error:
        raise StoreUnavailable(f"{path}: {error.strerror}") from error
