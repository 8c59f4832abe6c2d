"""Writing the rows of a manifest again from its bytes, which decide."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.errors import NotFound
from regmeta.ingest import rows, searchable
from regmeta.ingest.inserting import insert_ignoring
from regmeta.ingest.plan import Lifetimes, PlannedManifest
from regmeta.ingest.reserve import chunks
from regmeta.ingest.statements import Change, queue_manifests
from regmeta.models import Blob, IndexMember, Label, Manifest, ManifestBlob, RepositoryBlob
from regmeta.oci import media_types
from regmeta.oci.digest import Digest
from regmeta.oci.manifest import Index, may_be_manifest
from regmeta.store import new_key

_ROW: Final = sa.select(Manifest.id, Manifest.digest, Manifest.pushed_at, Manifest.pushed_by).where(
    Manifest.repository_id == sa.bindparam("repository"), Manifest.id == sa.bindparam("of")
)
_BLOB_IDS: Final = sa.select(Blob.digest, Blob.id).where(
    Blob.digest.in_(sa.bindparam("digests", expanding=True))
)
_MANIFEST_IDS: Final = sa.select(Manifest.digest, Manifest.id).where(
    Manifest.repository_id == sa.bindparam("repository"),
    Manifest.digest.in_(sa.bindparam("digests", expanding=True)),
)
_HELD: Final = sa.select(IndexMember.child_id).where(
    IndexMember.index_id == sa.bindparam("of"), IndexMember.child_id.is_not(None)
)
_EDGES: Final = tuple(
    sa.delete(model).where(column == sa.bindparam("of"))
    for model, column in (
        (Label, Label.manifest_id),
        (ManifestBlob, ManifestBlob.manifest_id),
        (IndexMember, IndexMember.index_id),
    )
)
# When it came and who brought it is not in the bytes.
_NOT_DERIVED: Final = frozenset({"repository_id", "digest", "pushed_at", "pushed_by", "lease_until"})


def rederive(
    connection: Connection,
    change: Change,
    repository_id: int,
    manifest_id: int,
    planned: PlannedManifest,
    lifetimes: Lifetimes,
) -> None:
    """Make the row, edges, labels and links of one manifest what its bytes say.

    The caller holds the repository's lock. A blob that no row knows any more gets one in state *damaged*, for
    the next import of its image to heal; a child that is not in the repository becomes absent.

    Raises:
        NotFound: the manifest has gone meanwhile, or is another.
    """
    document = planned.document
    row = connection.execute(_ROW, {"repository": repository_id, "of": manifest_id}).first()
    if row is None or row.digest != document.digest:
        raise NotFound(f"{document.digest}: was collected meanwhile")
    sizes, children = _named(planned)
    blob_ids = _blob_ids(connection, change, sizes, lifetimes)
    manifest_ids: dict[Digest, int] = {document.digest: manifest_id}
    for some in chunks(sorted(children)):
        found: Any = connection.execute(_MANIFEST_IDS, {"repository": repository_id, "digests": some})
        manifest_ids.update(found.all())
    absent = dict.fromkeys(children - manifest_ids.keys(), "sparse")
    held: set[int] = {child for child in connection.execute(_HELD, {"of": manifest_id}).scalars() if child}
    values = rows.manifest(
        planned,
        repository_id=repository_id,
        blob_id=blob_ids[document.digest],
        now=row.pushed_at,
        actor=row.pushed_by,
        lease_until=row.pushed_at,
    )
    derived = {name: value for name, value in values.items() if name not in _NOT_DERIVED}
    connection.execute(sa.update(Manifest).where(Manifest.id == manifest_id).values(derived))
    for delete in _EDGES:
        connection.execute(delete, {"of": manifest_id})
    labels = rows.labels([planned], manifest_ids)
    for model, edges in (
        (ManifestBlob, rows.blob_edges([planned], manifest_ids, blob_ids)),
        (IndexMember, rows.index_members([planned], manifest_ids, blob_ids, absent)),
        (Label, labels),
    ):
        if edges:
            connection.execute(sa.insert(model), edges)
    searchable.add_labels(connection, labels)
    connection.execute(
        insert_ignoring(connection, RepositoryBlob, "repository_id", "blob_id"),
        [
            {"repository_id": repository_id, "blob_id": number, "linked_at": change.stamp.now}
            for number in sorted(blob_ids.values())
        ],
    )
    # What a wrong edge kept may be garbage.
    queue_manifests(
        connection, change, repository_id, held - set(manifest_ids.values()), "not a child", timedelta()
    )


def _named(planned: PlannedManifest) -> tuple[dict[Digest, int], set[Digest]]:
    """Return the blobs that a manifest needs, with sizes, its own bytes included; and its children."""
    document = planned.document
    sizes = {document.digest: len(document.content)}
    children = set()
    if isinstance(document, Index):
        for child in document.manifests:
            if may_be_manifest(child.media_type):
                children.add(child.digest)
            else:
                sizes[child.digest] = child.size_bytes
    else:
        for layer in document.layers:
            if layer.media_type not in media_types.NON_DISTRIBUTABLE:
                sizes[layer.digest] = layer.size_bytes
        sizes[document.config.digest] = document.config.size_bytes
    return sizes, children


def _blob_ids(
    connection: Connection, change: Change, sizes: Mapping[Digest, int], lifetimes: Lifetimes
) -> dict[Digest, int]:
    ids: dict[Digest, int] = {}
    for some in chunks(sorted(sizes)):
        found: Any = connection.execute(_BLOB_IDS, {"digests": some})
        ids.update(found.all())
    missing = sorted(sizes.keys() - ids.keys())
    if missing:
        made: Any = connection.execute(
            insert_ignoring(connection, Blob, "digest").returning(Blob.digest, Blob.id),
            [
                {
                    "digest": digest,
                    "size_bytes": sizes[digest],
                    "key": new_key(digest),
                    "state": "damaged",
                    "lease_until": change.stamp.now + lifetimes.lease,
                    "created_at": change.stamp.now,
                }
                for digest in missing
            ],
        )
        ids.update(made.all())
    return ids
