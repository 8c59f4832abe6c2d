"""What is taken over from the storage of other registries: each source, its repositories, what was wrong."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from regmeta.models.base import CLUSTERED, NEVER_REUSED, Base, IdColumn, NameColumn, TimeColumn


class Adoption(Base):
    """One source: the storage of a registry at ``location``, whose repositories go below ``prefix``.

    ``completed_at`` is when a run last got to its end. Until ``finalized_at`` all that it brought is leased.
    """

    __tablename__ = "adoptions"
    __table_args__ = (
        UniqueConstraint("location"),
        CheckConstraint("kind IN ('docker', 'layouts')", name="kind"),
        NEVER_REUSED,
    )

    id: Mapped[IdColumn]
    location: Mapped[NameColumn]
    kind: Mapped[str]
    prefix: Mapped[NameColumn] = mapped_column(server_default="")
    actor: Mapped[str]
    started_at: Mapped[TimeColumn]
    completed_at: Mapped[TimeColumn | None]
    finalized_at: Mapped[TimeColumn | None]


class AdoptionRepository(Base):
    """How far one repository of a source is. A repository here is filled from one source only.

    ``fingerprint`` is the one that it had before it was listed. *done*: all that it listed then was taken
    over or stands among the defects; *partial*, all up to ``cursor``. ``passes`` counts how often it was
    begun from the start. ``tags`` and ``manifests`` are what the source served.
    """

    __tablename__ = "adoption_repositories"
    __table_args__ = (
        UniqueConstraint("adoption_id", "source"),
        CheckConstraint("state IN ('partial', 'done')", name="state"),
        Index(
            "uq_adoption_repositories_destination",
            "destination",
            unique=True,
            sqlite_where=sa.text("destination <> ''"),
            postgresql_where=sa.text("destination <> ''"),
        ),
        NEVER_REUSED,
    )

    id: Mapped[IdColumn]
    adoption_id: Mapped[int] = mapped_column(ForeignKey("adoptions.id"))
    source: Mapped[NameColumn]
    destination: Mapped[NameColumn]
    fingerprint: Mapped[str]
    cursor: Mapped[NameColumn | None]
    state: Mapped[str]
    passes: Mapped[int] = mapped_column(sa.BigInteger(), server_default="1")
    tags: Mapped[int] = mapped_column(sa.BigInteger(), server_default="0")
    manifests: Mapped[int] = mapped_column(sa.BigInteger(), server_default="0")
    checked_at: Mapped[TimeColumn]


class AdoptionDefect(Base):
    """One thing that was wrong in a repository of a source; ``subject`` is the tag, digest or path.

    ``image`` is the tag or digest that it was found with, empty for what the listing said. *brought*: the
    image is here all the same. ``seen_in`` is the pass that saw it last.
    """

    __tablename__ = "adoption_defects"
    __table_args__ = (
        CheckConstraint("outcome IN ('brought', 'left out')", name="outcome"),
        CLUSTERED,
    )

    repository_id: Mapped[int] = mapped_column(ForeignKey("adoption_repositories.id"), primary_key=True)
    kind: Mapped[NameColumn] = mapped_column(primary_key=True)
    subject: Mapped[NameColumn] = mapped_column(primary_key=True)
    image: Mapped[NameColumn] = mapped_column(primary_key=True)
    detail: Mapped[str]
    outcome: Mapped[str]
    seen_in: Mapped[int] = mapped_column(sa.BigInteger())
    found_at: Mapped[TimeColumn]
