"""A folder of this machine as a tree of files.

The root is what the user named, so it may be a symbolic link. Nothing below it may: the system is asked to
follow none (:mod:`regmeta.sources.beneath`), or each folder of a path is opened for itself, relative to the
one above (:mod:`regmeta.sources.files`). None is kept open: a registry at work removes folders and makes them
again, and the old one would say that nothing is there.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final, Literal

from regmeta.errors import InvalidSource, MissingContent
from regmeta.sources.beneath import Opener
from regmeta.sources.files import (
    CLOSED,
    FILE,
    FOLDER,
    ROOT,
    LinkableFile,
    OpenFile,
    open_regular,
    read_up_to,
    regular,
    unusable,
)
from regmeta.sources.registry.text import shown
from regmeta.sources.storage.trees import TreeEntry, nothing

MAX_DEPTH: Final = 200  # [folders] a repository's name has 128 parts at most, and a registry adds a dozen
_MARKED_BYTES: Final = 64 * 1024 * 1024  # [bytes] the largest file that means something here: an index.json
_PIECE_BYTES: Final = 1024 * 1024


class FolderTree:
    """The tree of files below a folder; see :class:`regmeta.sources.storage.trees.Tree`."""

    def __init__(self, path: str, *, links: bool) -> None:
        """Open the folder at *path*. With *links*, a store may keep other names of the files that it opens.

        Raises:
            InvalidSource: it is no folder, or cannot be opened.
        """
        self._path = os.path.abspath(path)
        self._stream = LinkableFile if links else OpenFile
        self._files, self._folders = Opener(FILE), Opener(FOLDER)
        try:
            self._root = os.open(path, ROOT)
        except (OSError, ValueError) as error:
            raise unusable(path, error) from error

    @property
    def location(self) -> str:
        """The folder's absolute path."""
        return self._path

    def entries(self, path: str) -> list[TreeEntry] | None:
        """List a folder, ordered by name; None if there is none."""
        where = self._where(path)
        try:
            fd = self._folder(_parts(path, where), where)
        except FileNotFoundError:
            return None
        try:
            return _listed(fd, where)
        finally:
            os.close(fd)

    def files(
        self, path: str, *, leave_out: Callable[[str], bool] = nothing
    ) -> Iterator[tuple[str, TreeEntry]]:
        """List all files below a folder with their paths below it, and folders to be left out."""
        where = self._where(path)
        try:
            fd = self._folder(_parts(path, where), where)
        except FileNotFoundError:
            return
        yield from _walked(fd, "", where, leave_out)

    def look(self, path: str) -> TreeEntry | None:
        """Look at one file or folder; None if there is none."""
        where = self._where(path)
        parts = _parts(path, where)
        try:
            if not parts:
                return _entry("", os.fstat(self._root))
            fd = self._folder(parts[:-1], where)
            try:
                return _entry(parts[-1], os.stat(parts[-1], dir_fd=fd, follow_symlinks=False))
            finally:
                os.close(fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise unusable(where, error) from error

    def read(self, path: str, limit_bytes: int) -> bytes | None:
        """Return a file whole; None if there is none. Of a larger one, the first bytes and one more."""
        try:
            fd, _ = self._file(path)
        except FileNotFoundError:
            return None
        try:
            return read_up_to(fd, limit_bytes + 1)
        except OSError as error:
            raise unusable(self._where(path), error) from error
        finally:
            os.close(fd)

    def mark(self, path: str) -> str | None:
        """Return the digest of a small file; None if there is none. Of a large one, of its beginning."""
        try:
            fd, status = self._file(path)
        except FileNotFoundError:
            return None
        hasher = hashlib.sha256(b"%d " % status.st_size)
        left_bytes = _MARKED_BYTES
        try:
            while left_bytes > 0 and (piece := os.read(fd, min(left_bytes, _PIECE_BYTES))):
                hasher.update(piece)
                left_bytes -= len(piece)
        except OSError as error:
            raise unusable(self._where(path), error) from error
        finally:
            os.close(fd)
        return hasher.hexdigest()

    def open(self, path: str) -> OpenFile:
        """Open a file for reading, from its first byte."""
        where = self._where(path)
        try:
            fd, _ = self._file(path)
        except FileNotFoundError:
            raise MissingContent(f"{where} is missing") from None
        return self._stream(fd, where)

    def close(self) -> None:
        """Close the folder; a stream that is open stays so until its own block ends."""
        root, self._root = self._root, CLOSED
        if root != CLOSED:
            os.close(root)

    def _where(self, path: str) -> str:
        return f"{self._path}/{shown(path)}" if path else self._path

    def _file(self, path: str) -> tuple[int, os.stat_result]:
        where = self._where(path)
        parts = _parts(path, where)
        if not parts:
            raise InvalidSource(f"{where}: not a regular file")
        if self._root == CLOSED:
            raise InvalidSource(f"{where}: is closed")
        try:
            fd = self._files.open(path, self._root)
        except FileNotFoundError:
            raise
        except NotADirectoryError as error:
            raise InvalidSource(f"{where}: is not in a folder, or a symbolic link leads there") from error
        except (OSError, ValueError) as error:
            raise unusable(where, error) from error
        if fd is not None:
            return regular(fd, where)
        folder = self._folder(parts[:-1], where)
        try:
            return open_regular(parts[-1], folder, where)
        finally:
            os.close(folder)

    def _folder(self, parts: list[str], where: str) -> int:
        """Open a folder by its names, from the root down: O_NOFOLLOW holds for the last one of a path."""
        if self._root == CLOSED:
            raise InvalidSource(f"{where}: is closed")
        fd = CLOSED
        try:
            if not parts:
                return os.open(".", FOLDER, dir_fd=self._root)
            found = self._folders.open("/".join(parts), self._root)
            if found is not None:
                return found
            for part in parts:
                above, fd = fd, os.open(part, FOLDER, dir_fd=self._root if fd == CLOSED else fd)
                if above != CLOSED:
                    os.close(above)
        except FileNotFoundError:
            _close(fd)
            raise
        except NotADirectoryError as error:
            _close(fd)
            raise InvalidSource(f"{where}: is not in a folder, or a symbolic link leads there") from error
        except (OSError, ValueError) as error:
            _close(fd)
            raise unusable(where, error) from error
        return fd


def _close(fd: int) -> None:
    if fd != CLOSED:
        os.close(fd)


def _parts(path: str, where: str) -> list[str]:
    parts = path.split("/") if path else []
    for part in parts:
        if part in ("", ".", "..") or "\0" in part:
            raise InvalidSource(f"{where}: not a path of this tree")
    if len(parts) > MAX_DEPTH:
        raise InvalidSource(f"{where}: more than {MAX_DEPTH} folders deep")
    return parts


def _listed(fd: int, where: str) -> list[TreeEntry]:
    found = []
    try:
        with os.scandir(fd) as listing:
            for entry in listing:
                with suppress(FileNotFoundError):  # gone meanwhile
                    found.append(_scanned(entry))
    except OSError as error:
        raise unusable(where, error) from error
    found.sort(key=lambda entry: entry.name)
    return found


def _scanned(entry: os.DirEntry[str]) -> TreeEntry:
    if not _is_text(entry.name):
        return TreeEntry(os.fsencode(entry.name).decode("utf-8", "backslashreplace"), "other")
    if entry.is_dir(follow_symlinks=False):
        return TreeEntry(entry.name, "folder")
    return _entry(entry.name, entry.stat(follow_symlinks=False))


def _walked(
    fd: int, below: str, where: str, leave_out: Callable[[str], bool], depth: int = 0
) -> Iterator[tuple[str, TreeEntry]]:
    """Walk down from an open folder, which it closes: one folder of each level is open at a time."""
    try:
        if depth > MAX_DEPTH:
            raise InvalidSource(f"{where}: more than {MAX_DEPTH} folders deep")
        for entry in _listed(fd, where):
            path = below + entry.name
            if entry.what != "folder" or leave_out(path):
                yield path, entry
                continue
            try:
                inner = os.open(entry.name, FOLDER, dir_fd=fd)
            except FileNotFoundError:
                continue
            except NotADirectoryError:  # a link or a file has taken its place meanwhile
                yield path, TreeEntry(entry.name, "other")
                continue
            except OSError as error:
                raise unusable(f"{where}/{shown(entry.name)}", error) from error
            yield from _walked(inner, f"{path}/", f"{where}/{shown(entry.name)}", leave_out, depth + 1)
    finally:
        os.close(fd)


def _entry(name: str, status: os.stat_result) -> TreeEntry:
    what: Literal["file", "folder", "other"] = (
        "file" if stat.S_ISREG(status.st_mode) else "folder" if stat.S_ISDIR(status.st_mode) else "other"
    )
    return TreeEntry(name, what, status.st_size if what == "file" else 0, _time(status.st_mtime))


def _time(seconds: float) -> datetime | None:
    """Return a file's time; None for what no calendar has, and for 0, which means that nobody set it."""
    try:
        return datetime.fromtimestamp(seconds, UTC) if seconds > 0 else None
    except (OverflowError, ValueError, OSError):
        return None


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
