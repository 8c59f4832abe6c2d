"""One batch: images that share flushes and one transaction. A bad image is left out, the others go in."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from regmeta.errors import (
    Error,
    ImmutableTag,
    LeftOut,
    LostReservation,
    MissingContent,
    RepositoryNotActive,
    SizeMismatch,
    StoreUnavailable,
)
from regmeta.ingest.claims import Claim, Claims
from regmeta.ingest.copying import Copier
from regmeta.ingest.elsewhere import LOOK_EVERY_S, Elsewhere
from regmeta.ingest.plan import CommitResult, PlannedImage, Progress
from regmeta.ingest.reserve import WATCHED_BYTES
from regmeta.ingest.unit_of_work import Phase, UnitOfWork, Writer
from regmeta.oci.digest import Digest

ROUNDS: Final = 5  # of going back for blobs that were lost; each loss needs a collector in between


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What became of a batch; *result* is None if no image was left to commit."""

    result: CommitResult | None
    failures: Mapping[int, Error]  # by position in the batch
    copied: frozenset[Digest]


@dataclass(frozen=True, slots=True)
class Company:
    """Who a batch gets on with: *claims* of the batches of this process, and, *elsewhere*, other processes.

    Without *elsewhere* it waits for no other process.
    """

    claims: Claims
    elsewhere: Elsewhere | None = None


