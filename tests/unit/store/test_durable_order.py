"""What is flushed before what: a name never shows bytes that a power cut could take away."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from regmeta.oci.digest import Digest
from regmeta.store import Staging, new_key
from regmeta.store.filesystem import FilesystemStore
from tests.support.file_calls import FileCalls

STAGED = r"staging/[0-9a-f]{32}/\d+"


@pytest.fixture
def store_kind() -> str:
    """These are about files."""
    return "filesystem"


@pytest.fixture
def calls(staging: Staging, root: Path, monkeypatch: pytest.MonkeyPatch) -> FileCalls:
    """What the store does from now on."""
    return FileCalls(monkeypatch, str(root))


def publish(staging: Staging, *contents: bytes) -> list[str]:
    staged = []
    for content in contents:
        digest = Digest.of(content)
        staged.append(staging.stage(new_key(digest), digest, len(content), io.BytesIO(content)))
    staging.publish(staged)
    return [item.key for item in staged]


def named(calls: FileCalls, target: str) -> int:
    """Return when *target* got its name."""
    found = [i for name in ("rename", "link") for i in calls.positions(name, STAGED, target)]
    assert len(found) == 1
    return found[0]


def test_object_is_flushed_then_named_then_its_folder_is_flushed(staging: Staging, calls: FileCalls) -> None:
    [key] = publish(staging, b"one")
    folder = key.rpartition("/")[0]
    written = calls.position("fsync", STAGED)
    name = named(calls, f"blobs/{key}")
    assert calls.calls[name][1] == calls.calls[written][1]
    flushed = [i for i in calls.positions("fsync", f"blobs/{folder}") if i > name]
    assert written < name
    assert len(flushed) == 1


def test_new_folders_are_made_durable_before_an_object_is_named(staging: Staging, calls: FileCalls) -> None:
    [key] = publish(staging, b"one")
    algorithm, prefix, _ = key.split("/")
    name = named(calls, f"blobs/{key}")
    for made, parent in (
        (f"blobs/{algorithm}", "blobs"),
        (f"blobs/{algorithm}/{prefix}", f"blobs/{algorithm}"),
    ):
        made_at = calls.position("mkdir", made)
        assert any(made_at < i < name for i in calls.positions("fsync", parent))


def test_folder_of_all_objects_is_made_durable_with_the_store(
    store: FilesystemStore, calls: FileCalls, root: Path
) -> None:
    (root / "blobs").rmdir()
    other = FilesystemStore(str(root))
    other.create()
    other.close()
    assert calls.position("mkdir", "blobs") < calls.position("fsync", r"\.")


def test_folder_that_another_process_made_is_flushed_as_well(
    staging: Staging, calls: FileCalls, root: Path
) -> None:
    """Whoever made it may have been stopped before it was durable."""
    digest = Digest.of(b"one")
    (root / "blobs" / "sha256" / digest.hex[:2]).mkdir(parents=True)
    calls.calls.clear()
    [key] = publish(staging, b"one")
    name = named(calls, f"blobs/{key}")
    for parent in ("blobs", "blobs/sha256"):
        assert any(i < name for i in calls.positions("fsync", parent))


def test_each_folder_is_flushed_once_for_many_objects(staging: Staging, calls: FileCalls) -> None:
    keys = publish(staging, *(bytes([number]) for number in range(40)))
    assert len(calls.positions("fsync", STAGED)) == 40
    last = max(named(calls, f"blobs/{key}") for key in keys)
    for folder in {key.rpartition("/")[0] for key in keys}:
        assert len([i for i in calls.positions("fsync", f"blobs/{folder}") if i > last]) == 1


def test_record_is_flushed_then_named_then_its_folder_is_flushed(staging: Staging, calls: FileCalls) -> None:
    staging.write_record("layouts/app/x", b"one")
    written = calls.position("fsync", STAGED)
    name = named(calls, "layouts/app/x")
    assert written < name < max(calls.positions("fsync", "layouts/app"))
    calls.calls.clear()
    staging.write_record("store.json", b"one", exclusive=True)
    assert calls.position("fsync", STAGED) < named(calls, "store.json") < calls.position("fsync", r"\.")


def test_deleted_object_is_gone_durably(staging: Staging, store: FilesystemStore, calls: FileCalls) -> None:
    [key] = publish(staging, b"one")
    calls.calls.clear()
    store.delete([key])
    gone = calls.position("unlink", f"blobs/{key}")
    assert calls.position("fsync", f"blobs/{key.rpartition('/')[0]}") > gone
