"""Bytes that are read once: what sources hand out and stores take in."""

from __future__ import annotations

from typing import Protocol


class ByteStream(Protocol):
    """Bytes to be read once, from the start."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill *buffer* as far as one read goes; return how many bytes that was, 0 at the end."""
