"""Machines that have gone for good: what their processes left is ended when somebody says so.

==================  ==============================================  ===============================  ========
step                durable effect                                  a crash right after leaves       repaired
==================  ==============================================  ===============================  ========
end rows            one transaction: tombstones in place of its     signs of processes that are      the same
                    intents, its runs are *interrupted*             nowhere else                     again
remove signs        its processes' signs in the bucket are gone     --                               --
==================  ==============================================  ===============================  ========

Who says so wrongly loses work, and nothing else: a process that lives after all finds its keys taken back at
the fence of its commit and starts again. But a restore or a rebuild then no longer sees that it is there.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import db
from regmeta.db import Database
from regmeta.errors import Error, Locked, NotFound
from regmeta.ingest.reserve import bury, chunks
from regmeta.ingest.retry import retried
from regmeta.ingest.unit_of_work import Writer
from regmeta.maintain.collect.older import check_not_older
from regmeta.models import Intent, SyncRun
from regmeta.models.base import UtcTime
from regmeta.store import BlobStore
from regmeta.store.owners import sign_of

# What a store adds to a machine's name: the start of the machine, and the scratch folder.
_ADDED: Final = re.compile(r"[-/](?:[0-9a-f-]{8}|unknown)\.(?:[0-9a-f]+\.[0-9a-f]+|none)")
_SIGN: Final = re.compile(r"staging/(?P<owner>[0-9a-f]{32})/(?P<host>[A-Za-z0-9._-]+)")

_HOSTS: Final = sa.union(
    sa.select(Intent.host), sa.select(SyncRun.host).where(SyncRun.ended_at.is_(None))
).order_by("host")
_hosts: Final[Any] = sa.bindparam("hosts", expanding=True)
_TAKE_BACK: Final = sa.delete(Intent).where(Intent.host.in_(_hosts)).returning(Intent.key)
_INTERRUPT: Final = (
    sa.update(SyncRun)
    .where(SyncRun.host.in_(_hosts), SyncRun.ended_at.is_(None))
    .values(ended_at=sa.bindparam("now", type_=UtcTime()), outcome="interrupted")
    .returning(SyncRun.id)
)


@dataclass(frozen=True, slots=True)
class HostGone:
    """What was ended of the processes of a machine."""

    hosts: tuple[str, ...]  # as rows and signs name them
    intents_taken_back: int
    runs_ended: int
    signs_removed: int


def end_host(writer: Writer, store: BlobStore, name: str) -> HostGone:
    """End what processes of the machine *name* left, at once and not when it expires.

    *name* is a host as ``regmeta status`` and refusals show it, or a machine's name: then all that ran on it,
    whenever it was started, but not what runs where this process does. Safe beside any number of writers.

    Raises:
        Locked: it is this process's own host: what has ended there, every writer clears up.
        NotFound: nothing is known of it; names what there is.
        DatabaseIsOlder: the store knows later revisions than the rows; nothing has happened.
        Unavailable: the store or the database did not do it; run it again.
    """
    in_rows = _hosts_in_rows(writer.database)
    signs = list(_signs(store))
    hosts = [host for host in in_rows if _is_of(host, name) and host != writer.host]
    chosen = [sign for sign in signs if _is_chosen(sign, name, hosts, writer, store)]
    if not hosts and not chosen:
        raise _nothing(name, writer.host, {*in_rows, *(sign.host for sign in signs)})
    taken_back, runs = 0, 0
    if hosts:
        check_not_older(writer.database, store)
        taken_back, runs = retried(lambda: _end_rows(writer, hosts))
    for sign in chosen:
        store.delete_record(sign.name)
    found = {*hosts, *(sign.host for sign in chosen if sign.host not in map(sign_of, hosts))}
    return HostGone(tuple(sorted(found)), taken_back, runs, len(chosen))


def remove_signs(store: BlobStore, name: str) -> HostGone:
    """Remove the signs of a machine's processes where there is no database that could be asked.

    Raises:
        Locked: it is this process's own host.
        NotFound: there is none of it; names what there is.
    """
    signs = list(_signs(store))
    chosen = [sign for sign in signs if _is_of(sign.host, sign_of(name)) and _is_left(sign, store)]
    if not chosen:
        raise _nothing(name, store.host, {sign.host for sign in signs})
    for sign in chosen:
        store.delete_record(sign.name)
    return HostGone(tuple(sorted({sign.host for sign in chosen})), 0, 0, len(chosen))


@dataclass(frozen=True, slots=True)
class _Sign:
    """A process that said in the bucket that it is at work."""

    name: str
    owner: UUID
    host: str  # as it stands in names: not all characters may


def _signs(store: BlobStore) -> Iterator[_Sign]:
    for name in store.walk_records("staging"):
        match = _SIGN.fullmatch(name)
        if match is not None and _ADDED.search(match["host"]):  # in a folder there are other files
            yield _Sign(name, UUID(hex=match["owner"]), match["host"])


def _is_of(host: str, name: str) -> bool:
    """Tell whether a host is the one of this name, as it is or as signs write it, or on the machine of it."""
    return name in (host, sign_of(host)) or (
        host.startswith(name) and _ADDED.fullmatch(host, len(name)) is not None
    )


def _is_left(sign: _Sign, store: BlobStore) -> bool:
    """Tell whether nobody here clears a sign up.

    On this host a process that has no folder has ended: it is made before the sign, and removed after it.
    Where somebody removed the scratch folder, the next one may have its number, and so the host its name.
    """
    return sign.host != sign_of(store.host) or not store.staging_exists(sign.owner)


def _is_chosen(sign: _Sign, name: str, hosts: Iterable[str], writer: Writer, store: BlobStore) -> bool:
    if sign.owner == writer.staging.owner or not _is_left(sign, store):
        return False
    return _is_of(sign.host, sign_of(name)) or sign.host in map(sign_of, hosts)


def _nothing(name: str, mine: str, known: set[str]) -> Error:
    if _is_of(mine, name):
        return Locked(
            f"{name} is where this process runs: what has ended here every command that writes clears up;"
            " end what is still at work"
        )
    others = sorted(known - {mine, sign_of(mine)})
    there_is = f"there are {', '.join(others)}" if others else "there is none but this one"
    return NotFound(f"{name}: no host of that name has anything under way: {there_is}")


def _hosts_in_rows(database: Database) -> list[str]:
    with database.read() as connection:
        return list(connection.execute(_HOSTS).scalars())


def _end_rows(writer: Writer, hosts: Collection[str]) -> tuple[int, int]:
    with writer.database.transaction("host_gone") as connection:
        return _ended(connection, writer, hosts)


def _ended(connection: Connection, writer: Writer, hosts: Collection[str]) -> tuple[int, int]:
    now = db.clock(connection)
    keys: list[str] = []
    runs = 0
    for some in chunks(sorted(hosts)):
        keys += connection.execute(_TAKE_BACK, {"hosts": some}).scalars()
        runs += len(connection.execute(_INTERRUPT, {"hosts": some, "now": now}).all())
    bury(connection, keys, "abandoned", now, writer.lifetimes.tombstone)
    return len(keys), runs
