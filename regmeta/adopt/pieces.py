"""A repository in pieces: what is to be brought of it, and when a piece of it is done.

Tags come first, in the order of their names, then the manifests that no tag names, in the order of their
digests. A piece is 1,000 of them; when all up to its last one are brought or left out, that is its cursor.
A tag has no colon in it and a digest has one: so the cursor says which of the two it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from regmeta.adopt.defects import Found
from regmeta.adopt.look import Wanted, time_of
from regmeta.adopt.records.repositories import KnownRepository, Step
from regmeta.errors import Error
from regmeta.ingest.plan import Times
from regmeta.ingest.reserve import chunks
from regmeta.oci.digest import Digest
from regmeta.sources.storage import StoredRepository

PIECE: Final = 1000


@dataclass(slots=True)
class Piece:
    """Images that are brought together, as far as they are known to be done."""

    wanted: Sequence[Wanted]
    pending: int = 0
    is_begun: bool = False  # all of it has been handed out
    found: list[Found] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        """Whether nothing of it is under way."""
        return self.is_begun and self.pending == 0


@dataclass(slots=True)
class OpenRepository:
    """A repository that is being brought."""

    listing: StoredRepository
    destination: str
    fingerprint: str
    passes: int
    cursor: str
    noted_at: datetime | None = None  # when its row was written, as far as this run knows
    is_new: bool = False  # no run before this one can have brought anything of it
    mendable: frozenset[str] = frozenset()  # images that are here and were not whole there
    pieces: deque[Piece] = field(default_factory=deque)
    is_listed: bool = False  # there are no more pieces than those
    failure: Error | None = None
    pushed: Mapping[Digest, datetime | None] = field(init=False)

    def __post_init__(self) -> None:
        self.pushed = {digest: time_of(at) for digest, at in self.listing.manifests.items()}

    @classmethod
    def begun(
        cls, listing: StoredRepository, destination: str, fingerprint: str, known: KnownRepository | None
    ) -> OpenRepository:
        """Begin with a repository, or go on where it was left, if it is the same still."""
        if known is None:
            return cls(listing, destination, fingerprint, 1, "")
        at = known.checked_at
        is_same = known.fingerprint == fingerprint or known.is_claimed_only
        if known.state == "partial" and is_same:
            return cls(listing, destination, fingerprint, known.passes, known.cursor or "", at)
        return cls(listing, destination, fingerprint, known.passes + 1, "", at)

    def tags(self) -> Iterator[Piece]:
        """Give the pieces of its tags that are left."""
        if ":" in self.cursor:
            return
        left = [tag for tag in self.listing.tags if tag.name > self.cursor]
        for some in chunks(left, PIECE):
            yield self._piece(
                [
                    Wanted(
                        self.listing.name,
                        tag.name,
                        self.destination,
                        tag.name,
                        listing=self.listing,
                        digest=tag.digest,
                        times=Times(self.pushed, time_of(tag.tagged_at)),
                    )
                    for tag in some
                ]
            )

    def untagged(self) -> Iterator[Piece]:
        """Give the pieces of its manifests that no tag names."""
        tagged = {tag.digest for tag in self.listing.tags}
        after = self.cursor if ":" in self.cursor else ""
        left = sorted((str(d), d) for d in self.listing.manifests.keys() - tagged if str(d) > after)
        for some in chunks(left, PIECE):
            yield self._piece(
                [
                    Wanted(
                        self.listing.name,
                        text,
                        self.destination,
                        None,
                        listing=self.listing,
                        digest=digest,
                        times=Times(self.pushed),
                    )
                    for text, digest in some
                ]
            )

    def step(self, piece: Piece) -> Step:
        """Return what is to be noted of it when its first pieces up to this one are done."""
        return self._step(piece.wanted[-1].reference, piece.found, piece.unchanged)

    def last_step(self, found: Sequence[Found] = (), last: Piece | None = None) -> Step:
        """Return what is to be noted of it when all is done, with its *last* piece if that is not noted."""
        mine, unchanged = ([], []) if last is None else (last.found, last.unchanged)
        return self._step(None, [*map(Found, self.listing.defects), *found, *mine], unchanged)

    def _piece(self, wanted: Sequence[Wanted]) -> Piece:
        piece = Piece(wanted)
        self.pieces.append(piece)
        return piece

    def _step(self, cursor: str | None, found: Sequence[Found], unchanged: Sequence[str]) -> Step:
        return Step(
            self.listing.name,
            self.destination,
            self.fingerprint,
            self.passes,
            len(self.listing.tags),
            len(self.listing.manifests),
            cursor,
            tuple(found),
            tuple(unchanged),
            self.noted_at,
        )
