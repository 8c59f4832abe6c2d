"""Which object stands for a digest, and its bytes, verified."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import sqlalchemy as sa

from regmeta.db import Database
from regmeta.ingest.adopt import named_keys
from regmeta.ingest.reserve import chunks
from regmeta.maintain.rebuild.listing import Copy, ObjectMap
from regmeta.models import Blob
from regmeta.oci.digest import Digest
from regmeta.oci.streams import read_up_to
from regmeta.store import COPY_BUFFER_BYTES, BlobStore, ObjectMissing

_ROWS: Final = sa.select(Blob.digest, Blob.key, Blob.size_bytes, Blob.state).where(
    Blob.digest.in_(sa.bindparam("digests", expanding=True))
)


class Objects:
    """Chooses among the copies of a digest that a store lists, and the one that a row names."""

    def __init__(self, store: BlobStore, listed: ObjectMap) -> None:
        self._store = store
        self._listed = listed
        self._rows: dict[Digest, Copy | None] = {}  # None: the row says damaged
        self._dead: set[str] = set()
        self._chosen: dict[Digest, str | None] = {}  # where it is not the only copy; None: no copy verifies

    def learn(self, database: Database, digests: Collection[Digest]) -> None:
        """Ask the rows: a blob that has one keeps its object, and no named key is adopted."""
        with database.read() as connection:
            for some in chunks(sorted(digests)):
                for row in connection.execute(_ROWS, {"digests": some}):
                    live = row.state == "live"
                    self._rows[row.digest] = Copy(row.key, row.size_bytes) if live else None
            unknown = [digest for digest in digests if digest not in self._rows]
            keys = [copy.key for digest in unknown for copy in self._listed.copies(digest)]
            self._dead |= named_keys(connection, keys)

    def choose(self, digest: Digest, size_bytes: int, *, hashed: bool = False) -> str | None:
        """Return the key of an object of the right size; of several, or if *hashed*, of one that verifies.

        None: there is none, and nobody could tell one (the store was asked twice).

        Raises:
            StoreUnavailable: it could not be found out.
        """
        if digest in self._chosen:
            return self._chosen[digest]
        copies = self._copies(digest, size_bytes)
        if not copies or (len(copies) == 1 and not hashed):
            return copies[0].key if copies else None
        sound = (copy.key for copy in copies if self._verifies(copy.key, digest, size_bytes))
        self._chosen[digest] = next(sound, None)
        return self._chosen[digest]

    def read(self, digest: Digest, size_bytes: int) -> bytes | None:
        """Return the bytes of a copy that verifies, None if there is none; :meth:`choose` then says the same.

        Raises:
            StoreUnavailable: it could not be found out.
        """
        copies = self._copies(digest, size_bytes)
        for copy in copies:
            content = self._content(copy.key, size_bytes)
            if content is not None and digest.matches(content):
                if len(copies) > 1:
                    self._chosen[digest] = copy.key
                return content
        self._chosen[digest] = None
        return None

    def why_not(self, digest: Digest, size_bytes: int) -> str:
        """Say why there is no object for a digest."""
        if digest in self._rows and self._rows[digest] is None:
            return "its row says that its bytes are damaged"
        copies = [copy for copy in self._listed.copies(digest) if copy.key not in self._dead]
        if not copies:
            return "the store holds no object of it"
        if all(copy.size_bytes != size_bytes for copy in copies):
            return f"its object has {copies[0].size_bytes} bytes, not {size_bytes}"
        return "its object's bytes have another digest"

    def _copies(self, digest: Digest, size_bytes: int) -> list[Copy]:
        if digest in self._rows:
            of_row = self._rows[digest]
            return [of_row] if of_row is not None and of_row.size_bytes == size_bytes else []
        found = self._usable(digest, size_bytes)
        if not found and self._listed.ask_again():
            found = self._usable(digest, size_bytes)
        return found

    def _usable(self, digest: Digest, size_bytes: int) -> list[Copy]:
        return [
            copy
            for copy in self._listed.copies(digest)
            if copy.size_bytes == size_bytes and copy.key not in self._dead
        ]

    def _content(self, key: str, size_bytes: int) -> bytes | None:
        try:
            with self._store.open(key) as stream:
                content = read_up_to(stream, size_bytes)
        except ObjectMissing:
            return None
        return content if len(content) == size_bytes else None

    def _verifies(self, key: str, digest: Digest, size_bytes: int) -> bool:
        hasher, total = digest.hasher(), 0
        buffer = memoryview(bytearray(min(COPY_BUFFER_BYTES, size_bytes + 1)))
        try:
            with self._store.open(key) as stream:
                while got := stream.readinto(buffer):
                    total += got
                    hasher.update(buffer[:got])
        except ObjectMissing:
            return False
        return total == size_bytes and hasher.hexdigest() == digest.hex
