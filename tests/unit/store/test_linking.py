"""A file that is there already becomes an object without a copy, and nothing of the old file changes."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from regmeta import errors, metrics
from regmeta.failpoints import armed
from regmeta.oci.digest import Digest
from regmeta.store import COPY_BUFFER_BYTES, BlobStore, Staged, Staging, new_key
from regmeta.store.filesystem import FilesystemStore
from regmeta.store.linking import READINGS, may_link
from tests.crash.harness import mounts
from tests.crash.harness.children import run_child
from tests.support.file_calls import FileCalls
from tests.unit.store.objects import CONTENT, DIGEST, read, staged_files

LONG = b"0123456789abcdef" * (COPY_BUFFER_BYTES // 16 * 2)  # read in two pieces
IOCTL = fcntl.ioctl


class OldFile:
    """A file of an old registry, as a reader of it hands it out."""

    def __init__(self, path: Path) -> None:
        self.linkable_fd = os.open(path, os.O_RDONLY)

    def readinto(self, buffer: memoryview, /) -> int:
        return os.readv(self.linkable_fd, [buffer])


@pytest.fixture
def store_kind(request: pytest.FixtureRequest) -> str:
    """These are about files."""
    return str(getattr(request, "param", "filesystem"))


@pytest.fixture(autouse=True)
def without_clones(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Whatever file system tests run on makes no clones; says how often one was asked for."""
    asked: list[int] = []

    def refuse(fd: int, request: int, *rest: Any) -> Any:
        if request != 0x40049409:
            return IOCTL(fd, request, *rest)
        asked.append(fd)
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(fcntl, "ioctl", refuse)
    return asked


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A blob of an old registry, of some time ago."""
    return old_file(tmp_path / "old")


def old_file(path: Path, content: bytes = CONTENT, mode: int = 0o644) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    os.utime(path, (1_500_000_000, 1_500_000_000))
    return path


def stage(
    staging: Staging,
    path: Path,
    digest: Digest = DIGEST,
    size_bytes: int = len(CONTENT),
    progress: Callable[[int], None] | None = None,
) -> Staged:
    with opened(path) as stream:
        return staging.stage(new_key(digest), digest, size_bytes, stream, progress)


@contextmanager
def opened(path: Path) -> Iterator[OldFile]:
    stream = OldFile(path)
    try:
        yield stream
    finally:
        os.close(stream.linkable_fd)


def put(staging: Staging, root: Path, path: Path) -> Path:
    staged = stage(staging, path)
    staging.publish([staged])
    return root / "blobs" / staged.key


def facts(path: Path) -> tuple[bytes, int, int, int, int, int]:
    found = path.stat()
    return path.read_bytes(), found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns, found.st_nlink


def is_copied(object_path: Path, source: Path) -> bool:
    found = object_path.stat()
    return found.st_nlink == 1 and not os.path.samestat(found, source.stat())


def test_object_is_one_more_name_of_the_old_file(
    staging: Staging, store: BlobStore, root: Path, old: Path
) -> None:
    content, mode, owner, group, modified, _ = facts(old)
    linked, got = metrics.LINKED_BYTES.value(), list[int]()
    staged = stage(staging, old, progress=got.append)
    assert staged_files(root) == [staged.token]
    staging.publish([staged])
    object_path = root / "blobs" / staged.key
    assert os.path.samefile(object_path, old)
    assert facts(old) == (content, mode, owner, group, modified, 2)
    assert read(store, staged.key) == CONTENT
    assert staged_files(root) == []
    assert sum(got) == len(CONTENT)
    assert metrics.LINKED_BYTES.value() - linked == len(CONTENT)


def test_whole_file_is_taken_wherever_its_stream_stands(staging: Staging, root: Path, old: Path) -> None:
    with opened(old) as stream:
        os.lseek(stream.linkable_fd, 100, os.SEEK_SET)
        staged = staging.stage(new_key(DIGEST), DIGEST, len(CONTENT), stream)
        assert os.lseek(stream.linkable_fd, 0, os.SEEK_CUR) == 100
    staging.publish([staged])
    assert os.path.samefile(root / "blobs" / staged.key, old)


def test_empty_file_is_linked(staging: Staging, tmp_path: Path) -> None:
    path = old_file(tmp_path / "empty", b"")
    stage(staging, path, Digest.of(b""), 0)
    assert path.stat().st_nlink == 2


def test_each_lives_on_without_the_other(
    staging: Staging, store: BlobStore, root: Path, tmp_path: Path, old: Path
) -> None:
    other = old_file(tmp_path / "other")
    kept, deleted = put(staging, root, old), put(staging, root, other)
    old.unlink()
    assert kept.read_bytes() == CONTENT
    store.delete([str(deleted.relative_to(root / "blobs"))])
    assert facts(other)[0] == CONTENT
    assert facts(other)[5] == 1


def test_what_is_discarded_leaves_the_old_file(staging: Staging, root: Path, old: Path) -> None:
    before = facts(old)
    staging.discard([stage(staging, old)])
    stage(staging, old)  # not published
    staging.close()
    assert staged_files(root) == []
    assert facts(old) == before


def test_publishing_the_same_file_twice_makes_two_objects(staging: Staging, root: Path, old: Path) -> None:
    first, second = put(staging, root, old), put(staging, root, old)
    first.unlink()
    assert second.read_bytes() == CONTENT
    assert old.stat().st_nlink == 2


# --- what is wrong with the file --------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "size_bytes", "error"),
    [
        (b"X" + CONTENT[1:], len(CONTENT), errors.DigestMismatch),
        (CONTENT + b"more", len(CONTENT), errors.SizeMismatch),
        (CONTENT, len(CONTENT) + 1, errors.SizeMismatch),
        (b"", len(CONTENT), errors.SizeMismatch),
    ],
    ids=["damaged", "longer", "shorter", "empty"],
)
def test_file_that_is_not_what_it_should_be_is_refused(
    staging: Staging, root: Path, tmp_path: Path, content: bytes, size_bytes: int, error: type[errors.Error]
) -> None:
    path = old_file(tmp_path / "bad", content)
    before = facts(path)
    with pytest.raises(error, match=str(DIGEST)):
        stage(staging, path, size_bytes=size_bytes)
    assert staged_files(root) == []
    assert facts(path) == before


def changing(path: Path, change: Callable[[], object], times: int = 99) -> Callable[[int], None]:
    """Return a progress that lets *change* happen while *path* is read: once in each reading."""
    left = times

    def advanced(_: int) -> None:
        nonlocal left
        time.sleep(0.02)  # file times stand still for some milliseconds
        if left > 0:
            left -= 1
            change()

    return advanced


def test_file_that_grows_while_it_is_read_is_refused(staging: Staging, root: Path, tmp_path: Path) -> None:
    path = old_file(tmp_path / "long", LONG)

    def grow() -> None:
        with path.open("ab") as file:
            file.write(b"x")

    with pytest.raises(errors.InvalidSource, match="written while it was read"):
        stage(staging, path, Digest.of(LONG), len(LONG), changing(path, grow))
    assert staged_files(root) == []
    assert path.stat().st_nlink == 1


def test_file_that_is_overwritten_behind_the_reader_is_refused(
    staging: Staging, root: Path, tmp_path: Path
) -> None:
    """Also when who wrote it sets its time back."""
    path = old_file(tmp_path / "long", LONG)

    def overwrite() -> None:
        with path.open("r+b") as file:
            file.write(b"X")
        os.utime(path, (1_500_000_000, 1_500_000_000))

    with pytest.raises(errors.DigestMismatch):
        stage(staging, path, Digest.of(LONG), len(LONG), changing(path, overwrite, times=1))
    assert staged_files(root) == []
    assert path.stat().st_nlink == 1


def test_file_that_gets_another_link_while_it_is_read_is_read_again(
    staging: Staging, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """zot does so when another repository pushes the same blob, and sets the file's time."""
    path = old_file(tmp_path / "long", LONG)
    names, got = iter(range(99)), list[int]()

    def link() -> None:
        os.link(path, tmp_path / f"link-{next(names)}")
        os.utime(path)

    change = changing(path, link, times=1)

    def advanced(size_bytes: int) -> None:
        got.append(size_bytes)
        change(size_bytes)

    staged = stage(staging, path, Digest.of(LONG), len(LONG), advanced)
    assert path.stat().st_nlink == 3
    assert sum(got) == len(LONG)
    staging.discard([staged])


