from __future__ import annotations

import gzip
import io
import lzma
import os
import subprocess
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regmeta.errors import (
    DigestMismatch,
    Error,
    InvalidManifest,
    InvalidSource,
    MissingContent,
    SizeMismatch,
)
from regmeta.oci import layout as layout_files
from regmeta.oci.digest import Digest
from regmeta.sources import archive as archive_module
from regmeta.sources.archive import LayoutArchive
from tests.builders import LayoutBuilder, digest_of, make_layout, parsed

LIMIT = 4 * 1024 * 1024  # [bytes]
BLOCK = tarfile.BLOCKSIZE
END = bytes(2 * BLOCK)
BLOB = b"content of a blob"
DIGEST = Digest.of(BLOB)
BLOB_NAME = layout_files.blob_path(DIGEST)


def member(
    name: str,
    content: bytes = b"",
    kind: bytes = tarfile.REGTYPE,
    link: str = "",
    size: int | None = None,
) -> bytes:
    """Return a header and its padded data; *size* is what the header says, if not the truth."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.size = len(content) if size is None else size
    return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % BLOCK)


def record(key: bytes, value: bytes) -> bytes:
    """Return one record of a pax header."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest)
    while len(rest) + len(str(length)) != length:
        length = len(rest) + len(str(length))
    return str(length).encode() + rest


def pax(*records: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    return member("PaxHeaders/x", b"".join(records), kind)


LAYOUT = member("oci-layout", layout_files.LAYOUT_CONTENT)
INDEX = member("index.json", layout_files.index_content([]))
GOOD = LAYOUT + INDEX + member(BLOB_NAME, BLOB)


def write(path: Path, content: bytes) -> str:
    target = path / "image.tar"
    target.write_bytes(content)
    return str(target)


def read_all(source: LayoutArchive, digest: Digest, chunk_bytes: int = 7) -> bytes:
    content = bytearray()
    buffer = memoryview(bytearray(chunk_bytes))
    with source.open(digest) as stream:
        while count := stream.readinto(buffer):
            content += buffer[:count]
        assert stream.readinto(buffer) == 0
    return bytes(content)


# --- what a good archive gives ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "tar_format"),
    [
        ("sha256", tarfile.USTAR_FORMAT),
        ("sha256", tarfile.PAX_FORMAT),
        # A name that is longer than the field of a header.
        ("sha512", tarfile.GNU_FORMAT),
        ("sha512", tarfile.PAX_FORMAT),
    ],
)
def test_content_is_read_whole_and_as_a_stream(tmp_path: Path, algorithm: str, tar_format: int) -> None:
    builder = LayoutBuilder(algorithm=algorithm)
    blobs = {content: builder.blob(content) for content in (b"", b"a", bytes(1000), b"z" * 512)}
    image = builder.tag(builder.image(), "v1")
    path = tmp_path / "image.tar"
    source = LayoutArchive(str(builder.write_tar(path, tar_format)))
    for content, blob in blobs.items():
        assert source.read(parsed(blob), LIMIT) == content
        assert read_all(source, digest_of(blob)) == content
    (entry,) = source.entries()
    assert (entry.ref_name, entry.descriptor) == ("v1", parsed(image))
    assert source.location == str(path)
    source.close()
    source.close()


@pytest.mark.parametrize("names", [["."], ["blobs", "index.json", "oci-layout"]])
def test_archive_made_of_a_directory_is_read(tmp_path: Path, names: list[str]) -> None:
    tags = make_layout(tmp_path / "layout", 2)
    path = tmp_path / "image.tar"
    subprocess.run(["tar", "-C", tmp_path / "layout", "-cf", path, *names], check=True)
    entries = LayoutArchive(str(path)).entries()
    assert [entry.descriptor and entry.descriptor.digest for entry in entries] == [*tags.values()]


def test_path_may_be_a_symbolic_link(tmp_path: Path) -> None:
    write(tmp_path, GOOD + END)
    (tmp_path / "link").symlink_to("image.tar")
    assert read_all(LayoutArchive(str(tmp_path / "link")), DIGEST) == BLOB


def test_streams_of_one_archive_do_not_disturb_each_other(tmp_path: Path) -> None:
    builder = LayoutBuilder()
    blobs = [builder.blob(b"%d" % number * 100) for number in range(50)]
    source = LayoutArchive(str(builder.write_tar(tmp_path / "image.tar")))
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda blob: read_all(source, digest_of(blob)), blobs * 4))
    assert results == [b"%d" % number * 100 for number in range(50)] * 4


