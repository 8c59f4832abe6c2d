"""What is brought from other registries: each run, and the state of each image that a policy mirrors."""

from __future__ import annotations

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


class SyncRun(Base):
    """One run of a policy, or one image that was asked for by name; then *policy* is its registry's host.

    While ``ended_at`` is NULL the run goes on, or its process (``owner``, a staging folder on ``host``) was
    killed: the next run of the policy notes that as *interrupted*. ``requests`` counts what the upstream was
    sent. ``error`` is why a run as a whole went wrong; what went wrong with an image stands at the image.
    """

    __tablename__ = "sync_runs"
    __table_args__ = (
        CheckConstraint("cause IN ('command', 'schedule', 'retry', 'demand')", name="cause"),
        CheckConstraint("outcome IN ('done', 'failed', 'stopped', 'interrupted')", name="outcome"),
        CheckConstraint("(ended_at IS NULL) = (outcome IS NULL)", name="ended"),
        Index(None, "policy", "id"),
        Index(
            "ix_sync_runs_running",
            "id",
            sqlite_where=sa.text("ended_at IS NULL"),
            postgresql_where=sa.text("ended_at IS NULL"),
        ),
        NEVER_REUSED,
    )

    id: Mapped[IdColumn]
    policy: Mapped[NameColumn]
    cause: Mapped[str]
    actor: Mapped[str]
    host: Mapped[str]
    owner: Mapped[UuidColumn]
    started_at: Mapped[TimeColumn]
    ended_at: Mapped[TimeColumn | None]
    outcome: Mapped[str | None]
    error: Mapped[str | None]
    copied: Mapped[int] = mapped_column(sa.BigInteger(), server_default="0")
    unchanged: Mapped[int] = mapped_column(sa.BigInteger(), server_default="0")
    left_out: Mapped[int] = mapped_column(sa.BigInteger(), server_default="0")
    failed: Mapped[int] = mapped_column(sa.BigInteger(), server_default="0")
    removed: Mapped[int] = mapped_column(sa.BigInteger(), server_default="0")
    copied_bytes: Mapped[BytesCount] = mapped_column(server_default="0")
    requests: Mapped[int] = mapped_column(sa.BigInteger(), server_default="0")


class SyncItem(Base):
    """The last outcome of one image of an upstream: repository ``source``, tag or digest ``reference``.

    ``upstream_digest`` is what the upstream names so, ``digest`` what it became here: they differ where
    Docker types are converted. ``terms`` names what the policy asked for then, in short, so that a changed
    policy is noticed. ``reason`` says in words why it was left out or what failed; a failure has
    ``error_class``, is counted in ``attempts`` (in a row) and is tried again at ``next_try_at``.
    """

    __tablename__ = "sync_items"
    __table_args__ = (
        UniqueConstraint("policy", "source", "reference", "destination"),
        CheckConstraint(
            "outcome IN ('copied', 'unchanged', 'left out', 'failed', 'removed')", name="outcome"
        ),
        CheckConstraint("attempts >= 0", name="attempts"),
        CheckConstraint("(outcome = 'failed') = (error_class IS NOT NULL)", name="error"),
        Index(None, "destination", "reference"),
        Index(None, "run_id"),
        Index(
            "ix_sync_items_next_try_at",
            "next_try_at",
            sqlite_where=sa.text("next_try_at IS NOT NULL"),
            postgresql_where=sa.text("next_try_at IS NOT NULL"),
        ),
        NEVER_REUSED,
    )

    id: Mapped[IdColumn]
    policy: Mapped[NameColumn]
    source: Mapped[NameColumn]
    reference: Mapped[NameColumn]
    destination: Mapped[NameColumn]
    run_id: Mapped[int | None] = mapped_column(ForeignKey("sync_runs.id"))
    outcome: Mapped[str]
    reason: Mapped[str | None]
    error_class: Mapped[str | None]
    terms: Mapped[str]
    upstream_digest: Mapped[DigestColumn | None]
    digest: Mapped[DigestColumn | None]
    copied_bytes: Mapped[BytesCount] = mapped_column(server_default="0")
    attempts: Mapped[int] = mapped_column(sa.Integer(), server_default="0")
    next_try_at: Mapped[TimeColumn | None]
    checked_at: Mapped[TimeColumn]
    copied_at: Mapped[TimeColumn | None]
