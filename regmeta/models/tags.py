"""Names and what is told of images: tags, labels, and the feed of changes."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import CheckConstraint, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column, relationship

from regmeta.models.base import (
    CLUSTERED,
    NEVER_REUSED,
    Base,
    DigestColumn,
    IdColumn,
    NameColumn,
    TimeColumn,
    UuidColumn,
)
from regmeta.models.content import Manifest, Repository


class Tag(Base):
    """A name that points at a manifest from ``started_at`` until ``ended_at``; NULL is now.

    At most one interval of a name is live. The digest is kept by value: history can be read
    after the manifest has gone, and ``manifest_id`` may be NULL only once the interval has ended.
    """

    __tablename__ = "tags"
    __table_args__ = (
        CheckConstraint("ended_at > started_at", name="interval"),
        CheckConstraint("ended_at IS NOT NULL OR manifest_id IS NOT NULL", name="live"),
        Index(
            "uq_tags_live",
            "repository_id",
            "name",
            unique=True,
            sqlite_where=sa.text("ended_at IS NULL"),
            postgresql_where=sa.text("ended_at IS NULL"),
        ),
        Index(None, "repository_id", "name", "started_at"),
        Index(None, "manifest_id", "ended_at"),
        Index(
            "ix_tags_live_name",
            "name",
            "repository_id",
            sqlite_where=sa.text("ended_at IS NULL"),
            postgresql_where=sa.text("ended_at IS NULL"),
        ),
        Index(
            "ix_tags_live_started",
            "repository_id",
            "started_at",
            "name",
            sqlite_where=sa.text("ended_at IS NULL"),
            postgresql_where=sa.text("ended_at IS NULL"),
        ),
        Index(
            "ix_tags_ended",
            "ended_at",
            sqlite_where=sa.text("ended_at IS NOT NULL"),
            postgresql_where=sa.text("ended_at IS NOT NULL"),
        ),
        NEVER_REUSED,
    )

    id: Mapped[IdColumn]
    repository_id: Mapped[int] = mapped_column(ForeignKey("repositories.id"))
    name: Mapped[NameColumn]
    manifest_digest: Mapped[DigestColumn]
    manifest_id: Mapped[int | None] = mapped_column(ForeignKey("manifests.id"))
    started_at: Mapped[TimeColumn]
    started_by: Mapped[str]
    ended_at: Mapped[TimeColumn | None]
    ended_by: Mapped[str | None]

    repository: Mapped[Repository] = relationship(viewonly=True)
    manifest: Mapped[Manifest | None] = relationship(viewonly=True)


class TagLock(Base):
    """That the tags of a repository which match a pattern may be made, and then not moved or removed.

    ``pattern`` is a glob, a tag's own name as a rule. Rows are read and written under the repository's lock.
    """

    __tablename__ = "tag_locks"
    __table_args__ = (CLUSTERED,)

    repository_id: Mapped[int] = mapped_column(ForeignKey("repositories.id"), primary_key=True)
    pattern: Mapped[NameColumn] = mapped_column(primary_key=True)
    created_at: Mapped[TimeColumn]
    created_by: Mapped[str]


class Label(Base):
    """One annotation of a manifest, or one label of its configuration, for search.

    Derived from the bytes: long values are cut and at most a few hundred are kept a manifest. ``text_key`` is
    the id in ``label_texts`` of what the value says without regard to case.
    """

    __tablename__ = "labels"
    __table_args__ = (
        CheckConstraint("origin IN ('annotation', 'config')", name="origin"),
        Index(None, "name", "manifest_id"),
        Index(None, "text_key", "manifest_id"),
        CLUSTERED,
    )

    manifest_id: Mapped[int] = mapped_column(ForeignKey("manifests.id"), primary_key=True)
    origin: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[NameColumn] = mapped_column(primary_key=True)
    value: Mapped[str]
    text_key: Mapped[int | None] = mapped_column(sa.BigInteger())


class Event(Base):
    """One committed change, in the order of ``id``.

    On PostgreSQL ``transaction_id`` says which transaction wrote it: a reader stops below the oldest
    one that is still running, since ids are given out before commits are made.
    """

    __tablename__ = "events"
    __table_args__ = (
        Index(None, "repository_id", "id"),
        Index(None, "occurred_at"),
        Index(
            None,
            "transaction_id",
            "id",
            sqlite_where=sa.text("transaction_id IS NOT NULL"),
            postgresql_where=sa.text("transaction_id IS NOT NULL"),
        ),
        NEVER_REUSED,
    )

    id: Mapped[IdColumn]
    transaction_id: Mapped[int | None] = mapped_column(sa.BigInteger())
    occurred_at: Mapped[TimeColumn]
    kind: Mapped[str]
    repository_id: Mapped[int] = mapped_column(ForeignKey("repositories.id"))
    tag: Mapped[NameColumn | None]
    digest: Mapped[DigestColumn | None]
    previous_digest: Mapped[DigestColumn | None]
    actor: Mapped[str]
    ingest_id: Mapped[UuidColumn | None]
