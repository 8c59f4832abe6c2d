"""One verification, from the first row to the last byte."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol
from uuid import UUID, uuid4

import sqlalchemy as sa

from regmeta import db
from regmeta.db import Database
from regmeta.errors import Error, InputError, IntegrityError, StoreUnavailable
from regmeta.ingest.damage import mark_damaged, release_hold
from regmeta.maintain.progress import Progress
from regmeta.maintain.setup import check_identity
from regmeta.maintain.verify.data import DataCheck, Subset
from regmeta.maintain.verify.deleted import check_deleted
from regmeta.maintain.verify.findings import Finding, Kind
from regmeta.maintain.verify.machinery import check_machinery
from regmeta.maintain.verify.manifests import check_manifests
from regmeta.maintain.verify.objects import check_blobs, check_objects, still_live
from regmeta.maintain.verify.plausible import check_plausible
from regmeta.maintain.verify.rows import check_database, check_foreign_keys, check_values
from regmeta.maintain.verify.snapshots import check_snapshots
from regmeta.maintain.verify.tags import check_tags
from regmeta.models import Blob, Manifest, Repository
from regmeta.store import BlobStore

CHECKPOINT_S: Final = 5.0

_log = logging.getLogger(__name__)
OLDEST_CHECKPOINT_S: Final = 24 * 3600.0  # what was read before that is read again
HARMLESS: Final = frozenset(
    {
        *(Kind.OBJECT_UNKNOWN, Kind.INTENT_STALE, Kind.TOMBSTONE_STUCK, Kind.TASK_MISSING),
        *(Kind.LAYOUT_DRIFT, Kind.BLOB_DAMAGED),
    }
)
OF_OBJECTS: Final = frozenset({Kind.OBJECT_MISSING, Kind.OBJECT_SIZE, Kind.OBJECT_CORRUPT})

_COUNTS: Final = sa.select(
    *(
        sa.select(sa.func.count()).select_from(model).scalar_subquery()
        for model in (Blob, Manifest, Repository)
    ),
    sa.select(sa.func.coalesce(sa.func.sum(sa.cast(Blob.size_bytes, sa.Float)), 0))  # sizes may be nonsense
    .where(Blob.state == "live")
    .scalar_subquery(),
)


class Checkpoint(Protocol):
    """Where the run notes how far it has come."""

    def load(self) -> dict[str, Any] | None:
        """Return what was noted last."""

    def save(self, state: dict[str, Any]) -> None:
        """Note it."""

    def clear(self) -> None:
        """Forget it."""


@dataclass(frozen=True, slots=True)
class Options:
    """What is looked at, and how."""

    read_data: Subset | None = None
    jobs: int = 2
    rate_bytes_per_s: int | None = None
    mark: bool = False
    layouts: bool = True
    host: str = ""


@dataclass(slots=True)
class VerifyReport:
    """What was looked at and what was found."""

    began_at: datetime
    blobs: int
    manifests: int
    repositories: int
    findings: list[Finding] = field(default_factory=list)
    objects_read: int = 0
    bytes_read: int = 0
    seconds: float = 0.0
    resumed_at: str | None = None  # the key from which an interrupted run went on
    marked: int = 0
    hold_released: bool = False


def verify(
    database: Database, store: BlobStore, options: Options, checkpoint: Checkpoint, progress: Progress
) -> VerifyReport:
    """Compare rows with rows, with objects, and, if asked for, with every byte. Beside writers.

    Writes nothing but its checkpoint; with ``mark`` it sets blobs to *damaged*, and lifts a hold on
    collection if nothing was found that collection could make worse.

    Raises:
        StoreUnavailable, DatabaseUnavailable: it could not be found out; nothing is said of what was not
            seen, and a run of data goes on from its checkpoint.
        IdentityMismatch: the store is not this database's.
    """
    began_s = time.monotonic()
    identity = check_identity(database, store)
    with database.read() as connection:
        counts: Any = connection.execute(_COUNTS).one()
        blobs, manifests, repositories, size_bytes = counts
        report = VerifyReport(db.clock(connection), blobs, manifests, repositories)
    for what, total, run in _passes(database, store, options, blobs, manifests, repositories):
        progress.began(what, total)
        _collect(report.findings, what, run(progress.advanced))
    if options.read_data is not None:
        progress.began("bytes", int(size_bytes))
        key = f"{identity.store_id} {identity.database_id} {identity.epoch} {options.read_data.text}"
        _read_data(database, store, options, key, checkpoint, progress, report)
    report.findings = list(dict.fromkeys(report.findings))
    if options.mark:
        check_plausible(database, report.findings)
        report.marked = _mark(database, report.findings, identity.store_id)
        # What collection cannot make worse does not hold it up. A run that went on from an earlier one has
        # not seen all bytes as they are now.
        if {finding.kind for finding in report.findings} <= HARMLESS and report.resumed_at is None:
            report.hold_released = release_hold(database)
    if options.read_data is not None:
        checkpoint.clear()  # now that what was found is marked
    report.seconds = time.monotonic() - began_s
    return report


def _collect(findings: list[Finding], what: str, found: Iterator[Finding]) -> None:
    """Add what a pass finds. One that values which regmeta never writes have ended is a finding itself."""
    try:
        findings.extend(found)
    except (TypeError, ValueError, OverflowError, InputError, IntegrityError) as error:
        if not isinstance(error, Error) and all(f.kind is not Kind.ROW_INVALID for f in findings):
            raise  # nothing explains it: a defect
        detail = f"given up at a row that cannot be read ({error}): mend what is row-invalid first"
        findings.append(Finding(Kind.ROW_INVALID, f"check of {what}", detail))


def _passes(
    database: Database, store: BlobStore, options: Options, blobs: int, manifests: int, repositories: int
) -> Iterator[tuple[str, int | None, Callable[[Callable[[int], None]], Iterator[Finding]]]]:
    yield "database", None, lambda advanced: check_database(database)
    yield "foreign keys", None, lambda advanced: check_foreign_keys(database)
    yield "values", None, lambda advanced: check_values(database)
    yield "blobs", blobs, lambda advanced: check_blobs(database, store, advanced)
    yield "objects", blobs, lambda advanced: check_objects(database, store, advanced)
    yield "manifests", manifests, lambda advanced: check_manifests(database, store, advanced)
    yield "tags", None, lambda advanced: check_tags(database)
    yield "deletions", None, lambda advanced: check_deleted(database)
    yield "machinery", None, lambda advanced: check_machinery(database, store, options.host)
    yield (
        "snapshots",
        repositories,
        lambda advanced: check_snapshots(database, store, advanced, layouts=options.layouts),
    )


def _read_data(
    database: Database,
    store: BlobStore,
    options: Options,
    key: str,
    checkpoint: Checkpoint,
    progress: Progress,
    report: VerifyReport,
) -> None:
    assert options.read_data is not None
    state = checkpoint.load()
    if (
        state is None
        or state.get("key") != key
        or not 0 <= time.time() - state.get("began_s", 0) < OLDEST_CHECKPOINT_S
    ):
        state = {"key": key, "seed": uuid4().hex, "after": "", "objects": 0, "bytes": 0, "findings": []}
        state["began_s"] = time.time()
    else:
        report.resumed_at = state["after"]
        progress.advanced(state["bytes"])
    # What was healed or marked since the interruption is wrong no more, or known.
    found = [f for f in map(_finding, state["findings"]) if still_live(database, f.row_id, f.key)]
    run = DataCheck(database, store, jobs=options.jobs, rate_bytes_per_s=options.rate_bytes_per_s)
    saved_s = time.monotonic()
    results = run.run(options.read_data, state["seed"], state["after"], progress.advanced)
    try:
        for hashed in results:
            found += hashed.findings
            state["after"] = hashed.up_to
            state["objects"] += hashed.objects
            state["bytes"] += hashed.size_bytes
            if time.monotonic() - saved_s > CHECKPOINT_S:
                state["findings"] = [asdict(finding) for finding in found]
                _save(checkpoint, state)
                saved_s = time.monotonic()
    except BaseException:
        results.close()
        state["findings"] = [asdict(finding) for finding in found]
        _save(checkpoint, state)
        raise
    report.objects_read, report.bytes_read = state["objects"], state["bytes"]
    # The same object may have been found by its size already.
    known = {finding.subject for finding in report.findings if finding.kind in OF_OBJECTS}
    report.findings += [finding for finding in found if finding.subject not in known]


def _save(checkpoint: Checkpoint, state: dict[str, Any]) -> None:
    """Note how far the run has come; that it cannot be noted is no reason to end it."""
    try:
        checkpoint.save(state)
    except StoreUnavailable as error:
        _log.warning("an interruption would begin anew: %s", error)


def _finding(item: dict[str, Any]) -> Finding:
    return Finding(**{**item, "kind": Kind(item["kind"]), "used_by": tuple(item["used_by"])})


def _mark(database: Database, findings: list[Finding], store_id: UUID) -> int:
    # Of the object that was looked at: one that was healed meanwhile has another key.
    return mark_damaged(
        database,
        {(f.row_id, f.key) for f in findings if f.kind in OF_OBJECTS and f.row_id is not None and f.key},
        store_id,
    )
