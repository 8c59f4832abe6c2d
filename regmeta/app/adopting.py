"""Wiring of ``regmeta adopt``: the storage of another registry, and this one."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import msgspec

from regmeta.adopt.comparison import ComparedRepository, Parts, compare
from regmeta.adopt.finalize import finalize as end_adoption
from regmeta.adopt.plan import AdoptPlan, make_plan
from regmeta.adopt.records import adoptions, defects, repositories
from regmeta.adopt.records.adoptions import KnownAdoption
from regmeta.adopt.records.defects import KnownDefect
from regmeta.adopt.records.repositories import KnownRepository
from regmeta.adopt.run import Run
from regmeta.adopt.terms import AdoptReport, Options, destination_of, lifetimes_for
from regmeta.app import mirroring, open_for_reading, open_for_writing
from regmeta.app.writers import lifetimes_of
from regmeta.db import Database
from regmeta.errors import NotFound, UsageError
from regmeta.ingest.adopted_statistics import StatisticsReport
from regmeta.ingest.adopted_statistics import take_statistics as keep_statistics
from regmeta.ingest.plan import ADOPTED
from regmeta.oci import names
from regmeta.settings import Settings
from regmeta.settings.object_store import is_bucket
from regmeta.settings.source_bucket import source_reach
from regmeta.sources.storage import RegistryStorage
from regmeta.sources.storage.open import folders_above, open_storage
from regmeta.sources.zot.api import ZotApi
from regmeta.sources.zot.metadb import read_metadb
from regmeta.sync.pipeline import NoProgress, Progress


@dataclass(frozen=True, slots=True)
class AdoptionStatus:
    """How one adoption stands."""

    adoption: KnownAdoption
    repositories: int
    unfinished: tuple[KnownRepository, ...]
    tags: int
    defects: tuple[tuple[str, str, int], ...]  # class, outcome, how many


@contextmanager
def opened(settings: Settings, source: str, *, links: bool = True) -> Iterator[RegistryStorage]:
    """Lend the storage at *source*: a folder, or the URL of a bucket's prefix.

    Raises:
        InvalidSource: there is none, or of no kind that can be read.
        RemoteUnavailable: the bucket did not answer.
    """
    reach = source_reach(settings.object_store) if is_bucket(source) else None
    storage = open_storage(source, links=links, bucket=reach)
    try:
        yield storage
    finally:
        storage.close()


def plan(settings: Settings, source: str, *, prefix: str, advanced: Callable[[str, int], None]) -> AdoptPlan:
    """Say what :func:`run` would do. Nothing is written; there need not be a registry here yet.

    Raises:
        UsageError: the prefix is none.
        InvalidSource, RemoteUnavailable: there is no storage, or it cannot be listed.
    """
    _check_prefix(prefix)
    with opened(settings, source) as storage:
        return make_plan(storage, prefix, advanced)


def run(
    settings: Settings,
    source: str,
    *,
    prefix: str = "",
    links: bool = True,
    reopen: bool = False,
    options: Options | None = None,
    progress: Progress | None = None,
) -> AdoptReport:
    """Bring all that is new of the storage at *source*; see :class:`regmeta.adopt.run.Run`.

    Raises:
        UsageError: the prefix is none, or the storage lies in the store here.
        Refused: its repositories went elsewhere before, or it was finalized.
        InvalidSource, RemoteUnavailable: there is no storage, or it cannot be listed.
        Unavailable, Locked: the registry here does not take anything now; run again it goes on.
    """
    _check_prefix(prefix)
    actor = f"{ADOPTED}{settings.actor}"
    lifetimes = lifetimes_for(lifetimes_of(settings))
    with (
        opened(settings, source, links=links) as storage,
        open_for_writing(msgspec.structs.replace(settings, actor=actor), lifetimes=lifetimes) as registry,
    ):
        _refuse_itself(settings, storage)
        adoption = adoptions.start(
            registry.database, storage.location, storage.kind, prefix, actor, reopen=reopen
        )
        return Run(
            storage,
            registry.registry,
            registry.writer,
            adoption,
            options or Options(),
            progress or NoProgress(),
        ).run()


def verify(
    settings: Settings, source: str, *, deep: bool, advanced: Callable[[str], None]
) -> Iterator[ComparedRepository]:
    """Compare what is here with what the storage at *source* has, repository by repository.

    Raises:
        NotFound: it was never adopted.
        InvalidSource, RemoteUnavailable, Unavailable: it cannot be compared now.
    """
    with (
        opened(settings, source, links=False) as storage,
        open_for_reading(settings, check_store=True) as registry,
    ):
        adoption = _known(registry.database, storage.location)
        yield from compare(Parts(storage, registry.database, registry.store, adoption, deep=deep), advanced)


def finalize(
    settings: Settings, source: str, *, unchecked: bool, advanced: Callable[[int], None]
) -> KnownAdoption:
    """End an adoption; see :func:`regmeta.adopt.finalize.finalize`. *unchecked*, its source is not opened.

    Raises:
        NotFound: it was never adopted.
        Refused: something there was not brought, or has changed since.
        InvalidSource, RemoteUnavailable, Unavailable, Locked: it cannot be done now.
    """
    lease = lifetimes_of(settings).lease
    with open_for_writing(settings) as registry:
        database = registry.database
        if unchecked:
            adoption = _known(database, _location(source))
            end_adoption(database, adoption, None, lease, advanced)
        else:
            with opened(settings, source, links=False) as storage:
                adoption = _known(database, storage.location)
                end_adoption(database, adoption, storage, lease, advanced)
        return _known(database, adoption.location)


def take_statistics(
    settings: Settings, source: str, *, zot_url: str | None = None, meta_db: str | None = None
) -> StatisticsReport:
    """Keep what zot knows of the images that were adopted from *source*: by its API, or by its own database.

    Raises:
        UsageError: not exactly one of *zot_url* and *meta_db* is given.
        NotFound: the source was never adopted, or the registry there has no search extension.
        InvalidSource: what it says cannot be read.
        RemoteUnavailable, RemoteRefused, UnsafeRemote: it does not say it.
        Unavailable, Locked: nothing can be written here now.
    """
    if (zot_url is None) == (meta_db is None):
        raise UsageError("give --zot-url or --meta-db")
    stopped = threading.Event()
    with ExitStack() as stack:
        registry = stack.enter_context(open_for_writing(settings))
        adoption = _known(registry.database, _location(source))
        if meta_db is not None:
            found = read_metadb(meta_db)
        else:
            assert zot_url is not None
            endpoint = mirroring.endpoint_of(settings, zot_url, stopped)
            stack.callback(endpoint.close)
            known = repositories.every(registry.database, adoption.id)
            found = ZotApi(endpoint).read(each.source for each in known)
        return keep_statistics(
            registry.database, found, name_here=lambda name: destination_of(adoption.prefix, name) or ""
        )


def status(settings: Settings, source: str | None = None) -> list[AdoptionStatus]:
    """Return how each adoption stands, or that of *source*.

    Raises:
        NotFound: it was never adopted.
    """
    with open_for_reading(settings) as registry:
        database = registry.database
        known = adoptions.every(database)
        if source is not None:
            known = [_known(database, _location(source))]
        return [_status(database, adoption) for adoption in known]


def rejects(settings: Settings, source: str, limit: int) -> list[KnownDefect]:
    """Return what was wrong with a source, at most *limit* things.

    Raises:
        NotFound: it was never adopted.
    """
    with open_for_reading(settings) as registry:
        adoption = _known(registry.database, _location(source))
        return defects.listed(registry.database, adoption.id, limit)


def _status(database: Database, adoption: KnownAdoption) -> AdoptionStatus:
    count, tags, unfinished = 0, 0, []
    for each in repositories.every(database, adoption.id):
        count += 1
        tags += each.tags
        if each.state != "done":
            unfinished.append(each)
    found = defects.counts(database, adoption.id)
    return AdoptionStatus(
        adoption,
        count,
        tuple(unfinished),
        tags,
        tuple((kind, outcome, number) for (kind, outcome), number in sorted(found.items())),
    )


def _known(database: Database, location: str) -> KnownAdoption:
    # Of docker's registry, a folder within may have been named.
    for each in (location, *folders_above(location)):
        found = adoptions.known(database, each)
        if found is not None:
            return found
    raise NotFound(f"{location}: was never adopted")


def _location(source: str) -> str:
    return source.rstrip("/") if is_bucket(source) else os.path.abspath(source)


def _check_prefix(prefix: str) -> None:
    if prefix and not names.is_repository(prefix):
        raise UsageError(f"--prefix {prefix!r}: not the beginning of a repository's name")


def _refuse_itself(settings: Settings, storage: RegistryStorage) -> None:
    """Refuse what lies in the store here: it would be brought again with each run."""
    if is_bucket(settings.store) or is_bucket(storage.location):
        inside = f"{storage.location}/".startswith(f"{settings.store.rstrip('/')}/")
    else:
        mine, theirs = os.path.realpath(settings.store), os.path.realpath(storage.location)
        inside = os.path.commonpath([mine, theirs]) in (mine, theirs)
    if inside:
        raise UsageError(f"{storage.location}: is in the store here, or holds it")
