"""What the facts of the file systems mean for a registry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from regmeta.maintain.doctor.check import Check, ok, problem, warning
from regmeta.store.health import PathFacts

LOW_BYTES: Final = 1024**3
LOW_SHARE: Final = 0.05
NONE_SHARE: Final = 0.01
_GIB: Final = 1024**3

_DATABASE_ADVICE: Final = {
    "network": "move it to a local disk, or use PostgreSQL: file locks are not to be trusted there",
    "memory": "move it to a disk: it is gone when the host restarts",
    "layered": "put it on a volume: it goes with the container",
    "fuse": "move it to a local disk unless you know that flush and locks work there",
}
_STORE_ADVICE: Final = {
    "network": "use it from one host only, with PostgreSQL or a database on a local disk",
    "memory": "move it to a disk: it is gone when the host restarts",
    "layered": "put it on a volume: it goes with the container",
    "fuse": "move it to a local disk unless you know that flush and rename work there",
}


def check_file_system(what: str, facts: PathFacts) -> Iterator[Check]:
    """Look at what a database or a store lies on; *what* is which of them."""
    name = f"{what} file system"
    if facts.mount is None:
        yield warning(name, "the system does not tell", "see that it is a local disk")
    else:
        found = f"{facts.mount.file_system} at {facts.mount.point}"
        locality = facts.mount.locality
        advice = (_DATABASE_ADVICE if what == "database" else _STORE_ADVICE).get(locality)
        yield ok(name, found) if advice is None else warning(name, f"{found} ({locality})", advice)
    if facts.is_read_only:
        yield problem(
            f"{what} writable", f"{facts.path} lies on a read-only file system", "mount it for writing"
        )
    yield from _space(what, facts)


def check_permissions(what: str, facts: PathFacts, user_id: int, *, private: bool = False) -> Iterator[Check]:
    """Look at who may read and change something; *private* is what others may not read."""
    name = f"{what} permissions"
    found = f"{facts.path} is {facts.permissions:04o}"
    if facts.others_may_write:
        yield problem(name, f"{found}: every user can change it", f"chmod o-w {facts.path}")
    elif private and facts.others_may_read:
        yield warning(name, f"{found}: every user can read it", f"chmod o-rwx {facts.path}")
    elif facts.owner_id != user_id:
        found = f"{facts.path} belongs to user {facts.owner_id}, this is user {user_id}"
        yield warning(name, found, "run regmeta as the user that owns the registry")
    else:
        yield ok(name, found)
    if not facts.may_write and not facts.is_read_only:
        yield problem(f"{what} writable", f"{facts.path} cannot be written", "run regmeta as its owner")


def check_same_file_system(staging: PathFacts, blobs: PathFacts) -> Iterator[Check]:
    """Look whether what is staged can be published: a rename does not leave its file system."""
    if staging.device != blobs.device:
        found = f"{staging.path} and {blobs.path} lie on two file systems: nothing can be published"
        yield problem("staging", found, "put both on one file system")
    else:
        yield ok("staging", "on the file system of the objects")
    if blobs.has_links:
        yield ok("hard links", "possible")
    else:
        advice = 'set layouts = "none", or use a file system that has them'
        yield warning("hard links", f"{blobs.path} has none: no layouts can be shown", advice)


def _space(what: str, facts: PathFacts) -> Iterator[Check]:
    space = facts.space
    name = f"{what} space"
    share = space.free_bytes / space.total_bytes if space.total_bytes else 0.0
    found = f"{space.free_bytes / _GIB:.1f} GiB free of {space.total_bytes / _GIB:.1f} ({share:.0%})"
    advice = "free some, or enlarge the file system; the collector gives back what nothing needs"
    if share < NONE_SHARE:
        yield problem(name, found, advice)
    elif share < LOW_SHARE or space.free_bytes < LOW_BYTES:
        yield warning(name, found, advice)
    else:
        yield ok(name, found)
    if space.total_inodes:  # some file systems have no number of them
        share = space.free_inodes / space.total_inodes
        found = f"{space.free_inodes} free of {space.total_inodes} ({share:.0%})"
        if share < NONE_SHARE:
            yield problem(f"{what} inodes", found, advice)
        elif share < LOW_SHARE:
            yield warning(f"{what} inodes", found, advice)
        else:
            yield ok(f"{what} inodes", found)
