"""Bytes: the contract of a blob store.

A store keeps *objects* under *keys*. A key is used once: written once, never overwritten and, once
deleted, never written again (design, I5). A store knows no rows and decides nothing; who asks for a
deletion has already made it true in the database.

======================  ==========================================================================
step                    durable effect
======================  ==========================================================================
``Staging.stage``       flushed bytes in the process's own staging area; nothing at the key yet
``Staging.publish``     the object at its key, durable: after a power cut it is there, whole
``BlobStore.delete``    the object is gone, durably; one that is gone already is not an error
``write_record``        a small document (identity, snapshots), durable and whole
======================  ==========================================================================

A failure to find out is never the answer "absent" (I8): ``None`` and :class:`ObjectMissing` mean that the
store said so; anything else raises :class:`~regmeta.errors.StoreUnavailable`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID, uuid4

from regmeta.errors import Error, StoreUnavailable
from regmeta.oci.digest import Digest
from regmeta.oci.streams import ByteStream

COPY_BUFFER_BYTES = 1024 * 1024  # [bytes] enough to keep hashing busy; one per copying thread


class ObjectMissing(Error):
    """The store says that there is no object of this key."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store says of one object."""

    key: str
    size_bytes: int
    modified_s: float  # [s] since the epoch, by the store's clock; decides nothing but when


@dataclass(frozen=True, slots=True)
class Staged:
    """Bytes that were verified against their digest and flushed, and have no key yet."""

    key: str
    digest: Digest
    size_bytes: int
    token: str


def new_key(digest: Digest) -> str:
    """Return a key for *digest* that was never used: only ``rebuild`` may read meaning from it."""
    return f"{digest.algorithm}/{digest.hex[:2]}/{digest.hex}.{uuid4().hex}"


def digest_of_key(key: str) -> Digest:
    """Return the digest that a key was made for. Not to be relied on: the bytes may be others.

    Raises:
        InvalidDigest: the store did not give it out.
    """
    algorithm, _, rest = key.partition("/")
    return Digest.parse(f"{algorithm}:{rest.rpartition('/')[2].partition('.')[0]}")


class Staging(Protocol):
    """The staging area of one process, held under its own lock while the process lives.

    All but :meth:`close` may be called from several threads.
    """

    @property
    def owner(self) -> UUID:
        """The process's name: intents carry it."""

    def stage(
        self,
        key: str,
        digest: Digest,
        size_bytes: int,
        stream: ByteStream,
        progress: Callable[[int], None] | None = None,
    ) -> Staged:
        """Take bytes in: hash and count them while they are written, then flush them.

        Reading stops one byte after the declared size.
        *progress* is called with the number of bytes of each step.

        Raises:
            SizeMismatch: there are more or fewer bytes than declared; nothing is left.
            DigestMismatch: they have another digest; nothing is left.
            StoreUnavailable: they could not be written; nothing is left.
        """

    def publish(self, staged: Sequence[Staged]) -> None:
        """Give each its key, durably: when this returns, all of them survive a power cut.

        Raises:
            StoreUnavailable: at least one has no key yet. Its bytes are not used again.
        """

    def write_record(self, name: str, content: bytes, *, exclusive: bool = False) -> None:
        """Write a small document, durably: a reader sees the old one or the new one, whole.

        Raises:
            StoreUnavailable: it could not be written, or *exclusive* was asked for and it is there already.
        """

    def discard(self, staged: Iterable[Staged]) -> None:
        """Remove staged bytes that were not published."""

    def scratch_folder(self) -> str:
        """Make a folder on the local file system that goes with the staging area; return its path."""

    def close(self) -> None:
        """Remove the staging area and let go of its lock."""


class LayoutWriter(Protocol):
    """Shows repositories as OCI layouts, as a convenience."""

    def update(
        self,
        repository: str,
        version: tuple[int, int],
        index: bytes,
        objects: Callable[[], Collection[tuple[Digest, str]]],
        *,
        whole: bool = False,
    ) -> list[str]:
        """Show *index* as the layout of *repository*; return what could not be done, in words.

        *objects* are asked for while no other writer is at this layout, and added; with *whole* they are
        all that there is, and others are taken away.

        Raises:
            Locked: another process works on it for too long.
        """

    def check(
        self,
        repository: str,
        index: bytes,
        objects: Collection[tuple[Digest, str]],
        damaged: Collection[Digest],
    ) -> Iterator[str]:
        """Compare what is shown with what should be; give each difference, in words. Changes nothing.

        Of what is *damaged* nothing is expected.
        """


class BlobStore(Protocol):
    """Objects under single-use keys, small records, and staging areas."""

    @property
    def location(self) -> str:
        """What messages call it."""

    @property
    def host(self) -> str:
        """Whose processes' staging areas this process can tell about: intents and runs carry it.

        Of processes with another one nothing is known; their intents expire.
        """

    @property
    def layouts(self) -> LayoutWriter | None:
        """Where repositories can be shown as OCI layouts; None where the store has no hard links."""

    def create(self) -> None:
        """Make what an empty store needs, durably. Called once, before the store's record is written.

        What is missing afterwards was not lost by us: it makes the store unavailable, not empty (I8).
        """

    def open_staging(self) -> Staging:
        """Make a staging area for this process."""

    def abandoned_stagings(self) -> AbstractContextManager[Sequence[UUID]]:
        """Hold the staging areas of processes that have ended, while rows of theirs are cleared.

        When the block is left without an error they are removed.
        """

    def staging_exists(self, owner: UUID) -> bool:
        """Tell whether *owner* still has a staging area on this store."""

    def open(self, key: str, start: int = 0) -> AbstractContextManager[ByteStream]:
        """Open an object for reading from byte *start* on.

        Raises:
            ObjectMissing: there is none.
            StoreUnavailable: the store could not tell or read.
        """

    def stat(self, key: str) -> ObjectInfo | None:
        """Return what is known of an object, None if the store says there is none."""

    def look(self, keys: Iterable[str]) -> dict[str, ObjectInfo | StoreUnavailable | None]:
        """Return what :meth:`stat` says of each key, or raises; a bucket is asked for many at once."""

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects, durably. One that is not there is no error.

        Whether they are gone is for :meth:`stat` to say: a bucket may keep what it says it has deleted.

        Raises:
            StoreUnavailable: at least one may be there still; others may be gone.
        """

    def abort_uploads(self, older_than_s: float) -> int:
        """Give up uploads that were begun so long ago [s] that nobody will finish them; return how many.

        They take room and are no objects. A store that keeps none of its own has none.

        Raises:
            StoreUnavailable: it could not be found out, or not all were given up.
        """

    def signed_url(self, key: str, lifetime_s: int) -> str | None:
        """Return a URL that anybody can read an object at for *lifetime_s*, None where there are none."""

    def walk(self) -> Iterator[ObjectInfo]:
        """List every object. An error in the middle raises: a listing is whole or it is none."""

    def settle(self) -> None:
        """Make everything that can be read now survive a power cut.

        For who takes over objects and does not know whether their writer got that far.
        """

    def read_record(self, name: str) -> bytes | None:
        """Return a small document, None if the store says there is none."""

    def list_records(self, folder: str) -> list[str]:
        """Return the names of the documents that lie in a folder, not below it."""

    def walk_records(self, folder: str) -> Iterator[str]:
        """Return the names of all documents below a folder, in no order.

        A folder that is not there is an empty one; an error in the middle raises.
        """

    def delete_record(self, name: str) -> None:
        """Remove a small document. One that is not there is no error."""

    def close(self) -> None:
        """Let go of what the store holds open."""
