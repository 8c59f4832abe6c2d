"""An OCI image layout in an uncompressed tar file.

Nothing is extracted. The headers are read once, for the places of the few names that a layout has,
and content is read from there; a name never becomes a path, so no member can lead anywhere.

A header is decoded by ``tarfile.TarInfo.frombuf``, but ``TarFile`` does not walk the archive: it
reads an extended header into memory whatever its size, calls itself once for each that follows
another, takes a broken header for the end of the archive and, in the Python releases that this
package supports, can be made to run for hours (CVE-2024-6232) or in circles (CVE-2025-8194).
"""

from __future__ import annotations

import os
import stat
import tarfile
from array import array
from collections.abc import Iterator
from typing import Final

from regmeta.errors import InvalidDigest, InvalidSource, MissingContent
from regmeta.oci import layout
from regmeta.oci.descriptor import Descriptor
from regmeta.oci.digest import Digest
from regmeta.sources import SourceEntry
from regmeta.sources.files import unusable
from regmeta.sources.layout import check_document_size, listed
from regmeta.sources.verified import check_limit, check_size, verified

MAX_MEMBERS: Final = 1_000_000
MAX_EXTENDED_HEADER_BYTES: Final = 1024 * 1024  # [bytes]

_BLOCK_BYTES: Final = tarfile.BLOCKSIZE  # [bytes]
_END: Final = bytes(_BLOCK_BYTES)
# Types of members are single bytes (POSIX, pax and ustar; GNU tar has L and K).
_EXTENDED: Final = b"xgXLK"
_WITHOUT_DATA: Final = b"123456"  # links, devices, directories, FIFOs, whatever their size says
_FOLDERS: Final = frozenset({"blobs", "blobs/sha256", "blobs/sha512"})
_COMPRESSED: Final = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"BZh", "bzip2"),
)


