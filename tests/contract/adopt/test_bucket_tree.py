"""A tree of files in a bucket: it says what a folder of the same files says, and nothing where it cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest

from regmeta.errors import InvalidSource, MissingContent, RemoteUnavailable
from regmeta.object_storage.reach import Keys, Reach
from regmeta.oci.streams import read_up_to
from regmeta.sources.storage.trees import Tree
from regmeta.sources.storage.trees.bucket import BucketTree
from regmeta.sources.storage.trees.folder import FolderTree
from tests.support.bucket_files import BucketFiles
from tests.support.s3_proxy import S3Proxy
from tests.support.seaweed import Buckets
from tests.support.seaweed_server import ACCESS_KEY, SECRET_KEY

QUICK: Final = Reach(retry_for=timedelta(seconds=1), read_timeout=timedelta(seconds=2))
LARGE: Final = b"0123456789abcdef" * 256 * 1024  # 4 MiB
FILES: Final = {
    "a/link": b"sha256:0",
    "a/empty": b"",
    "a/b/link": b"1",
    "a/b/c/data": b"22",
    "a.b/data": b"333",
    "Capital/_layers/x": b"4444",
    "ü/with space/100%25": b"55555",
    "top": b"666666",
    "large": LARGE,
}


def opened(tree: Tree, path: str, limit_bytes: int = 2 * len(LARGE)) -> bytes:
    with tree.open(path) as stream:
        return read_up_to(stream, limit_bytes)


@pytest.fixture
def url(buckets: Buckets) -> str:
    """A prefix that nobody has used."""
    return buckets.url()


@pytest.fixture
def files(url: str) -> BucketFiles:
    """What lies below the prefix: :data:`FILES`."""
    found = BucketFiles(url)
    for name, content in FILES.items():
        found.write(name, content)
    return found


@pytest.fixture
def tree(files: BucketFiles, url: str) -> BucketTree:
    return BucketTree(url, QUICK)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[FolderTree]:
    """The same files in a folder."""
    for name, content in FILES.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with closing(FolderTree(str(tmp_path / "tree"), links=False)) as found:
        yield found


# --- what it says -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "a", "a/b", "ü", "ü/with space", "none", "a/none"])
def test_folders_are_listed_as_those_of_a_folder_are(tree: BucketTree, folder: FolderTree, path: str) -> None:
    def entries(of: Tree) -> object:
        found = of.entries(path)
        return found and [(each.name, each.what, each.what == "file" and each.size_bytes) for each in found]

    def files(of: Tree) -> object:
        return sorted((below, each.name, each.what, each.size_bytes) for below, each in of.files(path))

    assert entries(tree) == entries(folder)
    assert files(tree) == files(folder)


@pytest.mark.parametrize("path", [*FILES, "none", "a/none", "lin", "a/lin"])
def test_files_are_read_as_those_of_a_folder_are(tree: BucketTree, folder: FolderTree, path: str) -> None:
    for limit_bytes in (0, 1, 7, 8, 100, len(LARGE) - 1, len(LARGE)):
        assert tree.read(path, limit_bytes) == folder.read(path, limit_bytes)
    assert (tree.mark(path) is None) == (folder.mark(path) is None)
    looks = [of.look(path) for of in (tree, folder)]
    assert len({each and (each.name, each.what, each.size_bytes) for each in looks}) == 1
    if path in FILES:
        assert opened(tree, path) == FILES[path]
    else:
        with pytest.raises(MissingContent, match=path):
            opened(tree, path)


def test_folder_is_looked_at_as_one(tree: BucketTree) -> None:
    for path, name in (("a/b", "b"), ("a", "a"), ("", "")):
        found = tree.look(path)
        assert found is not None
        assert (found.name, found.what) == (name, "folder")


def test_times_are_those_of_the_server(tree: BucketTree) -> None:
    found = tree.look("a/link")

    assert found is not None
    assert found.modified_at is not None
    assert abs(datetime.now(UTC) - found.modified_at) < timedelta(minutes=10)
    assert found in (tree.entries("a") or [])
    assert ("link", found) in list(tree.files("a"))


def test_listing_of_thousands_is_whole_and_takes_a_request_for_each(buckets: Buckets, url: str) -> None:
    names = [f"many/{number:04d}/link" for number in range(1001)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: BucketFiles(url).write(name, b"x"), names))

    with S3Proxy(buckets.endpoint) as proxy:
        tree = BucketTree(url, Reach(endpoint=proxy.endpoint))
        assert [entry.name for entry in tree.entries("many") or []] == [name[5:9] for name in names]
        assert len(proxy.seen) == 2
        assert sorted(below for below, _ in tree.files("many")) == [name[5:] for name in names]
        assert len(proxy.seen) == 4


def test_mark_is_another_one_when_a_file_says_something_else(tree: BucketTree, files: BucketFiles) -> None:
    first = tree.mark("a/link")
    assert first
    files.write("a/link", b"sha256:0")
    assert tree.mark("a/link") == first
    files.write("a/link", b"sha256:1")
    assert tree.mark("a/link") not in (first, None)


def test_mark_of_a_listing_is_the_one_of_a_look(tree: BucketTree) -> None:
    listed = {below: entry.mark for below, entry in tree.files("a")}

    assert listed == {below: tree.mark(f"a/{below}") for below in ("link", "empty", "b/link", "b/c/data")}
    assert {entry.name: entry.mark for entry in tree.entries("a") or []} == {
        **{name: listed[name] for name in ("link", "empty")},
        "b": "",
    }


def test_marks_of_folders_are_no_files_beside_them(tree: BucketTree, files: BucketFiles) -> None:
    files.write("a/b/", b"")
    files.write("made/by a console/", b"")
    files.write("a/b/c", b"")  # as Azure's hierarchical accounts have it

    assert [(each.name, each.what) for each in tree.entries("a/b") or []] == [
        ("c", "folder"),
        ("link", "file"),
    ]
    assert [(each.name, each.what) for each in tree.entries("made") or []] == [("by a console", "folder")]
    assert tree.entries("made/by a console") == []
    found = tree.look("a/b/c")
    assert found is not None
    assert found.what == "folder"


@pytest.mark.parametrize("name", ["odd/new\nline", "odd/a\tb"])
def test_folder_with_a_name_that_is_no_path_is_refused_and_named(
    tree: BucketTree, files: BucketFiles, name: str
) -> None:
    files.write(name, b"x")
    with pytest.raises(InvalidSource, match="odd"):
        tree.entries("odd")
    with pytest.raises(InvalidSource, match="odd"):
        list(tree.files("odd"))
    asks: list[Callable[[str], object]] = [
        tree.look,
        tree.mark,
        lambda path: tree.read(path, 9),
        lambda path: opened(tree, path),
    ]
    for ask in asks:
        for path in (name, "a//link", "../t", "a/../top", "a/./link"):
            with pytest.raises(InvalidSource):
                ask(path)
    assert tree.read("a/link", 100) == b"sha256:0"


def test_nothing_outside_the_prefix_is_seen(url: str, tree: BucketTree) -> None:
    BucketFiles(url + "-other").write("a/secret", b"x")
    BucketFiles(url.rpartition("/")[0]).write("outside", b"x")

    names = [entry.name for entry in tree.entries("") or []]
    assert sorted(names) == names == sorted({name.partition("/")[0] for name in FILES})
    assert {below for below, _ in tree.files("")} == set(FILES)


def test_many_threads_read_at_once(tree: BucketTree) -> None:
    names = [*FILES] * 8
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda name: (tree.read(name, len(LARGE)), opened(tree, name)), names))

    assert read == [(FILES[name], FILES[name]) for name in names]


def test_what_is_read_is_never_written(buckets: Buckets, files: BucketFiles, url: str) -> None:
    before = files.sizes()
    with S3Proxy(buckets.endpoint) as proxy, closing(BucketTree(url, Reach(endpoint=proxy.endpoint))) as tree:
        for path in [*FILES, "none", "a"]:
            tree.look(path), tree.read(path, 9), tree.mark(path), tree.entries(path), list(tree.files(path))
        assert {each.method for each in proxy.seen} == {"GET", "HEAD"}
    assert files.sizes() == before


# --- how it is reached ------------------------------------------------------------------------


def test_given_keys_are_used_and_nothing_of_the_environments(
    files: BucketFiles, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = BucketTree(url, Reach(keys=Keys(ACCESS_KEY, SECRET_KEY)))
    other = BucketTree(url, Reach(keys=Keys(ACCESS_KEY, "another secret"), retry_for=timedelta(0)))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "of the new store")
    again = BucketTree(url, Reach(keys=Keys(ACCESS_KEY, SECRET_KEY)))

    for each in (tree, again):
        assert each.read("a/link", 100) == b"sha256:0"
        assert each.entries("none") is None
    with pytest.raises(RemoteUnavailable, match="403"):
        other.read("a/link", 100)


@pytest.mark.parametrize("url", ["s3://", "s3:///a", "ftp://bucket", "/folder", "s3://ada:hush@bucket/a"])
def test_url_of_no_bucket_is_refused_without_its_secrets(url: str) -> None:
    with pytest.raises(InvalidSource, match="write s3://") as refused:
        BucketTree(url)
    assert "hush" not in str(refused.value)


def test_keys_are_not_shown() -> None:
    assert "hush" not in repr(Reach(keys=Keys("ada", "hush", "hush hush")))
