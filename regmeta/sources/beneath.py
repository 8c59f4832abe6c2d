"""Opening a path below a folder in one call: Linux resolves it, follows no link, and never leaves the folder.

``openat2`` (Linux 5.6) has no wrapper in Python. Where there is none each folder of the path is opened for
itself, which is as safe and takes a call for each.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from typing import Final

_OPENAT2: Final = 437  # the same on all architectures
_NO_MAGIC_LINKS: Final = 0x02
_NO_SYMLINKS: Final = 0x04
_BENEATH: Final = 0x08
_NOT_HERE: Final = (errno.ENOSYS, errno.EPERM)  # an old kernel, or a sandbox that lets nobody


class _How(ctypes.Structure):
    """``struct open_how``."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class Opener:
    """Opens paths below one folder, with the same flags each time. Safe to use from several threads."""

    def __init__(self, flags: int) -> None:
        self._how = _How(flags, 0, _BENEATH | _NO_SYMLINKS | _NO_MAGIC_LINKS)
        self._call = ctypes.CDLL(None, use_errno=True).syscall if sys.platform == "linux" else None

    def open(self, path: str, folder_fd: int) -> int | None:
        """Return a new descriptor; None where this cannot be done in one call.

        Raises:
            OSError: as ``os.open`` does; with ``ELOOP`` a symbolic link is on the way.
        """
        if self._call is None:
            return None
        name = os.fsencode(path)
        fd: int = self._call(_OPENAT2, folder_fd, name, ctypes.byref(self._how), ctypes.sizeof(_How))
        if fd >= 0:
            return fd
        number = ctypes.get_errno()
        if number in _NOT_HERE:
            self._call = None
            return None
        if number in (errno.EAGAIN, errno.EINTR):  # something was renamed meanwhile
            return None
        raise OSError(number, os.strerror(number), path)
