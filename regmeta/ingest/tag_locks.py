"""Locks on the tags of one repository: which of them may be made, and then neither moved nor removed."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.errors import NotFound, UsageError
from regmeta.ingest.immutable import Lock, add_locks
from regmeta.ingest.plan import TagChange
from regmeta.ingest.statements import Change, record_events
from regmeta.ingest.tags import change_tags
from regmeta.ingest.unit_of_work import Writer
from regmeta.models import TagLock
from regmeta.oci import globs

_UNLOCK: Final = (
    sa.delete(TagLock)
    .where(TagLock.repository_id == sa.bindparam("of"), TagLock.pattern == sa.bindparam("unlocked"))
    .returning(TagLock.pattern)
)


def lock_tags(writer: Writer, repository: str, pattern: str) -> None:
    """Let no tag that matches a pattern (see ``oci.globs``) be moved or removed once it is there.

    Written under the repository's lock: what was moved before it stays moved, what comes after it is refused.
    To lock what is locked changes nothing.

    Raises:
        NotFound: no such repository.
        UsageError: no pattern that can match a tag.
        RepositoryNotActive: the repository is being removed.
    """
    globs.check(pattern)
    if "/" in pattern:
        raise UsageError(f"{pattern!r} matches no tag: no tag has a slash")

    def lock(connection: Connection, change: Change, of: tuple[int, str]) -> list[TagChange]:
        if add_locks(connection, of[0], [Lock(pattern, change.stamp.now, change.actor)]):
            record_events(connection, [change.event("tags.locked", of[0], tag=pattern)])
        return []

    change_tags(writer, repository, f"lock {repository}:{pattern}", lock)


def unlock_tags(writer: Writer, repository: str, pattern: str) -> None:
    """Take one lock away. What other locks and the rules of the settings say still holds.

    Raises:
        NotFound: no such repository, or no lock of this pattern in it.
        RepositoryNotActive: the repository is being removed.
    """

    def unlock(connection: Connection, change: Change, of: tuple[int, str]) -> list[TagChange]:
        if connection.execute(_UNLOCK, {"of": of[0], "unlocked": pattern}).first() is None:
            raise NotFound(f"{repository}: no lock {pattern}")
        record_events(connection, [change.event("tags.unlocked", of[0], tag=pattern)])
        return []

    change_tags(writer, repository, f"unlock {repository}:{pattern}", unlock)
