"""Undoing a deletion, for as long as the rows are there: they decide, and not the clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.orm import aliased

from regmeta.errors import NotFound
from regmeta.ingest.one_change import change_repository
from regmeta.ingest.plan import CommitResult
from regmeta.ingest.revive import revive
from regmeta.ingest.statements import (
    Change,
    LockedRepository,
    record_events,
    set_repository_state,
)
from regmeta.ingest.tag_moves import move_tags
from regmeta.ingest.tag_sets import restart_tags
from regmeta.ingest.unit_of_work import Writer
from regmeta.models import Manifest, Tag
from regmeta.models.base import UtcTime
from regmeta.oci.digest import Digest

_later = aliased(Tag)
_repository: Final[Any] = sa.bindparam("repository")
_FIND: Final = sa.select(Manifest.id, Manifest.deleted_at).where(
    Manifest.repository_id == _repository, Manifest.digest == sa.bindparam("of")
)
_ENDED_BY_IT: Final = (
    sa.select(Tag.name)
    .where(
        Tag.manifest_id == sa.bindparam("of"),
        Tag.ended_at == sa.bindparam("at", type_=UtcTime()),
        ~sa.exists().where(
            _later.repository_id == Tag.repository_id,
            _later.name == Tag.name,
            _later.started_at >= Tag.ended_at,
        ),
    )
    .order_by(Tag.name)
)
_HOLDS_ANYTHING: Final = sa.select(sa.exists().where(Manifest.repository_id == _repository))


@dataclass(frozen=True, slots=True)
class RestoredRepository:
    """What came back: *tags* of those that the deletion had ended, the others' images were collected."""

    repository: str
    tags: int
    tags_lost: int


@dataclass(frozen=True, slots=True)
class RestoredManifest:
    """What came back: the manifest with all that it lists."""

    repository: str
    digest: Digest
    restored: tuple[Digest, ...]
    tags: tuple[str, ...]


def undelete_repository(writer: Writer, repository: str) -> RestoredRepository:
    """Bring a deleted repository back with exactly the tags that its deletion ended.

    They start now. Manifests that had been deleted by their digest stay so.

    Raises:
        NotFound: there is none of this name, it was not deleted, or it has been emptied since.
        RepositoryNotActive: it is being emptied.
        Unavailable, Locked: the database did not take it.
    """

    def work(connection: Connection, of: LockedRepository, change: Change) -> CommitResult:
        if of.state == "active":
            raise NotFound(f"{of.name}: it is not deleted")
        parameters = {"repository": of.id}
        if of.deleted_at is None and not connection.execute(_HOLDS_ANYTHING, parameters).scalar_one():
            raise NotFound(f"{of.name}: nothing of it is left: it was deleted longer ago than can be undone")
        tags = lost = 0
        if of.deleted_at is not None:
            ended, tags = restart_tags(connection, change, of.id, of.deleted_at)
            lost = ended - tags
        set_repository_state(connection, of.id, "active", None)
        record_events(connection, [change.event("repository.restored", of.id)])
        return CommitResult(((of.id, of.name),), details={"tags": tags, "lost": lost})

    result = change_repository(
        writer,
        repository,
        f"undelete {repository}",
        lambda: writer.database.transaction("repository_restored"),
        work,
        objects=None,
    )
    return RestoredRepository(repository, result.details["tags"], result.details["lost"])


def undelete_manifest(
    writer: Writer, repository: str, digest: Digest, *, tags: bool = False
) -> RestoredManifest:
    """Bring a deleted manifest back, with all that it lists.

    With *tags* also the tags that its deletion ended, but for those that were set again since. Without a tag
    it is collected in the end, like any manifest without one.

    Raises:
        NotFound: no such repository, no such manifest (it has been collected, or never was), or it was not
            deleted.
        RepositoryNotActive: the repository is being purged.
        Unavailable, Locked: the database did not take it.
    """

    def work(connection: Connection, of: LockedRepository, change: Change) -> CommitResult:
        of.require_active()
        row: Any = connection.execute(_FIND, {"repository": of.id, "of": digest}).first()
        if row is None:
            raise NotFound(f"{of.name}@{digest}: no such manifest: it was collected, or never was here")
        if row.deleted_at is None:
            raise NotFound(f"{of.name}@{digest}: it is not deleted")
        names: list[str] = []
        if tags:
            ended = {"of": row.id, "at": row.deleted_at}
            names = list(connection.execute(_ENDED_BY_IT, ended).scalars())
        restored = revive(connection, change, of.id, [row.id], writer.lifetimes.lease)
        changes = move_tags(
            connection,
            change,
            (of.id, of.name),
            dict.fromkeys(names, digest),
            {digest: row.id},
            writer.tag_terms,
        )
        details = {"restored": [str(item) for item in restored], "tags": names}
        return CommitResult(((of.id, of.name),), tags_changed=tuple(changes), details=details)

    result = change_repository(
        writer,
        repository,
        f"undelete {repository}@{digest}",
        lambda: writer.database.transaction("manifest_restored"),
        work,
    )
    restored = tuple(map(Digest.parse, result.details["restored"]))
    return RestoredManifest(repository, digest, restored, tuple(result.details["tags"]))
