"""Live rows against a listing, both in the order of keys: in bounded memory, however many there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from regmeta.db import Database
from regmeta.errors import IntegrityError, StoreUnavailable
from regmeta.maintain.verify.pages import digest_of, pages, raw, shown
from regmeta.models import Blob
from regmeta.oci.digest import Digest
from regmeta.store import BlobStore, ObjectInfo
from regmeta.store.paths import is_key

_BLOBS: Final = sa.select(Blob.key, Blob.id, raw(Blob.digest), Blob.size_bytes, Blob.state)


@dataclass(frozen=True, slots=True)
class Wanted:
    """An object that a live row names."""

    key: str
    row_id: int
    digest: Digest
    size_bytes: int


@dataclass(slots=True)
class Compared:
    """What a comparison has seen so far."""

    live: int = 0  # rows
    live_bytes: int = 0
    missing: int = 0
    not_live: int = 0  # objects that no live row names; only so many as were passed


def missing(
    database: Database, store: BlobStore, seen: Compared, advanced: Callable[[int], None]
) -> Iterator[Wanted]:
    """Give what live rows name and *store* does not list. *advanced* is told how many rows were looked at.

    Raises:
        IntegrityError: an object has another size there, or a row cannot be read.
        StoreUnavailable: the listing failed, or is in no order.
    """
    listing = _Listing(store, seen)
    for rows in pages(database, _BLOBS, Blob.key):
        for row in rows:
            if row.state != "live":
                continue
            wanted = _wanted(database, row)
            seen.live += 1
            seen.live_bytes += wanted.size_bytes
            info = listing.find(wanted.key)
            if info is None:
                seen.missing += 1
                yield wanted
            elif info.size_bytes != wanted.size_bytes:
                raise IntegrityError(
                    f"{store.location}: {wanted.key} has {info.size_bytes} bytes, not {wanted.size_bytes}:"
                    " something has changed it; empty that store and begin again"
                )
        advanced(len(rows))
    listing.finish()


def _wanted(database: Database, row: Any) -> Wanted:
    digest = digest_of(row.digest)
    is_size = isinstance(row.size_bytes, int) and row.size_bytes >= 0
    if digest is None or not is_size or not is_key(str(row.key)):
        raise IntegrityError(
            f"{database.location}: the row {row.id} of blob {shown(row.digest)} cannot be:"
            " see 'regmeta verify'"
        )
    return Wanted(row.key, row.id, digest, row.size_bytes)


class _Listing:
    """A listing that is read as far as it is asked for."""

    def __init__(self, store: BlobStore, seen: Compared) -> None:
        self._store = store
        self._walk = store.walk()
        self._seen = seen
        self._here = next(self._walk, None)

    def find(self, key: str) -> ObjectInfo | None:
        """Return what is listed under *key*; keys are asked for in their order."""
        while self._here is not None and self._here.key < key:
            self._seen.not_live += 1
            self._advance()
        found = self._here
        if found is None or found.key != key:
            return None
        self._advance()
        return found

    def finish(self) -> None:
        """Read the rest."""
        while self._here is not None:
            self._seen.not_live += 1
            self._advance()

    def _advance(self) -> None:
        before = self._here
        self._here = next(self._walk, None)
        if before is not None and self._here is not None and self._here.key <= before.key:
            # S3 promises the order of names, all but its directory buckets.
            raise StoreUnavailable(f"{self._store.location} lists its objects in no order of their names")
