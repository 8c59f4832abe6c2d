"""What the disk refuses is an error: nothing is left half, and nothing is read as absent (I8)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from regmeta import errors
from regmeta.store import Staging
from regmeta.store.filesystem import FilesystemStore
from tests.unit.store.objects import CONTENT, OWNER, put, read, stage, staged_files


@pytest.fixture
def store_kind() -> str:
    """These are about files."""
    return "filesystem"


def failing(monkeypatch: pytest.MonkeyPatch, name: str, error: OSError, when: Callable[[Any], bool]) -> None:
    """Let a function of ``os`` fail for some of its first arguments."""
    original = getattr(os, name)

    def call(first: Any, *others: Any, **options: Any) -> Any:
        if when(first):
            raise error
        return original(first, *others, **options)

    monkeypatch.setattr(os, name, call)


def is_staged(fd: Any) -> bool:
    return isinstance(fd, int) and "/staging/" in os.readlink(f"/proc/self/fd/{fd}")


NO_SPACE = OSError(28, "No space left on device")
BROKEN = OSError(5, "Input/output error")


@pytest.mark.parametrize(("name", "error"), [("write", NO_SPACE), ("fsync", BROKEN), ("fsync", NO_SPACE)])
def test_write_that_fails_leaves_nothing_staged(
    staging: Staging, root: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: OSError
) -> None:
    with monkeypatch.context() as patch:
        failing(patch, name, error, is_staged)
        with pytest.raises(errors.StoreUnavailable, match=str(error.strerror)) as caught:
            stage(staging)
        assert caught.value.exit_code == 5
    assert staged_files(root) == []
    put(staging)


def test_write_that_takes_less_goes_on(
    staging: Staging, store: FilesystemStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: write(fd, data[:1000] if is_staged(fd) else data))
        key = put(staging)
    assert read(store, key) == CONTENT


@pytest.mark.parametrize("name", ["rename", "link", "fsync"])
def test_publish_that_fails_raises(
    staging: Staging, root: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    staged = stage(staging)
    calls: list[Any] = []

    def always(first: Any) -> bool:
        calls.append(first)
        return True

    with monkeypatch.context() as patch:
        failing(patch, name, BROKEN, always)
        if name == "fsync":
            with pytest.raises(errors.StoreUnavailable, match="Input/output"):
                staging.publish([staged])
            return
        try:
            staging.publish([staged])
        except errors.StoreUnavailable:
            assert not any((root / "blobs").rglob("*.*"))
        else:  # it uses the other of the two
            assert calls == []


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("stat", lambda store, key: store.stat(key)),
        ("stat", lambda store, key: list(store.walk())),
        ("listdir", lambda store, key: list(store.walk())),
        ("open", lambda store, key: list(store.walk())),
        ("open", lambda store, key: store.open(key).__enter__()),
        ("open", lambda store, key: store.read_record("store.json")),
        ("open", lambda store, key: store.list_records("layouts/app")),
        ("stat", lambda store, key: store.staging_exists(OWNER)),
        ("unlink", lambda store, key: store.delete([key])),
        ("unlink", lambda store, key: store.delete_record("store.json")),
        ("fsync", lambda store, key: store.delete([key])),
    ],
)
@pytest.mark.parametrize("error", [BROKEN, PermissionError(13, "Permission denied")], ids=["EIO", "EACCES"])
def test_disk_that_fails_is_never_read_as_absent(
    staging: Staging,
    store: FilesystemStore,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    call: Callable[[FilesystemStore, str], object],
    error: OSError,
) -> None:
    """I8: what could not be found out is an error."""
    key = put(staging)
    staging.write_record("store.json", b"{}")
    with monkeypatch.context() as patch:
        failing(patch, name, error, lambda _: True)
        with pytest.raises(errors.StoreUnavailable):
            call(store, key)


def test_walk_that_fails_in_the_middle_raises(
    staging: Staging, store: FilesystemStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        put(staging, str(number).encode())
    listed = 0
    original = os.listdir

    def listdir(path: Any = ".") -> list[str]:
        nonlocal listed
        listed += 1
        if listed == 8:
            raise BROKEN
        return original(path)

    monkeypatch.setattr(os, "listdir", listdir)
    with pytest.raises(errors.StoreUnavailable):
        list(store.walk())
    assert listed == 8


def test_folder_that_vanishes_while_it_is_walked_raises(
    staging: Staging, store: FilesystemStore, root: Path
) -> None:
    put(staging, b"one")
    put(staging, b"two")
    walk = store.walk()
    next(walk)
    (root / "blobs").rename(root / "elsewhere")
    with pytest.raises(errors.StoreUnavailable):
        list(walk)


def test_object_that_is_not_a_file_is_an_error(staging: Staging, store: FilesystemStore, root: Path) -> None:
    key = put(staging)
    path = root / "blobs" / key
    path.unlink()
    path.mkdir()
    with pytest.raises(errors.StoreUnavailable, match="not a regular file"):
        store.stat(key)
    path.rmdir()
    path.symlink_to("/etc/passwd")
    with pytest.raises(errors.StoreUnavailable):
        store.stat(key)
    with pytest.raises(errors.StoreUnavailable):
        read(store, key)


def test_store_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(errors.StoreUnavailable, match="none"):
        FilesystemStore(str(tmp_path / "none"))
    (tmp_path / "file").touch()
    with pytest.raises(errors.StoreUnavailable, match="file"):
        FilesystemStore(str(tmp_path / "file"))
