"""Staging folders belong to one process while it lives; records are whole; locks exclude."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from regmeta import errors
from regmeta.store import BlobStore, Staging
from regmeta.store.locks import FileLock
from tests.unit.store.objects import only_folders

HOLD = """
import sys
from regmeta.store.bucket import BucketStore
from regmeta.store.filesystem import FilesystemStore
location, root = sys.argv[1:]
staging = (BucketStore(location, root) if "://" in location else FilesystemStore(root)).open_staging()
print(staging.owner.hex, flush=True)
sys.stdin.read()
"""


def hold(location: str, root: Path) -> tuple[subprocess.Popen[str], str]:
    """Start a process that holds a staging folder; return it and the folder's name."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, location, str(root)],
        cwd=Path(__file__).parents[3],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_folder_of_a_living_process_is_not_abandoned(store: BlobStore, root: Path, location: str) -> None:
    process, owner = hold(location, root)
    try:
        with store.abandoned_stagings() as abandoned:
            assert abandoned == []
        assert (root / "staging" / owner).is_dir()
    finally:
        end(process)
    with store.abandoned_stagings() as abandoned:
        assert [found.hex for found in abandoned] == [owner]
        assert (root / "staging" / owner).is_dir()
    assert not (root / "staging" / owner).exists()


def test_own_folder_is_not_abandoned(store: BlobStore, staging: Staging) -> None:
    with store.abandoned_stagings() as abandoned:
        assert abandoned == []
    assert store.staging_exists(staging.owner)


def test_abandoned_folder_stays_when_its_rows_could_not_be_cleared(
    store: BlobStore, root: Path, location: str
) -> None:
    process, owner = hold(location, root)
    end(process)
    with pytest.raises(errors.DatabaseUnavailable), store.abandoned_stagings():
        raise errors.DatabaseUnavailable("gone")
    assert (root / "staging" / owner).is_dir()
    with store.abandoned_stagings() as abandoned:
        assert len(abandoned) == 1


def test_two_that_recover_at_once_do_not_share_a_folder(
    store: BlobStore, root: Path, location: str, another: Callable[[], BlobStore]
) -> None:
    process, _ = hold(location, root)
    end(process)
    with store.abandoned_stagings() as mine:
        other = another()
        with other.abandoned_stagings() as theirs:
            assert (len(mine), len(theirs)) == (1, 0)
        other.close()


def test_folder_that_nobody_made_is_left_alone(store: BlobStore, root: Path) -> None:
    (root / "staging" / "mine").mkdir(parents=True)
    (root / "staging" / ("A" * 32)).mkdir()
    with store.abandoned_stagings() as abandoned:
        assert abandoned == []
    assert (root / "staging" / "mine").is_dir()


def test_closed_staging_leaves_no_folder(store: BlobStore, root: Path) -> None:
    staging = store.open_staging()
    scratch = Path(staging.scratch_folder())
    (scratch / "deep").mkdir()
    (scratch / "deep" / "file").write_text("x")
    assert scratch != Path(staging.scratch_folder())
    staging.close()
    staging.close()
    assert list((root / "staging").iterdir()) == []
    assert not store.staging_exists(staging.owner)


def test_each_staging_has_a_name_of_its_own(store: BlobStore) -> None:
    stagings = [store.open_staging() for _ in range(5)]
    assert len({staging.owner for staging in stagings}) == 5
    for staging in stagings:
        staging.close()


def test_folder_that_is_looked_at_while_it_is_closed_goes_all_the_same(
    store: BlobStore, root: Path, monkeypatch: pytest.MonkeyPatch, another: Callable[[], BlobStore]
) -> None:
    """Another process recovers between the end of the lock file and that of its folder."""
    staging, other, unlink = store.open_staging(), another(), os.unlink

    def unlink_and_recover(path: str, *, dir_fd: int | None = None) -> None:
        unlink(path, dir_fd=dir_fd)
        if path == "lock":
            with monkeypatch.context() as patch:
                patch.setattr(os, "unlink", unlink)
                with other.abandoned_stagings():
                    pass

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", unlink_and_recover)
        staging.close()
    other.close()
    assert list((root / "staging").iterdir()) == []


