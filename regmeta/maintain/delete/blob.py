"""Deleting a blob: one repository has no access to it any more."""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.errors import NotFound, Refused
from regmeta.ingest.one_change import change_repository
from regmeta.ingest.plan import CommitResult
from regmeta.ingest.statements import Change, LockedRepository, queue_blobs, record_events
from regmeta.ingest.unit_of_work import Writer
from regmeta.models import Blob, IndexMember, Manifest, ManifestBlob, RepositoryBlob
from regmeta.oci.digest import Digest

_repository: Final[Any] = sa.bindparam("repository")
_blob: Final[Any] = sa.bindparam("blob")
_FIND: Final = (
    sa.select(Blob.id, Blob.lease_until)
    .join(RepositoryBlob, RepositoryBlob.blob_id == Blob.id)
    .where(RepositoryBlob.repository_id == _repository, Blob.digest == sa.bindparam("of"))
)
_NAMED_BY: Final = (
    sa.select(Manifest.digest, Manifest.deleted_at)
    .where(
        Manifest.repository_id == _repository,
        Manifest.id.in_(
            sa.union_all(
                sa.select(Manifest.id).where(Manifest.blob_id == _blob),
                sa.select(ManifestBlob.manifest_id).where(ManifestBlob.blob_id == _blob),
                sa.select(IndexMember.index_id).where(IndexMember.blob_id == _blob),
            )
        ),
    )
    # One that can be read if there is one: that is where its user looks.
    .order_by(Manifest.deleted_at.is_not(None), Manifest.id)
    .limit(1)
)
_UNLINK: Final = sa.delete(RepositoryBlob).where(
    RepositoryBlob.repository_id == _repository, RepositoryBlob.blob_id == _blob
)


class StillNamed(Refused):
    """A manifest of the repository names the blob."""


def delete_blob(writer: Writer, repository: str, digest: Digest) -> None:
    """Take a repository's access to a blob away. Its bytes go when no other repository has any.

    A push that relies on it goes on: what it commits names the blob for the repository again.

    Raises:
        NotFound: no such repository, or it has no access to such a blob.
        StillNamed: names a manifest that names it, one that was deleted and can be brought back included;
            nothing has happened.
        RepositoryNotActive: the repository is being purged.
        Unavailable, Locked: the database did not take it.
    """

    def work(connection: Connection, of: LockedRepository, change: Change) -> CommitResult:
        of.require_active()
        row = connection.execute(_FIND, {"repository": of.id, "of": digest}).first()
        if row is None:
            raise NotFound(f"{of.name}@{digest}: no such blob")
        parameters = {"repository": of.id, "blob": row.id}
        named: Any = connection.execute(_NAMED_BY, parameters).first()
        if named is not None:
            deleted = "" if named.deleted_at is None else ", which was deleted and can be brought back"
            raise StillNamed(f"{of.name}@{digest}: the manifest {named.digest} names it{deleted}")
        connection.execute(_UNLINK, parameters)
        not_before = max(change.stamp.now + writer.lifetimes.garbage, row.lease_until)
        queue_blobs(connection, change, {row.id: not_before}, "deleted")
        record_events(connection, [change.event("blob.deleted", of.id, digest=digest)])
        return CommitResult(((of.id, of.name),))

    change_repository(
        writer,
        repository,
        f"delete blob {repository}@{digest}",
        lambda: writer.database.transaction("blob_deleted"),
        work,
        objects=None,
    )
