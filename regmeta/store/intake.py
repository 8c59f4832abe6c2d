"""Taking bytes in: hashed and counted while they pass, cut one byte after their declared size."""

from __future__ import annotations

from collections.abc import Callable

from regmeta.errors import DigestMismatch, SizeMismatch
from regmeta.oci.digest import Digest
from regmeta.oci.streams import ByteStream
from regmeta.store import COPY_BUFFER_BYTES


def take_in(
    stream: ByteStream,
    digest: Digest,
    size_bytes: int,
    write: Callable[[memoryview], None],
    progress: Callable[[int], None] | None = None,
) -> None:
    """Pass all bytes of *stream* to *write*, and compare them with what they should be.

    Raises:
        SizeMismatch: there are more or fewer bytes than declared.
        DigestMismatch: they have another digest.
    """
    hasher = digest.hasher()
    total = 0
    limit = size_bytes + 1
    buffer = memoryview(bytearray(min(COPY_BUFFER_BYTES, limit)))
    while total < limit:
        got = stream.readinto(buffer[: limit - total])
        if not got:
            break
        total += got
        hasher.update(buffer[:got])
        write(buffer[:got])
        if progress is not None:
            progress(got)
    if total != size_bytes:
        found = "there are more" if total > size_bytes else f"there are {total}"
        raise SizeMismatch(f"{digest}: {size_bytes} bytes were announced, {found}")
    if hasher.hexdigest() != digest.hex:
        raise DigestMismatch(f"{digest}: the bytes have the digest {digest.algorithm}:{hasher.hexdigest()}")


def read_through(
    stream: ByteStream, digest: Digest, size_bytes: int, progress: Callable[[int], None] | None = None
) -> None:
    """Read what is in its place already to its end, and compare it with what it should be.

    Raises:
        SizeMismatch, DigestMismatch: see :func:`take_in`.
    """
    take_in(stream, digest, size_bytes, _drop, progress)


def _drop(_: memoryview) -> None:
    """Keep nothing."""
