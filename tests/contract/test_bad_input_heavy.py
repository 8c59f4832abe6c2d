"""The catalogue of bad input (docs/internals/hostile-input.md): what is large, in processes."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from regmeta.oci import media_types
from regmeta.oci.manifest import MAX_MANIFEST_BYTES
from tests.builders import AMD64, LayoutBuilder, dumps
from tests.support.bad_input import (
    END,
    Twins,
    check_printed,
    image,
    index,
    measured,
    member,
    members_of,
    sparse_file,
    state,
)

MAX_PEAK_BYTES = 200 * 2**20  # [bytes]
MORE_BYTES = 320 * 2**20  # [bytes] where more comes together than a row of the catalogue says
ENTRIES = 100_000


@dataclass(frozen=True)
class Heavy:
    """A source that is large, and how an import of it ends. *write* returns what must be named, if any."""

    row: int
    name: str
    write: Callable[[Path], str]
    code: int
    says: str
    options: tuple[str, ...] = ()
    peak_bytes: int = MAX_PEAK_BYTES

    @property
    def databases(self) -> tuple[str, ...]:
        """Where it is tried: what is refused while it is read never comes to a database."""
        reaches = self.code == 0 or self.says == "is missing"
        return ("sqlite", "postgresql") if reaches else ("sqlite",)

    def __str__(self) -> str:
        return f"{self.row}-{self.name}".replace(" ", "-")


def padded(builder: LayoutBuilder, size_bytes: int) -> bytes:
    """Return an image manifest of just this size."""
    document = image(builder, annotations={"padding": ""})
    document["annotations"]["padding"] = "x" * (size_bytes - len(dumps(document)))
    return dumps(document)


def listed(path: Path, builder: LayoutBuilder, content: bytes, media_type: str) -> str:
    """Write a layout of one manifest of these bytes; return its digest."""
    entry = builder.tag(builder.blob(content, media_type), "v1")
    builder.write(path)
    return str(entry["digest"])


def brackets(path: Path) -> str:
    return listed(path, LayoutBuilder(), b"[" * MAX_MANIFEST_BYTES, media_types.OCI_MANIFEST)


def brackets_in_a_value(path: Path) -> str:
    half = (MAX_MANIFEST_BYTES - 10) // 2
    content = b'{"a":' + b"[" * half + b"]" * half + b"}"
    return listed(path, LayoutBuilder(), content, media_types.OCI_MANIFEST)


def long_chain(path: Path) -> str:
    builder = LayoutBuilder()
    made = builder.image()
    for _ in range(10_000):
        made = builder.index([made])
    builder.tag(made, "v1")
    builder.write_tar(path)
    return str(made["digest"])


def many_entries(path: Path) -> str:
    builder = LayoutBuilder()
    builder.tag(builder.image(), "v1")
    found = {"mediaType": media_types.OCI_MANIFEST, "size": 500}
    builder.entries += [{**found, "digest": f"sha256:{number:064x}"} for number in range(ENTRIES)]
    builder.write(path)
    return ""


def many_bad_entries(path: Path) -> str:
    builder = LayoutBuilder()
    found = {"mediaType": media_types.OCI_MANIFEST, "size": 500}
    for number in range(ENTRIES):
        builder.tag({**found, "digest": f"sha256:{number:064X}"}, f"v{number}")
    builder.write(path)
    return "sha256:" + "0" * 64


def many_children(path: Path) -> str:
    builder = LayoutBuilder()
    found = {"mediaType": media_types.OCI_MANIFEST, "size": 500}
    children = [{**found, "digest": f"sha256:{number:064x}"} for number in range(ENTRIES)]
    content = dumps(index(children))
    assert len(content) > MAX_MANIFEST_BYTES
    return listed(path, builder, content, media_types.OCI_INDEX)


def as_many_children_as_fit(path: Path) -> str:
    builder = LayoutBuilder()
    found = {"mediaType": "a/b", "size": 1}
    children = [{**found, "digest": f"sha256:{number:064x}"} for number in range(36_000)]
    listed(path, builder, dumps(index(children)), media_types.OCI_INDEX)
    return str(children[0]["digest"])


def absent_children(path: Path) -> str:
    builder = LayoutBuilder()
    found = {"mediaType": media_types.OCI_MANIFEST, "size": 1}
    children = [{**found, "digest": f"sha256:{number:064x}"} for number in range(5_000)]
    listed(path, builder, dumps(index(children)), media_types.OCI_INDEX)
    return ""


def greatest_manifest(path: Path) -> str:
    builder = LayoutBuilder()
    listed(path, builder, padded(builder, MAX_MANIFEST_BYTES), media_types.OCI_MANIFEST)
    return ""


def too_great_manifest(path: Path) -> str:
    builder = LayoutBuilder()
    return listed(path, builder, padded(builder, MAX_MANIFEST_BYTES + 1), media_types.OCI_MANIFEST)


def annotated(builder: LayoutBuilder, number: int) -> bytes:
    notes = {f"{number}.{count}": "" for count in range(190_000)}
    content = dumps(image(builder, annotations=notes))
    assert 2**21 < len(content) <= MAX_MANIFEST_BYTES
    return content


def many_annotations(path: Path) -> str:
    builder = LayoutBuilder()
    listed(path, builder, annotated(builder, 0), media_types.OCI_MANIFEST)
    return ""


def many_annotations_of_many_children(path: Path) -> str:
    builder = LayoutBuilder()
    children = [builder.blob(annotated(builder, n), media_types.OCI_MANIFEST) for n in range(8)]
    return listed(path, builder, dumps(index(children)), media_types.OCI_INDEX)


def large_config(path: Path) -> str:
    """A configuration of more bytes than may be held: it is copied, and not read."""
    builder = LayoutBuilder()
    size_bytes = 256 * 2**20
    hasher = hashlib.sha256()
    for _ in range(256):
        hasher.update(bytes(2**20))
    digest = f"sha256:{hasher.hexdigest()}"
    config = {"mediaType": media_types.OCI_CONFIG, "digest": digest, "size": size_bytes}
    listed(path, builder, dumps(image(builder, config=config)), media_types.OCI_MANIFEST)
    sparse_file(path / "blobs" / digest.replace(":", "/"), size_bytes)
    return digest


def config_of_a_gigabyte_that_lies(path: Path) -> str:
    builder = LayoutBuilder()
    digest = "sha256:" + "1" * 64
    config = {"mediaType": media_types.OCI_CONFIG, "digest": digest, "size": 1000}
    listed(path, builder, dumps(image(builder, config=config)), media_types.OCI_MANIFEST)
    sparse_file(path / "blobs" / digest.replace(":", "/"), 2**30)
    return digest


def large_configs_of_many_children(path: Path) -> str:
    builder = LayoutBuilder()
    labels = [{"Labels": {f"{n}.{c}": "" for c in range(150_000)}} for n in range(30)]
    configs = [builder.blob(dumps({"config": label}), media_types.OCI_CONFIG) for label in labels]
    children = [builder.image([b"x"], config, platform=AMD64) for config in configs]
    return listed(path, builder, dumps(index(children)), media_types.OCI_INDEX)


def hole(path: Path) -> str:
    builder = LayoutBuilder()
    builder.tag(builder.image(), "v1")
    info = tarfile.TarInfo("hole")
    info.size = 10 * 2**30
    with io.FileIO(path, "w") as file:
        file.write(members_of(builder) + info.tobuf(tarfile.GNU_FORMAT))
        file.seek(info.size, os.SEEK_CUR)
        file.write(END)
    return ""


def compressed_zeros(path: Path) -> str:
    path.write_bytes(gzip.compress(bytes(100 * 2**20)))
    return str(path)


def many_members(path: Path) -> str:
    path.write_bytes(member("x") * 100_000 + members_of(LayoutBuilder()) + END)
    return str(path)


HEAVY = [
    Heavy(1, "4 MiB of brackets", brackets, 3, "nested deeper"),
    Heavy(1, "4 MiB of brackets in a value", brackets_in_a_value, 3, "nested deeper"),
    Heavy(46, "10,000 indexes", long_chain, 3, "nest deeper than 16"),
    Heavy(48, "100,000 entries", many_entries, 0, "1 image imported"),
    Heavy(48, "100,000 bad entries", many_bad_entries, 3, "not a sha256 digest"),
    Heavy(48, "100,000 missing entries", many_entries, 3, "is missing", ("--all",), MORE_BYTES),
    Heavy(48, "100,000 children", many_children, 3, "more than 4194304"),
    Heavy(48, "36,000 children", as_many_children_as_fit, 3, "is missing"),
    Heavy(48, "5,000 absent children", absent_children, 0, "1 image imported", ("--sparse",)),
    Heavy(49, "4 MiB", greatest_manifest, 0, "1 image imported"),
    Heavy(49, "4 MiB and 1", too_great_manifest, 3, "4194305 bytes, more than 4194304"),
    Heavy(50, "190,000 annotations", many_annotations, 0, "1 image imported"),
    Heavy(50, "8 times", many_annotations_of_many_children, 3, "bytes together", (), MORE_BYTES),
    Heavy(54, "config of 256 MiB", large_config, 0, "cannot be read.*1 image imported"),
    Heavy(54, "config of 1 GiB that lies", config_of_a_gigabyte_that_lies, 4, "has 1073741824 bytes"),
    Heavy(54, "30 configs of 3 MiB", large_configs_of_many_children, 3, "bytes together", (), MORE_BYTES),
    Heavy(73, "hole of 10 GiB", hole, 0, "1 image imported"),
    Heavy(73, "compressed zeros", compressed_zeros, 3, "compressed archives"),
    Heavy(73, "100,000 members", many_members, 2, "no named image"),
]


@pytest.mark.soak
@pytest.mark.timeout(280)
@pytest.mark.parametrize("case", HEAVY, ids=str)
def test_large_input_takes_little_memory(
    case: Heavy, twins: Twins, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    culprit = case.write(tmp_path / "source")
    repository = twins.new_repository()
    for name in case.databases:
        settings = twins.settings[name]
        before = state(settings) if case.code else None
        began_s = time.monotonic()
        options = (str(tmp_path / "source"), repository, *case.options)
        done = measured(settings, tmp_path, "import", *options)
        with capsys.disabled():
            taken_s = time.monotonic() - began_s
            print(f"\n{case} {name}: {done.peak_bytes / 2**20:.0f} MiB, {taken_s:.1f} s", end="")
        assert done.code == case.code, done.err[-2_000:]
        assert culprit in done.err
        assert re.search(case.says, done.err, re.DOTALL)
        check_printed(done.err)
        assert done.peak_bytes <= case.peak_bytes
        if before is not None and not case.options:
            assert state(settings) == before
