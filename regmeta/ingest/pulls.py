"""Counting pulls: batches that are added to ``pull_stats``, never a tag's or a manifest's row.

===========  ===========================  ==============================================  =================
step         durable effect               a crash right after leaves                      repaired
===========  ===========================  ==============================================  =================
count        none: sums in memory         pulls since the last flush are not counted      --
flush        one transaction: sums are    the sums                                        --
             added to their rows
===========  ===========================  ==============================================  =================

A flush whose connection broke in its commit is tried again, and may count its batch twice: a rule that keeps
what was pulled lately (``retention``) must rather see too many pulls than too few.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from contextvars import copy_context
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import metrics
from regmeta.db import Database
from regmeta.errors import UsageError
from regmeta.ingest.inserting import inserting
from regmeta.ingest.reserve import chunks
from regmeta.ingest.retry import retried
from regmeta.models import Manifest, PullStatistic, Repository
from regmeta.oci import names
from regmeta.oci.digest import Digest
from regmeta.query.statistics.days import day_of

_log = logging.getLogger(__name__)

MAX_COUNT: Final = 10**9  # of one Pull
MAX_HELD: Final = 100_000  # [sums] kept while the database does not answer; what is more is dropped

_KNOWN: Final = (
    sa.select(Repository.name, Manifest.digest, Manifest.repository_id)
    .join(Repository, Repository.id == Manifest.repository_id)
    .where(
        Manifest.digest.in_(sa.bindparam("digests", expanding=True)),
        Repository.name.in_(sa.bindparam("names", expanding=True)),
    )
)


@dataclass(frozen=True, slots=True)
class Pull:
    """That a manifest was pulled, by its tag or by its digest alone, *count* times, the last time then."""

    repository: str
    digest: Digest
    tag: str | None
    at: datetime
    count: int = 1


@dataclass(frozen=True, slots=True)
class PullsReport:
    """How many pulls were counted; *ignored* ones are of images that were never here, or are collected."""

    recorded: int
    ignored: tuple[Pull, ...]


_Key = tuple[str, Digest, str, int]  # repository, digest, tag or "", day


def record_pulls(database: Database, pulls: Iterable[Pull]) -> PullsReport:
    """Add pulls to the statistics, in one transaction.

    Safe beside other batches: rows are written in one order, so none deadlocks another. Pulls of what is not
    here, or has no name that could be, are ignored and reported: what anybody may ask for must not make rows.

    Raises:
        UsageError: a count that is none, or a time without a zone.
        Unavailable, Locked: nothing was counted.
    """
    sums: dict[_Key, Pull] = {}
    for pull in pulls:
        _add(sums, pull)
    return retried(lambda: _record(database, sums)) if sums else PullsReport(0, ())


def _add(sums: dict[_Key, Pull], pull: Pull) -> None:
    what = f"{pull.repository[:200]!r}@{pull.digest}"
    if type(pull.count) is not int or not 1 <= pull.count <= MAX_COUNT:
        raise UsageError(f"{what}: {pull.count} pulls: give 1 to {MAX_COUNT}")
    if pull.at.tzinfo is None:
        raise UsageError(f"{what}: pulled at {pull.at}: a time without a zone")
    if not 1970 < pull.at.year < 9999:
        raise UsageError(f"{what}: pulled at {pull.at}: no time at which that was")
    key = pull.repository, pull.digest, pull.tag or "", day_of(pull.at)
    before = sums.get(key)
    if before is not None:
        at = max(before.at, pull.at)
        pull = Pull(pull.repository, pull.digest, pull.tag, at, before.count + pull.count)
    sums[key] = pull


def _record(database: Database, sums: dict[_Key, Pull]) -> PullsReport:
    with database.transaction("record_pulls") as connection:
        known = _known(connection, sums)
        rows: list[dict[str, Any]] = []
        for (repository, digest, tag, day), pull in sums.items():
            repository_id = known.get((repository, digest))
            if repository_id is not None and (not tag or names.is_tag(tag)):
                rows.append(
                    {
                        "repository_id": repository_id,
                        "digest": digest,
                        "tag": tag,
                        "day": day,
                        "pulls": pull.count,
                        "last_pulled_at": pull.at,
                    }
                )
        # Two batches lock the rows that both have in the same order.
        rows.sort(key=lambda row: (row["repository_id"], row["digest"].to_bytes(), row["tag"], row["day"]))
        if rows:
            connection.execute(_adding(connection), rows)
    recorded = sum(row["pulls"] for row in rows)
    metrics.PULLS.add(recorded)
    ignored = [p for key, p in sums.items() if key[:2] not in known or (key[2] and not names.is_tag(key[2]))]
    return PullsReport(recorded, tuple(ignored))


def _known(connection: Connection, sums: Iterable[_Key]) -> dict[tuple[str, Digest], int]:
    """Return the repositories' ids, of the images that have a row."""
    found: dict[tuple[str, Digest], int] = {}
    possible = {key[:2] for key in sums if names.is_repository(key[0])}
    for some in chunks(sorted(possible, key=lambda key: (key[1].to_bytes(), key[0]))):
        of = {"names": sorted({name for name, _ in some}), "digests": list({digest for _, digest in some})}
        row: Any
        for row in connection.execute(_KNOWN, of):
            name, digest, repository_id = row
            found[name, digest] = repository_id
    return found


