"""An image as a tree of manifests, and the blobs that it is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import models
from regmeta.db import Database
from regmeta.errors import InputError
from regmeta.oci import manifest as oci_manifest
from regmeta.oci import media_types
from regmeta.oci.descriptor import Descriptor
from regmeta.oci.digest import Digest
from regmeta.oci.names import Reference
from regmeta.query import results
from regmeta.query.catalog import platform, resolve_in, tags_of
from regmeta.query.visibility import Visibility


def below() -> Any:
    """Return the ids of ``roots`` and of all manifests that they list, at any depth; a recursive CTE."""
    start = (
        sa.select(models.Manifest.id.label("id"))
        .where(models.Manifest.id.in_(sa.bindparam("roots", expanding=True)))
        .cte("below", recursive=True)
    )
    return start.union(
        sa.select(models.IndexMember.child_id).join(
            start,
            # IN, since for "=" SQLite with statistics makes a Bloom filter of all edges first, on each call.
            sa.and_(models.IndexMember.index_id.in_([start.c.id]), models.IndexMember.child_id.is_not(None)),
        )
    )


_tree = below()
_MANIFESTS: Final = sa.select(
    models.Manifest.id,
    models.Manifest.digest,
    models.Manifest.media_type,
    models.Manifest.content,
    models.Manifest.os,
    models.Manifest.architecture,
    models.Manifest.variant,
    models.Manifest.image_created_at,
    models.Manifest.pushed_at,
    models.Manifest.pushed_by,
).where(models.Manifest.id.in_(sa.select(_tree.c.id)))
_MEMBERS: Final = (
    sa.select(
        models.IndexMember.index_id,
        models.IndexMember.position,
        models.IndexMember.child_id,
        models.IndexMember.absence,
    )
    .where(models.IndexMember.index_id.in_(sa.select(_tree.c.id)))
    .order_by(models.IndexMember.index_id, models.IndexMember.position)
)
_blob_ids = (
    sa.select(models.Manifest.blob_id.label("id"))
    .where(models.Manifest.id.in_(sa.select(_tree.c.id)))
    .union(
        sa.select(models.ManifestBlob.blob_id).where(
            models.ManifestBlob.manifest_id.in_(sa.select(_tree.c.id)),
            models.ManifestBlob.blob_id.is_not(None),
        ),
        sa.select(models.IndexMember.blob_id).where(
            models.IndexMember.index_id.in_(sa.select(_tree.c.id)),
            models.IndexMember.blob_id.is_not(None),
        ),
    )
    .subquery("blob_ids")
)
_BLOBS: Final = (
    sa.select(models.Blob.digest, models.Blob.size_bytes, models.Blob.key, models.Blob.state)
    .where(models.Blob.id.in_(sa.select(_blob_ids.c.id)))
    .order_by(models.Blob.id)
)
_UNIQUE_BYTES: Final = sa.select(sa.func.coalesce(sa.func.sum(models.Blob.size_bytes), 0)).where(
    models.Blob.id.in_(sa.select(_blob_ids.c.id))
)
_LABELS: Final = (
    sa.select(models.Label.name, models.Label.value)
    .where(models.Label.manifest_id == sa.bindparam("of"))
    .order_by(models.Label.origin, models.Label.name)
)


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """Where the bytes of one blob are."""

    digest: Digest
    size_bytes: int
    key: str
    state: str


def image(
    database: Database,
    reference: Reference,
    at: datetime | None = None,
    *,
    visible: Visibility | None = None,
) -> results.Image:
    """Return an image as a tree, of one moment: the one that a reference means, or meant at a time.

    An image below it whose bytes cannot be understood is shown as absent, as *damaged*.

    Raises:
        NotFound: the reference means nothing here.
        InvalidManifest: its own bytes cannot be understood.
    """
    with database.read() as connection:
        root, digest = resolve_in(connection, reference, at, visible)
        manifests = {row.id: row for row in connection.execute(_MANIFESTS, {"roots": [root]})}
        members: dict[int, list[Any]] = {}
        for member in connection.execute(_MEMBERS, {"roots": [root]}):
            members.setdefault(member.index_id, []).append(member)
        labels = connection.execute(_LABELS, {"of": root}).all()
        return results.Image(
            reference.repository,
            digest,
            tags_of(connection, [root], at).get(root, ()),
            manifests[root].pushed_at,
            manifests[root].pushed_by,
            int(connection.execute(_UNIQUE_BYTES, {"roots": [root]}).scalar_one()),
            dict(labels),
            _node(manifests, members, root, None),
        )


def content(
    database: Database,
    reference: Reference,
    at: datetime | None = None,
    *,
    visible: Visibility | None = None,
) -> bytes:
    """Return a manifest's own bytes, as they came: of what a reference means, or meant at a time.

    Raises:
        NotFound: the reference means nothing here.
    """
    with database.read() as connection:
        manifest_id, _ = resolve_in(connection, reference, at, visible)
        of = sa.select(models.Manifest.content).where(models.Manifest.id == manifest_id)
        return connection.execute(of).scalar_one()


def blobs(connection: Connection, manifest_ids: Sequence[int]) -> list[StoredBlob]:
    """Return every blob that the images are made of, once, manifests included."""
    rows = connection.execute(_BLOBS, {"roots": list(manifest_ids)})
    return [StoredBlob(*row) for row in rows]


def _node(
    manifests: Mapping[int, Any],
    members: Mapping[int, Sequence[Any]],
    manifest_id: int,
    descriptor: Descriptor | None,
) -> results.Node:
    row = manifests[manifest_id]
    document = oci_manifest.parse(row.content, row.digest, row.media_type, verified=True)
    shown = platform(row.os, row.architecture, row.variant)
    if descriptor is not None and descriptor.platform is not None:
        shown = str(descriptor.platform)
    config = None
    layers: tuple[results.Layer, ...] = ()
    children: tuple[results.Node, ...] = ()
    if isinstance(document, oci_manifest.Manifest):
        config = _layer(document.config)
        layers = tuple(_layer(layer) for layer in document.layers)
    else:
        children = tuple(
            _child(manifests, members, member, child)
            for child, member in zip(document.manifests, members.get(manifest_id, ()), strict=True)
        )
    return results.Node(
        row.digest,
        document.kind,
        row.media_type,
        document.effective_artifact_type if document.artifact_type else None,
        shown,
        len(row.content),
        len(row.content)
        + (config.size_bytes if config else 0)
        + sum(layer.size_bytes for layer in layers)
        + sum(child.total_bytes for child in children),
        row.image_created_at,
        document.subject.digest if document.subject else None,
        dict(document.annotations),
        config,
        layers,
        children,
    )


def _child(
    manifests: Mapping[int, Any],
    members: Mapping[int, Sequence[Any]],
    member: Any,
    descriptor: Descriptor,
) -> results.Node:
    if member.child_id is None:
        return _leaf(descriptor, member.absence)
    try:
        return _node(manifests, members, member.child_id, descriptor)
    except (InputError, ValueError):  # of many images one that is damaged must not hide the others
        return _leaf(descriptor, "damaged")


def _leaf(descriptor: Descriptor, absence: str | None) -> results.Node:
    """Return what stands for a child that is absent, or that is content of another kind."""
    return results.Node(
        descriptor.digest,
        "absent" if absence else "blob",
        descriptor.media_type,
        descriptor.artifact_type,
        str(descriptor.platform) if descriptor.platform else None,
        descriptor.size_bytes,
        0 if absence else descriptor.size_bytes,
        None,
        None,
        dict(descriptor.annotations),
        None,
        (),
        (),
        absence,
    )


def _layer(descriptor: Descriptor) -> results.Layer:
    return results.Layer(
        descriptor.media_type,
        descriptor.digest,
        descriptor.size_bytes,
        descriptor.media_type in media_types.NON_DISTRIBUTABLE,
    )
