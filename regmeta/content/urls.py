"""URLs at which anybody can read a blob's bytes for a while, without this process in between."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from regmeta.db import Database
from regmeta.errors import DamagedBlob, NotFound, UsageError
from regmeta.models import Blob, Repository, RepositoryBlob
from regmeta.oci.digest import Digest
from regmeta.store import BlobStore

LONGEST_S: Final = 7 * 24 * 3600  # [s] what S3 signs for

_READABLE: Final = (
    sa.select(Blob.key, Blob.state)
    .join(RepositoryBlob, RepositoryBlob.blob_id == Blob.id)
    .join(Repository, Repository.id == RepositoryBlob.repository_id)
    .where(
        Repository.name == sa.bindparam("repository"),
        Repository.state == "active",
        Blob.digest == sa.bindparam("digest"),
    )
)


def signed_url(database: Database, store: BlobStore, repository: str, digest: Digest, lifetime_s: int) -> str:
    """Return a URL of a blob that a repository may read; it works for *lifetime_s* seconds.

    What is read there is not verified by us: whoever reads it compares it with the digest. A blob that is
    collected can be read until its object is deleted.

    Raises:
        UsageError: the store has no URLs, or does not sign for so long.
        NotFound: the repository may not read this blob, or there is none.
        DamagedBlob: its bytes are known to be damaged.
    """
    if not 1 <= lifetime_s <= LONGEST_S:
        raise UsageError(f"{lifetime_s} s: a URL works for 1 s to 7 days")
    with database.read() as connection:
        row = connection.execute(_READABLE, {"repository": repository, "digest": digest}).one_or_none()
    if row is None:
        raise NotFound(f"{repository}: no blob {digest}")
    if row.state != "live":
        raise DamagedBlob(f"{digest}: known to be damaged; importing its image again heals it")
    url = store.signed_url(row.key, lifetime_s)
    if url is None:
        raise UsageError(f"{store.location}: a store in a folder has no URLs")
    return url
