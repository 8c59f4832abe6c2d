"""Repositories, blobs, manifests, and the edges between them."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from regmeta.models.base import (
    CLUSTERED,
    NEVER_REUSED,
    Base,
    BytesCount,
    DigestColumn,
    IdColumn,
    NameColumn,
    TimeColumn,
)


class Repository(Base):
    """A repository. Its row outlives its deletion, so that ``revision`` never goes back.

    ``revision`` grows by one with each transaction that changes the repository; the UPDATE that does
    it is the repository's lock. ``deleted_at`` is when it went from *active* to *deleted*: until the purge
    begins it can be brought back with the tags that it had then. ``leaf`` is the last component of the name,
    which people search for.
    """

    __tablename__ = "repositories"
    __table_args__ = (
        UniqueConstraint("name"),
        CheckConstraint("state IN ('active', 'deleted', 'purging')", name="state"),
        CheckConstraint("revision >= 0", name="revision"),
        Index(None, "leaf", "name"),
        Index(None, "updated_at", "id"),
        NEVER_REUSED,
    )

    id: Mapped[IdColumn]
    name: Mapped[NameColumn]
    leaf: Mapped[NameColumn] = mapped_column(server_default="")
    state: Mapped[str] = mapped_column(server_default="active")
    revision: Mapped[int] = mapped_column(sa.BigInteger(), server_default="0")
    created_at: Mapped[TimeColumn]
    updated_at: Mapped[TimeColumn]
    deleted_at: Mapped[TimeColumn | None]

    manifests: Mapped[list[Manifest]] = relationship(back_populates="repository", viewonly=True)


class Blob(Base):
    """One stored copy of some content; a row in state *live* names an object that is there (I1).

    The garbage collector leaves a blob alone until ``lease_until``.
    """

    __tablename__ = "blobs"
    __table_args__ = (
        UniqueConstraint("digest"),
        UniqueConstraint("key"),
        CheckConstraint("size_bytes >= 0", name="size_bytes"),
        CheckConstraint("state IN ('live', 'damaged')", name="state"),
        Index(
            "ix_blobs_damaged",
            "id",
            sqlite_where=sa.text("state = 'damaged'"),
            postgresql_where=sa.text("state = 'damaged'"),
        ),
        Index(None, "size_bytes", "id"),
        NEVER_REUSED,
    )

    id: Mapped[IdColumn]
    digest: Mapped[DigestColumn]
    size_bytes: Mapped[BytesCount]
    key: Mapped[NameColumn]
    state: Mapped[str] = mapped_column(server_default="live")
    lease_until: Mapped[TimeColumn]
    created_at: Mapped[TimeColumn]


class RepositoryBlob(Base):
    """Which repository may read which blob. A mount is one row."""

    __tablename__ = "repository_blobs"
    __table_args__ = (Index(None, "blob_id", "repository_id"), CLUSTERED)

    repository_id: Mapped[int] = mapped_column(ForeignKey("repositories.id"), primary_key=True)
    blob_id: Mapped[int] = mapped_column(ForeignKey("blobs.id"), primary_key=True)
    linked_at: Mapped[TimeColumn]


class Manifest(Base):
    """A manifest of a repository: an image manifest or an index.

    ``content`` holds the bytes as they came; the same bytes are also an object, named by ``blob_id``.
    ``subject_digest`` is a digest and not an id: the subject may not exist yet (distribution-spec,
    "Pushing Manifests with Subject"). ``total_size_bytes`` counts what an image manifest names, and is
    unknown for an index. A field that its configuration does not say is NULL. ``chain_digest`` names all its
    layers, as that of its last layer in ``manifest_blobs`` does; NULL without layers.

    With ``deleted_at`` somebody deleted it by its digest: no reader finds it, no live tag names it and no
    index that can be read lists it. It can be brought back until it is collected, after the history window.
    """

    __tablename__ = "manifests"
    __table_args__ = (
        UniqueConstraint("repository_id", "digest"),
        CheckConstraint("kind IN ('image', 'index')", name="kind"),
        CheckConstraint("size_bytes >= 0", name="size_bytes"),
        Index(None, "blob_id"),
        Index(None, "digest"),
        Index(
            None,
            "repository_id",
            "subject_digest",
            "artifact_type",
            sqlite_where=sa.text("subject_digest IS NOT NULL"),
            postgresql_where=sa.text("subject_digest IS NOT NULL"),
        ),
        Index(None, "pushed_at", "id"),
        Index(None, "repository_id", "pushed_at", "id"),
        Index(None, "artifact_type", "id"),
        Index(
            None,
            "chain_digest",
            "id",
            sqlite_where=sa.text("chain_digest IS NOT NULL"),
            postgresql_where=sa.text("chain_digest IS NOT NULL"),
        ),
        NEVER_REUSED,
    )
    __mapper_args__ = {"polymorphic_on": "kind"}

    id: Mapped[IdColumn]
    repository_id: Mapped[int] = mapped_column(ForeignKey("repositories.id"))
    digest: Mapped[DigestColumn]
    kind: Mapped[str]
    media_type: Mapped[str]
    size_bytes: Mapped[BytesCount]
    content: Mapped[bytes] = mapped_column(sa.LargeBinary(), deferred=True)
    blob_id: Mapped[int] = mapped_column(ForeignKey("blobs.id"))
    artifact_type: Mapped[str | None]
    config_media_type: Mapped[str | None]
    subject_digest: Mapped[DigestColumn | None]
    os: Mapped[str | None]
    architecture: Mapped[str | None]
    variant: Mapped[str | None]
    image_created_at: Mapped[TimeColumn | None]
    layer_count: Mapped[int | None] = mapped_column(sa.Integer())
    total_size_bytes: Mapped[BytesCount | None]
    chain_digest: Mapped[DigestColumn | None]
    pushed_at: Mapped[TimeColumn]
    pushed_by: Mapped[str]
    lease_until: Mapped[TimeColumn]
    deleted_at: Mapped[TimeColumn | None]

    repository: Mapped[Repository] = relationship(back_populates="manifests", viewonly=True)


class ImageManifest(Manifest):
    """An image or artifact manifest: a configuration and layers."""

    __mapper_args__ = {"polymorphic_identity": "image"}

    blobs: Mapped[list[ManifestBlob]] = relationship(order_by="ManifestBlob.position", viewonly=True)


class IndexManifest(Manifest):
    """An index: a list of manifests."""

    __mapper_args__ = {"polymorphic_identity": "index"}

    members: Mapped[list[IndexMember]] = relationship(
        foreign_keys="IndexMember.index_id", order_by="IndexMember.position", viewonly=True
    )


class ManifestBlob(Base):
    """That a manifest names a blob: position 0 is its configuration, layers follow from the base up.

    A non-distributable layer may be absent: then ``blob_id`` is NULL and its digest stands here.
    ``chain_digest`` names the layers up to this one (over the diff ids where the configuration has them),
    so that images with a common base share it.
    """

    __tablename__ = "manifest_blobs"
    __table_args__ = (
        CheckConstraint("role IN ('config', 'layer')", name="role"),
        CheckConstraint("(blob_id IS NULL) = (absent_digest IS NOT NULL)", name="absent"),
        Index(None, "blob_id", "manifest_id"),
        Index(
            None,
            "chain_digest",
            "manifest_id",
            sqlite_where=sa.text("chain_digest IS NOT NULL"),
            postgresql_where=sa.text("chain_digest IS NOT NULL"),
        ),
        CLUSTERED,
    )

    manifest_id: Mapped[int] = mapped_column(ForeignKey("manifests.id"), primary_key=True)
    position: Mapped[int] = mapped_column(sa.Integer(), primary_key=True)
    role: Mapped[str]
    blob_id: Mapped[int | None] = mapped_column(ForeignKey("blobs.id"))
    absent_digest: Mapped[DigestColumn | None]
    chain_digest: Mapped[DigestColumn | None]


class IndexMember(Base):
    """That an index lists a child, in this place and for this platform.

    A child is a manifest (``child_id``), or content of a type that is not a manifest's (``blob_id``), or
    absent, and then ``absence`` says why: *sparse* (the import allowed it) or *policy* (a sync left the
    platform out). A later arrival of the child fills it in.
    """

    __tablename__ = "index_manifests"
    __table_args__ = (
        CheckConstraint("absence IN ('sparse', 'policy')", name="absence"),
        CheckConstraint(
            "(child_id IS NOT NULL AND blob_id IS NULL AND absence IS NULL)"
            " OR (child_id IS NULL AND blob_id IS NOT NULL AND absence IS NULL)"
            " OR (child_id IS NULL AND blob_id IS NULL AND absence IS NOT NULL)",
            name="child",
        ),
        CheckConstraint("child_id <> index_id", name="not_itself"),
        Index(None, "child_id", "index_id"),
        Index(None, "blob_id", "index_id"),
        Index(
            "ix_index_manifests_absent",
            "child_digest",
            "index_id",
            sqlite_where=sa.text("absence IS NOT NULL"),
            postgresql_where=sa.text("absence IS NOT NULL"),
        ),
        CLUSTERED,
    )

    index_id: Mapped[int] = mapped_column(ForeignKey("manifests.id"), primary_key=True)
    position: Mapped[int] = mapped_column(sa.Integer(), primary_key=True)
    child_digest: Mapped[DigestColumn]
    child_id: Mapped[int | None] = mapped_column(ForeignKey("manifests.id"))
    blob_id: Mapped[int | None] = mapped_column(ForeignKey("blobs.id"))
    absence: Mapped[str | None]
    media_type: Mapped[str]
    size_bytes: Mapped[BytesCount]
    os: Mapped[str | None]
    architecture: Mapped[str | None]
    variant: Mapped[str | None]
    os_version: Mapped[str | None]

    child: Mapped[Manifest | None] = relationship(foreign_keys=[child_id], viewonly=True)
