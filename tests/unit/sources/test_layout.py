from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from regmeta.errors import (
    DigestMismatch,
    InvalidDigest,
    InvalidManifest,
    InvalidSource,
    MissingContent,
    SizeMismatch,
)
from regmeta.oci import layout as layout_files
from regmeta.oci.digest import Digest
from regmeta.sources.layout import LayoutDirectory
from regmeta.sources.open import open_source
from tests.builders import (
    AMD64,
    ARM64,
    Json,
    LayoutBuilder,
    digest_of,
    dumps,
    make_layout,
    parsed,
)

LIMIT = 4 * 1024 * 1024  # [bytes]


def blob_file(root: Path, descriptor: Json) -> Path:
    return root / layout_files.blob_path(digest_of(descriptor))


def read_all(source: LayoutDirectory, digest: Digest, chunk_bytes: int = 7) -> bytes:
    content = bytearray()
    buffer = memoryview(bytearray(chunk_bytes))
    with source.open(digest) as stream:
        while count := stream.readinto(buffer):
            content += buffer[:count]
        assert stream.readinto(buffer) == 0
    return bytes(content)


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def builder() -> LayoutBuilder:
    return LayoutBuilder()


# --- what a good layout gives -----------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_content_is_read_whole_and_as_a_stream(tmp_path: Path, algorithm: str) -> None:
    builder = LayoutBuilder(algorithm=algorithm)
    blob = builder.blob(b"some content, longer than a chunk")
    source = LayoutDirectory(str(builder.write(tmp_path)))
    assert source.read(parsed(blob), LIMIT) == b"some content, longer than a chunk"
    assert read_all(source, digest_of(blob)) == b"some content, longer than a chunk"
    assert source.location == str(tmp_path)


def test_empty_blob_is_read(tmp_path: Path, builder: LayoutBuilder) -> None:
    blob = builder.blob(b"")
    source = LayoutDirectory(str(builder.write(tmp_path)))
    assert source.read(parsed(blob), LIMIT) == b""
    assert read_all(source, digest_of(blob)) == b""


def test_entries_come_in_their_order_with_names_and_platforms(tmp_path: Path) -> None:
    builder = LayoutBuilder()
    first = builder.tag(builder.image(platform=ARM64), "b")
    second = builder.tag(builder.index([builder.image(platform=AMD64)]))
    third = builder.tag(first, "a")
    entries = list(LayoutDirectory(str(builder.write(tmp_path))).entries())
    assert [entry.ref_name for entry in entries] == ["b", None, "a"]
    assert [entry.position for entry in entries] == [0, 1, 2]
    assert [entry.descriptor for entry in entries] == [parsed(d) for d in (first, second, third)]
    assert all(entry.error is None for entry in entries)


def test_bad_entry_is_an_error_in_its_place_and_the_others_are_listed(tmp_path: Path) -> None:
    builder = LayoutBuilder()
    good = builder.image()
    builder.tag(good, "good")
    builder.tag({**good, "digest": "sha256:../../../../etc/passwd"}, "traversal")
    builder.tag({**good, "size": -1}, "negative")
    builder.tag({key: good[key] for key in ("digest", "size")}, "untyped")
    builder.entries.append(None)  # type: ignore[arg-type]
    builder.entries.append({**good, "annotations": {"org.opencontainers.image.ref.name": 5}})
    builder.tag(good, "last")
    entries = list(LayoutDirectory(str(builder.write(tmp_path))).entries())
    assert [(entry.ref_name, type(entry.error)) for entry in entries] == [
        ("good", type(None)),
        ("traversal", InvalidDigest),
        ("negative", InvalidManifest),
        ("untyped", InvalidManifest),
        (None, InvalidManifest),
        (None, InvalidManifest),
        ("last", type(None)),
    ]
    assert "manifests[1]" in str(entries[1].error)
    assert all((entry.descriptor is None) == (entry.error is not None) for entry in entries)


def test_root_may_be_a_symbolic_link(tmp_path: Path) -> None:
    tags = make_layout(tmp_path / "real", 1)
    (tmp_path / "link").symlink_to("real")
    entries = LayoutDirectory(str(tmp_path / "link")).entries()
    assert [entry.descriptor and entry.descriptor.digest for entry in entries] == [tags["v0"]]


