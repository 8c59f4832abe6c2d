"""Moving and removing a tag of what is here already."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import db
from regmeta.errors import NotFound
from regmeta.ingest.plan import CommitResult, TagChange
from regmeta.ingest.retry import retried
from regmeta.ingest.statements import (
    AlreadyCommitted,
    Change,
    lock_repositories,
    one_effect,
    record_result,
)
from regmeta.ingest.tag_moves import end_tags, move_tags
from regmeta.ingest.unit_of_work import Writer
from regmeta.models import Manifest
from regmeta.oci import names
from regmeta.oci.digest import Digest

_MANIFEST_ID: Final = sa.select(Manifest.id).where(
    Manifest.repository_id == sa.bindparam("repository"),
    Manifest.digest == sa.bindparam("of"),
    Manifest.deleted_at.is_(None),
)
_Move = Callable[[Connection, Change, tuple[int, str]], list[TagChange]]


def set_tag(writer: Writer, repository: str, tag: str, digest: Digest) -> CommitResult:
    """Point a tag at a manifest that its repository holds. The old interval ends where the new one starts.

    Others may move the same tag meanwhile: one after the other, none is lost from the history.

    Raises:
        NotFound: no such repository, or no such manifest in it.
        RepositoryNotActive: the repository is being removed.
    """
    names.tag_name(tag)

    def move(connection: Connection, change: Change, of: tuple[int, str]) -> list[TagChange]:
        found = connection.execute(_MANIFEST_ID, {"repository": of[0], "of": digest}).scalar()
        if found is None:
            raise NotFound(f"{repository}@{digest}: no such manifest")
        return move_tags(connection, change, of, {tag: digest}, {digest: found}, writer.lifetimes.garbage)

    return _change(writer, repository, f"tag {repository}:{tag}", move)


def remove_tag(writer: Writer, repository: str, tag: str) -> CommitResult:
    """End a tag. The manifest stays, reachable by its digest, until it is collected.

    Raises:
        NotFound: no such repository, or no such tag in it now.
        RepositoryNotActive: the repository is being removed.
    """
    names.tag_name(tag)

    def end(connection: Connection, change: Change, of: tuple[int, str]) -> list[TagChange]:
        changes = end_tags(connection, change, of, [tag], writer.lifetimes.garbage)
        if not changes:
            raise NotFound(f"{repository}:{tag}: no such tag")
        return changes

    return _change(writer, repository, f"untag {repository}:{tag}", end)


def _change(writer: Writer, repository: str, what: str, move: _Move) -> CommitResult:
    names.repository_name(repository)
    ingest_id = uuid4()

    def once() -> CommitResult:
        try:
            with writer.database.transaction("tags") as connection:
                ids = lock_repositories(connection, [repository], create=False)
                if repository not in ids:
                    raise NotFound(f"{repository}: no such repository")
                change = Change(db.stamp(connection), writer.actor, ingest_id)
                one_effect(connection, change, what)
                of = (ids[repository], repository)
                changes = move(connection, change, of)
                result = CommitResult((of,), tags_changed=tuple(changes))
                record_result(connection, change, result)
                return result
        except AlreadyCommitted as earlier:
            return earlier.result

    result = retried(once)
    for repository_id, _ in result.repositories:
        writer.snapshots.flush_quietly(repository_id, ())
    return result
