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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from regmeta import metrics
from regmeta.adopt import MARK
from regmeta.adopt.defects import HIDING, Found, defect_of
from regmeta.adopt.look import Looker, Wanted
from regmeta.adopt.pieces import OpenRepository, Piece
from regmeta.adopt.records import adoptions, defects, here, repositories
from regmeta.adopt.records.adoptions import KnownAdoption
from regmeta.adopt.records.repositories import KnownRepository
from regmeta.errors import (
    Error,
    ImmutableTag,
    IntegrityError,
    InvalidSource,
    LeftOut,
    NotFound,
    RemoteUnavailable,
    RepositoryNotActive,
    without_frames,
)
from regmeta.ingest.local_registry import LOOK_AHEAD, LocalRegistry
from regmeta.ingest.plan import Lifetimes
from regmeta.ingest.reserve import chunks, live
from regmeta.ingest.skip import skippable
from regmeta.ingest.tags import remove_tag
from regmeta.ingest.unit_of_work import Writer
from regmeta.oci import names
from regmeta.sources.storage import Defect, RegistryStorage, StoredRepository
from regmeta.sync.pipeline import Pipeline, Progress, is_ours
from regmeta.sync.records import ItemKey, ItemOutcome
from regmeta.sync.removals import PLAUSIBLE_TAGS
from regmeta.sync.watched import Halt

LEASE: Final = timedelta(days=36_500)
"""For so long everything that was brought is kept, unless the adoption is finalized before."""
IMAGES_AT_ONCE: Final = 8
_GONE: Final = "gone"  # in place of a fingerprint: should the repository come back, it is looked at


@dataclass(frozen=True, slots=True)
class Options:
    """How a run is to be made.

    *again*: look at all repositories, not only at those that have changed. *overwrite*: a tag that somebody
    moved here goes back to what it is there, and a repository that was deleted here comes back.
    *believe_deletes*: also where most tags of a repository are gone. *images_at_once* are looked at.
    """

    again: bool = False
    overwrite: bool = False
    believe_deletes: bool = False
    images_at_once: int = IMAGES_AT_ONCE


@dataclass(slots=True)
class AdoptReport:
    """What a run has done, in images; *failures* are repositories that the next run looks at again."""

    adoption: KnownAdoption
    repositories: int = 0
    unchanged: int = 0
    brought: int = 0
    here_already: int = 0  # tags
    left_out: int = 0
    removed_tags: int = 0
    copied_bytes: int = 0
    linked_bytes: int = 0  # of those, by name only
    failures: dict[str, Error] = field(default_factory=dict)
    defects: Mapping[tuple[str, str], int] = field(default_factory=dict)


def lifetimes_for(usual: Lifetimes) -> Lifetimes:
    """Return the lifetimes that a run's writer has."""
    return Lifetimes(
        intent=usual.intent,
        max_upload=usual.max_upload,
        lease=LEASE,
        garbage=usual.garbage,
        tombstone=usual.tombstone,
        history=usual.history,
    )


def destination_of(prefix: str, name: str) -> str | None:
    """Return where a repository of a source goes here; None if its name is none of the grammar."""
    destination = f"{prefix}/{name}" if prefix else name
    return destination if names.is_repository(destination) else None


def fingerprint_of(storage: RegistryStorage, name: str) -> str:
    """Return the fingerprint of a repository; of one that cannot be read, why: until it can, it is the same.

    Raises:
        RemoteUnavailable: the bucket did not answer.
    """
    try:
        return storage.fingerprint(name)
    except InvalidSource as error:
        return f"unreadable: {error}"