def test_hard_linked_blob_is_a_regular_file(tmp_path: Path, builder: LayoutBuilder) -> None:
    blob = builder.blob(b"shared")
    os.link(blob_file(builder.write(tmp_path), blob), tmp_path / "other-name")
    assert LayoutDirectory(str(tmp_path)).read(parsed(blob), LIMIT) == b"shared"


def test_renamed_layout_is_still_read_through_its_descriptors(tmp_path: Path) -> None:
    builder = LayoutBuilder()
    blobs = [builder.blob(b"one"), builder.blob(b"two")]
    source = LayoutDirectory(str(builder.write(tmp_path / "before")))
    source.read(parsed(blobs[0]), LIMIT)
    (tmp_path / "before").rename(tmp_path / "after")
    assert source.read(parsed(blobs[1]), LIMIT) == b"two"


def test_threads_share_one_source(tmp_path: Path, builder: LayoutBuilder) -> None:
    blobs = [builder.blob(b"%d" % number) for number in range(200)]
    before = open_fds()
    source = LayoutDirectory(str(builder.write(tmp_path)))
    together = threading.Barrier(8)

    def read_everything(_: int) -> list[bytes]:
        together.wait()
        return [source.read(parsed(blob), LIMIT) for blob in blobs]

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(read_everything, range(8)))
    assert results == [[b"%d" % number for number in range(200)]] * 8
    assert open_fds() == before + 2  # the root and blobs/sha256
    source.close()
    assert open_fds() == before


def test_closing_twice_is_harmless_and_reading_after_it_is_refused(tmp_path: Path) -> None:
    builder = LayoutBuilder()
    blob = builder.blob(b"x")
    source = LayoutDirectory(str(builder.write(tmp_path)))
    source.close()
    source.close()
    with pytest.raises(InvalidSource):
        source.read(parsed(blob), LIMIT)


# --- what is refused --------------------------------------------------------------------------


