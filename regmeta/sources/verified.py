"""Checks of small content that every source makes before it hands it out."""

from __future__ import annotations

from regmeta.errors import DigestMismatch, InvalidManifest, SizeMismatch
from regmeta.oci.descriptor import Descriptor


def check_limit(descriptor: Descriptor, limit_bytes: int, where: str) -> None:
    """Refuse a descriptor that says more than *limit_bytes*, before anything is opened."""
    if descriptor.size_bytes > limit_bytes:
        raise InvalidManifest(
            f"{where}: {descriptor.digest} has {descriptor.size_bytes} bytes, more than {limit_bytes}"
        )


def check_size(descriptor: Descriptor, size_bytes: int, where: str) -> None:
    """Refuse content whose size is not the one that its descriptor says."""
    if size_bytes != descriptor.size_bytes:
        raise SizeMismatch(
            f"{where}: {descriptor.digest} has {size_bytes} bytes, "
            f"and its descriptor says {descriptor.size_bytes}"
        )


def verified(descriptor: Descriptor, content: bytes, where: str) -> bytes:
    """Return *content* if it is what *descriptor* names."""
    check_size(descriptor, len(content), where)
    if not descriptor.digest.matches(content):
        raise DigestMismatch(f"{where}: the bytes of {descriptor.digest} have another digest")
    return content
