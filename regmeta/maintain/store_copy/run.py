"""The whole of ``regmeta store copy``: see the table of steps in the package."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final
from uuid import uuid4

from regmeta.db import Database
from regmeta.errors import Error, IntegrityError, StoreUnavailable
from regmeta.ingest.damage import mark_damaged
from regmeta.ingest.plan import Lifetimes
from regmeta.ingest.store_moves import Mark
from regmeta.maintain.collect.older import check_not_older
from regmeta.maintain.progress import Progress
from regmeta.maintain.setup import Identity, check_identity, read_identity, read_record
from regmeta.maintain.store_copy import fence, target
from regmeta.maintain.store_copy.compare import Compared, missing
from regmeta.maintain.store_copy.objects import Copier, Damage
from regmeta.maintain.store_copy.snapshots import Versions, copy_snapshots
from regmeta.maintain.verify.data import DataCheck, Subset
from regmeta.maintain.verify.findings import Kind
from regmeta.store import BlobStore, Staging

MOST_PASSES: Final = 5  # while writers go on
FEW_OBJECTS: Final = 1000  # so many may be left for the pass that writers wait for
LAST_PASSES: Final = 3  # the first finds what is new, the second shows that nothing is


@dataclass(frozen=True, slots=True)
class Options:
    """How objects are moved."""

    jobs: int = 4
    rate_bytes_per_s: int | None = None
    mark: bool = False  # what is damaged in the old store becomes so in the rows
    verify_data: bool = False
    show_layouts: bool = True
    lifetimes: Lifetimes = field(default_factory=Lifetimes)


@dataclass(frozen=True, slots=True)
class Ends:
    """The two stores, and this process's staging areas in them."""

    source: BlobStore
    source_staging: Staging
    target: BlobStore
    target_staging: Staging


@dataclass(frozen=True, slots=True)
class Moved:
    """A move that was made."""

    source: str
    target: str
    identity: Identity
    live: int = 0  # blobs, each of which has its object in the new store
    live_bytes: int = 0
    copied: int = 0  # of these, in this run
    copied_bytes: int = 0
    snapshots: int = 0
    read_again: int = 0  # objects that were hashed in the new store
    marked: int = 0
    damaged: tuple[Damage, ...] = ()
    not_live: int = 0  # objects of the new store that no live row names: left for collection
    refused_s: float = 0.0  # [s] for which writers could bring in no new object
    was_moved: bool = False  # by an earlier run, all but the records


def copy_store(database: Database, ends: Ends, options: Options, progress: Progress) -> Moved:
    """Copy all objects to another store, and let that be the registry's. Beside readers and writers.

    Writers are refused new objects for the last pass, and altogether from the switch on: they have the old
    store open. Interrupted and run again, it goes on from there.

    Raises:
        Refused, IdentityMismatch: this is no store to copy from, or none to copy into.
        IntegrityError: objects of the old store are damaged, and not to be marked; or the new store did not
            give back what it got. The old store stays the registry's.
        Unavailable, Locked: a store or the database did not do it; run it again.
    """
    earlier = _finish_earlier(database, ends)
    if earlier is not None:
        return earlier
    before = check_identity(database, ends.source)
    fence.check_no_hold(database)
    check_not_older(database, ends.source)
    after = target.start(ends.source, ends.target, ends.target_staging, before)
    return _Move(database, ends, options, progress, before, after).run()


