"""One run: all repositories of a storage that are new or have changed are brought.

========  =========================================  ==================================  ===============
step      durable effect                             a crash right after leaves          repaired by
========  =========================================  ==================================  ===============
begin     a row of ``adoptions``                     the same                            the next run
bring     images, each whole, in batches; leased     images that are here, and the rest  the next run;
          until the end of the adoption              not; staged links or bytes          ``recover``
note      the cursor of a repository, its defects    images that are not noted           the next run
                                                                                         finds them here
remove    tags that are gone there, and that an      the same                            --
          adoption made here
done      the repository's fingerprint               the same                            --
complete  when the run got to its end                --                                  --
========  =========================================  ==================================  ===============

Each step can be done twice. Two runs of one source at once do the same work twice, and no harm.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from regmeta import metrics
from regmeta.adopt.defects import Found, defect_of
from regmeta.adopt.finalize import require_some
from regmeta.adopt.listing import LISTING, Listed, Lister
from regmeta.adopt.look import Looker, Wanted
from regmeta.adopt.noting import Notes
from regmeta.adopt.pieces import OpenRepository, Piece
from regmeta.adopt.records import adoptions, defects, here
from regmeta.adopt.records.adoptions import KnownAdoption
from regmeta.adopt.terms import LEASE, AdoptReport, Options
from regmeta.errors import IntegrityError, LeftOut, RemoteUnavailable, without_frames
from regmeta.ingest.local_registry import LOOK_AHEAD, LocalRegistry
from regmeta.ingest.plan import ADOPTED
from regmeta.ingest.reserve import chunks, live
from regmeta.ingest.skip import skippable
from regmeta.ingest.unit_of_work import Writer
from regmeta.sources.storage import Defect, RegistryStorage
from regmeta.sync.pipeline import Pipeline, Progress
from regmeta.sync.records import ItemKey, ItemOutcome
from regmeta.sync.watched import Halt
from regmeta.threads import Threads

BATCH_BYTES: Final = 1024 * 1024 * 1024  # [bytes] of a commit; they are hashed, and not held


class Run:
    """One run. For one thread; *registry* and *writer* have the lifetimes of ``terms.lifetimes_for``."""

    def __init__(
        self,
        storage: RegistryStorage,
        registry: LocalRegistry,
        writer: Writer,
        adoption: KnownAdoption,
        options: Options,
        progress: Progress,
    ) -> None:
        if not writer.actor.startswith(ADOPTED):
            raise ValueError(f"{writer.actor}: the name of who adopts begins with {ADOPTED}")
        self._storage = storage
        self._registry = registry
        self._writer = writer
        self._adoption = adoption
        self._options = options
        self._progress = progress
        self._stopped = threading.Event()
        self._looker = Looker(
            storage,
            lambda request: registry.copy_manifest(request, sparse=True),
            lambda digests: live(writer.database, digests),
        )
        self._report = AdoptReport(adoption)
        self._untagged: deque[OpenRepository] = deque()  # those whose tags are all here
        self._again: deque[Wanted] = deque()
        self._under_way: dict[ItemKey, tuple[OpenRepository, Piece, Wanted]] = {}
        self._tried_again: set[ItemKey] = set()
        self._seen: set[str] = set()  # repositories
        self._mended: set[ItemKey] = set()  # here already, but for what may have been mended there

    def run(self) -> AdoptReport:
        """Bring all that is new.

        A repository that cannot be read is a failure of the report, and is looked at again by the next run.

        Raises:
            Unavailable, Locked: the registry here, or the bucket as a whole, does not answer.
            InvalidSource: the repositories cannot be listed.
        """
        linked = _linked_bytes()
        lister = Lister(self._storage, self._writer.database, self._adoption, self._options)
        with (
            Threads(LISTING, thread_name_prefix="list") as listing,
            Threads(1, thread_name_prefix="note") as noting,
        ):
            self._notes = Notes(
                self._storage, self._writer, self._adoption, self._options, self._report, noting
            )
            self._listed = lister.listed(listing)
            try:
                self._bring()
            except BaseException:
                self._stopped.set()
                listing.shutdown(wait=False, cancel_futures=True)
                raise
        if not self._seen:
            require_some(self._storage, self._writer.database, self._adoption)
        self._notes.forget_gone(self._seen)
        if not self._report.failures:
            adoptions.complete(self._writer.database, self._adoption.id)
        self._report.linked_bytes = _linked_bytes() - linked
        self._report.defects = defects.counts(self._writer.database, self._adoption.id)
        return self._report

    def _bring(self) -> None:
        while True:
            pipeline = Pipeline(
                self._looker.look,
                self._registry,
                terms="",
                images_at_once=self._options.images_at_once,
                progress=self._progress,
                stopped=Halt(self._stopped),
                batch_bytes=BATCH_BYTES,
            )
            for outcomes in pipeline.run(self._items()):
                for outcome in outcomes:
                    self._take(outcome)
                self._notes.check()
            if not self._again and not self._untagged:
                break
        self._notes.check(until_done=True)

    # --- what is to be done -------------------------------------------------------------------

    def _items(self) -> Iterator[Wanted]:
        """Hand out images, for as long as some are known; what waits for others comes in the next round."""
        while True:
            if self._again:
                yield self._again.popleft()
            elif self._untagged:
                repository = self._untagged.popleft()
                pieces = list(repository.untagged())
                repository.is_listed = True
                for piece in pieces:
                    yield from self._of_piece(repository, piece)
                if not pieces:
                    self._settle(repository)
            else:
                listed = next(self._listed, None)
                if listed is None:
                    return
                yield from self._begun(listed)

    def _begun(self, listed: Listed) -> Iterator[Wanted]:
        """Begin with a repository: its tags first."""
        self._report.repositories += 1
        self._report.unchanged += listed.is_unchanged
        self._seen.add(listed.name)
        if listed.failure is not None:
            self._report.failures[listed.name] = listed.failure
        if listed.repository is None:
            return
        pieces = list(listed.repository.tags())
        for piece in pieces:
            yield from self._of_piece(listed.repository, piece)
        if not pieces:
            self._untagged.append(listed.repository)

    def _of_piece(self, repository: OpenRepository, piece: Piece) -> Iterator[Wanted]:
        for some in chunks(piece.wanted, LOOK_AHEAD):
            self._progress.found(len(some))
            new = self._without_those_here(repository, piece, some)
            for wanted in new:
                self._under_way[wanted.key] = (repository, piece, wanted)
            piece.pending += len(new)
            yield from new
        piece.is_begun = True
        self._settle(repository)

    def _without_those_here(
        self, repository: OpenRepository, piece: Piece, some: Sequence[Wanted]
    ) -> list[Wanted]:
        """Return those that are to be brought; the others are here, or somebody has moved them here."""
        database, name = self._writer.database, repository.destination
        pairs = [(wanted.tag, wanted.digest) for wanted in some if wanted.digest is not None]
        tagged = [tag for tag, _ in pairs if tag is not None]
        # One that lacks a child may be whole there by now: it is looked at again.
        is_here = skippable(database, name, [pair for pair in pairs if pair[0] is not None])
        held = here.held(database, name, {digest for tag, digest in pairs if tag is None}, LEASE / 2)
        known = here.tags_named(database, name, tagged)
        left = []
        for wanted in some:
            assert wanted.digest is not None
            before = known.get(wanted.tag) if wanted.tag is not None else None
            if (wanted.tag, wanted.digest) in is_here or (wanted.tag is None and wanted.digest in held):
                # Without a tag it is a child of one that was brought just now, as a rule.
                self._report.here_already += wanted.tag is not None
                if wanted.image in repository.mendable:
                    self._mended.add(wanted.key)
                    left.append(wanted)
                else:
                    piece.unchanged.append(wanted.image)
            elif (
                before is not None
                and not before.is_ours
                and before.digest != wanted.digest
                and not self._options.overwrite
            ):
                now = "has no such tag now" if before.digest is None else f"points at {before.digest}"
                detail = f"{name}:{wanted.tag} {now}, and not by an adoption; there it is {wanted.digest}"
                piece.found.append(Found(Defect("moved-here", wanted.image, detail), wanted.image))
                self._report.left_out += 1
            else:
                left.append(wanted)
        return left

    # --- what was done ------------------------------------------------------------------------

    def _take(self, outcome: ItemOutcome) -> None:
        key = ItemKey(outcome.source, outcome.reference, outcome.destination)
        repository, piece, wanted = self._under_way[key]
        odd = self._looker.taken_found(wanted)
        if outcome.outcome == "copied":
            piece.found += odd or ()
            self._report.brought += key not in self._mended
            self._report.copied_bytes += outcome.copied_bytes
        else:
            error = outcome.error
            assert error is not None
            because = error.because if isinstance(error, LeftOut) else error
            if isinstance(because, RemoteUnavailable):
                repository.failure = without_frames(because)
            elif odd is not None and isinstance(because, IntegrityError) and self._is_first_try(wanted):
                # Its bytes are not what they should be: found out when they were read. Without them it may
                # be whole enough.
                self._looker.suspect(wanted)
                self._again.append(wanted)
                return
            else:
                piece.found.append(Found(defect_of(error, wanted.image), wanted.image))
                self._report.left_out += 1
        del self._under_way[key]
        piece.pending -= 1
        self._settle(repository)

    def _is_first_try(self, wanted: Wanted) -> bool:
        is_first = wanted.key not in self._tried_again
        self._tried_again.add(wanted.key)
        return is_first

    def _settle(self, repository: OpenRepository) -> None:
        """Let the pieces of a repository that are done be noted, and begin with what comes after the last."""
        if repository.failure is not None:
            self._report.failures.setdefault(repository.listing.name, repository.failure)
            return
        pieces = repository.pieces
        had_some = bool(pieces)
        last: Piece | None = None
        while pieces and pieces[0].is_done:
            last = pieces.popleft()
            if pieces or not repository.is_listed:
                self._notes.piece(repository, last)
        if pieces:
            return
        if repository.is_listed:
            self._notes.finish(repository, last)
        elif had_some:
            self._untagged.append(repository)


def _linked_bytes() -> int:
    return int(metrics.LINKED_BYTES.value() + metrics.CLONED_BYTES.value())
