"""Starring and bookmarking repositories. Nothing of a repository's own rows changes, and no event is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from regmeta import db
from regmeta.db import Database
from regmeta.errors import UsageError
from regmeta.ingest.inserting import insert_ignoring
from regmeta.ingest.retry import retried
from regmeta.models import Favorite
from regmeta.query.catalog import repository_id
from regmeta.query.statistics.favorites import KINDS, Kind, favorite_counts, user_name
from regmeta.query.visibility import Visibility

_REMOVE: Final = (
    sa.delete(Favorite)
    .where(
        Favorite.user_name == sa.bindparam("user"),
        Favorite.kind == sa.bindparam("what"),
        Favorite.repository_id == sa.bindparam("of"),
    )
    .returning(Favorite.created_at)
)


@dataclass(frozen=True, slots=True)
class FavoriteState:
    """Whether a user has starred or bookmarked a repository now, and whether that is new."""

    user: str
    kind: str
    repository: str
    is_on: bool
    has_changed: bool


def set_favorite(
    database: Database,
    user: str,
    kind: Kind,
    repository: str,
    *,
    on: bool = True,
    visible: Visibility | None = None,
) -> FavoriteState:
    """Star or bookmark a repository, or no longer. Done twice it changes nothing.

    Raises:
        NotFound: there is no such repository.
        UsageError: no name of a user, or no such kind.
        Unavailable, Locked: nothing has changed.
    """
    user_name(user)
    if kind not in KINDS:
        raise UsageError(f"{kind!r}: give star or bookmark")

    def once() -> bool:
        with database.transaction("set_favorite") as connection:
            of = repository_id(connection, repository, None, visible)
            if not on:
                gone = connection.execute(_REMOVE, {"user": user, "what": kind, "of": of})
                return gone.first() is not None
            insert = insert_ignoring(connection, Favorite, "user_name", "kind", "repository_id")
            values = {
                "user_name": user,
                "kind": kind,
                "repository_id": of,
                "created_at": db.clock(connection),
            }
            made: Any = connection.execute(insert.values(values).returning(Favorite.repository_id))
            return made.first() is not None

    return FavoriteState(user, kind, repository, on, retried(once))


def toggle_favorite(
    database: Database, user: str, kind: Kind, repository: str, *, visible: Visibility | None = None
) -> FavoriteState:
    """Star or bookmark a repository if the user has not, else no longer.

    Which of both is decided before the change is made, so that trying it again does not turn it back.

    Raises:
        NotFound, UsageError, Unavailable, Locked: see :func:`set_favorite`.
    """
    found = favorite_counts(database, repository, user=user, visible=visible)
    is_on = found.is_starred if kind == "star" else found.is_bookmarked
    return set_favorite(database, user, kind, repository, on=not is_on, visible=visible)
