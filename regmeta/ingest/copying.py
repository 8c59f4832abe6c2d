"""Copying the blobs of one batch from their sources, in several threads."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, wait
from typing import Final

from regmeta.errors import (
    Error,
    InputError,
    IntegrityError,
    RemoteRefused,
    RemoteUnavailable,
    StoreUnavailable,
    UnsafeRemote,
    without_frames,
)
from regmeta.ingest.plan import PlannedImage, Progress
from regmeta.ingest.unit_of_work import UnitOfWork
from regmeta.oci.digest import Digest

# These say something of an image, or of where it comes from, and nothing of this registry.
BAD_IMAGE: Final = (InputError, IntegrityError, RemoteUnavailable, RemoteRefused, UnsafeRemote)
KEEP_ALIVE_S: Final = 5.0
SMALL_BYTES: Final = 256 * 1024  # [bytes] below it, copying costs less than handing over the work
SMALL_GROUP: Final = 8
SPREAD: Final = 16


class Copier:
    """Stages what one ingest has reserved. The threads of *pool* may be shared: no job waits for another."""

    def __init__(self, unit: UnitOfWork, pool: Executor, progress: Progress) -> None:
        self._unit = unit
        self._pool = pool
        self._progress = progress
        self._stop = threading.Event()

    def stop(self) -> None:
        """Let copies end that are under way."""
        self._stop.set()

    def idle(self) -> None:
        """Keep the ingest alive while it waits. Whoever is told of the progress may end it by raising."""
        self._unit.keep_alive()
        self._progress.advanced(0)

    def copy(self, images: Sequence[PlannedImage], wanted: Mapping[Digest, int]) -> dict[Digest, Error]:
        """Copy blobs (digest to size) from those of *images* that have them; return those that are bad.

        Raises:
            StoreUnavailable, DatabaseUnavailable: it was not done; no thread is at it any more.
        """
        holders = _holders(images, wanted)
        bad: dict[Digest, Error] = {}
        jobs: list[Callable[[], None]] = []

        def copy_all(digests: Sequence[Digest]) -> None:
            for digest in digests:
                if self._stop.is_set():
                    return
                try:
                    self._copy_from(holders[digest], digest, wanted[digest])
                except BAD_IMAGE as error:
                    bad[digest] = without_frames(error)

        for group in _groups(wanted):
            jobs.append(lambda group=group: copy_all(group))  # type: ignore[misc]
        self._wait({self._pool.submit(job) for job in jobs})
        return bad

    def _copy_from(self, holders: Sequence[PlannedImage], digest: Digest, size_bytes: int) -> None:
        """Copy a blob from the first holder whose bytes are good."""
        for number, image in enumerate(holders, start=1):
            try:
                self._copy(image, digest, size_bytes)
                return
            except BAD_IMAGE:
                if number == len(holders):
                    raise

    def _copy(self, image: PlannedImage, digest: Digest, size_bytes: int) -> None:
        content = image.in_memory.get(digest)
        if content is not None:
            self._unit.stage(digest, size_bytes, io.BytesIO(content), self._advanced)
            return
        with image.request.source.open(digest) as stream:
            self._unit.stage(digest, size_bytes, stream, self._advanced)

    def _advanced(self, size_bytes: int) -> None:
        if self._stop.is_set():
            raise StoreUnavailable("the import was stopped")
        self._progress.advanced(size_bytes)

    def _wait(self, futures: set[Future[None]]) -> None:
        pending = futures
        try:
            while pending:
                done, pending = wait(pending, timeout=KEEP_ALIVE_S, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                self._unit.keep_alive()
        except BaseException:
            # Nothing of this ingest may still be written when its folder is cleared.
            self._stop.set()
            for future in pending:
                future.cancel()
            wait(pending)
            raise


def _holders(
    images: Sequence[PlannedImage], wanted: Mapping[Digest, int]
) -> dict[Digest, list[PlannedImage]]:
    """Return who has each blob: one image of each source."""
    holders: dict[Digest, list[PlannedImage]] = {digest: [] for digest in wanted}
    for image in images:
        for digest in holders.keys() & image.blobs.keys():
            if all(image.request.source is not other.request.source for other in holders[digest]):
                holders[digest].append(image)
    return holders


def _groups(wanted: Mapping[Digest, int]) -> list[list[Digest]]:
    """Put large blobs first, each for itself, and small ones together."""
    ordered = sorted(wanted, key=lambda digest: -wanted[digest])
    large = [[digest] for digest in ordered if wanted[digest] >= SMALL_BYTES]
    small = ordered[len(large) :]
    # A few are spread over the threads: each may be a request that somebody far away answers.
    together = min(SMALL_GROUP, max(1, len(small) // SPREAD))
    return large + [small[i : i + together] for i in range(0, len(small), together)]
