"""The bytes of a stored blob, verified while they are read (I9)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from regmeta.errors import DamagedBlob
from regmeta.oci.streams import ByteStream
from regmeta.query.tree import StoredBlob
from regmeta.store import BlobStore, ObjectMissing


class VerifiedStream:
    """Passes bytes on and raises at the end if they were not the blob's.

    Whoever reads must not use what was read before the end came without an error.
    """

    def __init__(self, stream: ByteStream, blob: StoredBlob) -> None:
        self._stream = stream
        self._blob = blob
        self._hasher = blob.digest.hasher()
        self._total = 0

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill *buffer*; return 0 at the end.

        Raises:
            DamagedBlob: the bytes do not have the blob's size and digest.
        """
        got = self._stream.readinto(buffer)
        self._total += got
        if self._total > self._blob.size_bytes:
            raise DamagedBlob(f"{self._blob.digest}: the object is longer than {self._blob.size_bytes} bytes")
        if got:
            self._hasher.update(buffer[:got])
            return got
        if self._total < self._blob.size_bytes:
            raise DamagedBlob(
                f"{self._blob.digest}: the object has {self._total} bytes, not {self._blob.size_bytes}"
            )
        if self._hasher.hexdigest() != self._blob.digest.hex:
            raise DamagedBlob(f"{self._blob.digest}: the object's bytes have another digest")
        return 0


@contextmanager
def open_blob(store: BlobStore, blob: StoredBlob) -> Iterator[VerifiedStream]:
    """Open a blob's bytes for reading. A reader that holds them is not disturbed by a collector.

    Raises:
        DamagedBlob: its row says so, or its object is gone.
        StoreUnavailable: it could not be found out.
    """
    if blob.state != "live":
        raise DamagedBlob(f"{blob.digest}: known to be damaged; importing its image again heals it")
    try:
        opened = store.open(blob.key)
        stream = opened.__enter__()
    except ObjectMissing as error:
        raise DamagedBlob(f"{blob.digest}: its object is gone ({error})") from error
    try:
        yield VerifiedStream(stream, blob)
    finally:
        opened.__exit__(None, None, None)
