"""Files of bbolt, the key-value store of zot's database: read whole, never written, never locked.

A file is an array of pages. Pages 0 and 1 are *meta* pages with a checksum; the one with the later
transaction names the root. A tree has *branch* pages, which name the pages below, and *leaf* pages with keys
and values; a value may be a bucket, which is a tree of its own, or lies as one leaf page in the value itself.
A large page goes on over the pages behind it. Numbers are those of the machine that wrote it: little-endian
on all that zot is built for.

No page of the newest transaction is overwritten before the next one is committed. So what was read is good if
the transaction is still the same afterwards.
"""

from __future__ import annotations

import os
import stat
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from regmeta.errors import InvalidSource, RemoteUnavailable
from regmeta.sources.files import unusable

MAX_FILE: Final = 2**30  # [bytes]
_MAX_DEPTH: Final = 32  # of branches in each other
_MAGIC: Final = 0xED0CDAED
_VERSION: Final = 2
_PAGE: Final = struct.Struct("<QHHI")  # its number, what it is, elements, pages that it goes on over
_META: Final = struct.Struct("<IIIIQQQQQQ")
_BUCKET: Final = struct.Struct("<QQ")  # root page or 0, sequence
_BRANCH_ELEMENT: Final = struct.Struct("<IIQ")  # place, size of the key, page
_LEAF_ELEMENT: Final = struct.Struct("<IIII")  # flags, place, size of the key, size of the value
_IS_BRANCH, _IS_LEAF, _IS_BUCKET = 0x01, 0x02, 0x01
_PAGE_SIZES: Final = tuple(1024 << power for power in range(15))
_TRIES: Final = 10
_PAUSE_S: Final = 0.1
_FNV_START: Final = 0xCBF29CE484222325
_FNV_PRIME: Final = 0x100000001B3


@dataclass(frozen=True, slots=True)
class _Meta:
    page_size: int
    root: int
    pages: int
    transaction: int