IGNORED = {
    "an escape upwards": member(f"../{BLOB_NAME}", b"evil"),
    "an escape from within": member("blobs/sha256/../../../etc/passwd", b"evil"),
    "an absolute name": member("/oci-layout", b"evil"),
    "an absolute blob": member(f"/{BLOB_NAME}", b"evil"),
    "a name that only normalises": member("blobs//sha256/" + DIGEST.hex, b"evil"),
    "two dots in front": member("././index.json", b"evil"),
    "upper-case hex": member("blobs/sha256/" + DIGEST.hex.upper(), b"evil"),
    "a short digest": member("blobs/sha256/abc", b"evil"),
    "an unknown algorithm": member("blobs/md5/" + "a" * 32, b"evil"),
    "a folder deeper": member(f"{BLOB_NAME}/x", b"evil"),
    "the manifest of docker save": member("manifest.json", b"[]"),
    "a symbolic link elsewhere": member("latest", kind=tarfile.SYMTYPE, link="/etc/shadow"),
    "a file through that link": member("latest/x", b"evil"),
    "a device elsewhere": member("dev/zero", kind=tarfile.CHRTYPE),
    "a link with a size": member("lnk", kind=tarfile.LNKTYPE, link="oci-layout", size=4096),
    "an unknown type": member("vendor", b"data", b"Z"),
    "folders": member("blobs", kind=tarfile.DIRTYPE) + member("blobs/sha256/", kind=tarfile.DIRTYPE),
    "a name that is not UTF-8": member("\udcff\udcfe", b"evil"),
    "a global comment, as git archive writes it": pax(record(b"comment", b"abc"), kind=tarfile.XGLTYPE),
    "a pax path that is empty": pax(record(b"path", b"")) + member("x", b"evil"),
    "a pax path elsewhere": pax(record(b"path", b"../../etc/passwd")) + member("y", b"evil"),
}


@pytest.mark.parametrize("extra", IGNORED.values(), ids=IGNORED.keys())
def test_members_that_are_not_of_a_layout_are_ignored(tmp_path: Path, extra: bytes) -> None:
    source = LayoutArchive(write(tmp_path, extra + GOOD + END))
    assert read_all(source, DIGEST) == BLOB
    assert list(source.entries()) == []
    assert os.listdir(tmp_path) == ["image.tar"]


def test_extended_headers_name_and_measure_a_member(tmp_path: Path) -> None:
    name = record(b"path", BLOB_NAME.encode())
    size = record(b"size", b"%d" % len(BLOB))
    named = pax(record(b"mtime", b"1.5"), name, size) + member("short", BLOB, size=0)
    source = LayoutArchive(write(tmp_path, named + LAYOUT + INDEX + END))
    assert read_all(source, DIGEST) == BLOB


def test_what_follows_the_end_of_the_archive_is_not_read(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + bytes(BLOCK) + b"rubbish" * 1000)
    assert read_all(LayoutArchive(path), DIGEST) == BLOB


# --- what is refused --------------------------------------------------------------------------