def replace_by_symlink(target: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    target.rename(secret)
    target.symlink_to(secret)


def replace_by_dangling_symlink(target: Path, tmp_path: Path) -> None:
    target.unlink()
    target.symlink_to(tmp_path / "nowhere")


def replace_by_directory(target: Path, tmp_path: Path) -> None:
    target.unlink()
    target.mkdir()


def replace_by_fifo(target: Path, tmp_path: Path) -> None:
    target.unlink()
    os.mkfifo(target)


def replace_by_socket(target: Path, tmp_path: Path) -> None:
    target.unlink()
    folder = os.open(tmp_path, os.O_RDONLY)
    # A socket's path is limited to 108 bytes.
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(f"/proc/self/fd/{folder}/socket")
    os.close(folder)
    (tmp_path / "socket").rename(target)


Replace = Callable[[Path, Path], None]
NOT_FILES: list[Replace] = [
    replace_by_symlink,
    replace_by_dangling_symlink,
    replace_by_directory,
    replace_by_fifo,
    replace_by_socket,
]


@pytest.mark.parametrize("replace", NOT_FILES)
def test_blob_that_is_no_regular_file_is_refused(tmp_path: Path, replace: Replace) -> None:
    builder = LayoutBuilder()
    blob = builder.blob(b"content")
    root = builder.write(tmp_path / "layout")
    replace(blob_file(root, blob), tmp_path)
    source = LayoutDirectory(str(root))
    before = open_fds()
    for refused in (
        lambda: source.read(parsed(blob), LIMIT),
        lambda: source.open(digest_of(blob)),
    ):
        with pytest.raises(InvalidSource) as caught:
            refused()
        assert blob["digest"] in str(caught.value)
        assert str(root) in str(caught.value)
    assert open_fds() <= before + 1  # blobs/sha256 alone


@pytest.mark.parametrize("name", ["oci-layout", "index.json"])
@pytest.mark.parametrize("replace", NOT_FILES)
def test_document_that_is_no_regular_file_is_refused(tmp_path: Path, replace: Replace, name: str) -> None:
    make_layout(tmp_path / "layout", 1)
    replace(tmp_path / "layout" / name, tmp_path)
    with pytest.raises(InvalidSource, match=name):
        LayoutDirectory(str(tmp_path / "layout")).entries()


@pytest.mark.parametrize("folder", ["blobs", "blobs/sha256"])
@pytest.mark.parametrize("kind", ["symlink", "file"])
def test_folder_of_blobs_that_is_no_directory_is_refused(tmp_path: Path, folder: str, kind: str) -> None:
    builder = LayoutBuilder()
    blob = builder.blob(b"content")
    root = builder.write(tmp_path / "layout")
    (root / folder).rename(tmp_path / "elsewhere")
    if kind == "symlink":
        (root / folder).symlink_to(tmp_path / "elsewhere")
    else:
        (root / folder).write_bytes(b"")
    source = LayoutDirectory(str(root))
    before = open_fds()
    for _ in range(3):
        with pytest.raises(InvalidSource, match="Not a directory"):
            source.read(parsed(blob), LIMIT)
    assert open_fds() == before


@pytest.mark.parametrize("gone", ["blob", "blobs/sha256", "blobs"])
def test_missing_blob_is_named(tmp_path: Path, builder: LayoutBuilder, gone: str) -> None:
    blob = builder.blob(b"content")
    root = builder.write(tmp_path / "layout")
    (blob_file(root, blob) if gone == "blob" else root / gone).rename(tmp_path / "gone")
    source = LayoutDirectory(str(root))
    with pytest.raises(MissingContent, match=blob["digest"]):
        source.read(parsed(blob), LIMIT)
    with pytest.raises(MissingContent, match=blob["digest"]):
        source.open(digest_of(blob))


@pytest.mark.parametrize("difference", [-1, 1, 1000])
def test_other_size_than_the_descriptor_says_is_refused(tmp_path: Path, difference: int) -> None:
    builder = LayoutBuilder()
    blob = builder.blob(b"content")
    source = LayoutDirectory(str(builder.write(tmp_path)))
    wrong = {**blob, "size": 7 + difference}
    with pytest.raises(SizeMismatch, match=f"has 7 bytes.* says {7 + difference}") as caught:
        source.read(parsed(wrong), LIMIT)
    assert blob["digest"] in str(caught.value)


def test_other_bytes_of_the_same_size_are_refused(tmp_path: Path, builder: LayoutBuilder) -> None:
    blob = builder.blob(b"content")
    builder.blobs[blob["digest"]] = b"CONTENT"
    with pytest.raises(DigestMismatch, match=blob["digest"]):
        LayoutDirectory(str(builder.write(tmp_path))).read(parsed(blob), LIMIT)


def test_content_over_the_limit_is_refused_before_it_is_looked_for(tmp_path: Path) -> None:
    builder = LayoutBuilder()
    blob = builder.blob(b"content")
    source = LayoutDirectory(str(builder.write(tmp_path)))
    assert source.read(parsed(blob), 7) == b"content"
    blob_file(tmp_path, blob).unlink()
    with pytest.raises(InvalidManifest, match="more than 6"):
        source.read(parsed(blob), 6)


def test_sparse_file_of_a_terabyte_costs_nothing(tmp_path: Path, builder: LayoutBuilder) -> None:
    blob = builder.blob(b"content")
    os.truncate(blob_file(builder.write(tmp_path), blob), 2**40)
    source = LayoutDirectory(str(tmp_path))
    with pytest.raises(SizeMismatch):
        source.read(parsed(blob), LIMIT)
    buffer = memoryview(bytearray(64))
    with source.open(digest_of(blob)) as stream:
        assert stream.readinto(buffer) == 64


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES])
def test_failure_of_the_disk_says_why_and_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    builder = LayoutBuilder()
    blob = builder.blob(b"content")
    source = LayoutDirectory(str(builder.write(tmp_path)))
    source.read(parsed(blob), LIMIT)

    def fail(*_: object) -> bytes:
        raise OSError(code, os.strerror(code))

    before = open_fds()
    for call in ("read", "fstat"):
        with monkeypatch.context() as patched:
            patched.setattr(os, call, fail)
            with pytest.raises(InvalidSource, match=os.strerror(code)) as caught:
                source.read(parsed(blob), LIMIT)
        assert blob["digest"] in str(caught.value)
        assert isinstance(caught.value.__cause__, OSError)
    with source.open(digest_of(blob)) as stream, monkeypatch.context() as patched:
        patched.setattr(os, "readv", fail)
        with pytest.raises(InvalidSource, match=os.strerror(code)):
            stream.readinto(memoryview(bytearray(1)))
    assert open_fds() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file or directory"),
        (b"", "not JSON"),
        (b"{}", "imageLayoutVersion is missing"),
        (b"[]", "not a JSON object"),
        (b'{"imageLayoutVersion":"2.0.0"}', "not supported"),
        (b'{"imageLayoutVersion":1.0}', "is missing"),
        (b'{"imageLayoutVersion":1}', "is missing"),
        (b'{"imageLayoutVersion":null}', "is missing"),
        (b'\xef\xbb\xbf{"imageLayoutVersion":"1.0.0"}', "byte-order mark"),
        (b'{"imageLayoutVersion":"1.0.0","imageLayoutVersion":"1.0.0"}', "twice"),
        (b" " * (layout_files.MAX_LAYOUT_FILE_BYTES + 1), "more than"),
    ],
)
def test_bad_layout_file_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    make_layout(tmp_path, 1)
    if content is None:
        (tmp_path / "oci-layout").unlink()
    else:
        (tmp_path / "oci-layout").write_bytes(content)
    before = open_fds()
    with pytest.raises(InvalidSource, match=message) as caught:
        LayoutDirectory(str(tmp_path))
    assert "oci-layout" in str(caught.value)
    assert open_fds() == before