class BoltFile:
    """A file as it was at one moment, in memory."""

    def __init__(self, path: str) -> None:
        """Read it, again while something writes to it.

        Raises:
            InvalidSource: there is none, it is none of bbolt's, damaged, or larger than 1 GiB.
            RemoteUnavailable: each time it had changed before it was read.
        """
        self._path = path
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            raise unusable(path, error) from error
        try:
            self._read(handle)
        except OSError as error:
            raise unusable(path, error) from error
        finally:
            os.close(handle)
        # Damage may make pages overlap: what is read of them in all is bounded.
        self._left = 4 * len(self._data)

    def _read(self, handle: int) -> None:
        for number in range(_TRIES):
            if number:
                time.sleep(_PAUSE_S)
            self._data = memoryview(_content(handle, self._path))
            self._meta = self._newest(self._data)
            after = os.pread(handle, self._meta.page_size + _PAGE.size + _META.size, 0)
            if self._newest(memoryview(after)).transaction == self._meta.transaction:
                return
        raise RemoteUnavailable(f"{self._path}: changes while it is read: stop zot, or ask it by its URL")

    def bucket(self, name: bytes) -> Iterator[tuple[bytes, memoryview]] | None:
        """Give the keys and values of a bucket, in order, without the buckets in it; None if there is none.

        Raises:
            InvalidSource: the file is damaged. It is told on the way.
        """
        for key, value, is_bucket in self._walk(self._meta.root):
            if is_bucket and key == name:
                return self._bucket(value)
        return None

    def _bucket(self, header: memoryview) -> Iterator[tuple[bytes, memoryview]]:
        if len(header) < _BUCKET.size:
            raise self._damaged("a bucket has no header")
        root, _ = _BUCKET.unpack_from(header)
        found = self._walk(root) if root else self._leaf(header[_BUCKET.size :])
        return ((key, value) for key, value, is_bucket in found if not is_bucket)

    def _walk(self, root: int) -> Iterator[tuple[bytes, memoryview, bool]]:
        """Go through a tree from left to right; no page is visited twice."""
        seen = {root}
        waiting = [(root, 0)]
        while waiting:
            number, depth = waiting.pop()
            page = self._page(number)
            what = _PAGE.unpack_from(page)[1]
            if what == _IS_LEAF:
                yield from self._leaf(page)
                continue
            if what != _IS_BRANCH or depth >= _MAX_DEPTH:
                raise self._damaged(f"page {number} is no branch or leaf")
            below = self._branch(page)
            if len(seen) + len(below) != len(seen.union(below)):
                raise self._damaged(f"page {number} names a page for the second time")
            seen.update(below)
            waiting.extend((each, depth + 1) for each in reversed(below))

    def _page(self, number: int) -> memoryview:
        size = self._meta.page_size
        start = number * size
        if not 2 <= number < self._meta.pages or start + size > len(self._data):
            raise self._damaged(f"there is no page {number}")
        named, _, _, more = _PAGE.unpack_from(self._data, start)
        end = start + (more + 1) * size
        if named != number or number + more >= self._meta.pages or end > len(self._data):
            raise self._damaged(f"page {number} says that it is another one, or goes beyond the end")
        self._left -= end - start
        if self._left < 0:
            raise self._damaged("pages lie over each other")
        return self._data[start:end]

    def _branch(self, page: memoryview) -> list[int]:
        count = self._count(page, _BRANCH_ELEMENT.size)
        places = range(_PAGE.size, _PAGE.size + count * _BRANCH_ELEMENT.size, _BRANCH_ELEMENT.size)
        return [_BRANCH_ELEMENT.unpack_from(page, place)[2] for place in places]

    def _leaf(self, page: memoryview) -> Iterator[tuple[bytes, memoryview, bool]]:
        if len(page) < _PAGE.size or _PAGE.unpack_from(page)[1] != _IS_LEAF:
            raise self._damaged("a leaf is none")
        left = len(page)
        for number in range(self._count(page, _LEAF_ELEMENT.size)):
            element = _PAGE.size + number * _LEAF_ELEMENT.size
            flags, place, key_size, value_size = _LEAF_ELEMENT.unpack_from(page, element)
            start = element + place
            end = start + key_size + value_size
            left -= key_size + value_size
            if end > len(page) or left < 0:
                raise self._damaged("an element goes beyond the end of its page")
            yield (
                bytes(page[start : start + key_size]),
                page[start + key_size : end],
                bool(flags & _IS_BUCKET),
            )

    def _count(self, page: memoryview, size: int) -> int:
        count: int = _PAGE.unpack_from(page)[2]
        if _PAGE.size + count * size > len(page):
            raise self._damaged("a page has more elements than fit")
        return count

    def _newest(self, data: memoryview) -> _Meta:
        """Return the meta page of the last transaction that was committed whole."""
        first = _meta(data, 0)
        sizes = _PAGE_SIZES if first is None else (first.page_size,)
        seconds = [each for size in sizes if (each := _meta(data, size)) and each.page_size == size]
        whole = [each for each in (first, *seconds) if each is not None]
        if not whole:
            raise InvalidSource(f"{self._path}: not a file of bbolt, or both its meta pages are damaged")
        return max(whole, key=lambda each: each.transaction)

    def _damaged(self, what: str) -> InvalidSource:
        return InvalidSource(f"{self._path}: damaged: {what}")


def _content(handle: int, path: str) -> bytes:
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        raise InvalidSource(f"{path}: not a regular file")
    if status.st_size > MAX_FILE:
        raise InvalidSource(f"{path}: has more than {MAX_FILE} bytes: ask zot by its URL")
    with os.fdopen(os.dup(handle), "rb") as file:
        file.seek(0)
        return file.read(MAX_FILE)


def _meta(data: memoryview, start: int) -> _Meta | None:
    at = start + _PAGE.size
    if at + _META.size > len(data):
        return None
    magic, version, page_size, _, root, _, _, pages, transaction, checksum = _META.unpack_from(data, at)
    if magic != _MAGIC or version != _VERSION or page_size not in _PAGE_SIZES:
        return None
    if fnv1a(data[at : at + _META.size - 8]) != checksum:
        return None
    return _Meta(page_size, root, pages, transaction)


def fnv1a(data: memoryview | bytes) -> int:
    """Return the 64-bit FNV-1a hash, which meta pages are checked by."""
    found = _FNV_START
    for byte in data:
        found = (found ^ byte) * _FNV_PRIME % 2**64
    return found