def _adding(connection: Connection) -> Any:
    insert = inserting(connection, PullStatistic)
    new = insert.excluded
    return insert.on_conflict_do_update(
        index_elements=["repository_id", "digest", "tag", "day"],
        set_={
            "pulls": PullStatistic.pulls + new.pulls,
            "last_pulled_at": sa.case(
                (new.last_pulled_at > PullStatistic.last_pulled_at, new.last_pulled_at),
                else_=PullStatistic.last_pulled_at,
            ),
        },
    )


class PullCounter:
    """Counts pulls in memory and adds them up in the database now and then. Safe to use from several threads.

    A pull never waits for the database: a thread of its own flushes once *max_age_s* seconds have passed
    since the first pull that is not flushed, or *max_sums* different ones have come. A crash loses what was
    counted since. While the database does not answer sums are kept and tried again, up to 100,000 of them;
    what does not fit is *dropped* and counted as such.
    """

    def __init__(self, database: Database, *, max_age_s: float = 10.0, max_sums: int = 1000) -> None:
        self._database = database
        self._max_age_s, self._max_sums = max_age_s, max_sums
        self._sums: dict[_Key, Pull] = {}
        self._due_s: float | None = None
        self._is_closed = False
        self._changed = threading.Condition()
        self._flushing = threading.Lock()
        self.dropped = 0
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._run,), name="pulls", daemon=True
        )
        self._thread.start()

    def count(self, repository: str, digest: Digest, tag: str | None = None) -> None:
        """Count one pull, now."""
        self.add(Pull(repository, digest, tag, datetime.now(UTC)))

    def add(self, pull: Pull) -> None:
        """Count a pull.

        Raises:
            UsageError: see :func:`record_pulls`; or it is closed.
        """
        with self._changed:
            if self._is_closed:
                raise UsageError("pulls: the counter is closed")
            self._put(pull)
            if self._due_s is None:
                self._due_s = time.monotonic() + self._max_age_s
                self._changed.notify()
            elif len(self._sums) >= self._max_sums:
                self._changed.notify()

    def flush(self) -> None:
        """Add up in the database what was counted until now.

        Raises:
            Unavailable, Locked: it is kept, to be tried again.
        """
        with self._flushing:
            with self._changed:
                taken, self._sums, self._due_s = self._sums, {}, None
            try:
                report = record_pulls(self._database, taken.values())
            except BaseException:
                with self._changed:
                    for pull in taken.values():
                        self._put(pull)
                    self._due_s = time.monotonic() + self._max_age_s
                raise
        if report.ignored:
            _log.info("%d pulls of images that are not here were not counted", len(report.ignored))

    def close(self) -> None:
        """Flush for the last time, and count no more.

        Raises:
            Unavailable, Locked: what was not flushed is lost.
        """
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()
        self.flush()

    def _put(self, pull: Pull) -> None:
        key = pull.repository, pull.digest, pull.tag or "", day_of(pull.at)
        if key not in self._sums and len(self._sums) >= MAX_HELD:
            self.dropped += pull.count
            return
        _add(self._sums, pull)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._is_due():
                    self._changed.wait(self._wait_s())
                if self._is_closed:
                    return
                if not self._is_due():
                    continue
            try:
                self.flush()
            except Exception as error:  # noqa: BLE001  (whatever it is, later pulls are to be counted)
                _log.warning("pulls are not counted yet: %s", error)
                with self._changed:
                    self._changed.wait_for(lambda: self._is_closed, self._max_age_s)

    def _is_due(self) -> bool:
        is_old = self._due_s is not None and time.monotonic() >= self._due_s
        return self._is_closed or is_old or len(self._sums) >= self._max_sums

    def _wait_s(self) -> float | None:
        return None if self._due_s is None else max(0.0, self._due_s - time.monotonic())