def test_folder_that_is_removed_before_its_lock_is_taken_is_made_again(
    store: BlobStore, root: Path, monkeypatch: pytest.MonkeyPatch, another: Callable[[], BlobStore]
) -> None:
    """A recovering process may see the folder before its lock is there."""
    other, mkdir, made = another(), os.mkdir, list[str]()

    def mkdir_and_recover(path: str, *arguments: int, dir_fd: int | None = None) -> None:
        mkdir(path, *arguments, dir_fd=dir_fd)
        if path.startswith("staging/") and not made:
            made.append(path)
            with other.abandoned_stagings():
                pass

    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", mkdir_and_recover)
        staging = store.open_staging()
    assert store.staging_exists(staging.owner)
    assert [path.name for path in (root / "staging").iterdir()] == [staging.owner.hex]
    assert made != [f"staging/{staging.owner.hex}"]
    with other.abandoned_stagings() as abandoned:
        assert abandoned == []
    staging.close()
    other.close()


# --- records ----------------------------------------------------------------------------------


def test_record_comes_back_and_is_replaced_whole(store: BlobStore, staging: Staging) -> None:
    assert store.read_record("store.json") is None
    assert store.read_record("layouts/app/x") is None
    staging.write_record("store.json", b"one")
    staging.write_record("store.json", b"two")
    staging.write_record("layouts/app/x", b"three")
    assert store.read_record("store.json") == b"two"
    assert store.list_records("layouts/app") == ["layouts/app/x"]
    assert store.list_records("layouts") == store.list_records("none") == []
    assert store.list_records("store.json") == []
    store.delete_record("layouts/app/x")
    store.delete_record("layouts/app/x")
    assert store.read_record("layouts/app/x") is None


def test_exclusive_record_is_written_once(store: BlobStore, staging: Staging, root: Path) -> None:
    staging.write_record("store.json", b"one", exclusive=True)
    with pytest.raises(errors.StoreUnavailable, match=r"store\.json"):
        staging.write_record("store.json", b"two", exclusive=True)
    assert store.read_record("store.json") == b"one"
    assert [path.name for path in root.glob("staging/*/*")] == ["lock"]


@only_folders
def test_record_that_cannot_be_written_leaves_the_old_one(
    store: BlobStore, staging: Staging, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging.write_record("store.json", b"one")

    def fail(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    for name in ("write", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(errors.StoreUnavailable, match="No space"):
                staging.write_record("store.json", b"two")
        assert store.read_record("store.json") == b"one"
    assert [path.name for path in root.glob("staging/*/*")] == ["lock"]


# --- locks ------------------------------------------------------------------------------------


def test_file_lock_excludes_threads_and_says_who(tmp_path: Path) -> None:
    lock = FileLock(str(tmp_path / "lock"), 0.05)
    with lock(), pytest.raises(errors.Locked, match="by this process") as caught, lock():
        pass
    assert caught.value.exit_code == 6
    with lock():
        pass


def test_file_lock_excludes_other_holders_until_they_let_go(tmp_path: Path) -> None:
    one, two = FileLock(str(tmp_path / "lock"), 0.05), FileLock(str(tmp_path / "lock"), 0.05)
    with one(), pytest.raises(errors.Locked, match="another process"), two():
        pass
    with two():
        pass
    patient = FileLock(str(tmp_path / "lock"), 10)
    taken = threading.Event()

    def hold_for_a_while() -> None:
        with one():
            taken.set()
            threading.Event().wait(0.05)

    thread = threading.Thread(target=hold_for_a_while)
    thread.start()
    taken.wait()
    with patient():
        pass
    thread.join()


def test_file_lock_is_free_after_an_error(tmp_path: Path) -> None:
    lock = FileLock(str(tmp_path / "lock"), 0.05)
    with pytest.raises(ValueError, match="x"), lock():
        raise ValueError("x")
    with lock():
        pass
    with pytest.raises(errors.StoreUnavailable), FileLock(str(tmp_path / "none" / "lock"), 0.05)():
        pass
