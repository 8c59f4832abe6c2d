"""The reject table: what could not be brought, or is odd, by class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from regmeta.db import Database
from regmeta.models import AdoptionDefect, AdoptionRepository

_COUNTS: Final = (
    sa.select(AdoptionDefect.kind, AdoptionDefect.outcome, sa.func.count())
    .join(AdoptionRepository, AdoptionRepository.id == AdoptionDefect.repository_id)
    .where(AdoptionRepository.adoption_id == sa.bindparam("adoption"))
    .group_by(AdoptionDefect.kind, AdoptionDefect.outcome)
)
_LIST: Final[Any] = (
    sa.select(
        AdoptionRepository.source,
        AdoptionDefect.kind,
        AdoptionDefect.image,
        AdoptionDefect.subject,
        AdoptionDefect.detail,
        AdoptionDefect.outcome,
        AdoptionDefect.found_at,
    )
    .join(AdoptionRepository, AdoptionRepository.id == AdoptionDefect.repository_id)
    .where(AdoptionRepository.adoption_id == sa.bindparam("adoption"))
    .order_by(AdoptionRepository.source, AdoptionDefect.kind, AdoptionDefect.image, AdoptionDefect.subject)
)
_OF_REPOSITORY: Final = _LIST.where(AdoptionRepository.source == sa.bindparam("source"))
_MENDABLE: Final = (
    sa.select(AdoptionDefect.image)
    .where(
        AdoptionDefect.repository_id == sa.bindparam("of"),
        AdoptionDefect.kind.in_(("broken-index-child", "unlinked-blob")),
    )
    .distinct()
)


@dataclass(frozen=True, slots=True)
class KnownDefect:
    """One row: a defect of a repository of the source, and whether the image is here all the same."""

    repository: str
    kind: str
    image: str
    subject: str
    detail: str
    outcome: str
    found_at: datetime


def counts(database: Database, adoption_id: int) -> Mapping[tuple[str, str], int]:
    """Return how many defects there are of each class and outcome (*brought*, *left out*)."""
    with database.read() as connection:
        rows: Any = connection.execute(_COUNTS, {"adoption": adoption_id})
        return {(kind, outcome): number for kind, outcome, number in rows}


def listed(database: Database, adoption_id: int, limit: int | None = None) -> list[KnownDefect]:
    """Return the defects of a source, ordered by repository and class; at most *limit*."""
    statement = _LIST if limit is None else _LIST.limit(limit)
    with database.read() as connection:
        return [KnownDefect(*row) for row in connection.execute(statement, {"adoption": adoption_id})]


def of_repository(database: Database, adoption_id: int, source: str) -> list[KnownDefect]:
    """Return the defects of one repository."""
    with database.read() as connection:
        parameters = {"adoption": adoption_id, "source": source}
        return [KnownDefect(*row) for row in connection.execute(_OF_REPOSITORY, parameters)]


def mendable(database: Database, repository_id: int) -> frozenset[str]:
    """Return the images that are here, and of which more may come when the source is mended."""
    with database.read() as connection:
        return frozenset(connection.execute(_MENDABLE, {"of": repository_id}).scalars())
