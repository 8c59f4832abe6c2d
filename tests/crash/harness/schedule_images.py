"""The images of the schedules, and where exports of them go to be compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import TracebackType
from typing import Final

from regmeta.oci.digest import Digest
from regmeta.oci.streams import ByteStream
from tests.builders import AMD64, ARM64, Json, LayoutBuilder, tar_layer

LAYOUT: Final = "schedules"
BUILDER: Final = LayoutBuilder(seed=14)


def _images() -> tuple[Json, ...]:
    """Images that share layers in every way; an index of two of them; a referrer."""
    base, one, two = (BUILDER.layer(tar_layer(content)) for content in (b"base", b"one", b"two"))
    first = BUILDER.image([base, one], platform=AMD64)
    second = BUILDER.image([base, two], platform=ARM64)
    return (
        first,
        second,
        BUILDER.image([one, two]),
        BUILDER.index([first, second]),
        BUILDER.artifact(b"signature", "application/vnd.example.sig", first),
    )


IMAGES: Final = _images()


def tree(root: str) -> set[str]:
    """Return the digests of all that an image consists of."""
    document = json.loads(BUILDER.blobs[root])
    found = {root}
    for child in document.get("manifests", ()):
        found |= tree(child["digest"])
    found |= {part["digest"] for part in (document.get("config"), *document.get("layers", ())) if part}
    return found


class MemoryExport:
    """An export that is kept in memory."""

    def __init__(self) -> None:
        self.found: dict[str, bytes] = {}
        self.index = b""

    def __enter__(self) -> MemoryExport:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def add(
        self,
        digest: Digest,
        size_bytes: int,
        stream: ByteStream,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        content = bytearray()
        buffer = memoryview(bytearray(65536))
        while got := stream.readinto(buffer):
            content += buffer[:got]
        self.found[str(digest)] = bytes(content)

    def finish(self, index: bytes) -> None:
        self.index = index
