"""Repositories of a storage, one after the other: is there anything to be done, and where does it go?

Some are listed in threads of their own while those before them are brought.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Final

from regmeta.adopt.defects import Found
from regmeta.adopt.pieces import OpenRepository
from regmeta.adopt.records import defects, here, repositories
from regmeta.adopt.records.adoptions import KnownAdoption
from regmeta.adopt.records.repositories import KnownRepository
from regmeta.adopt.terms import Options, destination_of, fingerprint_of, is_read
from regmeta.db import Database
from regmeta.errors import Error, without_frames
from regmeta.sources.storage import Defect, RegistryStorage, StoredRepository
from regmeta.sync.pipeline import is_ours

LISTING: Final = 2  # threads
AHEAD: Final = 4  # repositories that are listed before their turn


@dataclass(frozen=True, slots=True)
class Listed:
    """What became of a look at a repository: it is to be brought, or the same as it was, or it failed.

    None of the three: nothing of it can go anywhere, and that was noted.
    """

    name: str
    repository: OpenRepository | None = None
    is_unchanged: bool = False
    failure: Error | None = None


class Lister:
    """Lists the repositories of a storage for one run. Its threads share nothing but the storage."""

    def __init__(
        self, storage: RegistryStorage, database: Database, adoption: KnownAdoption, options: Options
    ) -> None:
        self._storage = storage
        self._database = database
        self._adoption = adoption
        self._options = options

    def listed(self, pool: Executor) -> Iterator[Listed]:
        """Give all repositories in the order of their names; those that come next are listed meanwhile.

        Raises:
            InvalidSource, RemoteUnavailable: they cannot be listed.
            Unavailable: the registry here does not answer.
        """
        waiting: deque[Future[Listed]] = deque()
        for name in self._storage.repositories():
            waiting.append(pool.submit(self._list, name))
            if len(waiting) >= AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _list(self, name: str) -> Listed:
        try:
            known = repositories.known(self._database, self._adoption.id, name)
            fingerprint = fingerprint_of(self._storage, name)
            is_same = (
                known is not None
                and known.state == "done"
                and known.fingerprint == fingerprint
                and is_read(fingerprint)
                and not known.is_to_be_tried_again
            )
            if is_same and not self._options.again:
                return Listed(name, is_unchanged=True)
            return Listed(name, self._opened(self._storage.repository(name), fingerprint, known))
        except Error as error:
            if is_ours(error):
                raise
            return Listed(name, failure=without_frames(error))

    def _opened(
        self, listing: StoredRepository, fingerprint: str, known: KnownRepository | None
    ) -> OpenRepository | None:
        name = listing.name
        claimed = self._claimed(name, known)
        if isinstance(claimed, KnownRepository):
            opened = OpenRepository.begun(listing, claimed.destination, fingerprint, claimed)
            opened.is_new = known is None
            if known is not None:
                opened.mendable = defects.mendable(self._database, known.id)
            return opened
        # Nothing of it goes anywhere. What its listing says is wrong would only be more of the same.
        before = "" if known is None else known.destination
        opened = OpenRepository.begun(StoredRepository(name, (), {}), before, fingerprint, known)
        repositories.note(self._database, self._adoption.id, opened.last_step([Found(claimed)]))
        return None

    def _claimed(self, name: str, known: KnownRepository | None) -> KnownRepository | Defect:
        """Return the row that says where a repository goes, or why it goes nowhere."""
        database, adoption = self._database, self._adoption
        destination = destination_of(adoption.prefix, name)
        if destination is None:
            return Defect("bad-repository-name", name, f"not a repository name: {name[:300]!r}")
        if known is None or not known.destination:
            claimed = repositories.claim(database, adoption.id, name, destination)
            if isinstance(claimed, KnownRepository):
                return claimed
            return Defect("refused-here", name, f"{destination} is where {claimed} goes: give a prefix")
        if not self._options.overwrite and here.is_deleted(database, destination):
            detail = f"{destination} was deleted here (--overwrite brings it back)"
            return Defect("refused-here", name, detail)
        return known
