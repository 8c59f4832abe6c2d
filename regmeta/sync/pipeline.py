"""Many images at once: looks in several threads, commits in batches, and both beside each other.

::

    items ──> look (up to images_at_once threads) ──> batch ──> commit_groups (up to COMMITTING threads)

A batch is as large as those of an import: about 100 images, 64 MiB (unless the run says otherwise) or one
second. While some batches copy and commit, the images of the next are looked at. When all committing threads
are at work and the next batch is full, no further image is, so that memory stays within bounds: a batch holds
at most 64 MiB of manifests, each image that is being looked at at most 16 MiB, each thread that copies one
buffer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from regmeta.errors import (
    Error,
    IdentityMismatch,
    LeftOut,
    Locked,
    RemoteUnavailable,
    SchemaMismatch,
    StoreUnavailable,
    Unavailable,
    without_frames,
)
from regmeta.ingest.local_registry import BATCH_BYTES, BATCH_IMAGES, BATCH_S, COPYING_THREADS, LocalRegistry
from regmeta.ingest.plan import GroupOutcome, ImageGroup, ImageOutcome
from regmeta.oci.digest import Digest
from regmeta.sync.items import Item, Look
from regmeta.sync.records import ItemOutcome, Outcome
from regmeta.sync.watched import Halt
from regmeta.threads import Threads

# What is wrong with this registry, not with an image or an upstream: then nothing more can be done here.
_OURS: Final = (Unavailable, Locked, SchemaMismatch, IdentityMismatch)
COMMITTING: Final = 3  # batches that copy and commit at once
TICK_S: Final = 0.2  # how soon a stop, or an age, is noticed


def is_ours(error: Error) -> bool:
    """Tell whether an error is of the registry here, so that no other image fares better."""
    return isinstance(error, _OURS) and not isinstance(error, RemoteUnavailable)


class Progress(Protocol):
    """Who is told how a sync gets on. Called from several threads."""

    def found(self, images: int) -> None:
        """More images are to be looked at."""

    def planned(self, size_bytes: int) -> None:
        """More is to be brought, unless it is here already."""

    def spared(self, size_bytes: int) -> None:
        """Of what was planned, so much was here already."""

    def fetched(self) -> None:
        """A layer has come whole."""

    def advanced(self, size_bytes: int) -> None:
        """Bytes have come."""

    def done(self, outcomes: Iterable[ItemOutcome]) -> None:
        """Images are done."""


class NoProgress:
    """Tells nobody."""

    def found(self, images: int) -> None:
        """Ignore it."""

    def planned(self, size_bytes: int) -> None:
        """Ignore it."""

    def spared(self, size_bytes: int) -> None:
        """Ignore it."""

    def fetched(self) -> None:
        """Ignore it."""

    def advanced(self, size_bytes: int) -> None:
        """Ignore it."""

    def done(self, outcomes: Iterable[ItemOutcome]) -> None:
        """Ignore it."""


@dataclass(slots=True)
class _Batch:
    began_s: float
    looks: list[Look] = field(default_factory=list)
    digests: set[Digest] = field(default_factory=set)
    size_bytes: int = 0  # of what is to be copied
    held_bytes: int = 0  # in memory


class Pipeline:
    """Takes images through look and commit. One run of one policy."""

    def __init__(
        self,
        look: Callable[[Item], Look],
        registry: LocalRegistry,
        *,
        terms: str,
        images_at_once: int,
        progress: Progress,
        stopped: Halt,
        batch_bytes: int = BATCH_BYTES,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look = look
        self._registry = registry
        self._terms = terms
        self._window = images_at_once
        self._progress = progress
        self._stopped = stopped
        self._batch_bytes = batch_bytes
        self._clock_s = clock_s
        self._looks: dict[Future[Any], Item] = {}
        self._commits: dict[Future[Any], _Batch] = {}
        self._batch: _Batch | None = None
        self._copying: Executor | None = None

    def run(self, items: Iterable[Item]) -> Iterator[list[ItemOutcome]]:
        """Bring *items* here; outcomes are given when they are final, some at a time, in no order.

        Ends early when the sync is stopped: images that were not begun have no outcome then.

        Raises:
            StoreUnavailable, DatabaseUnavailable, Locked: the registry here does not take anything now. What
                was given out is committed.
        """
        source = iter(items)
        with (
            # Of its own: an upstream that is slow holds up no other.
            Threads(COPYING_THREADS, thread_name_prefix="copy") as self._copying,
            Threads(self._window, thread_name_prefix="look") as looking,
            Threads(COMMITTING, thread_name_prefix="commit") as committing,
        ):
            try:
                while self._go_on(source, looking, committing):
                    outcomes = self._wait()
                    if self._stopped.is_set():  # what was broken off has not failed
                        outcomes = [each for each in outcomes if each.outcome != "failed"]
                    if outcomes:
                        self._progress.done(outcomes)
                        yield outcomes
            except BaseException as error:
                self._stopped.set_for(error)
                for future in (*self._looks, *self._commits):
                    future.cancel()
                raise

    def _go_on(self, source: Iterator[Item], looking: Executor, committing: Executor) -> bool:
        """Hand out work as far as there are threads for it; tell whether any is under way."""
        if self._stopped.is_set():
            self._batch = None
            return bool(self._looks or self._commits)
        self._hand_over(committing)
        if self._batch is None or not self._is_large(self._batch):
            while len(self._looks) < 2 * self._window:
                item = next(source, None)
                if item is None:
                    break
                self._looks[looking.submit(self._look, item)] = item
        if not self._looks:
            self._hand_over(committing, whatever_its_size=True)
        return bool(self._looks or self._commits)

    def _hand_over(self, committing: Executor, *, whatever_its_size: bool = False) -> None:
        """Let the batch be committed if it is large or old enough, and a thread is free."""
        if self._batch is None or len(self._commits) >= COMMITTING:
            return
        is_old = self._clock_s() - self._batch.began_s >= BATCH_S
        if whatever_its_size or is_old or self._is_large(self._batch):
            self._commits[committing.submit(self._commit, self._batch)] = self._batch
            self._batch = None

    def _wait(self) -> list[ItemOutcome]:
        """Wait for some work to be done; return the outcomes that are final with it."""
        under_way: list[Future[Any]] = [*self._looks, *self._commits]
        done, _ = wait(under_way, timeout=TICK_S, return_when=FIRST_COMPLETED)
        outcomes: list[ItemOutcome] = []
        for future in done:
            if self._looks.pop(future, None) is not None:
                look: Look = future.result()
                if look.group is None:
                    assert look.verdict != "wanted"
                    is_here = look.verdict == "failed" and look.digest is not None
                    outcomes.append(self._outcome(look, look.verdict, is_here=is_here))
                else:
                    self._add(look, look.group)
                continue
            batch = self._commits.pop(future)
            try:
                groups: list[GroupOutcome] = future.result()
            except Error as error:
                if self._stopped.is_set():
                    continue
                if is_ours(error):
                    raise
                outcomes += [self._outcome(look, "failed", without_frames(error)) for look in batch.looks]
            else:
                some = [self._committed(*each) for each in zip(batch.looks, groups, strict=True)]
                self._progress.spared(batch.size_bytes - sum(each.copied_bytes for each in some))
                outcomes += some
        return outcomes

    def _add(self, look: Look, group: ImageGroup) -> None:
        """Put an image in the batch."""
        if self._batch is None:
            self._batch = _Batch(self._clock_s())
        batch = self._batch
        sizes = {digest: size for image in group.members for digest, size in image.blobs.items()}
        new_bytes = sum(size for digest, size in sizes.items() if digest not in batch.digests)
        batch.looks.append(look)
        batch.digests.update(sizes)
        batch.size_bytes += new_bytes
        batch.held_bytes += sum(len(held) for image in group.members for held in image.in_memory.values())
        self._progress.planned(new_bytes)

    def _is_large(self, batch: _Batch) -> bool:
        is_heavy = batch.size_bytes >= self._batch_bytes or batch.held_bytes >= BATCH_BYTES
        return is_heavy or len(batch.looks) >= BATCH_IMAGES

    def _commit(self, batch: _Batch) -> list[GroupOutcome]:
        groups = [look.group for look in batch.looks if look.group is not None]
        return self._registry.commit_groups(
            groups, progress=_Copying(self._progress, self._stopped), copying=self._copying
        )

    def _committed(self, look: Look, group: GroupOutcome) -> ItemOutcome:
        copied_bytes = sum(each.copied_bytes for each in (group.image, *group.companions))
        if group.image.error is not None:
            return self._outcome(look, "failed", group.image.error)
        error = look.error or next((each.error for each in group.companions if each.error is not None), None)
        if error is not None:
            return self._outcome(look, "failed", error, copied_bytes, is_here=True)
        return self._outcome(look, "copied", copied_bytes=copied_bytes)

    def _outcome(
        self,
        look: Look,
        outcome: Outcome,
        error: Error | None = None,
        copied_bytes: int = 0,
        *,
        is_here: bool = False,
    ) -> ItemOutcome:
        before = "the image is here; of what belongs to it: " if is_here else ""
        error = error or look.error
        because = error.because if isinstance(error, LeftOut) else error
        return ItemOutcome(
            *look.item.key,
            outcome,
            self._terms,
            look.upstream_digest,
            look.digest,
            copied_bytes,
            None if error is None else f"{before}{error}",
            type(because).__name__ if outcome == "failed" else None,
            because.retry_after_s if isinstance(because, RemoteUnavailable) else None,
            error,
            is_here,
        )


class _Copying:
    """Passes on what a commit tells, and stops it when the sync is stopped."""

    def __init__(self, progress: Progress, stopped: Halt) -> None:
        self._progress = progress
        self._stopped = stopped

    def planned(self, images: int, size_bytes: int) -> None:
        """Told already, when it was looked at."""

    def advanced(self, size_bytes: int) -> None:
        """Bytes have come.

        Raises:
            StoreUnavailable: the sync is being stopped; nothing of the batch is taken in then.
        """
        if self._stopped.is_set():
            raise StoreUnavailable("the sync was stopped")
        self._progress.advanced(size_bytes)

    def finished(self, outcomes: Iterable[ImageOutcome]) -> None:
        """Told when their batch is back."""
