"""The settings of a PostgreSQL: how many connections, how long is waited, what stands before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec

from regmeta.errors import UsageError
from regmeta.settings.values import Count, duration

if TYPE_CHECKING:
    from regmeta.db import Server

_TIMES: Final = ("lock_timeout", "statement_timeout", "idle_timeout")
_SCHEMES: Final = ("postgresql://", "postgresql+psycopg://")


class PostgreSql(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The table ``[postgresql]``. Nothing of it matters where rows are in SQLite."""

    pool_size: Count = 5
    """Connections that one process keeps open."""
    pool_overflow: Annotated[int, msgspec.Meta(ge=0)] = 10
    """How many more it opens while all of those are at work."""
    lock_timeout: str = "10s"
    """How long a transaction waits for another one, before it is tried again."""
    statement_timeout: str = "60s"
    """How long one statement may take."""
    idle_timeout: str = "60s"
    """How long a transaction may stand still before the server ends it, and lets its locks go."""
    pooler: Literal["none", "transaction"] = "none"
    """What *database* leads to: the server, or a pooler (PgBouncer) in transaction mode."""
    replica: str = ""
    """The URL of a server that follows the first one, for reads that may be a little behind; or nothing."""


def check_postgresql(settings: PostgreSql) -> None:
    """Refuse times that are none, or nothing, and a replica that is no PostgreSQL.

    Raises:
        UsageError: names the setting.
    """
    for name in _TIMES:
        text = getattr(settings, name)
        try:
            length = duration(text)
        except UsageError as error:
            raise UsageError(f"settings: postgresql.{name}: {error}") from error
        if not length:
            raise UsageError(f"settings: postgresql.{name}: {text!r}: to wait for ever is not offered")
    if settings.replica and not settings.replica.startswith(_SCHEMES):
        # The text may hold a password, so it is not repeated.
        raise UsageError("settings: postgresql.replica: not a URL of the form postgresql://user@host/name")


def server_of(settings: PostgreSql) -> Server:
    """Return the same as plain values, which is what the engine takes."""
    from regmeta.db import Server  # only who opens a database waits for it

    lock_s, statement_s, idle_s = (duration(getattr(settings, name)).total_seconds() for name in _TIMES)
    return Server(
        pool_size=settings.pool_size,
        pool_overflow=settings.pool_overflow,
        lock_timeout_s=lock_s,
        statement_timeout_s=statement_s,
        idle_timeout_s=idle_s,
        pooled=settings.pooler == "transaction",
    )
