"""What analysts query with any tool: views that stay when tables change (docs/sql.md).

A column, once here, keeps its name and its meaning; new ones are added behind the others. Digests are text.
Times are ``timestamptz`` on PostgreSQL and ISO 8601 text in UTC on SQLite. Only what can be read is in them:
nothing of deleted repositories and manifests. They know no visibility: who may open the database sees all.
"""

from __future__ import annotations

import re
from typing import Final

from regmeta.models.base import beside_tables

# {digest x}, {time x} and {day x} are written as each database says it.
_VIEWS: Final = {
    "v_repositories": """
SELECT r.name AS repository, {time r.created_at} AS created_at, {time r.updated_at} AS updated_at
FROM repositories r WHERE r.state = 'active'""",
    "v_tags": """
SELECT r.name AS repository, t.name AS tag, {digest t.manifest_digest} AS digest, m.kind AS kind,
    m.media_type AS media_type, m.artifact_type AS artifact_type, m.os AS os,
    m.architecture AS architecture, m.variant AS variant, m.total_size_bytes AS size_bytes,
    {time m.image_created_at} AS created_at, {time m.pushed_at} AS pushed_at,
    {time t.started_at} AS tagged_at, t.started_by AS tagged_by
FROM tags t JOIN repositories r ON r.id = t.repository_id JOIN manifests m ON m.id = t.manifest_id
WHERE t.ended_at IS NULL AND r.state = 'active'""",
    "v_tag_history": """
SELECT r.name AS repository, t.name AS tag, {digest t.manifest_digest} AS digest,
    {time t.started_at} AS started_at, t.started_by AS started_by, {time t.ended_at} AS ended_at,
    t.ended_by AS ended_by
FROM tags t JOIN repositories r ON r.id = t.repository_id WHERE r.state = 'active'""",
    "v_images": """
SELECT r.name AS repository, {digest m.digest} AS digest, m.kind AS kind, m.media_type AS media_type,
    m.artifact_type AS artifact_type, m.config_media_type AS config_media_type,
    {digest m.subject_digest} AS subject, m.os AS os, m.architecture AS architecture, m.variant AS variant,
    m.layer_count AS layers, m.size_bytes AS manifest_bytes, m.total_size_bytes AS size_bytes,
    {time m.image_created_at} AS created_at, {time m.pushed_at} AS pushed_at, m.pushed_by AS pushed_by
FROM manifests m JOIN repositories r ON r.id = m.repository_id
WHERE m.deleted_at IS NULL AND r.state = 'active'""",
    "v_layers": """
SELECT r.name AS repository, {digest m.digest} AS image, e.position AS position, e.role AS role,
    coalesce({digest b.digest}, {digest e.absent_digest}) AS digest, b.size_bytes AS size_bytes,
    {digest e.chain_digest} AS chain_digest
FROM manifest_blobs e JOIN manifests m ON m.id = e.manifest_id JOIN repositories r ON r.id = m.repository_id
LEFT JOIN blobs b ON b.id = e.blob_id
WHERE m.deleted_at IS NULL AND r.state = 'active'""",
    "v_index_members": """
SELECT r.name AS repository, {digest m.digest} AS index_digest, i.position AS position,
    {digest i.child_digest} AS digest, i.media_type AS media_type, i.os AS os,
    i.architecture AS architecture, i.variant AS variant, i.absence AS absence
FROM index_manifests i JOIN manifests m ON m.id = i.index_id JOIN repositories r ON r.id = m.repository_id
WHERE m.deleted_at IS NULL AND r.state = 'active'""",
    "v_labels": """
SELECT r.name AS repository, {digest m.digest} AS digest, l.origin AS origin, l.name AS name, l.value AS value
FROM labels l JOIN manifests m ON m.id = l.manifest_id JOIN repositories r ON r.id = m.repository_id
WHERE m.deleted_at IS NULL AND r.state = 'active'""",
    "v_blobs": """
SELECT {digest b.digest} AS digest, b.size_bytes AS size_bytes, b.state AS state,
    {time b.created_at} AS created_at,
    (SELECT count(*) FROM repository_blobs l WHERE l.blob_id = b.id) AS repositories
FROM blobs b""",
    "v_usage": """
SELECT r.name AS repository,
    (SELECT count(*) FROM tags t WHERE t.repository_id = r.id AND t.ended_at IS NULL) AS tags,
    (SELECT count(*) FROM manifests m WHERE m.repository_id = r.id AND m.deleted_at IS NULL) AS manifests,
    (SELECT count(*) FROM repository_blobs l WHERE l.repository_id = r.id) AS blobs,
    (SELECT coalesce(sum(m.size_bytes + coalesce(m.total_size_bytes, 0)), 0) FROM manifests m
        WHERE m.repository_id = r.id AND m.deleted_at IS NULL) AS logical_bytes,
    (SELECT coalesce(sum(b.size_bytes), 0) FROM repository_blobs l JOIN blobs b ON b.id = l.blob_id
        WHERE l.repository_id = r.id) AS unique_bytes,
    (SELECT coalesce(sum(b.size_bytes), 0) FROM repository_blobs l JOIN blobs b ON b.id = l.blob_id
        WHERE l.repository_id = r.id AND NOT EXISTS (SELECT 1 FROM repository_blobs o
            WHERE o.blob_id = l.blob_id AND o.repository_id <> r.id)) AS exclusive_bytes
FROM repositories r WHERE r.state = 'active'""",
    "v_usage_samples": """
SELECT r.name AS repository, {day u.day} AS day, {time u.sampled_at} AS sampled_at, u.tags AS tags,
    u.manifests AS manifests, u.blobs AS blobs, u.logical_bytes AS logical_bytes,
    u.unique_bytes AS unique_bytes, u.exclusive_bytes AS exclusive_bytes
FROM usage_samples u JOIN repositories r ON r.id = u.repository_id WHERE r.state = 'active'""",
    "v_pulls": """
SELECT r.name AS repository, {digest p.digest} AS digest, nullif(p.tag, '') AS tag,
    CASE WHEN p.day >= 0 THEN {day p.day} END AS day, p.pulls AS pulls,
    {time p.last_pulled_at} AS last_pulled_at
FROM pull_stats p JOIN repositories r ON r.id = p.repository_id WHERE r.state = 'active'""",
    "v_favorites": """
SELECT f.user_name AS user_name, f.kind AS kind, r.name AS repository, {time f.created_at} AS created_at
FROM favorites f JOIN repositories r ON r.id = f.repository_id WHERE r.state = 'active'""",
    "v_events": """
SELECT e.id AS id, {time e.occurred_at} AS occurred_at, e.kind AS kind, r.name AS repository, e.tag AS tag,
    {digest e.digest} AS digest, {digest e.previous_digest} AS previous_digest, e.actor AS actor
FROM events e JOIN repositories r ON r.id = e.repository_id""",
}
_SAID: Final = {
    "sqlite": {
        "digest": "CASE hex(substr({0}, 1, 1)) WHEN '01' THEN 'sha256:' WHEN '02' THEN 'sha512:' END"
        " || lower(hex(substr({0}, 2)))",
        "time": "strftime('%Y-%m-%dT%H:%M:%S', {0} / 1000000, 'unixepoch')"
        " || printf('.%06dZ', {0} % 1000000)",
        "day": "date({0} * 86400, 'unixepoch')",
    },
    "postgresql": {
        "digest": "CASE get_byte({0}, 0) WHEN 1 THEN 'sha256:' WHEN 2 THEN 'sha512:' END"
        " || encode(substr({0}, 2), 'hex')",
        "time": "timestamptz 'epoch' + {0} * interval '1 microsecond'",
        "day": "date 'epoch' + {0}",
    },
}
VIEWS: Final = tuple(_VIEWS)
"""The names of the views."""


def definitions(dialect: str) -> dict[str, str]:
    """Return the SELECT of each view as *dialect* (``sqlite`` or ``postgresql``) says it."""
    said = _SAID[dialect]

    def write(found: re.Match[str]) -> str:
        return f"({said[found[1]].replace('{0}', found[2])})"

    return {name: re.sub(r"\{(\w+) ([\w.]+)\}", write, sql).strip() for name, sql in _VIEWS.items()}


for _dialect in _SAID:
    for _name, _sql in definitions(_dialect).items():
        beside_tables("after_create", _dialect, f"CREATE VIEW {_name} AS {_sql}")
        beside_tables("before_drop", _dialect, f"DROP VIEW IF EXISTS {_name}")