@pytest.mark.parametrize("name", ["oci-layout", "index.json"])
def test_document_of_a_gigabyte_is_refused_unread(tmp_path: Path, name: str) -> None:
    make_layout(tmp_path, 1)
    os.truncate(tmp_path / name, 2**30)
    with pytest.raises(InvalidSource, match=r"1073741824 bytes are more than"):
        LayoutDirectory(str(tmp_path)).entries()


def test_layout_file_may_have_more_fields(tmp_path: Path) -> None:
    make_layout(tmp_path, 1)
    (tmp_path / "oci-layout").write_bytes(b' {"imageLayoutVersion":"1.1.0","extra":[1.5]}\n')
    assert len(list(LayoutDirectory(str(tmp_path)).entries())) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{} {}",
        b'{"schemaVersion":2}',
        b'{"schemaVersion":2,"manifests":{}}',
        b'{"schemaVersion":1,"manifests":[]}',
        b'{"schemaVersion":2,"manifests":[],"layers":[]}',
        b'{"schemaVersion":2,"manifests":[],"manifests":[]}',
        b'{"schemaVersion":2,"manifests":' + b"[" * 100_000,
        b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","manifests":[]}',
    ],
)
def test_bad_index_file_is_refused_as_a_whole(tmp_path: Path, content: bytes) -> None:
    make_layout(tmp_path, 1)
    (tmp_path / "index.json").write_bytes(content)
    with pytest.raises(InvalidSource, match=r"index\.json"):
        LayoutDirectory(str(tmp_path)).entries()


def test_long_list_is_listed_entry_by_entry(tmp_path: Path, builder: LayoutBuilder) -> None:
    image = builder.image()
    builder.entries = [image] * 20_000
    source = LayoutDirectory(str(builder.write(tmp_path)))
    assert sum(1 for entry in source.entries() if entry.descriptor) == 20_000


# --- choosing by what the path is -------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "oci:", "oci-archive:"])
@pytest.mark.parametrize("tar", [False, True])
def test_what_the_path_is_decides_how_it_is_read(tmp_path: Path, prefix: str, tar: bool) -> None:
    path = tmp_path / "image"
    tags = make_layout(path, 1, tar=tar)
    source = open_source(f"{prefix}{path}")
    assert source.location == str(path)
    (entry,) = source.entries()
    assert entry.descriptor is not None
    assert entry.descriptor.digest == tags["v0"]
    source.close()


@pytest.mark.parametrize("path", ["missing", "", "oci:", "file/below", "a\0b"])
def test_path_with_nothing_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidSource, match=r"no such file|Not a directory|null"):
        open_source(path)


def test_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSource, match=r"/missing: no such file or directory"):
        open_source(f"oci:{tmp_path}/missing")


def test_path_that_is_a_fifo_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InvalidSource, match="neither a directory nor a regular file"):
        open_source(str(tmp_path / "fifo"))


def test_file_is_not_opened_as_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(dumps({}))
    with pytest.raises(InvalidSource, match="Not a directory"):
        LayoutDirectory(str(tmp_path / "file"))
