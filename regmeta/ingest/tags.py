"""Moving and removing a tag of what is here already."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.errors import NotFound
from regmeta.ingest import searchable
from regmeta.ingest.one_change import change_repository
from regmeta.ingest.plan import CommitResult, TagChange
from regmeta.ingest.statements import Change, LockedRepository
from regmeta.ingest.tag_moves import end_tags, move_tags
from regmeta.ingest.unit_of_work import Writer
from regmeta.models import Manifest, Tag
from regmeta.oci import names
from regmeta.oci.digest import Digest

_MANIFEST_ID: Final = sa.select(Manifest.id).where(
    Manifest.repository_id == sa.bindparam("repository"),
    Manifest.digest == sa.bindparam("of"),
    Manifest.deleted_at.is_(None),
)
_POINTS_AT: Final = sa.select(Tag.manifest_digest).where(
    Tag.repository_id == sa.bindparam("repository"), Tag.name == sa.bindparam("tag"), Tag.ended_at.is_(None)
)
Move = Callable[[Connection, Change, tuple[int, str]], list[TagChange]]


def set_tag(writer: Writer, repository: str, tag: str, digest: Digest) -> CommitResult:
    """Point a tag at a manifest that its repository holds. The old interval ends where the new one starts.

    Others may move the same tag meanwhile: one after the other, none is lost from the history.

    Raises:
        NotFound: no such repository, or no such manifest in it.
        RepositoryNotActive: the repository is being removed.
        ImmutableTag: the tag is there and may not be changed.
    """
    names.tag_name(tag)

    def move(connection: Connection, change: Change, of: tuple[int, str]) -> list[TagChange]:
        found = connection.execute(_MANIFEST_ID, {"repository": of[0], "of": digest}).scalar()
        if found is None:
            raise NotFound(f"{repository}@{digest}: no such manifest")
        changes = move_tags(connection, change, of, {tag: digest}, {digest: found}, writer.tag_terms)
        searchable.add_tags(connection, [item.tag for item in changes])
        return changes

    return change_tags(writer, repository, f"tag {repository}:{tag}", move)


def remove_tag(writer: Writer, repository: str, tag: str, digest: Digest | None = None) -> CommitResult:
    """End a tag. The manifest stays, reachable by its digest, until it is collected.

    With *digest* it is ended only if it points there.

    Raises:
        NotFound: no such repository, or no such tag in it now, or it points elsewhere.
        RepositoryNotActive: the repository is being removed.
        ImmutableTag: the tag is there and may not be changed.
    """
    names.tag_name(tag)

    def end(connection: Connection, change: Change, of: tuple[int, str]) -> list[TagChange]:
        if digest is not None:
            points_at = connection.execute(_POINTS_AT, {"repository": of[0], "tag": tag}).scalar()
            if points_at != digest:
                raise NotFound(f"{repository}:{tag}: does not point at {digest}")
        changes = end_tags(connection, change, of, [tag], writer.tag_terms)
        if not changes:
            raise NotFound(f"{repository}:{tag}: no such tag")
        return changes

    return change_tags(writer, repository, f"untag {repository}:{tag}", end)


def change_tags(writer: Writer, repository: str, what: str, move: Move) -> CommitResult:
    """Run *move* in a transaction that holds the lock of one repository, as one ingest; *what* names it.

    *move* gets the connection, the change to write in every row, and the repository's id and name. It is run
    again from the start if the transaction is given up for another one.

    Raises:
        NotFound: there is no such repository.
        RepositoryNotActive: the repository is being removed.
    """

    def work(connection: Connection, of: LockedRepository, change: Change) -> CommitResult:
        of.require_active()
        changes = move(connection, change, (of.id, of.name))
        return CommitResult(((of.id, of.name),), tags_changed=tuple(changes))

    return change_repository(
        writer, repository, what, lambda: writer.database.transaction("tags", quiet=True), work
    )
