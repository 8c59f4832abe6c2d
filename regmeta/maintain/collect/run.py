"""One run of the collector: until no task is due."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from regmeta import db, metrics
from regmeta.errors import Error, Refused, Unavailable
from regmeta.ingest.retry import retried
from regmeta.ingest.unit_of_work import Writer
from regmeta.maintain.collect import due, tasks
from regmeta.maintain.collect.blobs import CollectedBlobs, collect_blobs
from regmeta.maintain.collect.dead_objects import DeadObjects, delete_dead_objects
from regmeta.maintain.collect.hold import check_may_delete, check_not_held
from regmeta.maintain.collect.manifests import Collected, collect_manifests
from regmeta.maintain.collect.older import SOME_SNAPSHOTS, check_not_older
from regmeta.maintain.collect.pause import pausing
from regmeta.maintain.collect.purge import purge
from regmeta.maintain.collect.terms import Terms
from regmeta.maintain.progress import NoProgress, Progress
from regmeta.query.collection import targets_of
from regmeta.store import BlobStore

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class CollectReport:
    """What was collected."""

    tasks: int = 0
    repositories: int = 0  # that were deleted, and are empty now
    manifests: int = 0
    blobs: int = 0
    objects: DeadObjects = field(default_factory=DeadObjects)
    failures: list[str] = field(default_factory=list)  # what could not be collected, and why
    dead_letters: int = 0  # what has failed too often, and waits for a person


def collect(
    writer: Writer,
    store: BlobStore,
    terms: Terms | None = None,
    *,
    is_stopped: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
) -> CollectReport:
    """Work off all tasks that are due, then delete the objects of due tombstones.

    Safe beside any number of writers and other collectors; may be stopped at any point and run again. What
    fails alone is noted, reported and tried again later, and keeps nothing else from being collected.
    *is_stopped* is asked between batches; then what is done is reported.

    Raises:
        CollectionHeld, IdentityMismatch: nothing may be deleted now.
        DatabaseIsOlder: the store knows later revisions than the rows.
        CollectionPaused: the store gave many errors, now or a short time ago.
        Unavailable, Locked: the store or the database did not do it; the next run does the rest.
    """
    run = _Run(writer, terms or Terms(writer.lifetimes), is_stopped, progress or NoProgress())
    with pausing(writer.database):
        check_may_delete(writer.database, store)
        check_not_older(writer.database, store, at_most=SOME_SNAPSHOTS)
    try:
        run.collect_rows()
    finally:
        run.flush_snapshots()
    run.progress.began("objects", None)
    run.report.objects = delete_dead_objects(
        writer.database,
        store,
        run.terms.lifetimes,
        is_stopped=is_stopped,
        advanced=run.progress.advanced,
    )
    run.report.dead_letters = due.count_dead_letters(writer.database)
    return run.report


class _Run:
    def __init__(
        self, writer: Writer, terms: Terms, is_stopped: Callable[[], bool], progress: Progress
    ) -> None:
        self.report = CollectReport()
        self.terms = terms
        self.progress = progress
        self._writer = writer
        self._is_stopped = is_stopped
        self._touched: set[int] = set()

    def collect_rows(self) -> None:
        self.progress.began("tasks", due.count_due(self._writer.database))
        if self._one_pass():  # by now they may not be busy any more
            self._one_pass()

    def _one_pass(self) -> bool:
        """Work off all tasks; tells whether another process was at some of them."""
        busy = self._all_repositories()
        busy |= self._all_manifests()
        self._all_blobs()
        return busy

    def flush_snapshots(self) -> None:
        for repository_id in sorted(self._touched):
            self._writer.snapshots.flush_quietly(repository_id, now=True)

    def _may_go_on(self) -> bool:
        """Ask before each batch."""
        if self._is_stopped():
            return False
        check_not_held(self._writer.database)
        return True

    def _all_repositories(self) -> bool:
        """Empty those that were deleted longer ago than can be undone; tells whether another was at one."""
        busy = False
        for repository_id, task in due.repositories_to_purge(self._writer.database).items():
            if not self._may_go_on():
                return False
            try:
                done = purge(self._writer, repository_id, may_go_on=self._may_go_on)
            except (Unavailable, Refused):  # this is not about one row
                raise
            except Error as error:
                self._count(1, 0, {task: str(error)})
                continue
            if done is None:
                busy = True
                continue
            self._count(1, done.blobs, {})
            self.report.manifests += done.manifests
            metrics.COLLECTED.add(done.manifests, "manifest")
            metrics.COLLECTED.add(done.is_empty, "repository")
            self.report.repositories += done.is_empty
        return busy

    def _all_manifests(self) -> bool:
        """Go on until nothing is due; tells whether another process was at a repository."""
        passed_over: set[int] = set()
        busy = False
        while found := set(due.repositories_with_manifests(self._writer.database)) - passed_over:
            for repository_id in sorted(found):
                if not self._may_go_on():
                    return False
                done = self._one_repository(repository_id)
                busy |= done is None
                # Nothing, or all that was due in vain; where more is due it comes next.
                if done is None or len(done.failed) == done.tasks < tasks.CHUNK_TASKS:
                    passed_over.add(repository_id)
        return busy

    def _one_repository(self, repository_id: int) -> Collected | None:
        done = retried(partial(self._manifest_tasks, repository_id))
        if done is not None:
            self._count(done.tasks, done.blobs, done.failed)
            self.report.manifests += done.manifests
            metrics.COLLECTED.add(done.manifests, "manifest")
            if done.manifests:
                self._touched.add(repository_id)
        return done

    def _all_blobs(self) -> None:
        # What this run puts off is not looked at again by it.
        with self._writer.database.read() as connection:
            began_at = db.clock(connection)
        seen: set[int] = set()
        while self._may_go_on():
            found = retried(partial(self._blob_tasks, began_at))
            self._count(len(found.targets), found.blobs, found.failed)
            self._touched |= found.repositories
            if found.targets <= seen:  # none, or put off by a clock that was set back
                break
            seen |= found.targets

    def _named(self, failed: Mapping[int, str]) -> list[str]:
        if not failed:
            return []
        with self._writer.database.read() as connection:
            names = targets_of(connection, failed)
        return [f"{names.get(task, f'task {task}')}: {why}" for task, why in sorted(failed.items())]

    def _count(self, worked_on: int, blobs: int, failed: Mapping[int, str]) -> None:
        tasks.note_failed(self._writer.database, failed)
        self.report.tasks += worked_on
        self.report.blobs += blobs
        metrics.COLLECTED.add(blobs, "blob")
        metrics.COLLECTION_FAILURES.add(len(failed), "task")
        self.report.failures += self._named(failed)
        self.progress.advanced(worked_on)

    def _manifest_tasks(self, repository_id: int) -> Collected | None:
        with self._writer.database.transaction("collect") as connection:
            return collect_manifests(connection, repository_id, self._writer.actor, self.terms)

    def _blob_tasks(self, due_at: datetime) -> CollectedBlobs:
        with self._writer.database.transaction("collect_blobs") as connection:
            return collect_blobs(connection, due_at, self._writer.actor, self.terms.lifetimes)
