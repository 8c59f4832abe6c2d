"""One batch: images that share flushes and one transaction. A bad image is left out, the others go in."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, wait
from dataclasses import dataclass
from typing import Final

from regmeta.errors import (
    Error,
    ImmutableTag,
    InputError,
    IntegrityError,
    LostReservation,
    MissingContent,
    SizeMismatch,
    StoreUnavailable,
)
from regmeta.ingest.plan import CommitResult, PlannedImage, Progress
from regmeta.ingest.unit_of_work import Phase, UnitOfWork, Writer
from regmeta.oci.digest import Digest

BAD_IMAGE: Final = (InputError, IntegrityError)  # says something of an image, not of the registry
ROUNDS: Final = 5  # of going back for blobs that were lost; each loss needs a collector in between
KEEP_ALIVE_S: Final = 10.0
SMALL_BYTES: Final = 256 * 1024  # [bytes] below it, copying costs less than handing over the work
SMALL_GROUP: Final = 8


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What became of a batch; *result* is None if no image was left to commit."""

    result: CommitResult | None
    failures: Mapping[int, Error]  # by position in the batch
    copied: frozenset[Digest]


class Batch:
    """Takes one batch through all phases."""

    def __init__(
        self, writer: Writer, pool: Executor, images: Sequence[PlannedImage], progress: Progress
    ) -> None:
        self._unit = UnitOfWork(writer, images[0].request.source.location)
        self._pool = pool
        self._images = images
        self._progress = progress
        self._failures: dict[int, Error] = {}
        self._copied: set[Digest] = set()
        self._stop = threading.Event()

    def run(self, *, atomic: bool) -> BatchResult:
        """Ingest the batch. With *atomic* the first bad image raises and nothing is taken in.

        Raises:
            RepositoryNotActive: a repository is being removed.
            ImmutableTag: with *atomic*, a tag that may not be moved; else its image alone is left out.
            Unavailable, Locked: the store or the database did not do it; nothing was taken in.
        """
        try:
            self._reserve_and_stage(self._wanted(range(len(self._images))), atomic)
            result = self._commit(atomic)
        except BaseException:
            self._stop.set()
            if self._unit.phase not in (Phase.COMMITTED, Phase.FINISHED):
                self._unit.abort()
            raise
        if result is None:
            self._unit.abort()
        else:
            self._unit.finish()
        return BatchResult(result, self._failures, frozenset(self._copied))

    def _commit(self, atomic: bool) -> CommitResult | None:
        lost_rounds = 0
        while lost_rounds < ROUNDS:
            good = [image for i, image in enumerate(self._images) if i not in self._failures]
            if not good:
                return None
            if self._unit.phase is not Phase.PUBLISHED:
                self._unit.publish()
            try:
                return self._unit.commit(good)
            except ImmutableTag as refused:
                if atomic:
                    raise
                self._leave_out_refused(refused)  # at least one: this ends
            except LostReservation as lost:
                lost_rounds += 1
                self._leave_out_orphans(lost.digests, atomic)
                wanted = self._wanted(i for i in range(len(self._images)) if i not in self._failures)
                self._reserve_and_stage({d: wanted[d] for d in wanted if d in lost.digests}, atomic)
        raise StoreUnavailable(f"{self._unit.id}: blobs were taken back {ROUNDS} times while they were used")

    def _leave_out_orphans(self, lost: frozenset[Digest], atomic: bool) -> None:
        """Leave out indexes that relied on a child which only the repository held, and which has gone."""
        for position, image in enumerate(self._images):
            gone = sorted(image.here_already & lost)
            if gone:
                error = MissingContent(f"{gone[0]}: was in {image.request.repository}, and is gone now")
                if atomic:
                    raise error
                self._failures.setdefault(position, error)

    def _leave_out_refused(self, refused: ImmutableTag) -> None:
        """Leave out the images whose tags may not be moved."""
        for position, image in enumerate(self._images):
            repository, tag = image.request.repository, image.request.tag or ""
            if repository == refused.repository and tag in refused.refused:
                error = ImmutableTag(repository, {tag: refused.refused[tag]})
                self._failures.setdefault(position, error)

    def _wanted(self, positions: Iterable[int]) -> dict[Digest, int]:
        wanted: dict[Digest, int] = {}
        for position in positions:
            wanted.update(self._images[position].blobs)
        return wanted

    def _reserve_and_stage(self, wanted: Mapping[Digest, int], atomic: bool) -> None:
        self._unit.reserve(wanted)
        bad: dict[Digest, Error] = {}
        for digest, size_bytes in wanted.items():
            stored = self._unit.stored.get(digest)
            if stored is not None and stored.size_bytes != size_bytes:
                bad[digest] = SizeMismatch(
                    f"{digest}: has {stored.size_bytes} bytes, the descriptor says {size_bytes}"
                )
        bad.update(self._stage({d: wanted[d] for d in self._unit.missing if d in wanted}))
        for position, image in enumerate(self._images):
            error = next((bad[digest] for digest in image.blobs if digest in bad), None)
            if error is not None:
                if atomic:
                    raise error
                self._failures.setdefault(position, error)

    def _stage(self, wanted: Mapping[Digest, int]) -> dict[Digest, Error]:
        """Copy blobs in several threads; return those that are bad."""
        holders = self._holders(wanted)
        bad: dict[Digest, Error] = {}
        jobs: list[Callable[[], None]] = []

        def copy_all(digests: Sequence[Digest]) -> None:
            for digest in digests:
                if self._stop.is_set():
                    return
                try:
                    self._copy_from(holders[digest], digest, wanted[digest])
                except BAD_IMAGE as error:
                    bad[digest] = error

        for group in _groups(wanted):
            jobs.append(lambda group=group: copy_all(group))  # type: ignore[misc]
        self._wait({self._pool.submit(job) for job in jobs})
        self._copied.update(digest for digest in wanted if digest not in bad)
        return bad

    def _holders(self, wanted: Mapping[Digest, int]) -> dict[Digest, list[PlannedImage]]:
        """Return who has each blob: one image of each source."""
        holders: dict[Digest, list[PlannedImage]] = {digest: [] for digest in wanted}
        for image in self._images:
            for digest in holders.keys() & image.blobs.keys():
                if all(image.request.source is not other.request.source for other in holders[digest]):
                    holders[digest].append(image)
        return holders

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


def _groups(wanted: Mapping[Digest, int]) -> list[list[Digest]]:
    """Put large blobs first, each for itself, and small ones together."""
    ordered = sorted(wanted, key=lambda digest: -wanted[digest])
    large = [[digest] for digest in ordered if wanted[digest] >= SMALL_BYTES]
    small = ordered[len(large) :]
    return large + [small[i : i + SMALL_GROUP] for i in range(0, len(small), SMALL_GROUP)]