class LayoutArchive:
    """An OCI image layout in an uncompressed tar file.

    Safe to use from several threads, until :meth:`close`; streams must be done by then.
    """

    def __init__(self, path: str) -> None:
        """Open the archive at *path*, and find what it holds of a layout.

        Raises:
            InvalidSource: not a regular file, compressed, cut off, not a tar file, or not of a
                layout; or a member of the layout stands in it twice or is no regular file.
        """
        self._path = path
        # A digest as rows hold it, to its number in _spans: half of what objects would take, which
        # counts for the million members that an archive may have.
        self._blobs: dict[bytes, int] = {}
        self._spans = array("q")  # [bytes] offset and size, by turns
        self._documents: dict[str, tuple[int, int]] = {}
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            raise unusable(path, error) from error
        try:
            self._scan()
            content = self._document(layout.LAYOUT_FILE, layout.MAX_LAYOUT_FILE_BYTES)
            layout.check_layout_file(content, f"{path}: {layout.LAYOUT_FILE}")
        except OSError as error:
            self.close()
            raise unusable(path, error) from error
        except BaseException:
            self.close()
            raise

    @property
    def location(self) -> str:
        """The path that the archive was opened by."""
        return self._path

    def entries(self) -> Iterator[SourceEntry]:
        """List what ``index.json`` lists; see :meth:`regmeta.sources.Source.entries`."""
        try:
            content = self._document(layout.INDEX_FILE, layout.MAX_INDEX_FILE_BYTES)
        except OSError as error:
            raise unusable(self._path, error) from error
        return listed(content, f"{self._path}: {layout.INDEX_FILE}")

    def read(self, descriptor: Descriptor, limit_bytes: int) -> bytes:
        """Return small content whole, verified; see :meth:`regmeta.sources.Source.read`."""
        check_limit(descriptor, limit_bytes, self._path)
        offset, size_bytes = self._span(descriptor.digest)
        check_size(descriptor, size_bytes, self._path)
        try:
            content = _read_at(self._fd, offset, size_bytes)
        except OSError as error:
            raise unusable(self._path, error) from error
        return verified(descriptor, content, self._path)

    def open(self, digest: Digest) -> _MemberStream:
        """Open content for reading; see :meth:`regmeta.sources.Source.open`."""
        offset, size_bytes = self._span(digest)
        return _MemberStream(self._fd, offset, size_bytes, f"{self._path}: {digest}")

    def close(self) -> None:
        """Close the file."""
        fd, self._fd = self._fd, -1
        if fd != -1:
            os.close(fd)

    def _scan(self) -> None:
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidSource(f"{self._path}: not a regular file")
        start = os.pread(self._fd, 8, 0)
        for magic, name in _COMPRESSED:
            if start.startswith(magic):
                raise InvalidSource(
                    f"{self._path}: compressed archives are not supported ({name}); decompress it first"
                )
        for member in _members(self._fd, status.st_size, self._path):
            name = member.name.removeprefix("./")
            if name in (layout.LAYOUT_FILE, layout.INDEX_FILE):
                self._check_member(member, name in self._documents)
                self._documents[name] = (member.offset_data, member.size)
            elif digest := _blob_digest(name):
                key = digest.to_bytes()
                self._check_member(member, key in self._blobs)
                self._blobs[key] = len(self._blobs)
                self._spans.extend((member.offset_data, member.size))
            elif name in _FOLDERS and not member.isdir():
                # What is read here cannot be led astray by it; who extracts the archive would be.
                raise InvalidSource(f"{self._path}: {member.name} is not a directory")

    def _check_member(self, member: tarfile.TarInfo, known: bool) -> None:
        if not member.isreg():
            raise InvalidSource(f"{self._path}: {member.name} is not a regular file")
        if known:
            # Readers differ in which of the two they take.
            raise InvalidSource(f"{self._path}: {member.name} is in the archive twice")

    def _span(self, digest: Digest) -> tuple[int, int]:
        number = self._blobs.get(digest.to_bytes())
        if number is None:
            raise MissingContent(f"{self._path}: {digest} is missing")
        return self._spans[2 * number], self._spans[2 * number + 1]

    def _document(self, name: str, limit_bytes: int) -> bytes:
        if name not in self._documents:
            raise InvalidSource(f"{self._path}: {name}: no such file or directory")
        offset, size_bytes = self._documents[name]
        check_document_size(size_bytes, limit_bytes, f"{self._path}: {name}")
        return _read_at(self._fd, offset, size_bytes)


class _MemberStream:
    """The bytes of one member. Each stream has its own position in the one open file."""

    __slots__ = ("_end", "_fd", "_position", "_where")

    def __init__(self, fd: int, offset: int, size_bytes: int, where: str) -> None:
        self._fd = fd
        self._position = offset
        self._end = offset + size_bytes
        self._where = where

    def readinto(self, buffer: memoryview, /) -> int:
        """Read into *buffer*; return how many bytes, 0 at the end."""
        try:
            count = os.preadv(self._fd, (buffer[: self._end - self._position],), self._position)
        except OSError as error:
            raise unusable(self._where, error) from error
        self._position += count
        return count

    def __enter__(self) -> _MemberStream:
        return self

    def __exit__(self, *_: object) -> None:
        self._fd = -1


