"""What people do with images: pulls, stars and bookmarks; and how much room repositories took, day by day."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import CheckConstraint, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from regmeta.models.base import CLUSTERED, Base, BytesCount, DigestColumn, NameColumn, TimeColumn


class PullStatistic(Base):
    """How often something was pulled on one day; counted in batches, never on tag or manifest rows.

    ``tag`` is the empty string for a pull by digest; ``day`` counts days since 1970-01-01 UTC. Day -1 holds
    what another registry has counted, on days and for tags that nobody knows.
    """

    __tablename__ = "pull_stats"
    __table_args__ = (
        CheckConstraint("pulls > 0", name="pulls"),
        Index(None, "day", "repository_id"),
        CLUSTERED,
    )

    repository_id: Mapped[int] = mapped_column(ForeignKey("repositories.id"), primary_key=True)
    digest: Mapped[DigestColumn] = mapped_column(primary_key=True)
    tag: Mapped[NameColumn] = mapped_column(primary_key=True)
    day: Mapped[int] = mapped_column(sa.Integer(), primary_key=True)
    pulls: Mapped[int] = mapped_column(sa.BigInteger())
    last_pulled_at: Mapped[TimeColumn]


class Favorite(Base):
    """That a user has starred a repository, which others see counted, or bookmarked it for themselves."""

    __tablename__ = "favorites"
    __table_args__ = (
        CheckConstraint("kind IN ('star', 'bookmark')", name="kind"),
        Index(None, "repository_id", "kind"),
        CLUSTERED,
    )

    user_name: Mapped[NameColumn] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    repository_id: Mapped[int] = mapped_column(ForeignKey("repositories.id"), primary_key=True)
    created_at: Mapped[TimeColumn]


class UsageSample(Base):
    """What one repository held when its day was sampled; the last sample of a day stands.

    ``logical_bytes`` counts a blob once for each image that names it, ``unique_bytes`` once, and
    ``exclusive_bytes`` only those that no other repository holds. ``day`` counts days since 1970-01-01 UTC.
    """

    __tablename__ = "usage_samples"
    __table_args__ = (
        Index(None, "repository_id", "day"),
        Index(None, "day", "unique_bytes", "repository_id"),
        CLUSTERED,
    )

    day: Mapped[int] = mapped_column(sa.Integer(), primary_key=True)
    repository_id: Mapped[int] = mapped_column(ForeignKey("repositories.id"), primary_key=True)
    sampled_at: Mapped[TimeColumn]
    tags: Mapped[int] = mapped_column(sa.BigInteger())
    manifests: Mapped[int] = mapped_column(sa.BigInteger())
    blobs: Mapped[int] = mapped_column(sa.BigInteger())
    logical_bytes: Mapped[BytesCount]
    unique_bytes: Mapped[BytesCount]
    exclusive_bytes: Mapped[BytesCount]
