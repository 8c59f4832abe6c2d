"""Who may see which repositories: a condition that becomes part of each statement, counts included.

What is not visible is answered exactly as what does not exist (issue 6): nobody finds out that it is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa

from regmeta import models
from regmeta.models.base import Name

S = TypeVar("S", bound=sa.Select[*tuple[Any, ...]])


class Visibility(Protocol):
    """A condition on repositories.

    It is called with ``models.Repository``, or an alias of it, for the repositories that a statement reads,
    and returns what must hold of them. It must not depend on anything but those rows and its own values. It
    is called while statements are built: it does no I/O.
    """

    def __call__(self, repository: Any) -> sa.ColumnElement[bool]:
        """Return the condition for the repositories of one FROM clause."""


class UnderPrefixes:
    """See the repositories of these names and all below them: ``team`` lets see ``team`` and ``team/app``."""

    def __init__(self, prefixes: Iterable[str]) -> None:
        self.prefixes = tuple(sorted(set(prefixes)))

    def __call__(self, repository: Any) -> sa.ColumnElement[bool]:
        """Return the condition: ranges of names, which the index on names can follow."""
        return sa.or_(sa.false(), *(under(repository.name, prefix) for prefix in self.prefixes))


def under(name: Any, prefix: str) -> sa.ColumnElement[bool]:
    """Return the condition that a repository's name is *prefix* or is below it."""
    return _is_in(name, *under_values(prefix).values())


def is_under(name: Any, of: str = "under") -> sa.ColumnElement[bool]:
    """Return the same condition for a statement that is kept: its parameters are :func:`under_values`."""
    return _is_in(name, *(sa.bindparam(key, type_=Name) for key in under_values("", of)))


def under_values(prefix: str, of: str = "under") -> dict[str, str]:
    """Return the values of :func:`is_under`; *of* tells several such conditions of one statement apart."""
    # What stands behind "/" in byte order is "0".
    return {of: prefix, f"{of}_from": f"{prefix}/", f"{of}_until": f"{prefix}0"}


def _is_in(name: Any, itself: Any, low: Any, high: Any) -> sa.ColumnElement[bool]:
    return sa.or_(name == itself, sa.and_(name > low, name < high))


def seen(statement: S, visible: Visibility | None) -> S:
    """Return a statement that reads repositories, for one who sees only some of them; None sees all."""
    return statement if visible is None else statement.where(visible(models.Repository))