class Batch:
    """Takes one batch through all phases. Several may do so at once; each is used by one thread.

    When the image at a position is left out, those that *bonds* names at it are as well. *failures* are
    images that are left out from the start.
    """

    def __init__(
        self,
        writer: Writer,
        pool: Executor,
        images: Sequence[PlannedImage],
        progress: Progress,
        company: Company,
        *,
        bonds: Mapping[int, Sequence[int]] = MappingProxyType({}),
        failures: Mapping[int, Error] = MappingProxyType({}),
    ) -> None:
        self._unit = UnitOfWork(writer, images[0].request.source.location)
        self._copier = Copier(self._unit, pool, progress)
        self._images = images
        self._company = company
        self._bonds = bonds
        self._failures: dict[int, Error] = {}
        self._copied: set[Digest] = set()
        for position, error in failures.items():
            self._leave_out(position, error)

    def run(self, *, atomic: bool) -> BatchResult:
        """Ingest the batch. With *atomic* the first bad image raises and nothing is taken in.

        Raises:
            RepositoryNotActive: a repository is being removed, and no image is for another.
            ImmutableTag: with *atomic*, a tag that may not be moved; else its image alone is left out.
            Unavailable, Locked: the store or the database did not do it; nothing was taken in.
        """
        claim = self._company.claims.take(self._fetched())
        try:
            self._bring(claim, atomic)
            result = self._commit(atomic)
        except BaseException:
            self._copier.stop()
            if self._unit.phase not in (Phase.COMMITTED, Phase.FINISHED):
                self._unit.abort()
            raise
        finally:
            claim.drop()
        if result is None:
            self._unit.abort()
        else:
            self._unit.finish()
        return BatchResult(result, self._failures, frozenset(self._copied))

    def _commit(self, atomic: bool) -> CommitResult | None:
        lost_rounds = 0
        while lost_rounds < ROUNDS:
            good = [self._images[position] for position in self._good()]
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
            except RepositoryNotActive as refused:
                others = {image.request.repository for image in good} - {refused.repository}
                if atomic or refused.repository is None or not others:
                    raise
                self._leave_out_repository(refused)
            except LostReservation as lost:
                lost_rounds += 1
                self._leave_out_orphans(lost.digests, atomic)
                self._reserve_and_stage(lost.digests, atomic)
        raise StoreUnavailable(f"{self._unit.id}: blobs were taken back {ROUNDS} times while they were used")

    def _leave_out_orphans(self, lost: frozenset[Digest], atomic: bool) -> None:
        """Leave out indexes that relied on a child which only the repository held, and which has gone."""
        for position, image in enumerate(self._images):
            gone = sorted(image.here_already & lost)
            if gone:
                error = MissingContent(f"{gone[0]}: was in {image.request.repository}, and is gone now")
                if atomic:
                    raise error
                self._leave_out(position, error)

    def _leave_out_repository(self, refused: RepositoryNotActive) -> None:
        for position, image in enumerate(self._images):
            if image.request.repository == refused.repository:
                self._leave_out(position, RepositoryNotActive(str(refused), repository=refused.repository))

    def _leave_out_refused(self, refused: ImmutableTag) -> None:
        """Leave out the images whose tags may not be moved."""
        for position, image in enumerate(self._images):
            repository, tag = image.request.repository, image.request.tag or ""
            if repository == refused.repository and tag in refused.refused:
                self._leave_out(position, ImmutableTag(repository, {tag: refused.refused[tag]}))

    def _leave_out(self, position: int, error: Error) -> None:
        """Leave an image out, and those that it goes with."""
        if position in self._failures:
            return
        self._failures[position] = error
        because = error.because if isinstance(error, LeftOut) else error
        for other in self._bonds.get(position, ()):
            request, theirs = self._images[other].request, self._images[position].request
            self._leave_out(other, LeftOut(f"{request}: left out with {theirs}: {because}", because))

    def _good(self) -> list[int]:
        return [position for position in range(len(self._images)) if position not in self._failures]

    def _wanted(self) -> dict[Digest, int]:
        """Return what the images need that are not left out."""
        wanted: dict[Digest, int] = {}
        for position in self._good():
            wanted.update(self._images[position].blobs)
        return wanted

    def _fetched(self) -> dict[Digest, int]:
        """Return what is not in memory: each of it is a download."""
        wanted = self._wanted()
        for image in self._images:
            for digest in image.in_memory:
                wanted.pop(digest, None)
        return wanted

    def _bring(self, claim: Claim, atomic: bool) -> None:
        """Reserve all, copy what is missing, and wait for what others bring: that is reserved at the end."""
        held = set(claim.others)
        if held:
            held -= self._unit.live(held)
        self._unit.reserve(self._wanted().keys() - held)
        missing = set(self._unit.missing)
        large = {
            d: self._unit.keys[d]
            for d, size in self._fetched().items()
            if d in missing and size >= WATCHED_BYTES
        }
        elsewhere = self._company.elsewhere
        late = elsewhere.look(large) if elsewhere is not None and large else set()
        self._stage_missing(self._wanted().keys() - held - late, atomic)
        held &= self._wanted().keys()  # what a bad image needs is not waited for
        for digest in held:
            while not claim.others[digest].wait(LOOK_EVERY_S):
                self._copier.idle()
        claim.add(held)
        late &= self._wanted().keys()
        if elsewhere is not None and late:
            elsewhere.wait({digest: large[digest] for digest in late}, self._copier.idle)
        if held or late:
            self._reserve_and_stage(held | late, atomic)

    def _reserve_and_stage(self, digests: Collection[Digest], atomic: bool) -> None:
        """Reserve those of *digests* that are wanted, and copy what is missing of them."""
        digests = self._wanted().keys() & digests
        self._unit.reserve(digests)
        self._stage_missing(digests, atomic)

    def _stage_missing(self, digests: Collection[Digest], atomic: bool) -> None:
        """Copy what is missing of *digests*, and leave out what needs a bad one."""
        wanted = {digest: size for digest, size in self._wanted().items() if digest in digests}
        bad: dict[Digest, Error] = {}
        for digest, size_bytes in wanted.items():
            stored = self._unit.stored.get(digest)
            if stored is not None and stored.size_bytes != size_bytes:
                bad[digest] = SizeMismatch(
                    f"{digest}: has {stored.size_bytes} bytes, the descriptor says {size_bytes}"
                )
        missing = {d: wanted[d] for d in self._unit.missing if d in wanted}
        found = self._copier.copy(self._images, missing)
        self._copied.update(missing.keys() - found.keys())
        bad |= found
        for position, image in enumerate(self._images):
            error = next((bad[digest] for digest in image.blobs if digest in bad), None)
            if error is not None:
                if atomic:
                    raise error
                self._leave_out(position, error)
