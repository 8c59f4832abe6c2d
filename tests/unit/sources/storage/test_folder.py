"""A folder as a tree: what is listed and read, and that nothing leads out of it."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from regmeta.errors import InvalidSource, MissingContent, Unavailable
from regmeta.oci.streams import LinkableStream, read_up_to
from regmeta.sources.storage.trees import Tree, TreeEntry
from regmeta.sources.storage.trees.folder import MAX_DEPTH, FolderTree
from tests.unit.sources.storage.deep import deep_folders

SECRET = b"of nobody's business"
LIMIT = 1000  # [bytes]


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside the tree that nothing of it may be read from."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "file").write_bytes(SECRET)
    return folder


@pytest.fixture
def root(tmp_path: Path, outside: Path) -> Path:
    folder = tmp_path / "tree"
    (folder / "a/b").mkdir(parents=True)
    (folder / "a/b/file").write_bytes(b"content")
    (folder / "a/empty").write_bytes(b"")
    (folder / "z").mkdir()
    return folder


@pytest.fixture
def tree(root: Path) -> Iterator[FolderTree]:
    with closing(FolderTree(str(root), links=False)) as found:
        yield found


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# --- what is there ----------------------------------------------------------------------------


def test_folder_is_listed_in_order_with_sizes_and_times(tree: FolderTree, root: Path) -> None:
    os.utime(root / "a/empty", (1_600_000_000, 1_600_000_000))
    assert [(entry.name, entry.what) for entry in tree.entries("") or ()] == [
        ("a", "folder"),
        ("z", "folder"),
    ]
    assert (tree.entries("a") or [])[1] == TreeEntry(
        "empty", "file", 0, datetime.fromtimestamp(1_600_000_000, UTC)
    )
    assert tree.entries("a/c") is None
    assert tree.entries("c/b") is None
    assert tree.location == str(root)


def test_all_files_below_a_folder_are_listed_by_their_paths(tree: FolderTree) -> None:
    assert {path: entry.size_bytes for path, entry in tree.files("")} == {"a/b/file": 7, "a/empty": 0}
    assert [path for path, _ in tree.files("a/b")] == ["file"]
    assert list(tree.files("nowhere")) == []


def test_folder_that_is_left_out_is_listed_itself(tree: FolderTree) -> None:
    found = {path: entry.what for path, entry in tree.files("", leave_out=lambda below: below == "a/b")}
    assert found == {"a/b": "folder", "a/empty": "file"}


def test_file_is_looked_at_and_read(tree: FolderTree) -> None:
    found = tree.look("a/b/file")
    assert found is not None
    assert (found.name, found.what, found.size_bytes) == ("file", "file", 7)
    assert (tree.look("a") or TreeEntry("", "other")).what == "folder"
    assert (tree.look("") or TreeEntry("", "other")).what == "folder"
    assert tree.look("a/b/none") is None
    assert tree.look("none/file") is None
    assert tree.read("a/b/file", LIMIT) == b"content"
    assert tree.read("a/b/none", LIMIT) is None
    with tree.open("a/b/file") as stream:
        assert read_up_to(stream, LIMIT) == b"content"
    with pytest.raises(MissingContent, match="a/b/none is missing"):
        tree.open("a/b/none")


def test_of_a_huge_file_one_byte_more_than_the_limit_is_read(tree: FolderTree, root: Path) -> None:
    os.truncate(root / "a/empty", 1 << 30)
    assert tree.read("a/empty", 10) == bytes(11)


def test_mark_changes_with_what_the_file_says_and_with_nothing_else(tree: FolderTree, root: Path) -> None:
    before = tree.mark("a/b/file")
    os.utime(root / "a/b/file", (1, 1))
    assert tree.mark("a/b/file") == before
    status = (root / "a/b/file").stat()
    (root / "a/b/file").write_bytes(b"CONTENT")
    os.utime(root / "a/b/file", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert tree.mark("a/b/file") not in (before, None)
    assert tree.mark("a/b/none") is None


def test_mark_of_a_huge_file_tells_its_size(tree: FolderTree, root: Path) -> None:
    os.truncate(root / "a/empty", 1 << 40)
    before = tree.mark("a/empty")
    os.truncate(root / "a/empty", (1 << 40) + 1)
    assert tree.mark("a/empty") != before


@pytest.mark.parametrize("seconds", [0, -5, 1 << 60])
def test_time_that_says_nothing_is_none(tree: FolderTree, root: Path, seconds: int) -> None:
    with suppress(OverflowError, OSError):  # not every file system keeps every time
        os.utime(root / "a/empty", (seconds, seconds))
        found = tree.look("a/empty")
        assert found is not None
        assert found.modified_at is None or found.modified_at.year > 2400


def test_only_a_tree_with_links_gives_descriptors_away(root: Path) -> None:
    with closing(FolderTree(str(root), links=True)) as linking, linking.open("a/b/file") as stream:
        assert isinstance(stream, LinkableStream)
        assert os.pread(stream.linkable_fd, 100, 0) == b"content"
    with closing(FolderTree(str(root), links=False)) as tree, tree.open("a/b/file") as stream:
        assert not isinstance(stream, LinkableStream)


def test_root_may_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    with closing(FolderTree(str(tmp_path / "link"), links=False)) as tree:
        assert tree.read("a/b/file", LIMIT) == b"content"
        assert tree.location == str(tmp_path / "link")


@pytest.mark.parametrize("path", ["", "none", "tree/a/b/file", "nul\0"])
def test_root_that_is_no_folder_is_refused(root: Path, tmp_path: Path, path: str) -> None:
    with pytest.raises(InvalidSource):
        FolderTree(f"{tmp_path}/{path}" if path else "", links=False)


# --- what is hostile --------------------------------------------------------------------------


def calls(path: str) -> dict[str, Callable[[Tree], object]]:
    """Everything that can be asked about one path."""
    return {
        "entries": lambda tree: tree.entries(path),
        "files": lambda tree: list(tree.files(path)),
        "read": lambda tree: tree.read(path, LIMIT),
        "mark": lambda tree: tree.mark(path),
        "open": lambda tree: tree.open(path),
    }


def look(path: str) -> Callable[[Tree], object]:
    """What works on a link and on a folder that may not be read, as the others do not."""
    return lambda tree: tree.look(path)


@pytest.mark.parametrize(
    "path", ["..", "a/..", "a/../a/b/file", ".", "./a", "/etc/passwd", "a//b", "a/b/", "a/\0", "/"]
)
@pytest.mark.parametrize("call", [*calls(""), "look"])
def test_path_that_is_none_of_the_tree_is_refused(tree: FolderTree, path: str, call: str) -> None:
    with pytest.raises(InvalidSource):
        {**calls(path), "look": look(path)}[call](tree)


@pytest.mark.parametrize("call", calls(""))
@pytest.mark.parametrize("to", ["outside", "outside/file", "tree/a", "nowhere"])
def test_link_is_listed_and_never_followed(
    tree: FolderTree, root: Path, tmp_path: Path, call: str, to: str
) -> None:
    (root / "z/link").symlink_to(tmp_path / to)
    assert tree.entries("z") == [TreeEntry("link", "other", 0, (tree.look("z/link") or wrong()).modified_at)]
    assert (tree.look("z/link") or wrong()).what == "other"
    assert [(path, entry.what) for path, entry in tree.files("z")] == [("link", "other")]
    with pytest.raises(InvalidSource, match="z/link"):
        calls("z/link")[call](tree)
    if call not in ("entries", "files"):
        with pytest.raises(InvalidSource, match="z/link/file"):
            calls("z/link/file")[call](tree)


def wrong() -> TreeEntry:
    raise AssertionError("there is nothing")


@pytest.mark.parametrize("level", [1, 2])
def test_link_at_any_level_leads_nowhere(tree: FolderTree, root: Path, outside: Path, level: int) -> None:
    (outside / "b").mkdir()
    (outside / "b/file").write_bytes(SECRET)
    name = root / ("a" if level == 1 else "a/b")
    name.rename(root / "away")
    name.symlink_to(outside / "b" if level == 2 else outside)
    for call in (*calls("a/b/file").values(), look("a/b/file")):
        with pytest.raises(InvalidSource):
            call(tree)


@pytest.mark.parametrize("call", ["read", "mark", "open"])
@pytest.mark.parametrize("what", ["fifo", "socket", "folder"])
def test_what_is_no_regular_file_is_not_read(
    tree: FolderTree, root: Path, monkeypatch: pytest.MonkeyPatch, call: str, what: str
) -> None:
    monkeypatch.chdir(root)  # the path of a socket is short
    if what == "fifo":
        os.mkfifo("z/odd")
    elif what == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("z/odd")
    else:
        os.mkdir("z/odd")
    before = open_descriptors()
    with pytest.raises(InvalidSource, match="z/odd"):
        calls("z/odd")[call](tree)
    assert open_descriptors() == before


@pytest.mark.parametrize("call", ["entries", "files"])
def test_file_is_no_folder(tree: FolderTree, call: str) -> None:
    with pytest.raises(InvalidSource, match="a/empty"):
        calls("a/empty")[call](tree)


def test_name_that_is_no_text_is_listed_as_something_else(tree: FolderTree, root: Path) -> None:
    (Path(os.fsdecode(os.fsencode(root / "z") + b"/\xff\xfe"))).mkdir()
    (root / "z/two\nlines\x1b[31m").write_bytes(b"x")
    assert [(entry.name, entry.what) for entry in tree.entries("z") or ()] == [
        ("\\xff\\xfe", "other"),
        ("two\nlines\x1b[31m", "file"),
    ]
    assert [entry.what for _, entry in tree.files("z")] == ["other", "file"]
    assert tree.look("z/\\xff\\xfe") is None
    assert tree.read("z/two\nlines\x1b[31m", LIMIT) == b"x"
    os.unlink(root / "z/two\nlines\x1b[31m")
    (root / "z/two\nlines\x1b[31m").mkdir()
    with pytest.raises(InvalidSource) as raised:
        tree.read("z/two\nlines\x1b[31m", LIMIT)
    assert str(raised.value).isprintable()


def test_depth_has_an_end(tree: FolderTree, root: Path) -> None:
    with deep_folders(root, 2000):
        before = open_descriptors()
        with pytest.raises(InvalidSource, match=f"more than {MAX_DEPTH} folders deep"):
            list(tree.files("deep"))
        with pytest.raises(InvalidSource, match="folders deep"):
            tree.entries("/".join(["deep"] * 1000))
        assert open_descriptors() == before


def test_folder_swapped_for_a_link_between_list_and_look_is_not_followed(
    tree: FolderTree, root: Path, outside: Path
) -> None:
    (root / "y").mkdir()
    (root / "y/file").write_bytes(b"mine")
    walk = tree.files("")
    assert next(walk)[0] == "a/b/file"
    (root / "y").rename(root / "z/y")
    (root / "y").symlink_to(outside)
    assert {path: entry.what for path, entry in walk} == {"a/empty": "file", "y": "other", "z/y/file": "file"}
    with pytest.raises(InvalidSource):
        tree.read("y/file", LIMIT)


def test_what_goes_while_it_is_listed_is_left_out(tree: FolderTree, root: Path) -> None:
    (root / "y").mkdir()
    (root / "y/file").write_bytes(b"mine")
    walk = tree.files("")
    next(walk)
    (root / "y/file").unlink()
    (root / "y").rmdir()
    assert [path for path, _ in walk] == ["a/empty"]


def test_folder_that_was_made_anew_is_the_new_one(tree: FolderTree, root: Path) -> None:
    assert tree.read("a/b/file", LIMIT) == b"content"
    (root / "a").rename(root / "old")
    (root / "a/b").mkdir(parents=True)
    (root / "a/b/file").write_bytes(b"again")
    assert tree.read("a/b/file", LIMIT) == b"again"


def test_folder_that_may_not_be_read_is_not_taken_for_empty(tree: FolderTree, root: Path) -> None:
    (root / "z").chmod(0)
    with somebody():
        for call in (*calls("z").values(), look("z/file")):
            with pytest.raises(InvalidSource, match="z"):
                call(tree)


@contextmanager
def somebody() -> Iterator[None]:
    """Be a user who may not read everything."""
    user = os.geteuid()
    if user != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_no_more_descriptors_says_nothing_of_the_file(tree: FolderTree) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.dup(0)]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 20, hard))
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        with pytest.raises(Unavailable, match="Too many open files"):
            tree.read("a/b/file", LIMIT)
        with pytest.raises(Unavailable):
            tree.look("a/b/file")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)


# --- threads, and the end ---------------------------------------------------------------------


def test_many_threads_read_at_once_and_leave_nothing_open(root: Path) -> None:
    for number in range(50):
        (root / f"z/{number}").write_bytes(b"%d" % number)
    before = open_descriptors()
    with closing(FolderTree(str(root), links=True)) as tree, ThreadPoolExecutor(8) as threads:
        found = threads.map(lambda number: tree.read(f"z/{number % 50}", LIMIT), range(1000))
        assert list(found) == [b"%d" % (number % 50) for number in range(1000)]
    assert open_descriptors() == before


def test_walk_that_is_given_up_closes_its_folders(tree: FolderTree) -> None:
    before = open_descriptors()
    walk = tree.files("")
    next(walk)
    assert open_descriptors() > before
    walk.close()  # type: ignore[attr-defined]
    assert open_descriptors() == before


def test_closed_tree_raises_and_its_streams_go_on(root: Path) -> None:
    tree = FolderTree(str(root), links=False)
    with tree.open("a/b/file") as stream:
        tree.close()
        tree.close()
        assert read_up_to(stream, LIMIT) == b"content"
    for call in calls("a").values():
        with pytest.raises(InvalidSource):
            call(tree)
