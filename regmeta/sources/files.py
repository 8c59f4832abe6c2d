"""Files of strangers, opened so that nothing leads out of the folder that was named.

Every file and folder is opened by one name, relative to the descriptor of a folder that was opened the same
way; no symbolic link is followed, and only regular files are read.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from regmeta.errors import InvalidSource, Unavailable

# O_NONBLOCK: a FIFO without a writer would hold the open for ever, before fstat can refuse it.
FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
FOLDER: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC
ROOT: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
"""How the root is opened: it is what the user named, so it may be a symbolic link."""
CLOSED: Final = -1
_OF_THIS_PROCESS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class OpenFile:
    """The bytes of one file, closed at the end of its ``with`` block. *where* names it in an error."""

    __slots__ = ("_fd", "_where")

    def __init__(self, fd: int, where: str) -> None:
        self._fd = fd
        self._where = where

    def readinto(self, buffer: memoryview, /) -> int:
        """Read into *buffer*; return how many bytes, 0 at the end."""
        try:
            return os.readv(self._fd, (buffer,))
        except OSError as error:
            raise unusable(self._where, error) from error

    def __enter__(self) -> OpenFile:
        return self

    def __exit__(self, *_: object) -> None:
        fd, self._fd = self._fd, CLOSED
        os.close(fd)


class LinkableFile(OpenFile):
    """A file that a store may keep another name of; see :class:`regmeta.oci.streams.LinkableStream`."""

    __slots__ = ()

    @property
    def linkable_fd(self) -> int:
        """The file's descriptor, open for reading for as long as the stream is."""
        return self._fd


def open_regular(name: str, folder_fd: int, where: str) -> tuple[int, os.stat_result]:
    """Open a file by its name in a folder; return its descriptor, and what it is.

    Raises:
        FileNotFoundError: there is none.
        InvalidSource: it is not a regular file, or cannot be opened.
    """
    try:
        fd = os.open(name, FILE, dir_fd=folder_fd)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise unusable(where, error) from error
    return regular(fd, where)


def regular(fd: int, where: str) -> tuple[int, os.stat_result]:
    """Return a descriptor, which is closed if it is of no regular file, and what it is.

    Raises:
        InvalidSource: it is of something else.
    """
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidSource(f"{where}: not a regular file")
    except OSError as error:
        os.close(fd)
        raise unusable(where, error) from error
    except BaseException:
        os.close(fd)
        raise
    return fd, status


def unusable(where: str, error: OSError | ValueError) -> InvalidSource | Unavailable:
    """Return the error that says why the operating system did not give what was asked for.

    That this process may open no more, or that there is no memory, says nothing of the file (I8).
    """
    if not isinstance(error, OSError):  # a NUL in a path
        return InvalidSource(f"{where}: {error}")
    if error.errno == errno.ENOENT:
        return InvalidSource(f"{where}: no such file or directory")
    if error.errno == errno.ELOOP:
        return InvalidSource(f"{where}: is a symbolic link, and none is followed here")
    if error.errno in _OF_THIS_PROCESS:
        return Unavailable(f"{where}: {error.strerror}")
    return InvalidSource(f"{where}: {error.strerror}")


def read_up_to(fd: int, size_bytes: int) -> bytes:
    """Return the first *size_bytes* of an open file, or all that there are."""
    content = os.read(fd, size_bytes)
    while len(content) < size_bytes and (more := os.read(fd, size_bytes - len(content))):
        content += more
    return content
