"""Facts of the file system that a registry lies on. Looks only: it writes nothing and opens no database file.

(Closing any descriptor of a database file would drop the locks that SQLite holds on it in this process.)
"""

from __future__ import annotations

import os
import stat as stat_module
from dataclasses import dataclass
from typing import Final, Literal

from regmeta.store.paths import wrapped

Kind = Literal["folder", "file", "other"]
Locality = Literal["local", "network", "memory", "layered", "fuse"]

_MOUNTS: Final = "/proc/self/mountinfo"
_LOCALITIES: Final[dict[str, Locality]] = {
    **dict.fromkeys(("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph"), "network"),
    **dict.fromkeys(("glusterfs", "lustre", "gpfs", "ocfs2", "gfs2", "virtiofs", "vboxsf"), "network"),
    **dict.fromkeys(("tmpfs", "ramfs", "devtmpfs"), "memory"),
    **dict.fromkeys(("overlay", "aufs", "unionfs"), "layered"),
}


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted file system."""

    point: str
    file_system: str

    @property
    def locality(self) -> Locality:
        """Where its bytes are, as far as its type tells."""
        if self.file_system.startswith("fuse"):
            return "fuse"
        return _LOCALITIES.get(self.file_system, "local")


@dataclass(frozen=True, slots=True)
class Space:
    """What is free on a file system, for a user without privileges; 0 of 0 inodes is any number."""

    total_bytes: int
    free_bytes: int
    total_inodes: int
    free_inodes: int


@dataclass(frozen=True, slots=True)
class PathFacts:
    """What is at a path, and what it lies on. Links are followed."""

    path: str
    kind: Kind
    permissions: int  # as of chmod
    owner_id: int
    device: int
    may_write: bool
    is_read_only: bool  # the file system
    has_links: bool  # whether a file can have two names
    mount: Mount | None  # None where the system does not tell
    space: Space

    @property
    def others_may_read(self) -> bool:
        """Whether any user can read a file here."""
        return bool(self.permissions & stat_module.S_IROTH)

    @property
    def others_may_write(self) -> bool:
        """Whether any user can change it."""
        return bool(self.permissions & stat_module.S_IWOTH)


def look_at(path: str) -> PathFacts | None:
    """Return what is at a path, None if nothing is.

    Raises:
        StoreUnavailable: the system could not tell.
    """
    with wrapped(path):
        try:
            found = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        system = os.statvfs(path)
        kind: Kind = "other"
        if stat_module.S_ISDIR(found.st_mode):
            kind = "folder"
        elif stat_module.S_ISREG(found.st_mode):
            kind = "file"
        return PathFacts(
            path=path,
            kind=kind,
            permissions=stat_module.S_IMODE(found.st_mode),
            owner_id=found.st_uid,
            device=found.st_dev,
            may_write=os.access(path, os.W_OK),
            is_read_only=bool(system.f_flag & os.ST_RDONLY),
            has_links=os.pathconf(path, "PC_LINK_MAX") > 1,
            mount=mount_of(path),
            space=Space(
                system.f_blocks * system.f_frsize,
                system.f_bavail * system.f_frsize,
                system.f_files,
                system.f_favail,
            ),
        )


def user_id() -> int:
    """Return who this process runs as."""
    return os.geteuid()


def mount_of(path: str, mounts: str | None = None) -> Mount | None:
    """Return the mount that a path lies on; *mounts* is the text of ``/proc/self/mountinfo``."""
    if mounts is None:
        try:
            with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as file:
                mounts = file.read()
        except OSError:
            return None
    real = os.path.realpath(path)
    best: Mount | None = None
    for line in mounts.splitlines():
        fields = line.split()
        try:
            mount = Mount(_unescaped(fields[4]), fields[fields.index("-", 6) + 1])
        except (ValueError, IndexError):
            continue  # a form of line that is not known
        inside = mount.point == "/" or real == mount.point or real.startswith(f"{mount.point}/")
        # Of two at the same point the later one hides the other.
        if inside and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def _unescaped(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text
