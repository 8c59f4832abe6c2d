"""Files of bbolt: read as they were written, and hostile ones refused."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from regmeta.errors import InvalidSource, RemoteUnavailable
from regmeta.sources.zot import bolt
from regmeta.sources.zot.bolt import BoltFile
from tests.unit.sources.zot.bolt_files import BoltWriter, meta

MANY = {f"key{number:04}".encode(): bytes([number % 251]) * (number * 7 % 90) for number in range(300)}
MANY[b"key0100"] = bytes(range(250)) * 50  # over several pages


def items(path: Path, name: bytes = b"Many") -> dict[bytes, bytes]:
    found = BoltFile(str(path)).bucket(name)
    assert found is not None
    return {key: bytes(value) for key, value in found}


@pytest.mark.parametrize("page_size", [1024, 4096, 65536])
def test_buckets_are_read_in_order_without_the_buckets_in_them(tmp_path: Path, page_size: int) -> None:
    others = {f"Other{number}".encode(): {b"k": b"v"} for number in range(20)}
    path = BoltWriter(page_size).write(tmp_path / "meta.db", {b"Many": MANY, b"None": {}, **others})
    found = items(path)
    assert found == MANY
    assert list(found) == sorted(MANY)
    assert items(path, b"None") == {}
    assert items(path, b"Other19") == {b"k": b"v"}
    assert BoltFile(str(path)).bucket(b"Missing") is None
    assert BoltFile(str(path)).bucket(b"key0001") is None


def test_bucket_that_lies_in_its_value_is_read(tmp_path: Path) -> None:
    writer = BoltWriter()
    inline = (
        struct.pack("<QQ", 0, 0)
        + struct.pack("<QHHI", 0, 2, 1, 0)
        + struct.pack("<IIII", 0, 16, 1, 2)
        + b"kvv"
    )
    root = writer.tree([(b"Small", inline, 1)])
    path = writer.write(tmp_path / "meta.db", {})
    data = bytearray(path.read_bytes())
    data[:1024] = meta(0, 1024, root, writer.end, 9).ljust(1024, b"\0")
    path.write_bytes(data)
    assert items(path, b"Small") == {b"k": b"vv"}


def test_older_transaction_stands_where_the_newer_meta_page_is_torn(tmp_path: Path) -> None:
    path = BoltWriter().write(tmp_path / "meta.db", {b"Many": MANY})
    data = bytearray(path.read_bytes())
    data[1024:2048] = data[:1024]
    data[40] ^= 1
    path.write_bytes(data)
    assert items(path) == MANY
    data[1024 + 40] ^= 1
    path.write_bytes(data)
    with pytest.raises(InvalidSource, match="meta pages are damaged"):
        BoltFile(str(path))


@pytest.mark.parametrize("content", [b"", b"x", b"SQLite format 3\0" * 400, bytes(70_000)])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "meta.db"
    path.write_bytes(content)
    with pytest.raises(InvalidSource, match="not a file of bbolt"):
        BoltFile(str(path))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing", "a\0b"):
        with pytest.raises(InvalidSource):
            BoltFile(str(path))


def test_file_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = BoltWriter().write(tmp_path / "meta.db", {b"Many": MANY})
    monkeypatch.setattr(bolt, "MAX_FILE", 1000)
    with pytest.raises(InvalidSource, match="more than 1000 bytes"):
        BoltFile(str(path))


def test_file_that_changes_all_the_time_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = BoltWriter().write(tmp_path / "meta.db", {b"Many": MANY})
    committed = 100
    load = bolt._content

    def write_meanwhile(handle: int, name: str) -> bytes:
        nonlocal committed
        content = load(handle, name)
        committed += 1
        with path.open("r+b") as file:
            file.write(meta(0, 1024, 3, 50, committed))
        return content

    monkeypatch.setattr(bolt, "_content", write_meanwhile)
    monkeypatch.setattr(bolt, "_PAUSE_S", 0.0)
    with pytest.raises(RemoteUnavailable, match="stop zot"):
        BoltFile(str(path))


@pytest.mark.parametrize(
    ("what", "elements"),
    [
        (0x01, [(struct.pack("<Q", 3), b"a")]),  # itself
        (0x01, [(struct.pack("<Q", 0), b"a")]),  # a meta page
        (0x01, [(struct.pack("<Q", 2**63), b"a")]),
        (0x10, []),  # a list of free pages
        (0x03, []),
    ],
)
def test_tree_that_is_none_is_refused(tmp_path: Path, what: int, elements: list[tuple[bytes, bytes]]) -> None:
    writer = BoltWriter()
    assert writer.put(what, elements) == 3
    path = writer.write(tmp_path / "meta.db", {})
    data = bytearray(path.read_bytes())
    data[:1024] = meta(0, 1024, 3, writer.end, 9).ljust(1024, b"\0")
    path.write_bytes(data)
    with pytest.raises(InvalidSource, match="damaged"):
        BoltFile(str(path)).bucket(b"Many")


def test_damage_anywhere_ends_in_an_error_or_in_other_values(tmp_path: Path) -> None:
    path = BoltWriter().write(tmp_path / "meta.db", {b"Many": MANY})
    sound = path.read_bytes()
    chance = random.Random(8)
    refused = 0
    for _ in range(400):
        data = bytearray(sound)
        for _ in range(chance.choice((1, 1, 3, 30))):
            page = chance.randrange(3, len(data) // 1024)
            data[page * 1024 + chance.randrange(80)] = chance.choice((0, 1, 2, 255, chance.randrange(256)))
        path.write_bytes(data)
        try:
            for _ in BoltFile(str(path)).bucket(b"Many") or ():
                pass
        except InvalidSource:
            refused += 1
    assert refused > 100


def test_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = BoltWriter().write(tmp_path / "meta.db", {b"Many": MANY})
    sound = path.read_bytes()
    for size in range(1024, len(sound) - 1024, 3000):
        path.write_bytes(sound[:size])
        with pytest.raises(InvalidSource):
            items(path)
