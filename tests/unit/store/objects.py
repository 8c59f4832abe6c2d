"""Objects of tests: staged, published and read back."""

from __future__ import annotations

import io
from pathlib import Path
from uuid import UUID

import pytest

from regmeta.oci.digest import Digest
from regmeta.store import BlobStore, Staged, Staging, new_key

CONTENT = b"some content" * 1000
DIGEST = Digest.of(CONTENT)
OWNER = UUID(int=1)

only_folders = pytest.mark.parametrize("store_kind", ["filesystem"], indirect=True)
"""For what only a store in a folder has."""


def stage(staging: Staging, content: bytes = CONTENT, key: str | None = None) -> Staged:
    digest = Digest.of(content)
    return staging.stage(key or new_key(digest), digest, len(content), io.BytesIO(content))


def put(staging: Staging, content: bytes = CONTENT) -> str:
    staged = stage(staging, content)
    staging.publish([staged])
    return staged.key


def read(store: BlobStore, key: str, start: int = 0) -> bytes:
    content, buffer = bytearray(), memoryview(bytearray(999))
    with store.open(key, start) as stream:
        while got := stream.readinto(buffer):
            content += buffer[:got]
    return bytes(content)


def staged_files(root: Path) -> list[str]:
    return [path.name for path in root.glob("staging/*/*") if path.name != "lock"]
