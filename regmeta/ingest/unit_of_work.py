"""The phases of one ingest, as a state that they cannot be called out of.

::

    OPEN --reserve--> RESERVED --publish--> PUBLISHED --commit--> COMMITTED --finish--> FINISHED
                       ^  stage  |              |
                       +-reserve-+--------------+           (abort: from any state before COMMITTED)

=========  =========================================  ======================================  ============
phase      durable effect                             a crash right after leaves              repaired by
=========  =========================================  ======================================  ============
reserve    one transaction: intents for the keys to   intents without objects                 ``recover``
           be written, leases on blobs that are here
stage      flushed files in this process's folder     files of an owner that is gone          ``recover``
publish    files at their keys, folders flushed       objects with an intent                  ``recover``
**commit** **one transaction: repository lock,        everything, or nothing                  --
           ingest id, fence, blobs, manifests,
           edges, tags, events, outbox, tasks**
finish     a snapshot of each repository, its outbox  a stale snapshot, and a row that says   the next
           row cleared                                so                                      writer
abort      no intents; tombstones for what was        the same                                the collector
           published
=========  =========================================  ======================================  ============

The commit is a function of what was staged and is tried again **alone**: after a serialization failure, a
deadlock, a lock time-out, a lost unique race, or a connection that broke, even at COMMIT, since the ingest's
id makes a second effect impossible. When the fence fails (keys were taken back while this process was
frozen) or a blob that was here has gone, the ingest goes back to ``reserve`` for those digests, with new
keys.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final
from uuid import UUID, uuid4

from regmeta import errors, metrics, tracing
from regmeta.db import Database
from regmeta.ingest import reserve
from regmeta.ingest.commit import CommitPlan, commit
from regmeta.ingest.immutable import ImmutableTags, TagTerms
from regmeta.ingest.plan import CommitResult, Lifetimes, PlannedImage
from regmeta.ingest.reserve import StoredBlob
from regmeta.ingest.retry import retried
from regmeta.ingest.snapshots import SnapshotWriter
from regmeta.ingest.statements import AlreadyCommitted
from regmeta.oci.digest import Digest
from regmeta.oci.streams import ByteStream
from regmeta.store import Staged, Staging

_log = logging.getLogger(__name__)

RECEIVED_S: Final = 5.0  # [s] others are told at most this often how far large blobs have come


class Phase(Enum):
    """Where an ingest stands."""

    OPEN = "open"
    RESERVED = "reserved"
    PUBLISHED = "published"
    COMMITTED = "committed"
    FINISHED = "finished"
    ABORTED = "aborted"


class PhaseError(RuntimeError):
    """A phase was called out of order: a bug in the caller."""


@dataclass(frozen=True, slots=True)
class Writer:
    """What all ingests of one process share."""

    database: Database
    staging: Staging
    snapshots: SnapshotWriter
    host: str
    actor: str
    lifetimes: Lifetimes = field(default_factory=Lifetimes)
    immutable: tuple[ImmutableTags, ...] = ()
    store_id: UUID | None = None  # what the store says of itself; see ``store_moves``

    @property
    def tag_terms(self) -> TagTerms:
        """What holds when tags are moved or ended."""
        return TagTerms(self.lifetimes.garbage, self.immutable)


class UnitOfWork:
    """One ingest. Only ``stage`` may be called from several threads."""

    def __init__(self, writer: Writer, source: str, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        self.id: UUID = uuid4()
        self.phase = Phase.OPEN
        self._writer = writer
        # A path may hold bytes that are no text; a row may not.
        self._source = source.encode("utf-8", "backslashreplace").decode()
        self._clock_s = clock_s
        self._renewed_s = clock_s()
        self._noted_s = clock_s()
        self._received: dict[str, int] = {}  # bytes of large blobs so far, by key
        self._noted: dict[str, int] = {}  # what their intents say
        self._stored: dict[Digest, StoredBlob] = {}
        self._keys: dict[Digest, str] = {}
        self._staged: dict[Digest, Staged] = {}
        self._published: set[Digest] = set()
        self._tried: set[str] = set()  # keys that publishing was begun for: their objects may be there
        self._result: CommitResult | None = None
        self._images: Sequence[PlannedImage] = ()
        self._unused: Sequence[str] = ()

    @property
    def missing(self) -> list[Digest]:
        """What is reserved and not staged yet."""
        return [digest for digest in self._keys if digest not in self._staged]

    @property
    def keys(self) -> Mapping[Digest, str]:
        """What is reserved, staged or not, under which key."""
        return self._keys

    @property
    def stored(self) -> Mapping[Digest, StoredBlob]:
        """What was here when it was reserved."""
        return self._stored

    def live(self, digests: Collection[Digest]) -> set[Digest]:
        """Return which of *digests* are worth reserving now, since they are here; promises nothing."""
        return retried(lambda: reserve.live(self._writer.database, digests))

    def reserve(self, wanted: Collection[Digest]) -> None:
        """Lease what is here of *wanted*, and promise to write the rest.

        May be called again, also after ``publish``: with digests that were not known before, or with
        those of a :class:`LostReservation`, which then get new keys.
        """
        self._require(Phase.OPEN, Phase.RESERVED, Phase.PUBLISHED)
        owner, lifetimes = self._writer.staging.owner, self._writer.lifetimes
        stale = [self._keys[digest] for digest in wanted if digest in self._keys]
        found: reserve.Reservation = retried(
            lambda: reserve.reserve(
                self._writer.database, wanted, owner, self._writer.host, lifetimes, self._writer.store_id
            )
        )
        self._give_back(stale)
        for digest in wanted:
            self._stored.pop(digest, None)
            self._keys.pop(digest, None)
            self._published.discard(digest)
            old = self._staged.pop(digest, None)
            if old is not None:
                self._writer.staging.discard([old])
        self._stored.update(found.stored)
        self._keys.update(found.keys)
        self.phase = Phase.RESERVED

    def stage(
        self,
        digest: Digest,
        size_bytes: int,
        stream: ByteStream,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Take in the bytes of one reserved blob. Thread-safe.

        Raises:
            IntegrityError: they are not what the digest and the size say; nothing is left of them.
            StoreUnavailable: they could not be written.
        """
        self._require(Phase.RESERVED)
        key = self._keys[digest]
        if size_bytes >= reserve.WATCHED_BYTES:
            progress = self._watched(key, progress)
        with tracing.bound(ingest=str(self.id), digest=str(digest)):
            self._staged[digest] = self._writer.staging.stage(key, digest, size_bytes, stream, progress)
        metrics.STAGED_BYTES.add(size_bytes)

    def keep_alive(self) -> None:
        """Let the intents expire later, if half of their time has passed, and say what was received.

        For long uploads. Writes at most every :data:`RECEIVED_S`, and only what has changed.
        """
        now_s = self._clock_s()
        half_s = self._writer.lifetimes.intent.total_seconds() / 2
        expire_later = bool(self._keys) and now_s - self._renewed_s > half_s
        received: dict[str, int] = {}
        if now_s - self._noted_s >= RECEIVED_S:
            # Copied in one step: other threads go on counting.
            counted = self._received.copy()
            received = {key: total for key, total in counted.items() if self._noted.get(key) != total}
        if not expire_later and not received:
            return
        owner, lifetimes = self._writer.staging.owner, self._writer.lifetimes
        retried(
            lambda: reserve.renew(
                self._writer.database, owner, lifetimes, expire_later=expire_later, received=received
            )
        )
        if expire_later:
            self._renewed_s = now_s
        if received:
            self._noted.update(received)
            self._noted_s = now_s

    def publish(self) -> None:
        """Give all staged bytes their keys, durably.

        Raises:
            StoreUnavailable: not all of them have one.
        """
        self._require(Phase.RESERVED)
        new = [staged for digest, staged in self._staged.items() if digest not in self._published]
        if new:
            self._tried.update(staged.key for staged in new)
            with tracing.bound(ingest=str(self.id)), tracing.span("ingest.publish"):
                self._writer.staging.publish(new)
            metrics.PUBLISHED_OBJECTS.add(len(new))
            metrics.PUBLISHED_BYTES.add(sum(staged.size_bytes for staged in new))
            self._published.update(staged.digest for staged in new)
        self.phase = Phase.PUBLISHED

    def commit(
        self, images: Sequence[PlannedImage], healing: frozenset[Digest] = frozenset()
    ) -> CommitResult:
        """Write all rows of *images* in one transaction, and give damaged blobs of *healing* new objects.

        Raises:
            LostReservation: ``reserve`` its digests again, then stage, publish and commit.
            RepositoryNotActive: a repository is being removed.
            ImmutableTag: tags of one repository may not be moved; commit again without those images.
            Unavailable, Locked: the database did not take it, after all tries.
        """
        self._require(Phase.PUBLISHED)
        needed = {digest for image in images for digest in image.blobs} | healing
        plan = CommitPlan(
            self.id,
            self._writer.staging.owner,
            self._writer.actor,
            self._source,
            images,
            {digest: self._keys[digest] for digest in self._published & needed},
            self._writer.lifetimes,
            self._writer.tag_terms,
            healing={digest: self._staged[digest].size_bytes for digest in healing & self._published},
            store_id=self._writer.store_id,
        )
        with tracing.bound(ingest=str(self.id)), tracing.span("ingest.commit"):
            self._result = retried(lambda: self._commit_once(plan))
        self._images = images
        self._unused = [key for digest, key in self._keys.items() if digest not in plan.keys]
        self.phase = Phase.COMMITTED
        return self._result

    def finish(self) -> None:
        """Write the snapshots. Cannot fail: what is not done is in the outbox for the next writer."""
        self._require(Phase.COMMITTED)
        assert self._result is not None
        for repository_id, name in self._result.repositories:
            mine = [image for image in self._images if image.request.repository == name]
            blobs = {digest for image in mine for digest in image.blobs}
            # The layout of a repository that was deleted is empty.
            added = None if repository_id in self._result.revived else blobs
            with tracing.bound(ingest=str(self.id), repository=name):
                self._writer.snapshots.flush_quietly(repository_id, added)
        with tracing.bound(ingest=str(self.id)):
            self._give_back_unused()
        self.phase = Phase.FINISHED

    def abort(self) -> None:
        """Take back what was reserved. What cannot be done now, ``recover`` does."""
        self._require(Phase.OPEN, Phase.RESERVED, Phase.PUBLISHED)
        try:
            self._writer.staging.discard(
                staged for digest, staged in self._staged.items() if digest not in self._published
            )
            self._give_back(self._keys.values())
        except errors.Error as error:
            with tracing.bound(ingest=str(self.id)):
                _log.warning("an aborted ingest is left for the next writer: %s", error)
        self.phase = Phase.ABORTED

    def _watched(self, key: str, progress: Callable[[int], None] | None) -> Callable[[int], None]:
        """Count the bytes of one key, which one thread writes."""

        def advanced(size_bytes: int) -> None:
            self._received[key] = self._received.get(key, 0) + size_bytes
            if progress is not None:
                progress(size_bytes)

        return advanced

    def _commit_once(self, plan: CommitPlan) -> CommitResult:
        try:
            with self._writer.database.transaction("ingest", quiet=True) as connection:
                return commit(connection, plan)
        except AlreadyCommitted as earlier:
            return earlier.result

    def _give_back_unused(self) -> None:
        # What was reserved for images that were left out.
        try:
            self._give_back(self._unused)
        except errors.Error as error:
            _log.warning("intents are left for the next writer: %s", error)

    def _give_back(self, keys: Iterable[str]) -> None:
        wanted = set(keys)
        if wanted:
            retried(
                lambda: reserve.give_back(
                    self._writer.database,
                    self._writer.staging.owner,
                    unused=wanted - self._tried,
                    published=wanted & self._tried,
                    lifetimes=self._writer.lifetimes,
                )
            )

    def _require(self, *phases: Phase) -> None:
        if self.phase not in phases:
            raise PhaseError(f"not allowed when {self.phase.value}")
