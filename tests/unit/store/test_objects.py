"""Objects: verified while they come in, written once, read as they are, gone when they are deleted."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

import pytest

from regmeta import errors
from regmeta.oci.digest import Digest
from regmeta.store import BlobStore, ObjectMissing, Staging, new_key
from tests.unit.store.objects import CONTENT, DIGEST, only_folders, put, read, stage, staged_files

# --- in and out -------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"x", CONTENT, os.urandom(3_000_000)], ids=len)
def test_content_comes_back_as_it_went_in(staging: Staging, store: BlobStore, content: bytes) -> None:
    key = put(staging, content)
    assert read(store, key) == content
    assert read(store, key, 5) == content[5:]
    info = store.stat(key)
    assert info is not None
    assert (info.key, info.size_bytes) == (key, len(content))
    assert list(store.walk()) == [info]


@only_folders
def test_object_is_read_only_and_named_by_its_key(staging: Staging, root: Path) -> None:
    key = put(staging)
    path = root / "blobs" / key
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert key.startswith(f"sha256/{DIGEST.hex[:2]}/{DIGEST.hex}.")
    assert new_key(DIGEST) != new_key(DIGEST)


def test_staged_bytes_have_no_key_yet(staging: Staging, store: BlobStore, root: Path) -> None:
    staged = stage(staging)
    assert store.stat(staged.key) is None
    assert list(store.walk()) == []
    staging.discard([staged])
    assert staged_files(root) == []
    staging.discard([staged])


def test_progress_is_told_of_every_byte(staging: Staging) -> None:
    content = bytes(2_500_000)
    told: list[int] = []
    digest = Digest.of(content)
    staging.stage(new_key(digest), digest, len(content), io.BytesIO(content), told.append)
    assert sum(told) == len(content)
    assert len(told) > 1


class Endless:
    """A stream that does not end."""

    read_bytes = 0

    def readinto(self, buffer: memoryview, /) -> int:
        self.read_bytes += len(buffer)
        return len(buffer)


def test_stream_that_does_not_end_is_cut_one_byte_after_its_size(staging: Staging, root: Path) -> None:
    endless = Endless()
    with pytest.raises(errors.SizeMismatch):
        staging.stage(new_key(DIGEST), DIGEST, 1000, endless)
    assert endless.read_bytes == 1001
    assert staged_files(root) == []


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"x", b""])
def test_bytes_of_another_size_leave_nothing(staging: Staging, root: Path, content: bytes) -> None:
    with pytest.raises(errors.SizeMismatch, match=str(DIGEST)):
        staging.stage(new_key(DIGEST), DIGEST, len(CONTENT), io.BytesIO(content))
    assert staged_files(root) == []


def test_bytes_of_another_digest_leave_nothing(staging: Staging, root: Path) -> None:
    with pytest.raises(errors.DigestMismatch, match=str(DIGEST)):
        staging.stage(new_key(DIGEST), DIGEST, len(CONTENT), io.BytesIO(b"x" * len(CONTENT)))
    assert staged_files(root) == []


def test_stream_that_fails_leaves_nothing(staging: Staging, root: Path) -> None:
    class Broken:
        def readinto(self, buffer: memoryview, /) -> int:
            raise errors.InvalidSource("gone")

    with pytest.raises(errors.InvalidSource):
        staging.stage(new_key(DIGEST), DIGEST, len(CONTENT), Broken())
    assert staged_files(root) == []


def test_publish_never_overwrites_an_object(staging: Staging, store: BlobStore) -> None:
    """A key is written once (I5): a second object for it is refused, and the first one stays."""
    key = put(staging, b"first")
    second = stage(staging, b"second", key)
    with pytest.raises(errors.StoreUnavailable, match=key):
        staging.publish([second])
    assert read(store, key) == b"first"


def test_deleted_object_is_gone_and_gone_again_is_no_error(staging: Staging, store: BlobStore) -> None:
    keys = [put(staging, content) for content in (b"one", b"two")]
    store.delete(keys[:1])
    store.delete(keys[:1])
    assert store.stat(keys[0]) is None
    with pytest.raises(ObjectMissing, match=keys[0]):
        read(store, keys[0])
    assert read(store, keys[1]) == b"two"
    store.delete([])


@only_folders
def test_object_is_never_absent_where_the_folder_of_all_objects_is(
    staging: Staging, store: BlobStore, root: Path
) -> None:
    """A disk that is not mounted is an error, and nothing is written in its place (I8)."""
    key, second = put(staging, b"first"), stage(staging, b"second")
    (root / "blobs").rename(root / "elsewhere")
    for call in (
        lambda: store.stat(key),
        lambda: store.open(key).__enter__(),
        lambda: list(store.walk()),
        lambda: staging.publish([second]),
    ):
        with pytest.raises(errors.StoreUnavailable, match="blobs"):
            call()
    assert not (root / "blobs").exists()


@only_folders
def test_walk_leaves_out_what_is_no_object(staging: Staging, store: BlobStore, root: Path) -> None:
    key = put(staging, b"first")
    (root / "blobs" / key).with_name("notes.txt").write_text("mine")
    assert [found.key for found in store.walk()] == [key]
