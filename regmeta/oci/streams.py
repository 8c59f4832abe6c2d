"""Bytes that are read once: what sources hand out and stores take in."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


class ByteStream(Protocol):
    """Bytes to be read once, from the start."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill *buffer* as far as one read goes; return how many bytes that was, 0 at the end."""


def fill(stream: ByteStream, buffer: memoryview) -> int:
    """Read until *buffer* is full or the stream has ended; return how many bytes that was."""
    total = 0
    while total < len(buffer) and (got := stream.readinto(buffer[total:])):
        total += got
    return total


def read_up_to(stream: ByteStream, limit_bytes: int) -> bytes:
    """Return small content whole. One byte more than *limit_bytes* says that there is more of it."""
    buffer = memoryview(bytearray(limit_bytes + 1))
    return bytes(buffer[: fill(stream, buffer)])


@runtime_checkable
class LinkableStream(ByteStream, Protocol):
    """Bytes of a regular file that its owner writes no more: a store may keep another name of it.

    Reading goes on from where it is; who makes a link reads all of it to verify it all the same.
    """

    @property
    def linkable_fd(self) -> int:
        """The file's descriptor, open for reading for as long as the stream is."""
