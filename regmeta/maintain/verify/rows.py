"""Rows by themselves: the database's own check, foreign keys, and values that regmeta never writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import sqlalchemy as sa

from regmeta.db import Database
from regmeta.errors import InvalidName
from regmeta.maintain.file_check import damage_of
from regmeta.maintain.verify.findings import Finding, Kind
from regmeta.maintain.verify.pages import digest_of, pages, raw, reading, shown
from regmeta.models import Base, Blob, Intent, Manifest, Repository, Tag, Tombstone
from regmeta.models.base import UtcTime
from regmeta.oci import names
from regmeta.store.paths import is_key

_NOT_VALID: Final = sa.text("SELECT conname FROM pg_constraint WHERE NOT convalidated ORDER BY conname")
_TABLES: Final = Base.metadata.tables
# [us] since 1970: the years 1 and 9999
_FIRST_TIME: Final = -62_135_596_800_000_000
_LAST_TIME: Final = 253_402_300_799_999_999


def check_database(database: Database) -> Iterator[Finding]:
    """Let the database check itself. On a large SQLite file this reads all of it."""
    if not database.is_sqlite:
        with reading(database) as connection:
            for name in connection.execute(_NOT_VALID).scalars():
                yield Finding(Kind.DATABASE_CORRUPT, str(name), "the constraint is not valid")
        return
    with reading(database) as connection:
        for line in damage_of(lambda statement: connection.exec_driver_sql(statement).fetchall(), 100):
            yield Finding(Kind.DATABASE_CORRUPT, database.location, line)


def check_foreign_keys(database: Database) -> Iterator[Finding]:
    """Look for rows that refer to rows which are not there."""
    for table in _TABLES.values():
        for constraint in sorted(table.foreign_key_constraints, key=lambda item: str(item.name)):
            [element] = constraint.elements
            there = element.column.table.alias("there")
            column = element.parent
            statement = (
                sa.select(column)
                .where(
                    column.is_not(None),
                    ~sa.exists(sa.select(1).where(there.c[element.column.name] == column)),
                )
                .distinct()
                .limit(100)
            )
            with reading(database) as connection:
                missing = connection.execute(statement).scalars().all()
            for value in missing:
                yield Finding(
                    Kind.FOREIGN_KEY,
                    f"{table.name}.{column.name} = {value}",
                    f"refers to a row of {element.column.table.name} that is not there",
                )


def check_values(database: Database) -> Iterator[Finding]:
    """Look for values that regmeta never writes."""
    for table in _TABLES.values():
        yield from _check_types(database, table)
    for statement, key, judge in (
        (sa.select(Repository.id, Repository.name, Repository.revision), Repository.id, _repository),
        (
            sa.select(Blob.id, raw(Blob.digest), Blob.size_bytes, Blob.key, Blob.state),
            Blob.id,
            _blob,
        ),
        (sa.select(Manifest.id, raw(Manifest.digest), Manifest.size_bytes), Manifest.id, _manifest),
        (sa.select(Tag.id, Tag.name, raw(Tag.manifest_digest)), Tag.id, _tag),
        (sa.select(Intent.id, Intent.key), Intent.id, _key),
        (sa.select(Tombstone.id, Tombstone.key), Tombstone.id, _key),
    ):
        yield from _check(database, statement, key, judge)


def is_repository(name: object) -> bool:
    """Tell whether a value of a row is a repository's name."""
    try:
        return isinstance(name, str) and bool(names.repository_name(name))
    except InvalidName:
        return False


def _check_types(database: Database, table: sa.Table) -> Iterator[Finding]:
    """Look for values of another type than their column's, which SQLite lets in, and impossible times."""
    columns = [column for column in table.c if database.is_sqlite or isinstance(column.type, UtcTime)]
    counts = [sa.func.count(sa.case((_is_other(column, database.is_sqlite), 1))) for column in columns]
    if not counts:
        return
    with reading(database) as connection:
        found: Any = connection.execute(sa.select(*counts)).one()
    for column, count in zip(columns, found, strict=True):
        if count:
            detail = f"{count} values cannot stand in this column"
            yield Finding(Kind.ROW_INVALID, f"{table.name}.{column.name}", detail)


def _is_other(column: sa.Column[Any], any_type: bool) -> sa.ColumnElement[bool]:
    kind: Any = column.type
    base = kind.impl_instance if isinstance(kind, sa.TypeDecorator) else kind
    stored = "text"
    if isinstance(base, (sa.Integer, sa.LargeBinary)):
        stored = "integer" if isinstance(base, sa.Integer) else "blob"
    other: sa.ColumnElement[bool] = sa.false()
    if any_type:
        other = sa.func.typeof(column).not_in([stored, "null"])
    if isinstance(kind, UtcTime):
        value = sa.type_coerce(column, sa.BigInteger)
        other = sa.or_(other, value < _FIRST_TIME, value > _LAST_TIME)
    if isinstance(kind, sa.Uuid):
        other = sa.or_(other, sa.type_coerce(column, sa.Text).op("NOT GLOB")("[0-9a-f]" * 32))
    return other


def _check(
    database: Database, statement: Any, key: Any, judge: Callable[[Any], Iterator[tuple[str, str]]]
) -> Iterator[Finding]:
    for rows in pages(database, statement, key):
        for row in rows:
            for subject, detail in judge(row):
                yield Finding(Kind.ROW_INVALID, subject, detail, row.id)


def _repository(row: Any) -> Iterator[tuple[str, str]]:
    if not is_repository(row.name):
        yield f"repository {row.id}", f"its name is none: {str(row.name)[:100]!r}"
    if not _is_count(row.revision):
        yield str(row.name), f"its revision is {row.revision!r}"


def _blob(row: Any) -> Iterator[tuple[str, str]]:
    digest = digest_of(row.digest)
    if digest is None:
        yield f"blob {row.id}", f"its digest is none: {shown(row.digest)}"
    if not _is_count(row.size_bytes):
        yield shown(row.digest), f"its size is {row.size_bytes!r}"
    if not is_key(str(row.key)):
        yield shown(row.digest), f"its key is none: {str(row.key)[:100]!r}"
    elif digest is not None and not row.key.startswith(f"{digest.algorithm}/{digest.hex[:2]}/{digest.hex}."):
        yield str(digest), f"its key is of another digest: {row.key}"
    if row.state not in ("live", "damaged"):
        yield shown(row.digest), f"its state is {row.state!r}"


def _manifest(row: Any) -> Iterator[tuple[str, str]]:
    if digest_of(row.digest) is None:
        yield f"manifest {row.id}", f"its digest is none: {shown(row.digest)}"


def _tag(row: Any) -> Iterator[tuple[str, str]]:
    if not names.is_tag(str(row.name)):
        yield f"tag {row.id}", f"its name is none: {str(row.name)[:150]!r}"
    if digest_of(row.manifest_digest) is None:
        yield f"tag {row.id}", f"its digest is none: {shown(row.manifest_digest)}"


def _key(row: Any) -> Iterator[tuple[str, str]]:
    if not is_key(str(row.key)):
        yield f"key {str(row.key)[:100]!r}", "is not of the form that the store gives out"


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0
