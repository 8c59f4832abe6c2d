"""Taking in a file that is there already without copying it: as a clone, or as one more name of it.

A clone (*reflink*) is a file of its own that shares its bytes with the other one until either is written;
btrfs and XFS make them. A hard link is the very file: who may write the one writes the other, and owner, mode
and times stay those of the old name. So a file is linked only if that gives nobody a power over the store
that he does not have (:func:`may_link`). What can be neither is copied.

Whichever it is, all bytes are read and hashed, and the file is flushed: whoever wrote it may never have done
so. The old name is not touched: of its file only the number of links, and with it ``ctime``, is another one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from typing import Final

from regmeta.errors import Error, IntegrityError, InvalidSource
from regmeta.oci.digest import Digest
from regmeta.store import durable
from regmeta.store.intake import read_through

READINGS: Final = 3  # of a file whose links come and go while it is read; then it is copied

_FICLONE: Final = 0x40049409  # <linux/fs.h>; where the number is another one (POWER, MIPS) files are linked
_NO_CLONE: Final = {
    *(errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS),
    *(errno.EBADF, errno.EPERM, errno.EACCES, errno.ETXTBSY),
}
_NO_LINK: Final = {
    *(errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS),
    errno.ENOENT,  # no /proc, or its last name has gone
}
_SPECIAL_BITS: Final = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_OTHERS_ANY: Final = stat.S_IRWXG | stat.S_IRWXO

Progress = Callable[[int], None]


class NotShared(Error):
    """This file has to be copied. Never leaves the store."""


def may_link(file: os.stat_result, store: os.stat_result, user_id: int) -> bool:
    """Tell whether a *file* may become an object of a *store* whose folder is owned by its service.

    *user_id* is who brings it. With a copy the object would be his, of mode 0444, in folders of the
    service; with a link owner and mode are the file's. So it must be

    * a regular file, and neither setuid, setgid nor sticky;
    * writable by nobody but its owner. The bits of the group bound what an access list gives, too;
    * owned by root, by the owner of the store's folder or by *user_id*: these can change objects already.
      The user of the old registry, if he is another one, could write into the store through his name of it;
    * readable by all, as objects are: whoever serves them need not be who brings them. Only in a folder that
      nobody but its owner can enter (as ``init`` makes it) what the owner can read is enough.
    """
    mode = file.st_mode
    if not stat.S_ISREG(mode) or mode & (_SPECIAL_BITS | _OTHERS_WRITE):
        return False
    if file.st_uid not in (0, store.st_uid, user_id):
        return False
    if mode & stat.S_IROTH:
        return True
    return file.st_uid == store.st_uid and bool(mode & stat.S_IRUSR) and not store.st_mode & _OTHERS_ANY


def clone(source_fd: int, fd: int) -> None:
    """Let a new file, open for writing, share the bytes of another one.

    Raises:
        NotShared: these file systems or these files cannot.
        OSError: there is no room, or the disk fails.
    """
    try:
        fcntl.ioctl(fd, _FICLONE, source_fd)
    except OSError as error:
        if error.errno in _NO_CLONE:
            raise NotShared(f"cannot be cloned: {error.strerror}") from error
        raise


def link(source_fd: int, name: str, folder_fd: int) -> None:
    """Give the file that is open one more name in a folder.

    It is linked by its descriptor: what has its old name by now does not matter.

    Raises:
        NotShared: another file system, too many links, not allowed, or no name is left.
        OSError: there is no room, or the disk fails.
    """
    try:
        durable.link_open(source_fd, name, folder_fd, "stage.linked")
    except OSError as error:
        if error.errno in _NO_LINK:
            raise NotShared(f"cannot be linked: {error.strerror}") from error
        raise


def verify(fd: int, digest: Digest, size_bytes: int, progress: Progress | None) -> None:
    """Hash and flush a file that others have names of, and see that nothing came in between.

    Other times after than before say that it was written, or that links of it came or went: zot sets
    ``mtime`` when it links a blob into one more repository. They do not say which, so it is read again.

    Raises:
        SizeMismatch, DigestMismatch: it is not what it should be.
        InvalidSource: it cannot be read, or it was written while it was read.
        NotShared: it does not keep still.
        OSError: it could not be flushed.
    """
    for _ in range(READINGS):
        before = _state(fd)
        try:
            read_through(OpenFile(fd, digest), digest, size_bytes, progress)
        except IntegrityError as error:
            if _state(fd) != before:
                raise InvalidSource(f"{digest}: its file was written while it was read") from error
            raise
        durable.flush(fd, "stage.flushed")
        if _state(fd) == before:
            return
    raise NotShared(f"{digest}: its file does not keep still")


def capped(progress: Progress, size_bytes: int) -> Progress:
    """Return a *progress* that counts no byte twice, however often a file is read."""
    left = size_bytes

    def advanced(got: int) -> None:
        nonlocal left
        new = min(got, left)
        left -= new
        progress(new)

    return advanced


class OpenFile:
    """The bytes of an open file from its start on, wherever its descriptor stands."""

    def __init__(self, fd: int, digest: Digest) -> None:
        self._fd = fd
        self._digest = digest
        self._offset = 0

    def readinto(self, buffer: memoryview, /) -> int:
        """Read into *buffer*; return how many bytes, 0 at the end."""
        try:
            got = os.preadv(self._fd, [buffer], self._offset)
        except OSError as error:  # bytes that the old registry wrote: no fault of the store
            raise InvalidSource(f"{self._digest}: its file cannot be read: {error.strerror}") from error
        self._offset += got
        return got


def _state(fd: int) -> tuple[int, ...]:
    found = os.fstat(fd)
    return (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_mode, found.st_uid)
