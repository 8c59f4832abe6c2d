"""The declarative base, the naming convention and the column types."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, mapped_column
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

from regmeta.errors import IntegrityError
from regmeta.oci.digest import Digest

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class DigestType(TypeDecorator[Digest]):
    """A digest as one byte for its algorithm and the raw hash: 33 bytes for sha256."""

    impl = sa.LargeBinary
    cache_ok = True

    def process_bind_param(self, value: Digest | None, dialect: sa.Dialect) -> bytes | None:
        """Turn a digest into what the row holds."""
        return None if value is None else value.to_bytes()

    def process_result_value(self, value: bytes | None, dialect: sa.Dialect) -> Digest | None:
        """Turn what the row holds into a digest."""
        return None if value is None else Digest.from_bytes(value)


class UtcTime(TypeDecorator[datetime]):
    """A moment as an integer: microseconds since 1970-01-01 UTC. Naive values are refused.

    SQLAlchemy's own type drops the offset on SQLite, and SQLite's text times have no fraction, so that
    they do not sort with Python's. An integer is the same on both databases.
    """

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> int | None:
        """Turn an aware time into microseconds."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a time without a time zone: {value!r}")
        return (value - _EPOCH) // _MICROSECOND

    def process_result_value(self, value: int | None, dialect: sa.Dialect) -> datetime | None:
        """Turn microseconds into an aware time."""
        try:
            return None if value is None else _EPOCH + timedelta(microseconds=value)
        except (TypeError, OverflowError):  # SQLite keeps whatever another program writes
            raise IntegrityError(f"a row holds no time but {str(value)[:40]!r}") from None


class DatabaseClock(FunctionElement[int]):
    """The database's clock, now and not at the transaction's start, in microseconds.

    Times that order anything are taken from here, after the lock that orders it (design, section 3).
    """

    type = sa.BigInteger()
    inherit_cache = True


@compiles(DatabaseClock)
def _sqlite_clock(element: DatabaseClock, compiler: Any, **_: Any) -> str:
    return "CAST(ROUND((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER) * 1000"


@compiles(DatabaseClock, "postgresql")
def _postgresql_clock(element: DatabaseClock, compiler: Any, **_: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint)"


# Names are compared byte by byte on both databases (distribution-spec: tags in lexical order).
Name = sa.String().with_variant(sa.String(collation="C"), "postgresql")
BigId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

IdColumn = Annotated[int, mapped_column(BigId, primary_key=True)]
DigestColumn = Annotated[Digest, mapped_column(DigestType())]
TimeColumn = Annotated[datetime, mapped_column(UtcTime())]
UuidColumn = Annotated[UUID, mapped_column(sa.Uuid())]
NameColumn = Annotated[str, mapped_column(Name)]
BytesCount = Annotated[int, mapped_column(sa.BigInteger())]

# Ids are referred to by queues and feeds, so an id of a row that has gone must not come back.
NEVER_REUSED = {"sqlite_autoincrement": True}
# Narrow edges: the primary key is the table.
CLUSTERED = {"sqlite_with_rowid": False}


class Base(DeclarativeBase):
    """The base of all models; every constraint has a name that migrations can rely on."""

    metadata = sa.MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )
    type_annotation_map = {str: sa.Text(), int: BigId}


def beside_tables(moment: str, dialect: str, statement: str) -> None:
    """Run *statement* at a moment (``before_create``, ``after_create``, …) of all tables, on one database."""
    ddl: Any = sa.DDL(statement.replace("%", "%%"))  # type: ignore[no-untyped-call]
    sa.event.listen(Base.metadata, moment, ddl.execute_if(dialect=dialect))