class _Move:
    """One run, from the first object to the last record."""

    def __init__(
        self,
        database: Database,
        ends: Ends,
        options: Options,
        progress: Progress,
        before: Identity,
        after: Identity,
    ) -> None:
        self._database = database
        self._ends = ends
        self._options = options
        self._progress = progress
        self._before = before
        self._after = after
        self._marked = 0
        self._copier = Copier(
            database,
            ends.source,
            ends.target_staging,
            jobs=options.jobs,
            rate_bytes_per_s=options.rate_bytes_per_s,
        )

    def run(self) -> Moved:
        """Do all steps."""
        for number in range(MOST_PASSES):
            if self._pass(f"objects, pass {number + 1}")[1] <= FEW_OBJECTS:
                break
        self._copy_snapshots()
        self._judge()
        read_again = self._read_again() if self._options.verify_data else 0
        mark = Mark(
            self._ends.target.location, uuid4(), self._ends.source_staging.owner, self._ends.source.host
        )
        began_s = time.monotonic()
        try:
            seen, there = self._last_steps(mark)
        except BaseException:
            with suppress(Error):  # else a second run, the next writer or --abandon does
                fence.lift(self._database, mark)
            raise
        refused_s = time.monotonic() - began_s
        _write_records(self._ends, self._before, self._after)
        copied = self._copier.copied
        return Moved(
            self._ends.source.location,
            self._ends.target.location,
            replace(self._after, filled_from=None),
            live=seen.live,
            live_bytes=seen.live_bytes,
            copied=copied.objects,
            copied_bytes=copied.size_bytes,
            snapshots=len(there),
            read_again=read_again,
            marked=self._marked,
            damaged=tuple(sorted(self._copier.damaged.values(), key=lambda each: each.key)),
            not_live=seen.not_live,
            refused_s=refused_s,
        )

    def _last_steps(self, mark: Mark) -> tuple[Compared, Versions]:
        """Copy the rest while no writer's key gets into rows, see that nothing is missing, and switch."""
        fence.fence(self._database, self._before, mark, self._options.lifetimes)
        for _ in range(LAST_PASSES):
            seen, _ = self._pass("objects, last pass")
            self._judge()
            if not seen.missing:
                break
        else:
            raise StoreUnavailable(
                f"{self._ends.target.location} does not list what was copied to it: nothing was switched"
            )
        there = self._copy_snapshots()
        # What an earlier run renamed, before it was killed, may not have been flushed.
        self._ends.target.settle()
        show_all = self._options.show_layouts and self._ends.target.layouts is not None
        fence.switch(self._database, self._before, self._after, mark, there, all_behind=show_all)
        return seen, there

    def _pass(self, what: str) -> tuple[Compared, int]:
        seen = Compared()
        self._progress.began(what, None)
        rows = missing(self._database, self._ends.target, seen, self._progress.advanced)
        copied = self._copier.copy(rows, _ignored)
        return seen, copied

    def _copy_snapshots(self) -> Versions:
        self._progress.began("snapshots", None)
        return copy_snapshots(
            self._ends.source,
            self._ends.target,
            self._ends.target_staging,
            self._options.jobs,
            self._progress.advanced,
        )

    def _judge(self) -> None:
        """Mark what is damaged in the old store, or refuse to go on: each live row is to have its object."""
        damaged = list(self._copier.damaged.values())
        left = [each for each in damaged if not (self._options.mark and each.is_certain)]
        if self._options.mark:
            marked = [(each.row_id, each.key) for each in damaged if each.is_certain]
            self._marked += mark_damaged(self._database, marked, self._before.store_id)
        if left:
            first = left[0]
            raise IntegrityError(
                f"{self._ends.source.location}: {len(left)} object(s) cannot be moved, such as"
                f" {first.digest}: {first.detail}; 'regmeta repair', or --mark to move without them. All"
                " others were copied, nothing was switched"
            )

    def _read_again(self) -> int:
        """Hash every live object in the new store."""
        self._progress.began("bytes, read again", None)
        check = DataCheck(
            self._database,
            self._ends.target,
            jobs=self._options.jobs,
            rate_bytes_per_s=self._options.rate_bytes_per_s,
        )
        read = 0
        for hashed in check.run(Subset.parse("all"), "", "", self._progress.advanced):
            read += hashed.objects
            for finding in hashed.findings:
                if finding.kind is not Kind.OBJECT_MISSING:  # new since; the last pass copies it
                    raise IntegrityError(
                        f"{self._ends.target.location}: {finding.subject}: {finding.detail}; empty that store"
                        " and begin again"
                    )
        return read


def _finish_earlier(database: Database, ends: Ends) -> Moved | None:
    """Write the records of a move whose switch was the last thing that an earlier run did."""
    with database.read() as connection:
        identity = read_identity(connection)
    record = read_record(ends.target)
    if identity is None or record is None or record != identity:
        return None
    is_closed = target.is_closed(ends.source)
    old = None if is_closed else read_record(ends.source)
    if old is not None and old.store_id == record.store_id:
        return None  # the same store twice
    if old is not None and record.filled_from != old.store_id:
        return None  # two stores that have nothing to do with one another
    if old is None and not is_closed:
        return None
    _write_records(ends, old, identity)
    return Moved(ends.source.location, ends.target.location, identity, was_moved=True)


def _write_records(ends: Ends, before: Identity | None, after: Identity) -> None:
    # The old one first: who finds it closed knows that the new one may say so.
    if before is not None:
        target.close(ends.source, ends.source_staging, before, ends.target.location)
    target.complete(ends.target, ends.target_staging, after)


def _ignored(size_bytes: int) -> None:
    return None
