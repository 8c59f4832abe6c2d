"""The catalogue of bad input (docs/internals/hostile-input.md), row 73: archives that lead elsewhere."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from regmeta.errors import InvalidSource
from regmeta.oci.layout import blob_path
from tests.builders import Json, LayoutBuilder, digest_of
from tests.support.bad_input import (
    BLOCK,
    END,
    Expected,
    Twins,
    import_all,
    member,
    members_of,
    tags_of,
)

Write = Callable[[LayoutBuilder, str], bytes]
"""Return an archive from a layout and the name of its layer."""


def without(builder: LayoutBuilder, *names: str) -> bytes:
    """Return the members of a layout but for some."""
    return b"".join(member(name, data) for name, data in builder.files().items() if name not in names)


def pax(key: str, value: str, kind: bytes = tarfile.XHDTYPE) -> bytes:
    """Return an extended header of one record."""
    rest = f" {key}={value}\n"
    length = len(rest.encode())
    while length != len(rest.encode()) + len(str(length)):
        length = len(rest.encode()) + len(str(length))
    return member("pax", f"{length}{rest}".encode(), kind)


def gnu_sparse(builder: LayoutBuilder, name: str) -> bytes:
    return without(builder, name) + member(name, b"x", tarfile.GNUTYPE_SPARSE)


def many_extended_headers(builder: LayoutBuilder, _: str) -> bytes:
    """Ten thousand headers of a megabyte each say they follow; the first is not there."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 2**20 + 1
    return info.tobuf(tarfile.GNU_FORMAT) * 10_000


REFUSED: dict[str, tuple[Write, str]] = {
    "layer is a symbolic link": (
        lambda b, n: without(b, n) + member(n, kind=tarfile.SYMTYPE, link="/etc/hostname") + END,
        "is not a regular file",
    ),
    "layer is a hard link": (
        lambda b, n: without(b, n) + member(n, kind=tarfile.LNKTYPE, link="/etc/hostname") + END,
        "is not a regular file",
    ),
    "layer is a device": (
        lambda b, n: without(b, n) + member(n, kind=tarfile.CHRTYPE) + END,
        "is not a regular file",
    ),
    "layer is a FIFO": (
        lambda b, n: without(b, n) + member(n, kind=tarfile.FIFOTYPE) + END,
        "is not a regular file",
    ),
    "folder is a symbolic link, then files through it": (
        lambda b, n: member("blobs", kind=tarfile.SYMTYPE, link="/tmp") + members_of(b) + END,
        "blobs is not a directory",
    ),
    "layer twice": (lambda b, n: members_of(b) + member(n, b"other") + END, "in the archive twice"),
    "layer twice, by another spelling": (
        lambda b, n: members_of(b) + member(f"./{n}", b"other") + END,
        "in the archive twice",
    ),
    "index.json twice": (
        lambda b, n: members_of(b) + member("index.json", b"{}") + END,
        "in the archive twice",
    ),
    "index.json twice, by an extended header": (
        lambda b, n: members_of(b) + pax("path", "index.json") + member("x", b"{}") + END,
        "in the archive twice",
    ),
    "cut off": (lambda b, n: members_of(b)[:-BLOCK], "cut off"),
    "no end": (lambda b, n: members_of(b), "cut off"),
    "empty": (lambda b, n: b"", "cut off at byte 0"),
    "no archive": (lambda b, n: b"#!/bin/sh\n" * 200, "no tar header at byte 0"),
    "sparse, GNU": (lambda b, n: gnu_sparse(b, n) + END, "is sparse"),
    "sparse, pax": (
        lambda b, n: without(b, n) + pax("GNU.sparse.size", "9") + member(n, b"x") + END,
        "sparse",
    ),
    "name for all that follow": (
        lambda b, n: pax("path", "index.json", tarfile.XGLTYPE) + members_of(b) + END,
        "one path for all members",
    ),
    "size with an underscore": (lambda b, n: pax("size", "1_0") + members_of(b) + END, "with the size"),
    "size of 5,000 digits": (lambda b, n: pax("size", "9" * 5_000) + members_of(b) + END, "with the size"),
    "megabytes of extended headers": (many_extended_headers, "is too large"),
    "steering name": (
        lambda b, n: members_of(b) + member("\x1b[2J", b"x" * BLOCK)[: BLOCK + 5],
        r"cut off in '\\x1b\[2J'",
    ),
    "gzip": (lambda b, n: gzip.compress(members_of(b) + END), r"not supported \(gzip\)"),
    "gigabytes in kilobytes": (lambda b, n: gzip.compress(bytes(10**7)), r"not supported \(gzip\)"),
    "xz": (lambda b, n: lzma.compress(members_of(b) + END), r"not supported \(xz\)"),
    "bzip2": (lambda b, n: bz2.compress(members_of(b) + END), r"not supported \(bzip2\)"),
    "zstd": (lambda b, n: b"\x28\xb5\x2f\xfd" + bytes(600), r"not supported \(zstd\)"),
}


