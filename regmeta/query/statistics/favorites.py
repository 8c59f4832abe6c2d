"""Stars, which everybody sees counted, and bookmarks, which are a user's own."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, Literal

import sqlalchemy as sa

from regmeta import models
from regmeta.db import Database
from regmeta.errors import UsageError
from regmeta.query import cursors
from regmeta.query.catalog import PAGE, repository_id
from regmeta.query.results import Page
from regmeta.query.visibility import Visibility, seen

MAX_USER_NAME: Final = 255  # [characters]

Kind = Literal["star", "bookmark"]
KINDS: Final = ("star", "bookmark")

_COUNTS: Final = (
    sa.select(models.Favorite.kind, sa.func.count())
    .where(models.Favorite.repository_id == sa.bindparam("of"))
    .group_by(models.Favorite.kind)
)
_OF_USER: Final = sa.select(models.Favorite.kind).where(
    models.Favorite.user_name == sa.bindparam("user"),
    models.Favorite.kind.in_(KINDS),
    models.Favorite.repository_id == sa.bindparam("of"),
)


@dataclass(frozen=True, slots=True)
class Favorite:
    """A repository that a user has starred or bookmarked."""

    repository: str
    kind: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class FavoriteCounts:
    """How many users starred and bookmarked a repository, and whether one of them did."""

    repository: str
    stars: int
    bookmarks: int
    is_starred: bool = False
    is_bookmarked: bool = False


def user_name(text: str) -> str:
    """Return a user's name as it is kept; it is compared letter by letter.

    Raises:
        UsageError: it is empty, longer than 255 characters, has blanks at its ends or what cannot be printed.
    """
    if not text or len(text) > MAX_USER_NAME or text != text.strip() or not text.isprintable():
        raise UsageError(
            f"user {text[:40]!r}: give 1 to {MAX_USER_NAME} printable characters, no blanks around them"
        )
    return text


def favorites(
    database: Database,
    user: str,
    kind: Kind | None = None,
    *,
    after: str | None = None,
    limit: int = PAGE,
    visible: Visibility | None = None,
) -> Page[Favorite]:
    """Return one page of what a user has starred and bookmarked, by repository.

    Of repositories that were deleted nothing is told; it is there again when they are.

    Raises:
        UsageError: no name of a user, no such kind, no cursor of this list, or *limit* is out of range.
    """
    cursors.check_limit(limit)
    of: dict[str, Any] = {"user": user_name(user), "page": limit + 1, "kinds": _kinds(kind)}
    question = f"favorites {user} {kind}"
    if after is not None:
        of["name"], of["kind"] = cursors.decode(question, after, (str, str))
    with database.read() as connection:
        rows: Any = connection.execute(seen(_page(after is not None), visible), of).all()
    items = tuple(Favorite(*row) for row in rows[:limit])
    return Page(items, cursors.following(question, rows, limit, lambda row: (row.name, row.kind), (str, str)))


def favorite_counts(
    database: Database, repository: str, *, user: str | None = None, visible: Visibility | None = None
) -> FavoriteCounts:
    """Return how many users starred and bookmarked a repository, and whether *user* did.

    Raises:
        NotFound: there is no such repository.
        UsageError: no name of a user.
    """
    with database.read() as connection:
        of = repository_id(connection, repository, None, visible)
        rows: Any = connection.execute(_COUNTS, {"of": of}).all()
        mine: set[str] = set()
        if user is not None:
            mine = set(connection.execute(_OF_USER, {"of": of, "user": user_name(user)}).scalars())
    counts = {kind: int(count) for kind, count in rows}
    return FavoriteCounts(
        repository, counts.get("star", 0), counts.get("bookmark", 0), "star" in mine, "bookmark" in mine
    )


def _kinds(kind: str | None) -> list[str]:
    if kind is not None and kind not in KINDS:
        raise UsageError(f"{kind!r}: give star or bookmark")
    return list(KINDS) if kind is None else [kind]


@lru_cache
def _page(is_next: bool) -> Any:
    statement = (
        sa.select(models.Repository.name, models.Favorite.kind, models.Favorite.created_at)
        .join(models.Repository, models.Repository.id == models.Favorite.repository_id)
        .where(
            models.Favorite.user_name == sa.bindparam("user"),
            models.Favorite.kind.in_(sa.bindparam("kinds", expanding=True)),
            models.Repository.state == "active",
        )
        .order_by(models.Repository.name, models.Favorite.kind)
        .limit(sa.bindparam("page"))
    )
    if is_next:
        key = sa.tuple_(models.Repository.name, models.Favorite.kind)
        statement = statement.where(key > sa.tuple_(sa.bindparam("name"), sa.bindparam("kind")))
    return statement
