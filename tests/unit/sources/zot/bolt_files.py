"""Writes files as bbolt does, for tests of what reads them: small pages, branches, large values, buckets.

Files of the real one (bbolt 1.3.6, with pages of 1, 4 and 16 KiB) were read by hand when the reader was
written, and what is written here was checked by that program.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from regmeta.sources.zot.bolt import fnv1a

_PER_PAGE = 4  # elements
FREE_LIST = 2


@dataclass
class BoltWriter:
    """A file that is built bottom up; pages behind the meta pages and the list of free ones."""

    page_size: int = 1024
    pages: dict[int, bytes] = field(default_factory=dict)
    end: int = 3

    def write(
        self, path: Path, buckets: Mapping[bytes, Mapping[bytes, bytes]], *, transaction: int = 7
    ) -> Path:
        """Write buckets, each with one more bucket inside."""
        inner = struct.pack("<QQ", 0, 0) + _page(0, 0x02, 0, [_leaf_element(b"in", b"side")])
        values = []
        for name, items in sorted(buckets.items()):
            elements = [(key, value, 0) for key, value in items.items()] + [(b"~inner", inner, 1)]
            root = self.tree(sorted(elements))
            values.append((name, struct.pack("<QQ", root, 0), 1))
        root = self.tree(values)
        self.pages[FREE_LIST] = struct.pack("<QHHI", FREE_LIST, 0x10, 0, 0)
        self.pages[0] = meta(0, self.page_size, root, self.end, transaction)
        self.pages[1] = meta(1, self.page_size, 999, self.end, transaction - 1)
        data = bytearray(self.end * self.page_size)
        for number, page in self.pages.items():
            data[number * self.page_size : number * self.page_size + len(page)] = page
        path.write_bytes(data)
        return path

    def tree(self, items: list[tuple[bytes, bytes, int]]) -> int:
        """Write leaves with their branches; return the root."""
        pieces = [items[at : at + _PER_PAGE] for at in range(0, len(items), _PER_PAGE)] or [[]]
        level = [
            (piece[0][0] if piece else b"", self.put(0x02, [_leaf_element(*each) for each in piece]))
            for piece in pieces
        ]
        while len(level) > 1:
            some = [level[at : at + _PER_PAGE] for at in range(0, len(level), _PER_PAGE)]
            level = [
                (piece[0][0], self.put(0x01, [(struct.pack("<Q", page), key) for key, page in piece]))
                for piece in some
            ]
        return level[0][1]

    def put(self, what: int, elements: list[tuple[bytes, bytes]]) -> int:
        """Put a page, and those that it goes on over, at the end."""
        number = self.end
        size = len(_page(number, what, 0, elements))
        more = max(0, -(-size // self.page_size) - 1)
        self.pages[number] = _page(number, what, more, elements)
        self.end += more + 1
        return number


def meta(number: int, page_size: int, root: int, pages: int, transaction: int) -> bytes:
    """Return a meta page."""
    body = struct.pack("<IIIIQQQQQ", 0xED0CDAED, 2, page_size, 0, root, 0, FREE_LIST, pages, transaction)
    return struct.pack("<QHHI", number, 0x04, 0, 0) + body + struct.pack("<Q", fnv1a(body))


def _leaf_element(key: bytes, value: bytes, flags: int = 0) -> tuple[bytes, bytes]:
    return struct.pack("<III", flags, len(key), len(value)), key + value


def _page(number: int, what: int, more: int, elements: list[tuple[bytes, bytes]]) -> bytes:
    """Put elements together: their heads, each with the place of its data, and then the data."""
    heads, data = b"", b""
    for position, (head, content) in enumerate(elements):
        place = 16 * (len(elements) - position) + len(data)
        if what == 0x02:
            heads += head[:4] + struct.pack("<I", place) + head[4:]
        else:
            heads += struct.pack("<II", place, len(content)) + head
        data += content
    return struct.pack("<QHHI", number, what, len(elements), more) + heads + data