REFUSED = {
    "empty": (b"", "cut off at byte 0"),
    "no tar file": (b"#!/bin/sh\n" * 100, "no tar header at byte 0"),
    "zeros": (bytes(10_240), "oci-layout: no such file"),
    "no oci-layout": (INDEX + END, "oci-layout: no such file"),
    "another version": (
        member("oci-layout", b'{"imageLayoutVersion":"2.0.0"}') + INDEX + END,
        "not supported",
    ),
    "large oci-layout": (member("oci-layout", bytes(70_000)) + INDEX + END, "are more than"),
    "cut in a header": (GOOD[: -BLOCK - 100], "cut off"),
    "cut in data": (GOOD[: -BLOCK + 5], f"cut off in '{BLOB_NAME}'"),
    "cut in padding": (GOOD[:-1], "cut off"),
    "cut behind a member": (GOOD, f"cut off at byte {len(GOOD)}"),
    "cut in an extended header": (GOOD + pax(record(b"path", b"x"))[:-1], "cut off"),
    "end behind an extended header": (GOOD + pax(record(b"path", b"x")) + END, "cut off behind"),
    "broken header in the middle": (LAYOUT + b"x" * BLOCK + INDEX + END, "no tar header at byte"),
    "size of a terabyte": (GOOD + member("x", size=2**40) + END, "cut off in 'x'"),
    "escapes for a terminal in a name": (
        GOOD + member("\x1b[31m", size=2**40) + END,
        r"cut off in '\\x1b\[31m'",
    ),
    "negative size": (GOOD + member("x", size=-BLOCK) + END, "negative size"),
    "blob as symbolic link": (
        LAYOUT + member(BLOB_NAME, kind=tarfile.SYMTYPE, link="/etc/shadow") + END,
        f"{BLOB_NAME} is not a regular file",
    ),
    "blob as hard link": (
        LAYOUT + member(BLOB_NAME, kind=tarfile.LNKTYPE, link="oci-layout") + END,
        f"{BLOB_NAME} is not a regular file",
    ),
    "blob as device": (LAYOUT + member(BLOB_NAME, kind=tarfile.BLKTYPE) + END, "not a regular"),
    "blob as FIFO": (LAYOUT + member(BLOB_NAME, kind=tarfile.FIFOTYPE) + END, "not a regular"),
    "blob as directory": (LAYOUT + member(BLOB_NAME, kind=tarfile.DIRTYPE) + END, "not a regular"),
    "blob of an unknown type": (LAYOUT + member(BLOB_NAME, BLOB, b"Z") + END, "not a regular"),
    "index.json as symbolic link": (
        LAYOUT + member("./index.json", kind=tarfile.SYMTYPE, link="/etc/shadow") + END,
        r"\./index\.json is not a regular file",
    ),
    "blobs as symbolic link, then a file through it": (
        LAYOUT + member("blobs", kind=tarfile.SYMTYPE, link="/tmp") + GOOD + END,
        "blobs is not a directory",
    ),
    "sha256 as symbolic link": (
        LAYOUT + member("./blobs/sha256", kind=tarfile.SYMTYPE, link="/tmp") + END,
        "blobs/sha256 is not a directory",
    ),
    "sparse, old GNU": (LAYOUT + member(BLOB_NAME, kind=tarfile.GNUTYPE_SPARSE) + END, "is sparse"),
    "sparse, pax": (
        LAYOUT + pax(record(b"GNU.sparse.size", b"9")) + member(BLOB_NAME, BLOB) + END,
        "sparse",
    ),
    "a blob twice": (GOOD + member(f"./{BLOB_NAME}", b"evil") + END, "in the archive twice"),
    "oci-layout twice": (GOOD + LAYOUT + END, "oci-layout is in the archive twice"),
    "index.json twice, by a pax path": (
        GOOD + pax(record(b"path", b"index.json")) + member("x", b"{}") + END,
        r"index\.json is in the archive twice",
    ),
    "two pax paths": (
        LAYOUT + pax(record(b"path", b"a")) + pax(record(b"path", b"b")) + member("x") + END,
        "two headers say the path",
    ),
    "a pax path and a GNU long name": (
        LAYOUT
        + pax(record(b"path", b"a"))
        + member("L", b"b\0", tarfile.GNUTYPE_LONGNAME)
        + member("x")
        + END,
        "two headers say the path",
    ),
    "path for all that follow": (
        pax(record(b"path", b"index.json"), kind=tarfile.XGLTYPE) + GOOD + END,
        "one path for all",
    ),
    "size for all that follow": (
        pax(record(b"size", b"5"), kind=tarfile.XGLTYPE) + GOOD + END,
        "one size for all",
    ),
    "pax size that is negative": (pax(record(b"size", b"-512")) + GOOD + END, "with the size"),
    "pax size that is no number": (pax(record(b"size", b"1_0")) + GOOD + END, "with the size"),
    "pax size of many digits": (pax(record(b"size", b"9" * 5000)) + GOOD + END, "with the size"),
    "pax size beyond the end": (pax(record(b"size", b"9" * 19)) + GOOD + END, "cut off"),
    "pax record of length 0": (pax(b"0 path=x\n") + GOOD + END, "bad record"),
    "pax record that overlaps": (pax(b"2 2 2 2 2 2=x\n") + GOOD + END, "bad record"),
    "pax record that ends behind the header": (pax(b"99 path=x\n") + GOOD + END, "bad record"),
    "pax record without an equals sign": (pax(b"9 pathxx\n") + GOOD + END, "bad record"),
    "pax record without a line feed": (pax(b"8 path=x") + GOOD + END, "bad record"),
    "pax record of digits": (pax(b"1" * 100_000) + GOOD + END, "bad record"),
    "huge pax header": (pax(bytes(1024 * 1024 + 1)) + GOOD + END, "too large"),
    "huge pax header that is not there": (
        member("x", kind=tarfile.XHDTYPE, size=2**40) + GOOD + END,
        "too large",
    ),
    "huge long name": (
        member("x", kind=tarfile.GNUTYPE_LONGNAME, size=2**33) + GOOD + END,
        "too large",
    ),
    "gzip": (gzip.compress(GOOD + END), r"compressed archives are not supported \(gzip\)"),
    "xz": (lzma.compress(GOOD + END), r"not supported \(xz\); decompress it first"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(600), r"not supported \(zstd\)"),
    "bzip2": (b"BZh91AY&SY" + bytes(600), r"not supported \(bzip2\)"),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_archive_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(InvalidSource, match=message) as caught:
        LayoutArchive(write(tmp_path, content))
    assert str(tmp_path) in str(caught.value)
    assert len(os.listdir("/proc/self/fd")) == before
    assert os.listdir(tmp_path) == ["image.tar"]


@pytest.mark.timeout(20)
def test_long_row_of_extended_headers_is_not_a_deep_stack(tmp_path: Path) -> None:
    row = pax(record(b"mtime", b"1")) * 5_000
    assert read_all(LayoutArchive(write(tmp_path, row + GOOD + END)), DIGEST) == BLOB


def test_more_members_than_the_limit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, GOOD + END)
    monkeypatch.setattr(archive_module, "MAX_MEMBERS", 3)
    LayoutArchive(path).close()
    monkeypatch.setattr(archive_module, "MAX_MEMBERS", 2)
    with pytest.raises(InvalidSource, match="more than 2 members"):
        LayoutArchive(path)