class Run:
    """One run. For one thread; *registry* and *writer* have the lifetimes of :func:`lifetimes_for`."""

    def __init__(
        self,
        storage: RegistryStorage,
        registry: LocalRegistry,
        writer: Writer,
        adoption: KnownAdoption,
        options: Options,
        progress: Progress,
        stopped: threading.Event,
    ) -> None:
        if not writer.actor.startswith(MARK):
            raise ValueError(f"{writer.actor}: the name of who adopts begins with {MARK}")
        self._storage = storage
        self._registry = registry
        self._writer = writer
        self._adoption = adoption
        self._options = options
        self._progress = progress
        self._stopped = stopped
        self._looker = Looker(
            storage,
            lambda request: registry.copy_manifest(request, sparse=True),
            lambda digests: live(writer.database, digests),
        )
        self._report = AdoptReport(adoption)
        self._names: Iterator[str] = iter(())
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
        self._names = self._storage.repositories()
        is_first = True
        while is_first or self._again or self._untagged:
            is_first = False
            pipeline = Pipeline(
                self._looker.look,
                self._registry,
                terms="",
                images_at_once=self._options.images_at_once,
                progress=self._progress,
                stopped=Halt(self._stopped),
            )
            for outcomes in pipeline.run(self._items()):
                for outcome in outcomes:
                    self._take(outcome)
        self._forget_gone()
        if not self._report.failures:
            adoptions.complete(self._writer.database, self._adoption.id)
        self._report.linked_bytes = _linked_bytes() - linked
        self._report.defects = defects.counts(self._writer.database, self._adoption.id)
        return self._report

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
                name = next(self._names, None)
                if name is None:
                    return
                repository_or_none = self._begun(name)
                if repository_or_none is not None:
                    yield from self._tags_of(repository_or_none)

    def _tags_of(self, repository: OpenRepository) -> Iterator[Wanted]:
        pieces = list(repository.tags())
        for piece in pieces:
            yield from self._of_piece(repository, piece)
        if not pieces:
            self._untagged.append(repository)

    def _begun(self, name: str) -> OpenRepository | None:
        """Begin with a repository; None if nothing is to be done for it."""
        database, adoption = self._writer.database, self._adoption
        self._report.repositories += 1
        self._seen.add(name)
        try:
            known = repositories.known(database, adoption.id, name)
            fingerprint = fingerprint_of(self._storage, name)
            is_same = (
                known is not None
                and known.state == "done"
                and known.fingerprint == fingerprint
                and not known.is_to_be_tried_again
            )
            if is_same and not self._options.again:
                self._report.unchanged += 1
                return None
            listing = self._storage.repository(name)
        except Error as error:
            if is_ours(error):
                raise
            self._fail(name, error)
            return None
        wrong = self._wrong_with(name, known)
        destination = destination_of(adoption.prefix, name)
        if wrong is None and destination is not None:
            opened = OpenRepository.begun(listing, destination, fingerprint, known)
            if known is not None:
                opened.mendable = defects.mendable(database, known.id)
            return opened
        # Nothing of it goes anywhere. What its listing says is wrong would only be more of the same.
        found = [] if wrong is None else [Found(wrong)]
        empty = StoredRepository(name, (), {}, listing.defects if wrong is None else ())
        before = "" if known is None else known.destination
        opened = OpenRepository.begun(empty, before, fingerprint, known)
        repositories.note(database, adoption.id, opened.last_step(found))
        return None

    def _wrong_with(self, name: str, known: KnownRepository | None) -> Defect | None:
        destination = destination_of(self._adoption.prefix, name)
        if destination is None:
            return Defect("bad-repository-name", name, f"not a repository name: {name[:300]!r}")
        other = repositories.taken_by(self._writer.database, self._adoption.id, destination)
        if other is not None:
            return Defect("refused-here", name, f"{destination} is where {other} goes: give a prefix")
        was_here = known is not None and known.destination != ""
        if was_here and not self._options.overwrite and here.is_deleted(self._writer.database, destination):
            return Defect(
                "refused-here", name, f"{destination} was deleted here (--overwrite brings it back)"
            )
        return None

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
        """Note the pieces of a repository that are done, in their order, and what comes after the last."""
        name = repository.listing.name
        if repository.failure is not None:
            if name not in self._report.failures:
                self._fail(name, repository.failure)
            return
        pieces = repository.pieces
        had_some = bool(pieces)
        while pieces and pieces[0].is_done:
            done = pieces.popleft()
            self._note(repository, repository.step(done))
        if pieces:
            return
        if repository.is_listed:
            self._finish(repository)
        elif had_some:
            self._untagged.append(repository)

    def _finish(self, repository: OpenRepository) -> None:
        try:
            found = self._removed(repository)
        except RemoteUnavailable as error:
            self._fail(repository.listing.name, error)
            return
        self._note(repository, repository.last_step(found))

    def _note(self, repository: OpenRepository, step: repositories.Step) -> None:
        repository.noted_at = repositories.note(self._writer.database, self._adoption.id, step)

    def _removed(self, repository: OpenRepository) -> list[Found]:
        """End the tags here that an adoption made and that are gone there."""
        listing, name = repository.listing, repository.destination
        # What is broken there is not gone.
        there = {tag.name for tag in listing.tags} | {defect.subject for defect in listing.defects}
        ours = {tag: at for tag, at in here.live_tags(self._writer.database, name).items() if at.is_ours}
        gone = sorted(ours.keys() - there)
        if gone and fingerprint_of(self._storage, listing.name) != repository.fingerprint:
            return []  # a run that listed later may have brought them; the next one sees that it has changed
        hidden = next((each for each in listing.defects if each.kind in HIDING), None)
        if gone and hidden is not None and not self._options.believe_deletes:
            detail = f"{len(gone)} of {len(ours)} tags are not to be seen there: {hidden.detail}"
            return [Found(Defect("tags-gone", listing.name, detail))]
        if not self._options.believe_deletes and len(gone) > PLAUSIBLE_TAGS and 2 * len(gone) > len(ours):
            detail = f"{len(gone)} of {len(ours)} tags are gone there (--believe-deletes removes them here)"
            return [Found(Defect("tags-gone", listing.name, detail))]
        found = []
        for tag in gone:
            try:
                remove_tag(self._writer, name, tag, ours[tag].digest)
                self._report.removed_tags += 1
            except NotFound:
                found.append(Found(Defect("moved-here", tag, f"{name}:{tag} was moved just now"), tag))
            except (ImmutableTag, RepositoryNotActive) as error:
                found.append(Found(defect_of(error, tag), tag))
        return found

    def _forget_gone(self) -> None:
        """Forget what was wrong with repositories that are not there any more; what they brought stays."""
        database, adoption, after = self._writer.database, self._adoption, ""
        while some := repositories.page(database, adoption.id, after):
            for known in some:
                if known.source not in self._seen and known.fingerprint != _GONE:
                    step = repositories.Step(
                        known.source,
                        known.destination,
                        _GONE,
                        known.passes + 1,
                        known.tags,
                        known.manifests,
                        seen_at=known.checked_at,
                    )
                    repositories.note(database, adoption.id, step)
            after = some[-1].source

    def _fail(self, name: str, error: Error) -> None:
        self._report.failures[name] = without_frames(error)


def _linked_bytes() -> int:
    return int(metrics.LINKED_BYTES.value() + metrics.CLONED_BYTES.value())
