"""What rows hold, read as it stands and then understood: one that is damaged must not fail a whole page.

SQLite keeps whatever another program writes, text in a column of bytes as well.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from regmeta.errors import IntegrityError, InvalidDigest
from regmeta.oci.digest import Digest

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class _AsItStands(sa.types.UserDefinedType[Any]):
    """What the driver gives, unchanged."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """Return the name of the type."""
        return "BLOB"


class _Bytes(sa.TypeCoerce[Any]):
    """The bytes of a column; on SQLite also where the row holds text, which the driver would decode."""

    inherit_cache = True


@compiles(_Bytes)
def _as_it_stands(element: _Bytes, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(element.typed_expression, **options)


@compiles(_Bytes, "sqlite")
def _cast(element: _Bytes, compiler: SQLCompiler, **options: Any) -> str:
    return f"CAST({compiler.process(element.typed_expression, **options)} AS BLOB)"


def raw_digest(column: Any) -> Any:
    """Select a column of digests as the rows hold it. It is for what is selected: no index follows it."""
    return _Bytes(column, _AsItStands())


def raw_time(column: Any) -> Any:
    """Select a column of times as the rows hold it."""
    return sa.type_coerce(column, sa.BigInteger())


def digest_of(value: Any) -> Digest | None:
    """Return the digest that a row holds; None is NULL.

    Raises:
        InvalidDigest: it holds none.
    """
    return None if value is None else Digest.from_bytes(value)


def digest_or_none(value: Any) -> Digest | None:
    """Return the digest that a row holds, None also if that is none: 'regmeta verify' says so."""
    try:
        return None if value is None else Digest.from_bytes(value)
    except InvalidDigest:
        return None


def time_of(value: Any) -> datetime | None:
    """Return the time that a row holds; None is NULL.

    Raises:
        IntegrityError: it holds none.
    """
    try:
        return None if value is None else _EPOCH + timedelta(0, 0, value)  # by place: twice as fast
    except (TypeError, OverflowError):
        raise IntegrityError(f"a row holds no time but {str(value)[:40]!r}") from None


def time_or_none(value: Any) -> datetime | None:
    """Return the time that a row holds, None also if that is none."""
    try:
        return None if value is None else _EPOCH + timedelta(0, 0, value)
    except (TypeError, OverflowError):
        return None