def test_archive_without_index_is_refused_when_it_is_listed(tmp_path: Path) -> None:
    source = LayoutArchive(write(tmp_path, LAYOUT + member(BLOB_NAME, BLOB) + END))
    assert read_all(source, DIGEST) == BLOB
    with pytest.raises(InvalidSource, match=r"index\.json: no such file"):
        source.entries()


def test_missing_blob_is_named(tmp_path: Path) -> None:
    source = LayoutArchive(write(tmp_path, GOOD + END))
    absent = LayoutBuilder().blob(b"absent")
    with pytest.raises(MissingContent, match=absent["digest"]):
        source.read(parsed(absent), LIMIT)
    with pytest.raises(MissingContent, match=absent["digest"]):
        source.open(digest_of(absent))


def test_wrong_size_digest_and_limit_are_told_apart(tmp_path: Path) -> None:
    builder = LayoutBuilder()
    blob = builder.blob(b"content")
    builder.blobs[blob["digest"]] = b"CONTENT"
    source = LayoutArchive(str(builder.write_tar(tmp_path / "image.tar")))
    with pytest.raises(DigestMismatch, match=blob["digest"]):
        source.read(parsed(blob), LIMIT)
    with pytest.raises(SizeMismatch, match=r"has 7 bytes.* says 8"):
        source.read(parsed({**blob, "size": 8}), LIMIT)
    with pytest.raises(InvalidManifest, match="more than 6"):
        source.read(parsed(blob), 6)


def test_archive_that_shrinks_while_it_is_open_gives_fewer_bytes(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + END)
    source = LayoutArchive(path)
    os.truncate(path, len(LAYOUT + INDEX) + BLOCK + 5)
    assert read_all(source, DIGEST) == BLOB[:5]
    with pytest.raises(SizeMismatch):
        source.read(parsed(LayoutBuilder().blob(BLOB)), LIMIT)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "not a regular file"),
        (lambda path: os.mkfifo(path), "not a regular file"),
        (lambda path: path.symlink_to("nowhere"), "no such file or directory"),
        (lambda path: None, "no such file or directory"),
    ],
)
def test_path_that_is_no_regular_file_is_refused(
    tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    make(tmp_path / "image.tar")
    with pytest.raises(InvalidSource, match=message):
        LayoutArchive(str(tmp_path / "image.tar"))


@settings(max_examples=200, deadline=None)
@given(edits=st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=6))
def test_damaged_archive_is_read_or_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, int]]
) -> None:
    content = bytearray(pax(record(b"mtime", b"1")) + GOOD + END)
    for position, value in edits:
        content[position] = value
        header = position // BLOCK * BLOCK
        # With its checksum right again, more of what is wrong gets as far as the reader.
        fields = bytes(content[header : header + 148]) + b" " * 8
        total = sum(fields + bytes(content[header + 156 : header + BLOCK]))
        content[header + 148 : header + 156] = b"%06o\0 " % total
    path = write(tmp_path_factory.getbasetemp(), bytes(content))
    try:
        source = LayoutArchive(path)
    except Error:
        return
    try:
        list(source.entries())
        source.read(parsed(LayoutBuilder().blob(BLOB)), LIMIT)
    except Error:
        pass
    finally:
        source.close()


def test_tarfile_agrees_on_names_and_places(tmp_path: Path) -> None:
    make_layout(tmp_path / "image.tar", 3, tar=True)
    content = (tmp_path / "image.tar").read_bytes()
    source = LayoutArchive(str(tmp_path / "image.tar"))
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for info in archive:
            parts = info.name.split("/")
            if parts[0] == "blobs":
                extracted = archive.extractfile(info)
                assert extracted is not None
                assert read_all(source, Digest(parts[1], parts[2])) == extracted.read()
