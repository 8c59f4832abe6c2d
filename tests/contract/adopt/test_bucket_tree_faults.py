"""A bucket that fails: whatever is asked of it raises, and nothing looks as if it were not there (I8)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from regmeta.errors import RemoteUnavailable
from regmeta.object_storage.reach import Keys, Reach
from regmeta.oci.streams import read_up_to
from regmeta.sources.storage.trees import Tree
from regmeta.sources.storage.trees.bucket import BucketTree
from tests.support.bucket_files import BucketFiles
from tests.support.s3_proxy import Kind, S3Proxy
from tests.support.seaweed import Buckets
from tests.support.seaweed_server import ACCESS_KEY, BUCKET, Seaweed

QUICK: Final = timedelta(seconds=1)
MIB: Final = 1024 * 1024
FILES: Final = {"a/link": b"sha256:0", "a/b/link": b"1", "large": b"0123456789abcdef" * 4 * 64 * 1024}
ASKED: Final[dict[str, Callable[[Tree], Any]]] = {
    "entries": lambda tree: tree.entries("a"),
    "entries of the root": lambda tree: tree.entries(""),
    "entries of none": lambda tree: tree.entries("none"),
    "files": lambda tree: list(tree.files("a")),
    "files of none": lambda tree: list(tree.files("none")),
    "look": lambda tree: tree.look("a/link"),
    "look at a folder": lambda tree: tree.look("a"),
    "look at the root": lambda tree: tree.look(""),
    "look at none": lambda tree: tree.look("none"),
    "read": lambda tree: tree.read("a/link", 100),
    "read none": lambda tree: tree.read("none", 100),
    "mark": lambda tree: tree.mark("a/link"),
    "mark of none": lambda tree: tree.mark("none"),
    "open": lambda tree: opened(tree, "a/link"),
    "open none": lambda tree: opened(tree, "none"),
}
"""Every question that a tree is asked, of what is there and of what is not."""


def opened(tree: Tree, path: str) -> bytes:
    with tree.open(path) as stream:
        return read_up_to(stream, 64 * MIB)


@pytest.fixture
def proxy(buckets: Buckets) -> Iterator[S3Proxy]:
    """What stands between the tree and its server."""
    with S3Proxy(buckets.endpoint) as found:
        yield found


@pytest.fixture
def url(buckets: Buckets) -> str:
    """A prefix below which :data:`FILES` lie."""
    found = buckets.url()
    for name, content in FILES.items():
        BucketFiles(found).write(name, content)
    return found


@pytest.fixture
def tree(url: str, proxy: S3Proxy) -> BucketTree:
    return BucketTree(url, Reach(endpoint=proxy.endpoint, retry_for=QUICK, read_timeout=QUICK))


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("status", [400, 403, 500, 503])
def test_refused_question_raises_with_the_url(
    tree: BucketTree, proxy: S3Proxy, url: str, asked: str, status: int
) -> None:
    for method in ("GET", "HEAD"):
        proxy.spoil(method, "", Kind.STATUS, times=10_000, status=status)

    with pytest.raises(RemoteUnavailable, match=rf"{url}.*{status}"):
        ASKED[asked](tree)


@pytest.mark.parametrize(
    ("method", "path", "questions"),
    [
        ("HEAD", "", ["look", "look at none", "mark", "mark of none"]),
        ("GET", "/(link|none)", ["read", "read none", "open", "open none"]),
        ("GET", "list-type", ["look at a folder", "look at none", "read none", "mark of none", "open none"]),
    ],
    ids=["looks", "reads", "listings"],
)
def test_one_right_of_three_is_not_enough(
    tree: BucketTree, proxy: S3Proxy, method: str, path: str, questions: list[str]
) -> None:
    proxy.spoil(method, path, Kind.STATUS, times=10_000, status=403)

    for asked in questions:
        with pytest.raises(RemoteUnavailable, match="403"):
            ASKED[asked](tree)


@pytest.mark.parametrize("asked", ASKED)
def test_bucket_that_is_not_there_holds_nothing_that_is_absent(buckets: Buckets, asked: str) -> None:
    tree = BucketTree("s3://no-such-bucket/prefix", Reach(endpoint=buckets.endpoint, retry_for=QUICK))

    with pytest.raises(RemoteUnavailable, match=r"s3://no-such-bucket/prefix.*NoSuchBucket"):
        ASKED[asked](tree)


@pytest.mark.parametrize("asked", ASKED)
def test_keys_that_nobody_knows_see_nothing(url: str, asked: str) -> None:
    tree = BucketTree(url, Reach(keys=Keys(ACCESS_KEY, "wrong"), retry_for=QUICK))

    with pytest.raises(RemoteUnavailable, match=f"{url}.*403"):
        ASKED[asked](tree)


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("kind", [Kind.DROP_BEFORE, Kind.DROP_AFTER])
def test_question_without_an_answer_is_asked_again_and_then_raises(
    tree: BucketTree, proxy: S3Proxy, asked: str, kind: Kind
) -> None:
    for method in ("GET", "HEAD"):
        proxy.spoil(method, "", kind, times=10_000)

    with pytest.raises(RemoteUnavailable):
        ASKED[asked](tree)
    assert len(proxy.seen) > 1


def test_question_is_asked_again_where_one_answer_was_lost(tree: BucketTree, proxy: S3Proxy) -> None:
    for method in ("GET", "HEAD"):
        for kind in (Kind.DROP_AFTER, Kind.STATUS):
            proxy.spoil(method, "link|list-type", kind)

    assert tree.read("a/link", 100) == b"sha256:0"
    assert sorted(below for below, _ in tree.files("a")) == ["b/link", "link"]
    assert tree.look("none") is None


def test_answer_that_is_cut_short_is_not_the_file(tree: BucketTree, proxy: S3Proxy) -> None:
    fault = proxy.spoil("GET", "/large", Kind.CUT_BODY, times=10_000)

    with pytest.raises(RemoteUnavailable):
        tree.read("large", 64 * MIB)
    with pytest.raises(RemoteUnavailable):
        opened(tree, "large")
    assert fault.happened >= 2


def test_answer_that_is_cut_short_once_is_read_on(tree: BucketTree, proxy: S3Proxy) -> None:
    fault = proxy.spoil("GET", "/large", Kind.CUT_BODY)

    assert opened(tree, "large") == FILES["large"]
    assert fault.happened == 1


def test_listing_that_is_cut_short_is_no_listing(tree: BucketTree, proxy: S3Proxy) -> None:
    proxy.spoil("GET", "list-type", Kind.CUT_BODY, times=10_000)

    for asked in ("entries", "files", "look at a folder"):
        with pytest.raises(RemoteUnavailable):
            ASKED[asked](tree)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seaweed]:
    """A server that nobody else uses."""
    found = Seaweed(Path(tempfile.mkdtemp(prefix="rms3-", dir="/tmp")))
    try:
        found.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", found.endpoint)
        yield found
    finally:
        found.remove()


def test_server_that_dies_meanwhile_ends_no_listing_and_no_file(buckets: Buckets, server: Seaweed) -> None:
    files = BucketFiles(f"s3://{BUCKET}/old")
    files.write("large", bytes(48 * MIB))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: files.write(f"many/{number:04d}/link", b"x"), range(1001)))
    tree = BucketTree(f"s3://{BUCKET}/old", Reach(endpoint=server.endpoint, retry_for=QUICK / 5))
    listing = tree.files("many")
    assert next(listing)

    with tree.open("large") as stream:
        assert stream.readinto(memoryview(bytearray(1000)))
        server.kill()
        with pytest.raises(RemoteUnavailable):
            read_up_to(stream, 64 * MIB)
    with pytest.raises(RemoteUnavailable):
        list(listing)
    for ask in ASKED.values():
        with pytest.raises(RemoteUnavailable):
            ask(tree)
