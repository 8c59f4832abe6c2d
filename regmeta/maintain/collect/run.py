"""One run of the collector: until no task is due."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Final

import sqlalchemy as sa

from regmeta import db
from regmeta.errors import Error, Locked, Unavailable
from regmeta.ingest.retry import retried
from regmeta.ingest.unit_of_work import Writer
from regmeta.maintain.collect.blobs import CollectedBlobs, collect_blobs
from regmeta.maintain.collect.dead_objects import DeadObjects, delete_dead_objects
from regmeta.maintain.collect.hold import check_not_held
from regmeta.maintain.collect.manifests import Collected, collect_manifests
from regmeta.models import GcTask
from regmeta.store import BlobStore

_log = logging.getLogger(__name__)

_DUE_REPOSITORIES: Final = (
    sa.select(GcTask.repository_id)
    .where(
        GcTask.kind == "manifest",
        GcTask.not_before <= sa.bindparam("now"),
        GcTask.repository_id.is_not(None),
    )
    .distinct()
    .order_by(GcTask.repository_id)
)


@dataclass(slots=True)
class CollectReport:
    """What was collected."""

    tasks: int = 0
    manifests: int = 0
    blobs: int = 0
    objects: DeadObjects = field(default_factory=DeadObjects)
    failures: list[str] = field(default_factory=list)  # repositories that could not be collected, and why


def collect(writer: Writer, store: BlobStore) -> CollectReport:
    """Work off all tasks that are due, then delete the objects of due tombstones.

    Safe beside any number of writers and other collectors; may be stopped at any point and run again.

    Raises:
        CollectionHeld, IdentityMismatch: nothing may be deleted now.
        Unavailable, Locked: the store or the database did not do it; the next run does the rest.
    """
    check_not_held(writer.database)
    report = CollectReport()
    _collect_rows(writer, report)
    report.objects = delete_dead_objects(writer.database, store, writer.lifetimes)
    return report


def _collect_rows(writer: Writer, report: CollectReport) -> None:
    touched: set[int] = set()
    busy: set[int] = set()
    while due := [number for number in _due(writer) if number not in busy]:
        for repository_id in due:
            try:
                done = retried(partial(_one_repository, writer, repository_id))
            except (Unavailable, Locked):
                raise
            except Error as error:
                # A row that regmeta never writes must not stop the collection of all other repositories.
                report.failures.append(f"repository {repository_id}: {error}")
                done = None
            if done is None or not done.tasks:
                busy.add(repository_id)  # another collector, or a writer, is at it: not in this run
                continue
            report.tasks += done.tasks
            report.manifests += done.manifests
            report.blobs += done.blobs
            if done.manifests:
                touched.add(repository_id)
    # What this run puts off is not looked at again by it.
    with writer.database.read() as connection:
        began_at = db.clock(connection)
    seen: set[int] = set()
    while True:
        found = retried(partial(_blob_tasks, writer, began_at))
        report.tasks += len(found.targets)
        report.blobs += found.blobs
        touched |= found.repositories
        if found.targets <= seen:  # none, or put off by a clock that was set back
            break
        seen |= found.targets
    for repository_id in sorted(touched):
        writer.snapshots.flush_quietly(repository_id, now=True)


def _due(writer: Writer) -> list[int]:
    with writer.database.read() as connection:
        found = connection.execute(_DUE_REPOSITORIES, {"now": db.clock(connection)}).scalars()
        return [number for number in found if number is not None]


def _one_repository(writer: Writer, repository_id: int) -> Collected | None:
    with writer.database.transaction("collect") as connection:
        return collect_manifests(connection, repository_id, writer.actor, writer.lifetimes)


def _blob_tasks(writer: Writer, due_at: datetime) -> CollectedBlobs:
    with writer.database.transaction("collect_blobs") as connection:
        return collect_blobs(connection, due_at, writer.actor, writer.lifetimes)
