"""What keeps rows and objects in step through crashes (design, section 3)."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from regmeta.models.base import (
    NEVER_REUSED,
    Base,
    BytesCount,
    DigestColumn,
    IdColumn,
    NameColumn,
    TimeColumn,
    UuidColumn,
)

DEAD_AFTER: Final = 10
"""So often a task or a tombstone is tried; then it waits for a person."""


class Intent(Base):
    """Who is about to write an object under which key; it exists before the object does.

    The commit deletes its own intents, and each must still be there: a process that was thought dead
    finds its keys taken back and starts again with new ones. ``expires_at`` is by the database's clock.
    ``received_bytes`` grows, in steps of some seconds, while the object is received from elsewhere.
    """

    __tablename__ = "intents"
    __table_args__ = (
        UniqueConstraint("key"),
        Index(None, "owner"),
        Index(None, "digest"),
        Index(None, "expires_at"),
        NEVER_REUSED,
    )

    id: Mapped[IdColumn]
    key: Mapped[NameColumn]
    digest: Mapped[DigestColumn]
    owner: Mapped[UuidColumn]
    host: Mapped[str]
    created_at: Mapped[TimeColumn]
    expires_at: Mapped[TimeColumn]
    received_bytes: Mapped[BytesCount] = mapped_column(server_default="0")


class Ingest(Base):
    """That an ingest was committed. A second commit of the same id has no effect.

    ``result`` is what the commit answered, so that a retry after an unclear answer says the same.
    """

    __tablename__ = "ingests"
    __table_args__ = (Index(None, "committed_at"),)

    id: Mapped[UuidColumn] = mapped_column(primary_key=True)
    committed_at: Mapped[TimeColumn]
    actor: Mapped[str]
    source: Mapped[str]
    result: Mapped[dict[str, object]] = mapped_column(sa.JSON())


class Tombstone(Base):
    """That an object is dead: to be deleted after ``not_before``, and not forgotten before
    ``drop_after``, since a frozen process may still write it.
    """

    __tablename__ = "tombstones"
    __table_args__ = (
        UniqueConstraint("key"),
        CheckConstraint("attempts >= 0", name="attempts"),
        Index(None, "not_before"),
        NEVER_REUSED,
    )

    id: Mapped[IdColumn]
    key: Mapped[NameColumn]
    size_bytes: Mapped[BytesCount | None]
    reason: Mapped[str]
    created_at: Mapped[TimeColumn]
    not_before: Mapped[TimeColumn]
    deleted_at: Mapped[TimeColumn | None]
    drop_after: Mapped[TimeColumn | None]
    attempts: Mapped[int] = mapped_column(sa.Integer(), server_default="0")
    last_error: Mapped[str | None]


class GcTask(Base):
    """That something may have become garbage; written in the transaction that made it possible."""

    __tablename__ = "gc_tasks"
    __table_args__ = (
        UniqueConstraint("kind", "target_id"),
        CheckConstraint("kind IN ('repository', 'manifest', 'blob')", name="kind"),
        CheckConstraint("attempts >= 0", name="attempts"),
        Index(None, "not_before"),
        Index(None, "repository_id"),
        NEVER_REUSED,
    )

    id: Mapped[IdColumn]
    kind: Mapped[str]
    target_id: Mapped[int] = mapped_column(sa.BigInteger())
    repository_id: Mapped[int | None] = mapped_column(ForeignKey("repositories.id"))
    reason: Mapped[str]
    created_at: Mapped[TimeColumn]
    not_before: Mapped[TimeColumn]
    attempts: Mapped[int] = mapped_column(sa.Integer(), server_default="0")
    last_error: Mapped[str | None]


class LayoutOutbox(Base):
    """That the store's snapshot of a repository is older than ``revision``."""

    __tablename__ = "layout_outbox"

    repository_id: Mapped[int] = mapped_column(ForeignKey("repositories.id"), primary_key=True)
    revision: Mapped[int] = mapped_column(sa.BigInteger())
    queued_at: Mapped[TimeColumn]


class StoreIdentity(Base):
    """Which store this database describes. One row; the store holds the same three values.

    ``hold_reason`` says why nothing may be collected now: after a restore or a rebuild, until the registry
    was verified. NULL is no hold. Until ``paused_until`` no collector deletes anything, since the store gave
    errors (``pause_reason``); ``pauses`` counts such pauses without a success between them. Events up to
    ``feed_pruned_transaction`` and ``feed_pruned_id``, in the feed's order, were deleted.
    """

    __tablename__ = "store_identity"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    store_id: Mapped[UuidColumn]
    database_id: Mapped[UuidColumn]
    epoch: Mapped[int] = mapped_column(sa.BigInteger())
    created_at: Mapped[TimeColumn]
    hold_reason: Mapped[str | None]
    paused_until: Mapped[TimeColumn | None]
    pause_reason: Mapped[str | None]
    pauses: Mapped[int] = mapped_column(sa.Integer(), server_default="0")
    feed_pruned_transaction: Mapped[int] = mapped_column(sa.BigInteger(), server_default="0")
    feed_pruned_id: Mapped[int] = mapped_column(sa.BigInteger(), server_default="0")