def test_file_that_does_not_keep_still_is_copied(staging: Staging, root: Path, tmp_path: Path) -> None:
    path = old_file(tmp_path / "long", LONG)
    names, pieces = iter(range(99)), list[int]()

    def link() -> None:
        os.link(path, tmp_path / f"link-{next(names)}")

    change = changing(path, link)

    def advanced(size_bytes: int) -> None:
        pieces.append(size_bytes)
        change(size_bytes)

    staged = stage(staging, path, Digest.of(LONG), len(LONG), advanced)
    assert len(pieces) == 2 * (READINGS + 1)
    assert sum(pieces) == len(LONG)
    assert path.stat().st_nlink == 1 + len(pieces)  # those of others
    assert staged_files(root) == [staged.token]


def test_file_that_cannot_be_read_is_a_fault_of_the_source(
    staging: Staging, root: Path, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(errors.InvalidSource, match="Input/output"):
        stage(staging, old)
    assert staged_files(root) == []
    assert old.stat().st_nlink == 1


# --- what is copied ---------------------------------------------------------------------------


def test_file_of_another_file_system_is_copied(staging: Staging, root: Path, tmp_path: Path) -> None:
    if not os.path.isdir("/dev/shm") or os.stat("/dev/shm").st_dev == tmp_path.stat().st_dev:
        pytest.skip("no other file system")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = old_file(Path(folder, "old"))
        assert is_copied(put(staging, root, path), path)


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o4644, 0o2644, 0o1644], ids=oct)
def test_file_that_others_may_write_or_that_is_special_is_copied(
    staging: Staging, root: Path, old: Path, mode: int
) -> None:
    old.chmod(mode)
    before = facts(old)
    assert is_copied(put(staging, root, old), old)
    assert facts(old) == before


