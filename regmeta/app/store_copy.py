"""Wiring of ``regmeta store copy``: the store of the settings, another one, and the database of both."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path

import msgspec

from regmeta import app
from regmeta.app.stores import make_store_folder, open_store
from regmeta.app.writers import lifetimes_of
from regmeta.errors import NotFound, UsageError
from regmeta.ingest.store_moves import Mark
from regmeta.maintain.progress import Progress
from regmeta.maintain.store_copy import fence
from regmeta.maintain.store_copy.run import Ends, Moved, Options, copy_store
from regmeta.settings import Settings
from regmeta.settings.object_store import check_object_store, is_bucket

MakeProgress = Callable[[], AbstractContextManager[Progress]]


def copy(
    settings: Settings,
    target: str,
    progress: MakeProgress,
    *,
    jobs: int = 4,
    rate_bytes_per_s: int | None = None,
    mark: bool = False,
    verify_data: bool = False,
) -> Moved:
    """Move all objects of the settings' store to *target*, a folder or a bucket's URL, and put that to use.

    Afterwards the settings must name *target*: with the old ones nothing opens. Interrupted, run it again
    with the same.

    Raises:
        UsageError: *target* is the store itself, in it or around it, or no URL.
        SchemaMismatch, IdentityMismatch, Refused: they are not to be copied from, or into.
        IntegrityError: objects are damaged in one of them.
        Unavailable, Locked: the database or one of the stores did not do it.
    """
    aimed = _aimed(settings, target)
    with ExitStack() as stack:
        database = stack.enter_context(app.open_database(settings))
        database.check_schema()
        source = stack.enter_context(closing(open_store(settings)))
        make_store_folder(aimed)
        new = stack.enter_context(closing(open_store(aimed)))
        with new.abandoned_stagings():
            pass  # those of earlier runs
        ends = Ends(
            source,
            stack.enter_context(closing(source.open_staging())),
            new,
            stack.enter_context(closing(new.open_staging())),
        )
        options = Options(
            jobs, rate_bytes_per_s, mark, verify_data, settings.layouts == "all", lifetimes_of(settings)
        )
        with progress() as shown:
            moved = copy_store(database, ends, options, shown)
    # As the next command will: snapshots that are behind, and layouts, are written now.
    with app.open_for_writing(aimed):
        return moved


def abandon(settings: Settings) -> Mark:
    """Give up a move that a killed process left at its end: writers go on. Returns which it was.

    Raises:
        NotFound: there is none.
    """
    with app.open_database(settings) as database:
        database.check_schema()
        mark = fence.lift_any(database)
        if mark is None:
            raise NotFound(f"{database.location}: no move of objects is at its end")
        return mark


def _aimed(settings: Settings, target: str) -> Settings:
    if is_bucket(target):
        check_object_store(target, settings.object_store)
        here, there = settings.store.rstrip("/"), target.rstrip("/")
    elif not target.strip():
        raise UsageError("the store to copy into has no name: name an empty folder or prefix")
    else:
        target = there = str(Path(target).expanduser().resolve())
        here = settings.store if is_bucket(settings.store) else str(Path(settings.store).resolve())
    if f"{here}/".startswith(f"{there}/") or f"{there}/".startswith(f"{here}/"):
        raise UsageError(f"{target}: is the store {settings.store} itself, in it or around it")
    return msgspec.structs.replace(settings, store=target)
