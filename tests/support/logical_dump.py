"""All that a registry says, in names and digests: what a rebuild from the store must bring back.

Left out are ids and keys, push times and actors, ended tags and start times, pulls, events, leases, the
machinery's own rows, and access links that no manifest needs.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from regmeta.db import Database
from tests.support.derived import text

_QUERIES = {
    "repositories": "SELECT name, state, revision, created_at, updated_at FROM repositories",
    "manifests": "SELECT r.name, m.digest, m.kind, m.media_type, m.size_bytes, m.content, b.digest AS blob,"
    " m.artifact_type, m.config_media_type, m.subject_digest, m.os, m.architecture, m.variant,"
    " m.image_created_at, m.layer_count, m.total_size_bytes"
    " FROM manifests m JOIN repositories r ON r.id = m.repository_id JOIN blobs b ON b.id = m.blob_id",
    "manifest_blobs": "SELECT r.name, m.digest, e.position, e.role, b.digest AS blob, e.absent_digest,"
    " e.chain_digest FROM manifest_blobs e JOIN manifests m ON m.id = e.manifest_id"
    " JOIN repositories r ON r.id = m.repository_id LEFT JOIN blobs b ON b.id = e.blob_id",
    "index_manifests": "SELECT r.name, m.digest, e.position, e.child_digest, c.digest AS child,"
    " b.digest AS blob, e.absence, e.media_type, e.size_bytes, e.os, e.architecture, e.variant, e.os_version"
    " FROM index_manifests e JOIN manifests m ON m.id = e.index_id"
    " JOIN repositories r ON r.id = m.repository_id LEFT JOIN manifests c ON c.id = e.child_id"
    " LEFT JOIN blobs b ON b.id = e.blob_id",
    "tags": "SELECT r.name AS repository, t.name, t.manifest_digest, m.digest FROM tags t"
    " JOIN repositories r ON r.id = t.repository_id JOIN manifests m ON m.id = t.manifest_id"
    " WHERE t.ended_at IS NULL",
    "labels": "SELECT r.name AS repository, m.digest, l.origin, l.name, l.value FROM labels l"
    " JOIN manifests m ON m.id = l.manifest_id JOIN repositories r ON r.id = m.repository_id",
    "blobs": "SELECT digest, size_bytes, state FROM blobs b WHERE EXISTS ({needed})",
    "repository_blobs": "SELECT r.name, b.digest FROM repository_blobs x JOIN blobs b ON b.id = x.blob_id"
    " JOIN repositories r ON r.id = x.repository_id WHERE EXISTS ({needed} AND m.repository_id = r.id)",
}
_NEEDED = (
    "SELECT 1 FROM manifests m LEFT JOIN manifest_blobs e ON e.manifest_id = m.id"
    " LEFT JOIN index_manifests i ON i.index_id = m.id"
    " WHERE (m.blob_id = b.id OR e.blob_id = b.id OR i.blob_id = b.id)"
)


def logical_dump(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """Return what the rows of each table say, sorted."""
    with database.read() as connection:
        return {
            table: sorted(
                (
                    tuple(_plain(name, value) for name, value in row._mapping.items())
                    for row in connection.execute(sa.text(query.format(needed=_NEEDED)))
                ),
                key=repr,
            )
            for table, query in _QUERIES.items()
        }


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, (bytes, memoryview)):
        return bytes(value) if name == "content" else text(bytes(value))
    return value