def _members(fd: int, file_bytes: int, where: str) -> Iterator[tarfile.TarInfo]:
    """Yield the members with their effective name and size; ``offset_data`` is their place."""
    position = count = 0
    pending: dict[str, str] = {}  # what extended headers say of the member that follows them
    while (member := _header(fd, position, where)) is not None:
        position = member.offset_data
        if member.type in _EXTENDED:
            said = _extended(fd, member, where)
            if twice := pending.keys() & said.keys():
                raise InvalidSource(f"{where}: two headers say the {min(twice)} of one member")
            pending |= said
        else:
            count += 1
            if count > MAX_MEMBERS:
                raise InvalidSource(f"{where}: more than {MAX_MEMBERS} members")
            member.name = pending.get("path", member.name)
            member.size = int(pending.get("size", member.size))
            pending = {}
            if member.type in _WITHOUT_DATA:
                member.size = 0
        position += -(-member.size // _BLOCK_BYTES) * _BLOCK_BYTES
        if position > file_bytes:
            raise InvalidSource(f"{where}: the archive is cut off in {member.name[:300]!r}")
        if member.type not in _EXTENDED:
            yield member
    if pending:
        raise InvalidSource(f"{where}: the archive is cut off behind an extended header")


def _header(fd: int, position: int, where: str) -> tarfile.TarInfo | None:
    """Return the header at *position*, or None for the block of zeros that ends an archive."""
    block = os.pread(fd, _BLOCK_BYTES, position)
    if block == _END:
        return None
    if len(block) < _BLOCK_BYTES:
        raise InvalidSource(f"{where}: the archive is cut off at byte {position + len(block)}")
    try:
        member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise InvalidSource(f"{where}: no tar header at byte {position}: {error}") from None
    if member.size < 0:
        raise InvalidSource(f"{where}: {member.name[:300]!r} has a negative size")
    if member.type == tarfile.GNUTYPE_SPARSE:
        raise InvalidSource(f"{where}: {member.name[:300]!r} is sparse, not supported")
    member.offset_data = position + _BLOCK_BYTES
    return member


def _extended(fd: int, header: tarfile.TarInfo, where: str) -> dict[str, str]:
    """Return the ``path`` and the ``size`` that an extended header gives, as far as it does."""
    if header.size > MAX_EXTENDED_HEADER_BYTES:
        raise InvalidSource(f"{where}: an extended header of {header.size} bytes is too large")
    body = _read_at(fd, header.offset_data, header.size)
    if header.type == tarfile.GNUTYPE_LONGLINK:
        return {}
    if header.type == tarfile.GNUTYPE_LONGNAME:
        return {"path": _decode(body.partition(b"\0")[0])}
    found = {}
    for key, value in _pax_records(body, where):
        if key.startswith(b"GNU.sparse."):
            raise InvalidSource(f"{where}: {header.name[:300]!r} is of a sparse member, not supported")
        if key == b"size" and value and not (value.isdigit() and len(value) < 20):
            raise InvalidSource(f"{where}: an extended header with the size {value[:40]!r}")
        if key in (b"path", b"size") and value:  # an empty value says nothing (POSIX, pax)
            found[_decode(key)] = _decode(value)
    if found and header.type == tarfile.XGLTYPE:
        raise InvalidSource(f"{where}: one {min(found)} for all members that follow")
    return found


def _pax_records(body: bytes, where: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield key and value of records ``length SP key=value LF``; *length* counts all of it."""
    start = 0
    while start < len(body):
        length = body[start : start + 8].partition(b" ")[0]
        end = start + int(length) if length.isdigit() else start
        record = body[start + len(length) + 1 : end]
        key, equals, value = record.partition(b"=")
        if end > len(body) or not equals or not value.endswith(b"\n"):
            raise InvalidSource(f"{where}: a bad record in an extended header")
        yield key, value[:-1]
        start = end


def _blob_digest(name: str) -> Digest | None:
    """Return the digest of the blob that *name* is the place of in a layout."""
    folder, _, rest = name.partition("/")
    algorithm, slash, encoded = rest.partition("/")
    if folder != layout.BLOBS_FOLDER or not slash:
        return None
    try:
        return Digest.parse(f"{algorithm}:{encoded}")
    except InvalidDigest:
        return None


def _decode(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")


def _read_at(fd: int, offset: int, size_bytes: int) -> bytes:
    content = os.pread(fd, size_bytes, offset)
    while len(content) < size_bytes and (
        more := os.pread(fd, size_bytes - len(content), offset + len(content))
    ):
        content += more
    return content
