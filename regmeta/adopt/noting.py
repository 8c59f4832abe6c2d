"""What a run writes of its repositories, in a thread of its own: nothing else waits for these commits.

It is done in the order in which it is handed in, so that a repository's cursor never goes back; and when
something could not be written, nothing after it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import Executor, Future
from typing import Final

from regmeta.adopt.defects import HIDING, Found, defect_of
from regmeta.adopt.pieces import OpenRepository, Piece
from regmeta.adopt.records import here, repositories
from regmeta.adopt.records.adoptions import KnownAdoption
from regmeta.adopt.terms import AdoptReport, Options, fingerprint_of
from regmeta.errors import ImmutableTag, NotFound, RemoteUnavailable, RepositoryNotActive, without_frames
from regmeta.ingest.tags import remove_tag
from regmeta.ingest.unit_of_work import Writer
from regmeta.sources.storage import Defect, RegistryStorage
from regmeta.sync.removals import PLAUSIBLE_TAGS

_GONE: Final = "gone"  # in place of a fingerprint: should the repository come back, it is looked at


class Notes:
    """Notes how far the repositories of one run are. *pool* has one thread; *report* counts what it does."""

    def __init__(
        self,
        storage: RegistryStorage,
        writer: Writer,
        adoption: KnownAdoption,
        options: Options,
        report: AdoptReport,
        pool: Executor,
    ) -> None:
        self._storage = storage
        self._writer = writer
        self._adoption = adoption
        self._options = options
        self._report = report
        self._pool = pool
        self._waiting: deque[Future[None]] = deque()
        self._has_failed = False

    def piece(self, repository: OpenRepository, piece: Piece) -> None:
        """Note that all up to this piece is done."""
        self._submit(lambda: self._note(repository, repository.step(piece)))

    def finish(self, repository: OpenRepository, last: Piece | None) -> None:
        """Remove the tags that are gone there, and note that all is done, with the *last* piece."""
        self._submit(lambda: self._finish(repository, last))

    def check(self, *, until_done: bool = False) -> None:
        """Raise what went wrong with something that was handed in.

        Raises:
            Unavailable, Locked: the registry here does not take anything now.
        """
        while self._waiting and (until_done or self._waiting[0].done()):
            self._waiting.popleft().result()

    def forget_gone(self, seen: Collection[str]) -> None:
        """Forget what was wrong with repositories that are not there any more; what they brought stays."""
        database, adoption = self._writer.database, self._adoption
        for known in repositories.every(database, adoption.id):
            if known.source not in seen and known.fingerprint != _GONE:
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

    def _submit(self, work: Callable[[], None]) -> None:
        def unless_failed() -> None:
            # What comes later says that this is done as well: so it is not said.
            if self._has_failed:
                return
            try:
                work()
            except BaseException:
                self._has_failed = True
                raise

        self._waiting.append(self._pool.submit(unless_failed))

    def _finish(self, repository: OpenRepository, last: Piece | None) -> None:
        try:
            found = [] if repository.is_new else self._removed(repository)
        except RemoteUnavailable as error:
            self._report.failures[repository.listing.name] = without_frames(error)
            return
        self._note(repository, repository.last_step(found, last))

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
