"""One import: images are skipped, planned and filled into batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from regmeta import metrics
from regmeta.db import Database
from regmeta.errors import Error, InvalidSource, LeftOut, SizeMismatch, without_frames
from regmeta.ingest.batch import BatchResult
from regmeta.ingest.copying import BAD_IMAGE
from regmeta.ingest.plan import ImageOutcome, ImageRequest, PlannedImage, Progress, Status
from regmeta.ingest.skip import skippable
from regmeta.oci.digest import Digest


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """When a batch is full."""

    images: int
    size_bytes: int
    filled_for_s: float


class ImportRun:
    """The state of one import: the batch that is being filled."""

    def __init__(
        self,
        database: Database,
        plan: Callable[[ImageRequest], PlannedImage],
        ingest: Callable[[Sequence[PlannedImage]], BatchResult],
        progress: Progress,
        *,
        sparse: bool,
        atomic: bool,
        limits: BatchLimits,
        clock_s: Callable[[], float],
    ) -> None:
        self._database = database
        self._plan = plan
        self._ingest = ingest
        self._progress = progress
        self._sparse = sparse
        self._atomic = atomic
        self._limits = limits
        self._clock_s = clock_s
        self._images: list[PlannedImage] = []
        self._sizes: dict[Digest, int] = {}
        self._size_bytes = 0
        self._began_s = 0.0
        self._named: dict[tuple[str, str], Digest] = {}

    def add(self, requests: Sequence[ImageRequest]) -> Iterator[ImageOutcome]:
        """Skip what is here, plan the rest, and ingest each batch that is full."""
        skip = self._skippable(requests)
        for request in requests:
            key = (request.repository, request.tag, request.descriptor.digest)
            try:
                self._check_name(request)
                if key in skip:
                    yield from self._done([outcome_of(request, "skipped")])
                    continue
                image = self._plan(request)
            except BAD_IMAGE as error:
                if self._atomic:
                    raise
                yield from self._done([outcome_of(request, "failed", error)])
                continue
            conflict = self._conflict(image)
            if conflict is not None:
                if self._atomic:
                    raise SizeMismatch(f"{conflict}: the source says two sizes of it")
                yield from self.flush()
            self._append(image)
            if self._is_full():
                yield from self.flush()

    def flush(self) -> Iterator[ImageOutcome]:
        """Ingest what was planned."""
        if not self._images:
            return
        images, self._images, self._sizes, self._size_bytes = self._images, [], {}, 0
        yield from self._done(outcomes_of(images, self._ingest(images)))

    def _append(self, image: PlannedImage) -> None:
        if not self._images:
            self._began_s = self._clock_s()
        self._images.append(image)
        new = {digest: size for digest, size in image.blobs.items() if digest not in self._sizes}
        self._sizes.update(new)
        size_bytes = sum(new.values())
        self._size_bytes += size_bytes
        self._progress.planned(1, size_bytes)

    def _is_full(self) -> bool:
        return not self._atomic and (
            len(self._images) >= self._limits.images
            or self._size_bytes >= self._limits.size_bytes
            or self._clock_s() - self._began_s >= self._limits.filled_for_s
        )

    def _conflict(self, image: PlannedImage) -> Digest | None:
        """Return a blob of which it says another size than the batch: one of them is wrong, but not both."""
        differing = (d for d, size in image.blobs.items() if self._sizes.get(d, size) != size)
        return next(differing, None)

    def _check_name(self, request: ImageRequest) -> None:
        if request.tag is None:
            return
        digest = request.descriptor.digest
        first = self._named.setdefault((request.repository, request.tag), digest)
        if first != digest:
            raise InvalidSource(f"{request}: the source names it twice, {first} and {digest}")

    def _skippable(self, requests: Sequence[ImageRequest]) -> set[tuple[str, str | None, Digest]]:
        by_repository: dict[str, list[tuple[str | None, Digest]]] = {}
        for request in requests:
            item = (request.tag, request.descriptor.digest)
            by_repository.setdefault(request.repository, []).append(item)
        return {
            (repository, tag, digest)
            for repository, items in by_repository.items()
            for tag, digest in skippable(self._database, repository, items, sparse=self._sparse)
        }

    def _done(self, outcomes: Sequence[ImageOutcome]) -> Iterator[ImageOutcome]:
        self._progress.finished(outcomes)
        yield from outcomes


def outcomes_of(images: Sequence[PlannedImage], batch: BatchResult) -> list[ImageOutcome]:
    """Return how the images of a batch ended; what was copied is counted for the first that needs it."""
    outcomes = []
    counted: set[Digest] = set()
    for position, image in enumerate(images):
        error = batch.failures.get(position)
        if error is not None:
            outcomes.append(outcome_of(image.request, "failed", error))
            continue
        new = (batch.copied & image.blobs.keys()) - counted
        counted |= new
        copied_bytes = sum(image.blobs[digest] for digest in new)
        outcomes.append(outcome_of(image.request, "imported", copied_bytes=copied_bytes))
    return outcomes


def outcome_of(
    request: ImageRequest,
    status: Status,
    error: Error | None = None,
    copied_bytes: int = 0,
) -> ImageOutcome:
    """Return the outcome of one image, and count it; its error is kept without what it was raised through."""
    metrics.IMAGES.add(1, status)
    kept = None if error is None else without_frames(error)
    if isinstance(kept, LeftOut):
        without_frames(kept.because)
    return ImageOutcome(str(request), status, request.descriptor.digest, kept, copied_bytes)
