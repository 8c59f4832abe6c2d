"""Deleting a repository: all its tags end, and no reader finds it or anything in it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.errors import NotFound
from regmeta.ingest.immutable import refuse_immutable
from regmeta.ingest.one_change import change_repository
from regmeta.ingest.plan import CommitResult
from regmeta.ingest.statements import (
    Change,
    LockedRepository,
    queue_repository,
    record_events,
    set_repository_state,
)
from regmeta.ingest.tag_sets import end_all_tags
from regmeta.ingest.unit_of_work import Writer
from regmeta.models import Manifest, Tag

_of: Final[Any] = sa.bindparam("of")
_LIVE: Final = sa.select(Tag.name).where(Tag.repository_id == _of, Tag.ended_at.is_(None))
_MANIFESTS: Final = (
    sa.select(sa.func.count())
    .select_from(Manifest)
    .where(Manifest.repository_id == _of, Manifest.deleted_at.is_(None))
)


@dataclass(frozen=True, slots=True)
class RepositoryReport:
    """What a deletion hid; until *until* nothing of it is removed."""

    repository: str
    tags: int
    manifests: int
    until: datetime


def delete_repository(writer: Writer, repository: str) -> RepositoryReport:
    """Delete a repository: all tags end at one moment, and nothing in it can be read.

    A push brings the repository back, without the tags; ``undelete_repository`` with those that ended here.
    When the history window is over the collector empties it (:mod:`regmeta.maintain.collect.purge`).

    Its rows are changed in sets: the lock is held for as long as the database takes to end its tags, a
    second for some 50,000. One event tells of it all.

    Raises:
        NotFound: there is no such repository, or it was deleted before.
        ImmutableTag: a tag may not be removed; nothing has happened.
        RepositoryNotActive: it is being purged.
        Unavailable, Locked: the database did not take it.
    """

    def work(connection: Connection, of: LockedRepository, change: Change) -> CommitResult:
        if of.state != "active":
            raise NotFound(f"{of.name}: no such repository; it was deleted")
        parameters = {"of": of.id}
        tags = connection.execute(_LIVE, parameters).scalars().all()
        refuse_immutable(connection, (of.id, of.name), tags, writer.tag_terms)
        manifests = connection.execute(_MANIFESTS, parameters).scalar_one()
        at = end_all_tags(connection, change, of.id, writer.lifetimes.history)
        until = at + writer.lifetimes.history
        set_repository_state(connection, of.id, "deleted", at)
        queue_repository(connection, change, of.id, until)
        record_events(connection, [change.event("repository.deleted", of.id)])
        details = {"tags": len(tags), "manifests": manifests, "until": until.isoformat()}
        return CommitResult(((of.id, of.name),), details=details)

    result = change_repository(
        writer,
        repository,
        f"delete {repository}",
        lambda: writer.database.transaction("repository_deleted"),
        work,
        objects=None,
    )
    told = result.details
    return RepositoryReport(
        repository, told["tags"], told["manifests"], datetime.fromisoformat(told["until"])
    )