def a_layout() -> tuple[LayoutBuilder, Json, str]:
    """Return a layout of one image, the image, and the name of its layer."""
    builder = LayoutBuilder()
    layer = builder.layer(b"a layer")
    image = builder.tag(builder.image([layer]), "v1")
    return builder, image, blob_path(digest_of(layer))


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("write", "says"), REFUSED.values(), ids=[f"73-{name}" for name in REFUSED])
def test_archive_that_can_be_read_in_two_ways_is_refused_as_a_whole(
    write: Write, says: str, twins: Twins, tmp_path: Path
) -> None:
    builder, _, name = a_layout()
    path = tmp_path / "image.tar"
    path.write_bytes(write(builder, name))
    twins.refuse_source(Expected(InvalidSource, 3, str(path), says), path)
    assert os.listdir(tmp_path) == ["image.tar"]


IGNORED: dict[str, bytes] = {
    "out of the layout": member("../escaped", b"evil") + member("blobs/sha256/../../../escaped", b"evil"),
    "absolute": member("/tmp/regmeta-escaped", b"evil"),
    "through a symbolic link": member("link", kind=tarfile.SYMTYPE, link="..") + member("link/escaped", b"x"),
    "through a hard link": member("hard", kind=tarfile.LNKTYPE, link="/etc/hostname") + member("hard", b"x"),
    "device": member("zero", kind=tarfile.CHRTYPE),
    "zeros": member("zeros", bytes(2**20)),
    "by an extended header": pax("path", "../escaped") + member("x", b"evil"),
    "by a name that is no text": member("\udcff\udcfe", b"evil"),
    "other algorithm": member("blobs/md5/" + "a" * 32, b"evil"),
    "upper-case hex": member("blobs/sha256/" + "A" * 64, b"evil"),
}


@pytest.mark.parametrize("extra", IGNORED.values(), ids=[f"73-{name}" for name in IGNORED])
def test_member_that_is_not_of_the_layout_is_never_written_anywhere(
    extra: bytes, twins: Twins, tmp_path: Path
) -> None:
    builder, image, _ = a_layout()
    inside = tmp_path / "inside"
    inside.mkdir()
    path = inside / "image.tar"
    path.write_bytes(extra + members_of(builder) + END)
    repository = twins.new_repository()
    for settings in twins.settings.values():
        assert [outcome.status for outcome in import_all(settings, path, repository)] == ["imported"]
        assert tags_of(settings, repository) == {"v1": image["digest"]}
        escaped = [file for file in Path(settings.home).rglob("*") if "escaped" in file.name]
        assert not escaped
    assert sorted(os.listdir(tmp_path)) == ["inside"]
    assert os.listdir(inside) == ["image.tar"]
    assert not Path("/tmp/regmeta-escaped").exists()


def test_archive_with_a_hole_of_ten_gigabytes_is_read_around_it(twins: Twins, tmp_path: Path) -> None:
    """A member of that size that no image needs costs nothing: places are counted, not read."""
    builder, image, _ = a_layout()
    path = tmp_path / "image.tar"
    info = tarfile.TarInfo("hole")
    info.size = 10 * 2**30
    with io.FileIO(path, "w") as file:
        file.write(members_of(builder) + info.tobuf(tarfile.GNU_FORMAT))
        file.seek(info.size, os.SEEK_CUR)
        file.write(END)
    repository = twins.new_repository()
    for settings in twins.settings.values():
        assert [outcome.status for outcome in import_all(settings, path, repository)] == ["imported"]
        assert tags_of(settings, repository) == {"v1": image["digest"]}