def test_file_without_a_name_is_copied(staging: Staging, store: BlobStore, root: Path, old: Path) -> None:
    with opened(old) as stream:
        old.unlink()
        staged = staging.stage(new_key(DIGEST), DIGEST, len(CONTENT), stream)
    staging.publish([staged])
    assert read(store, staged.key) == CONTENT


@pytest.mark.parametrize("number", ["EXDEV", "EPERM", "EMLINK", "ENOENT", "EACCES", "EOPNOTSUPP"])
def test_file_that_the_system_does_not_link_is_copied(
    staging: Staging, root: Path, old: Path, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    fail_link(monkeypatch, number)
    got = list[int]()
    staged = stage(staging, old, progress=got.append)
    staging.publish([staged])
    assert is_copied(root / "blobs" / staged.key, old)
    assert sum(got) == len(CONTENT)


@pytest.mark.parametrize("number", ["EIO", "ENOSPC", "EROFS"])
def test_disk_that_fails_is_an_error_and_no_reason_to_copy(
    staging: Staging, root: Path, old: Path, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    fail_link(monkeypatch, number)
    with pytest.raises(errors.StoreUnavailable):
        stage(staging, old)
    assert staged_files(root) == []


def fail_link(monkeypatch: pytest.MonkeyPatch, number: str) -> None:
    def fail(*_: object, **__: object) -> None:
        code = getattr(errno, number)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", fail)


def test_file_that_is_not_flushed_is_not_staged(
    staging: Staging, root: Path, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(errors.StoreUnavailable, match="Input/output"):
            stage(staging, old)
    assert staged_files(root) == []
    assert old.stat().st_nlink == 1


# --- who may write an object ------------------------------------------------------------------

ROOT, SERVICE, REGISTRY, ADOPTER = 0, 100, 200, 300


def status(mode: int, owner: int) -> os.stat_result:
    return os.stat_result((mode, 1, 1, 1, owner, 0, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("owner", "mode", "folder_mode", "is_linked"),
    [
        (SERVICE, 0o644, 0o700, True),
        (SERVICE, 0o600, 0o700, True),  # zot's
        (SERVICE, 0o600, 0o750, False),  # the group reads other objects
        (SERVICE, 0o200, 0o700, False),
        (SERVICE, 0o444, 0o755, True),
        (ROOT, 0o644, 0o700, True),
        (ROOT, 0o600, 0o700, False),  # the service could not read it
        (ROOT, 0o640, 0o700, False),
        (ADOPTER, 0o644, 0o700, True),
        (ADOPTER, 0o600, 0o700, False),
        (REGISTRY, 0o644, 0o700, False),  # the old registry's user could write the object
        (REGISTRY, 0o444, 0o700, False),
        (SERVICE, 0o664, 0o700, False),
        (SERVICE, 0o646, 0o700, False),
        (SERVICE, 0o4644, 0o700, False),
    ],
)
def test_file_is_linked_if_that_gives_nobody_more_power(
    owner: int, mode: int, folder_mode: int, is_linked: bool
) -> None:
    folder = status(stat.S_IFDIR | folder_mode, SERVICE)
    assert may_link(status(stat.S_IFREG | mode, owner), folder, ADOPTER) is is_linked


def test_what_is_no_file_is_never_linked() -> None:
    folder = status(stat.S_IFDIR | 0o700, ROOT)
    for kind in (stat.S_IFDIR, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFLNK, stat.S_IFSOCK):
        assert not may_link(status(kind | 0o444, ROOT), folder, ROOT)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")


@needs_root
def test_file_of_another_user_is_copied(staging: Staging, root: Path, old: Path) -> None:
    os.chown(old, REGISTRY, REGISTRY)
    before = facts(old)
    assert is_copied(put(staging, root, old), old)
    assert facts(old) == before


@needs_root
def test_file_of_the_owner_of_the_store_is_linked_by_root(staging: Staging, root: Path, old: Path) -> None:
    root.chmod(0o700)
    for path in (root, old):
        os.chown(path, SERVICE, SERVICE)
    old.chmod(0o600)
    assert os.path.samefile(put(staging, root, old), old)


@needs_root
def test_user_links_files_of_his_own_and_copies_those_of_root() -> None:
    """The kernel lets nobody link a file that he could not write (protected_hardlinks)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        theirs, mine = old_file(folder / "theirs"), old_file(folder / "mine", mode=0o600)
        (folder / "store").mkdir(mode=0o700)
        for path in (folder, folder / "store", mine):
            os.chown(path, SERVICE, SERVICE)

        def attempt(acknowledge: Callable[..., None]) -> None:
            os.setgroups([])
            os.setgid(SERVICE)
            os.setuid(SERVICE)
            with opened_store(folder / "store") as staging:
                for path in (theirs, mine):
                    made = put(staging, folder / "store", path)
                    how = "linked" if os.path.samefile(made, path) else "copied"
                    acknowledge(path.name, how if made.read_bytes() == CONTENT else "wrong")

        outcome = run_child(attempt)
        assert facts(theirs)[5] == (1 if is_protected() else 2)
    assert outcome.ended == "done", outcome.error
    assert outcome.facts == (("theirs", "copied" if is_protected() else "linked"), ("mine", "linked"))


def is_protected() -> bool:
    return Path("/proc/sys/fs/protected_hardlinks").read_text().strip() == "1"


@contextmanager
def opened_store(path: Path) -> Iterator[Staging]:
    store = FilesystemStore(str(path))
    store.create()
    staging = store.open_staging()
    yield staging
    staging.close()
    store.close()


# --- what is durable when ---------------------------------------------------------------------


def test_link_is_flushed_before_it_has_its_key(
    staging: Staging, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = old_file(root / "old")  # below the store's folder, so that the calls are seen
    calls = FileCalls(monkeypatch, str(root))
    staged = stage(staging, path)
    staging.publish([staged])
    name = f"staging/{staging.owner.hex}/{staged.token}"
    linked = calls.position("link", "old", name)
    flushed = calls.position("fsync", name)
    named = calls.position("rename", name, f"blobs/{staged.key}")
    [folder] = [i for i in calls.positions("fsync", f"blobs/{staged.key.rpartition('/')[0]}") if i > named]
    assert linked < flushed < named < folder


def test_steps_have_their_points(staging: Staging, root: Path, old: Path) -> None:
    stage(staging, old)  # asks for a clone, in vain
    seen: list[str] = []
    with armed(seen.append):
        staging.publish([stage(staging, old)])
    assert seen[:2] == ["stage.linked", "stage.flushed"]
    assert "publish.renamed" in seen


@pytest.mark.parametrize("point", ["stage.linked", "stage.flushed"])
def test_step_that_fails_leaves_no_name(staging: Staging, root: Path, old: Path, point: str) -> None:
    def fail(reached: str) -> None:
        if reached == point:
            raise OSError(errno.EIO, "Input/output error")

    with armed(fail), pytest.raises(errors.StoreUnavailable):
        stage(staging, old)
    assert staged_files(root) == []
    assert old.stat().st_nlink == 1


def test_links_of_a_process_that_has_died_go(
    staging: Staging, store: BlobStore, root: Path, old: Path
) -> None:
    dead = root / "staging" / ("ab" * 16)
    dead.mkdir(parents=True)
    (dead / "lock").touch()
    os.link(old, dead / "0")
    with store.abandoned_stagings() as abandoned:
        assert [owner.hex for owner in abandoned] == [dead.name]
    assert not dead.exists()
    assert facts(old)[5] == 1


@pytest.mark.parametrize("store_kind", ["bucket"], indirect=True)
def test_bucket_just_reads(staging: Staging, store: BlobStore, old: Path) -> None:
    staged = stage(staging, old)
    staging.publish([staged])
    assert read(store, staged.key) == CONTENT
    assert old.stat().st_nlink == 1


# --- clones -----------------------------------------------------------------------------------


def test_clone_that_is_refused_is_not_asked_for_again(
    staging: Staging, root: Path, tmp_path: Path, without_clones: list[int]
) -> None:
    for number in range(3):
        stage(staging, old_file(tmp_path / str(number)))
    assert len(without_clones) == 1
    assert len(staged_files(root)) == 3


def test_clone_that_finds_no_room_is_an_error(
    staging: Staging, root: Path, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fcntl, "ioctl", fail)
    with pytest.raises(errors.StoreUnavailable, match="No space"):
        stage(staging, old)
    assert staged_files(root) == []
    assert old.stat().st_nlink == 1


@pytest.mark.parametrize(("kind", "size_mib"), [("xfs", 320), ("btrfs", 160)])
def test_file_is_cloned_where_the_file_system_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, size_mib: int
) -> None:
    if shutil.which(f"mkfs.{kind}") is None:
        pytest.skip(f"mkfs.{kind} is not installed")
    if why := mounts.unusable(loop=True):
        pytest.skip(why)
    monkeypatch.setattr(fcntl, "ioctl", IOCTL)
    image, folder = tmp_path / "image", tmp_path / "mounted"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(size_mib * 1024 * 1024)
    subprocess.run([f"mkfs.{kind}", "-q", image], check=True)

    def attempt(acknowledge: Callable[..., None]) -> None:
        mounts.private()
        if subprocess.run(["mount", "-o", "loop", image, folder], check=False).returncode != 0:
            acknowledge("cannot be mounted")
            return
        check_clones(folder)

    outcome = run_child(attempt)
    if outcome.facts:
        pytest.skip(f"{kind} cannot be mounted")
    assert outcome.ended == "done", outcome.error


def check_clones(folder: Path) -> None:
    """Stage files of a folder in a store beside them: each becomes a clone of its own mode."""
    (folder / "store").mkdir()
    path = old_file(folder / "old", LONG, 0o666)  # anybody may write it, and no clone of it
    bad = old_file(folder / "bad", b"X" + LONG[1:])
    before, cloned = facts(path), metrics.CLONED_BYTES.value()
    with opened_store(folder / "store") as staging:
        staged = stage(staging, path, Digest.of(LONG), len(LONG))
        assert facts(path) == before
        with pytest.raises(errors.DigestMismatch):
            stage(staging, bad, Digest.of(LONG), len(LONG))
        assert staged_files(folder / "store") == [staged.token]
        staging.publish([staged])
    assert metrics.CLONED_BYTES.value() - cloned == len(LONG)
    found = folder / "store" / "blobs" / staged.key
    assert is_copied(found, path)
    with path.open("r+b") as file:
        file.write(b"X")
    assert found.read_bytes() == LONG
