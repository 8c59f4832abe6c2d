"""The statements that a page of image summaries is put together from, for any number of images.

Digests and times come as they stand in the rows: one that is damaged must spoil its own image only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from regmeta import models
from regmeta.models.base import UtcTime
from regmeta.oci import signatures
from regmeta.oci.annotations import NAMES
from regmeta.query.graph.signatures import SignatureTag, is_signature
from regmeta.query.moments import WAS_LIVE
from regmeta.query.stored import raw_digest, raw_time

ROOTS: Final[Any] = sa.bindparam("roots", expanding=True)
_at: Final[Any] = sa.bindparam("at", type_=UtcTime())


_start = (
    sa.select(models.Manifest.id.label("id"))
    .where(models.Manifest.id.in_(ROOTS))
    .cte("trees", recursive=True)
)
_trees = _start.union(
    sa.select(models.IndexMember.child_id).join(
        _start,
        # IN, since for "=" SQLite with statistics makes a Bloom filter of all edges first, on each call.
        sa.and_(models.IndexMember.index_id.in_([_start.c.id]), models.IndexMember.child_id.is_not(None)),
    )
)
TREES: Final[Any] = sa.select(_trees.c.id)
"""The ids of ``roots`` and of all manifests below them, at any depth."""
# The other statements get these ids as a list. Joined with the trees, SQLite with statistics on its tables
# rather reads all edges than to look up those of a few manifests.
_ids: Final[Any] = sa.bindparam("ids", expanding=True)
MANIFESTS: Final = sa.select(
    models.Manifest.id,
    raw_digest(models.Manifest.digest).label("digest"),
    models.Manifest.kind,
    models.Manifest.media_type,
    models.Manifest.size_bytes,
    models.Manifest.artifact_type,
    models.Manifest.config_media_type,
    raw_digest(models.Manifest.subject_digest).label("subject_digest"),
    models.Manifest.os,
    models.Manifest.architecture,
    models.Manifest.variant,
    raw_time(models.Manifest.image_created_at).label("image_created_at"),
    models.Manifest.layer_count,
    raw_time(models.Manifest.pushed_at).label("pushed_at"),
    models.Manifest.pushed_by,
).where(models.Manifest.id.in_(_ids))
MEMBERS: Final = (
    sa.select(
        models.IndexMember.index_id,
        raw_digest(models.IndexMember.child_digest).label("child_digest"),
        models.IndexMember.child_id,
        models.IndexMember.blob_id,
        models.IndexMember.absence,
        models.IndexMember.size_bytes,
        models.IndexMember.os,
        models.IndexMember.architecture,
        models.IndexMember.variant,
        models.IndexMember.os_version,
    )
    .where(models.IndexMember.index_id.in_(_ids))
    .order_by(models.IndexMember.index_id, models.IndexMember.position)
)
# Of images below an index only what the index is described by.
LABELS: Final = (
    sa.select(models.Label.manifest_id, models.Label.origin, models.Label.name, models.Label.value)
    .where(
        models.Label.manifest_id.in_(_ids),
        sa.or_(models.Label.manifest_id.in_(ROOTS), models.Label.name.in_(NAMES)),
    )
    .order_by(models.Label.manifest_id, models.Label.origin, models.Label.name)
)


EDGES: Final = (
    sa.select(models.Manifest.id, models.Manifest.blob_id, models.Blob.size_bytes)
    .join(models.Blob, models.Blob.id == models.Manifest.blob_id)
    .where(models.Manifest.id.in_(_ids))
    .union_all(
        sa.select(models.ManifestBlob.manifest_id, models.ManifestBlob.blob_id, models.Blob.size_bytes)
        .join(models.Blob, models.Blob.id == models.ManifestBlob.blob_id)
        .where(models.ManifestBlob.manifest_id.in_(_ids)),
        sa.select(models.IndexMember.index_id, models.IndexMember.blob_id, models.Blob.size_bytes)
        .join(models.Blob, models.Blob.id == models.IndexMember.blob_id)
        .where(models.IndexMember.index_id.in_(_ids)),
    )
)
"""Each manifest with the blobs that it is made of, itself included, and their sizes."""
PULLS: Final = (
    sa.select(
        models.Manifest.id,
        sa.func.sum(models.PullStatistic.pulls),
        raw_time(sa.func.max(models.PullStatistic.last_pulled_at)),
    )
    .join(
        models.PullStatistic,
        sa.and_(
            models.PullStatistic.repository_id == models.Manifest.repository_id,
            models.PullStatistic.digest == models.Manifest.digest,
        ),
    )
    .where(models.Manifest.id.in_(_ids))
    .group_by(models.Manifest.id)
)


@dataclass(frozen=True, slots=True)
class Timed:
    """The statements that are others for a moment of the past."""

    tags: Any
    referrers: Any
    signed_by_tag: Any


@lru_cache(maxsize=2)
def timed(is_past: bool) -> Timed:
    """Return the statements for now, or for ``at``."""
    referrer, predicate = aliased(models.Manifest), aliased(models.Label)
    was_here = sa.or_(referrer.deleted_at.is_(None), referrer.deleted_at > _at)
    # Added to nothing, so that SQLite does not take the index on times in place of that on subjects.
    had_come = raw_time(referrer.pushed_at) + 0 <= _at
    is_here = sa.and_(had_come, was_here) if is_past else referrer.deleted_at.is_(None)
    is_live = WAS_LIVE if is_past else models.Tag.ended_at.is_(None)
    # A signature that also names its subject is counted with the referrers.
    is_counted = sa.case(
        (sa.and_(referrer.subject_digest == models.Manifest.digest, is_signature(referrer)), 1), else_=0
    )
    return Timed(
        sa.select(models.Tag.manifest_id, models.Tag.name, raw_time(models.Tag.started_at))
        .where(models.Tag.manifest_id.in_(ROOTS), is_live)
        .order_by(models.Tag.name),
        sa.select(
            models.Manifest.id,
            referrer.artifact_type,
            predicate.value,
            sa.func.count(),
        )
        .join(
            referrer,
            sa.and_(
                referrer.repository_id == models.Manifest.repository_id,
                referrer.subject_digest == models.Manifest.digest,
            ),
        )
        .outerjoin(
            predicate,
            sa.and_(
                predicate.manifest_id == referrer.id,
                predicate.origin == "annotation",
                predicate.name == signatures.PREDICATE,
            ),
        )
        .where(models.Manifest.id.in_(_ids), is_here)
        .group_by(models.Manifest.id, referrer.artifact_type, predicate.value),
        sa.select(models.Manifest.id)
        .join(
            models.Tag,
            sa.and_(
                models.Tag.repository_id == models.Manifest.repository_id,
                models.Tag.name == SignatureTag(models.Manifest.digest),
            ),
        )
        .join(referrer, referrer.id == models.Tag.manifest_id)
        .where(models.Manifest.id.in_(_ids), is_live, is_here, is_counted == 0),
    )
