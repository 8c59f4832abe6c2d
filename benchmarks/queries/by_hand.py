"""The same questions in statements written by hand: what a program without regmeta would send at best."""

from __future__ import annotations

from typing import Any, Final

from benchmarks.queries.parameters import Tagged
from benchmarks.queries.raw import Raw, Rows

_PULLED: Final = (
    "(SELECT max(p.last_pulled_at) FROM pull_stats p WHERE p.repository_id = t.repository_id"
    " AND p.digest = t.manifest_digest AND p.tag = t.name)"
)
_TAGS: Final = (
    "SELECT t.name, t.manifest_digest, m.kind, m.media_type, m.artifact_type, m.os, m.architecture,"
    f" m.variant, m.total_size_bytes, m.image_created_at, m.pushed_at, {_PULLED}, t.started_at, t.started_by"
    " FROM tags t JOIN manifests m ON m.id = t.manifest_id WHERE t.ended_at IS NULL AND t.repository_id = ?"
)
_MANIFESTS: Final = (
    "SELECT m.id, m.digest, m.kind, m.media_type, m.artifact_type, m.os, m.architecture, m.variant,"
    " m.total_size_bytes, m.image_created_at, m.pushed_at, m.pushed_by, m.subject_digest, (SELECT"
    " max(p.last_pulled_at) FROM pull_stats p WHERE p.repository_id = m.repository_id AND p.digest ="
    " m.digest) FROM manifests m WHERE m.deleted_at IS NULL AND"
)


def _of(raw: Raw, repository: str) -> int:
    found: int = raw.value("SELECT id FROM repositories WHERE name = ? AND state = 'active'", repository)
    return found


def resolve_tag(raw: Raw, of: Tagged) -> Rows:
    return raw.rows(
        "SELECT t.manifest_id, t.manifest_digest FROM tags t JOIN repositories r ON r.id = t.repository_id"
        " WHERE r.name = ? AND t.name = ? AND t.ended_at IS NULL",
        of.repository,
        of.tag,
    )


def resolve_digest(raw: Raw, of: Tagged) -> Rows:
    return raw.rows(
        "SELECT m.id, m.digest FROM manifests m JOIN repositories r ON r.id = m.repository_id"
        " WHERE r.name = ? AND r.state = 'active' AND m.digest = ? AND m.deleted_at IS NULL",
        of.repository,
        of.digest.to_bytes(),
    )


def tags_page(raw: Raw, of: tuple[str, str]) -> Rows:
    repository, behind = of
    return raw.rows(f"{_TAGS} AND t.name > ? ORDER BY t.name LIMIT 101", _of(raw, repository), behind)


def newest_tags(raw: Raw, repository: str) -> Rows:
    return raw.rows(f"{_TAGS} ORDER BY t.started_at DESC, t.name DESC LIMIT 101", _of(raw, repository))


def _manifests_with_tags(raw: Raw, rows: Rows) -> Rows:
    marks = ", ".join("?" * len(rows))
    names = f"SELECT manifest_id, name FROM tags WHERE ended_at IS NULL AND manifest_id IN ({marks})"
    return rows + raw.rows(names, *(row[0] for row in rows)) if rows else rows


def newest_manifests(raw: Raw, repository: str) -> Rows:
    rows = raw.rows(
        f"{_MANIFESTS} m.repository_id = ? ORDER BY m.pushed_at DESC, m.id DESC LIMIT 101",
        _of(raw, repository),
    )
    return _manifests_with_tags(raw, rows)


def repositories_page(raw: Raw, behind: str) -> Rows:
    return raw.rows(
        "SELECT r.name, (SELECT count(*) FROM tags t WHERE t.repository_id = r.id AND t.ended_at IS NULL),"
        " (SELECT count(*) FROM manifests m WHERE m.repository_id = r.id AND m.deleted_at IS NULL),"
        " (SELECT u.unique_bytes FROM usage_samples u WHERE u.repository_id = r.id"
        " AND u.day = (SELECT max(day) FROM usage_samples)),"
        " (SELECT count(*) FROM favorites f WHERE f.repository_id = r.id AND f.kind = 'star'),"
        " r.created_at, r.updated_at FROM repositories r"
        " WHERE r.name > ? AND r.state = 'active' ORDER BY r.name LIMIT 101",
        behind,
    )


