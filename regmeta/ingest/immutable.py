"""Which tags may be made, and then neither moved nor removed.

Two things say so: rules of the settings, for many repositories, and locks, which are rows of one repository
(``tag_locks``). Both are looked at inside the transaction that would change a tag, after the repository's
lock, and only for tags that are there: a lock is written under the same lock, so setting it and moving a tag
have one order. Putting back what was acknowledged before (rebuild, repair) is no change and is not asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.engine import Connection

from regmeta.errors import ImmutableTag
from regmeta.ingest.inserting import insert_ignoring
from regmeta.models import TagLock
from regmeta.oci import globs
from regmeta.query.history import LOCKS


@dataclass(frozen=True, slots=True)
class ImmutableTags:
    """A rule: tags that match one of *tags*, in repositories that match one of *repositories*."""

    repositories: tuple[str, ...]
    tags: tuple[str, ...]

    def __str__(self) -> str:
        return f"the rule {', '.join(self.repositories)} : {', '.join(self.tags)}"


@dataclass(frozen=True, slots=True)
class Lock:
    """A row of ``tag_locks``: tags of one repository that match *pattern*."""

    pattern: str
    created_at: datetime
    created_by: str


@dataclass(frozen=True, slots=True)
class TagTerms:
    """What holds when tags are moved or ended.

    What loses a tag is looked at by the collector after *garbage_delay*. *immutable* are the rules of the
    settings; locks count beside them. With None nothing is immutable: for who puts back what was here.
    """

    garbage_delay: timedelta
    immutable: tuple[ImmutableTags, ...] | None = ()


def immutable_tags(
    connection: Connection,
    repository: tuple[int, str],
    tags: Sequence[str],
    rules: Sequence[ImmutableTags],
    locks: Sequence[str] | None = None,
) -> dict[str, str]:
    """Return which of *tags* are immutable in a repository (id and name), each with what makes it so.

    The caller holds the repository's lock if it decides anything from the answer. *locks* are the patterns of
    the repository's locks where they were read behind its lock already.
    """
    repository_id, name = repository
    found: dict[str, str] = {}
    for rule in rules:
        if globs.matches(rule.repositories, name):
            found.update(
                {tag: str(rule) for tag in tags if tag not in found and globs.matches(rule.tags, tag)}
            )
    if locks is None:
        locks = connection.execute(LOCKS, {"of": repository_id}).scalars().all()
    for pattern in locks:
        found.update(
            {
                tag: f"the lock {pattern}"
                for tag in tags
                if tag not in found and globs.matches((pattern,), tag)
            }
        )
    return found


def locks_of(connection: Connection, repository_id: int) -> list[Lock]:
    """Return the locks of a repository, by pattern."""
    return [Lock(*row) for row in connection.execute(LOCKS, {"of": repository_id})]


def add_locks(connection: Connection, repository_id: int, locks: Sequence[Lock]) -> list[str]:
    """Add those of *locks* that a repository, whose lock is held, does not have; returns their patterns."""
    if not locks:
        return []
    added = connection.execute(
        insert_ignoring(connection, TagLock, "repository_id", "pattern").returning(TagLock.pattern),
        [
            {
                "repository_id": repository_id,
                "pattern": lock.pattern,
                "created_at": lock.created_at,
                "created_by": lock.created_by,
            }
            for lock in locks
        ],
    )
    return list(added.scalars())


def refuse_immutable(
    connection: Connection,
    repository: tuple[int, str],
    tags: Sequence[str],
    terms: TagTerms,
    locks: Sequence[str] | None = None,
) -> None:
    """Refuse to change those of *tags*, all of them live, that are immutable; see :func:`immutable_tags`.

    Raises:
        ImmutableTag: names them.
    """
    if tags and terms.immutable is not None:
        found = immutable_tags(connection, repository, tags, terms.immutable, locks)
        if found:
            raise ImmutableTag(repository[1], found)