def tree(raw: Raw, of: Tagged) -> Rows:
    """Read what the tree of an image needs: manifests, members, sizes, labels and tags."""
    (root, _), *_ = resolve_tag(raw, of)
    members = raw.rows("SELECT child_id, position FROM index_manifests WHERE index_id = ?", root)
    ids = [root, *(row[0] for row in members)]
    marks = ", ".join("?" * len(ids))
    manifests = raw.rows(
        "SELECT id, digest, media_type, content, os, architecture, variant, image_created_at, pushed_at,"
        f" pushed_by FROM manifests WHERE id IN ({marks})",
        *ids,
    )
    raw.rows(
        "SELECT sum(size_bytes) FROM blobs WHERE id IN (SELECT blob_id FROM manifest_blobs"
        f" WHERE manifest_id IN ({marks}))",
        *ids,
    )
    raw.rows("SELECT name, value FROM labels WHERE manifest_id = ?", root)
    raw.rows("SELECT name FROM tags WHERE manifest_id = ? AND ended_at IS NULL", root)
    return manifests


def summary(raw: Raw, of: Tagged) -> Rows:
    """Read what the summary of an image needs."""
    rows = tree(raw, of)
    digest = of.digest.to_bytes()
    raw.rows(
        "SELECT artifact_type, count(*) FROM manifests WHERE repository_id = ? AND subject_digest = ?"
        " AND deleted_at IS NULL GROUP BY artifact_type",
        of.repository_id,
        digest,
    )
    raw.rows(
        "SELECT manifest_id FROM tags WHERE repository_id = ? AND name = ? AND ended_at IS NULL",
        of.repository_id,
        f"sha256-{of.digest.hex}.sig",
    )
    raw.rows(
        "SELECT sum(pulls), max(last_pulled_at) FROM pull_stats WHERE repository_id = ? AND digest = ?",
        of.repository_id,
        digest,
    )
    return rows


def referrers(raw: Raw, of: tuple[str, Any, int]) -> Rows:
    repository, digest, _ = of
    rows = raw.rows(
        "SELECT id, digest, media_type, artifact_type, size_bytes, pushed_at FROM manifests"
        " WHERE repository_id = ? AND subject_digest = ? AND deleted_at IS NULL ORDER BY id LIMIT 101",
        _of(raw, repository),
        digest.to_bytes(),
    )
    for row in rows:
        raw.rows("SELECT name, value FROM labels WHERE manifest_id = ? AND origin = 'annotation'", row[0])
    return rows


_KIN: Final = (
    "SELECT m.id, r.name, m.digest, m.os, m.architecture, m.variant, m.layer_count, m.total_size_bytes,"
    " m.pushed_at FROM {} JOIN repositories r ON r.id = m.repository_id"
    " WHERE r.state = 'active' AND m.deleted_at IS NULL AND "
)


def bases(raw: Raw, of: Tagged) -> Rows:
    (root, _), *_ = resolve_digest(raw, of)
    rows = raw.rows(
        _KIN.format("manifest_blobs e JOIN manifests m ON m.chain_digest = e.chain_digest")
        + "e.manifest_id = ? AND e.position < (SELECT layer_count FROM manifests WHERE id = ?)"
        " ORDER BY e.position DESC, m.id LIMIT 101",
        root,
        root,
    )
    return _manifests_with_tags(raw, rows)


def derived(raw: Raw, of: Tagged) -> Rows:
    (root, _), *_ = resolve_digest(raw, of)
    chain = raw.value("SELECT chain_digest FROM manifests WHERE id = ?", root)
    rows = raw.rows(
        _KIN.format("manifest_blobs e JOIN manifests m ON m.id = e.manifest_id")
        + "e.chain_digest = ? AND m.chain_digest <> ? ORDER BY e.manifest_id LIMIT 101",
        chain,
        chain,
    )
    return _manifests_with_tags(raw, rows)


def largest_blobs(raw: Raw, _: Any) -> Rows:
    return raw.rows(
        "SELECT b.digest, b.size_bytes, b.state, b.created_at, EXISTS (SELECT 1 FROM repository_blobs l"
        " WHERE l.blob_id = b.id) FROM blobs b ORDER BY b.size_bytes DESC, b.id DESC LIMIT 101"
    )


def events(raw: Raw, _: Any) -> Rows:
    order = "e.id" if raw.is_sqlite else "e.transaction_id, e.id"
    return raw.rows(
        "SELECT e.*, r.name FROM events e JOIN repositories r ON r.id = e.repository_id"
        f" WHERE e.transaction_id IS NOT NULL ORDER BY {order} LIMIT 101"
    )


def digests(raw: Raw, prefix: str) -> Rows:
    first = b"\x01" + bytes.fromhex(prefix[: len(prefix) // 2 * 2])
    last = first + b"\xff" * (33 - len(first))
    return raw.rows(
        "SELECT r.name, m.digest, m.media_type FROM manifests m JOIN repositories r ON r.id = m.repository_id"
        " WHERE m.digest >= ? AND m.digest <= ? ORDER BY m.digest LIMIT 21",
        first,
        last,
    ) + raw.rows(
        "SELECT digest, size_bytes FROM blobs WHERE digest >= ? AND digest <= ? LIMIT 21", first, last
    )
