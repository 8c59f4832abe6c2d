"""What a target says of the copy that goes on in it; these tables and this revision go with its last step.

While its revision is ``copying`` nobody can open it: no release knows that one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.db import COPYING, SCHEMA_HEAD, Database
from regmeta.errors import IdentityMismatch, Refused, SchemaMismatch
from regmeta.maintain.database_copy import parts
from regmeta.maintain.database_copy.freeze import Moved
from regmeta.maintain.setup import Identity, read_identity
from regmeta.models import Base

_metadata: Final = sa.MetaData()
_COPIED_FROM: Final = sa.Table(
    "copied_from",
    _metadata,
    sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
    sa.Column("store_id", sa.Uuid(), nullable=False),
    sa.Column("source_id", sa.Uuid(), nullable=False),
    sa.Column("database_id", sa.Uuid(), nullable=False),
)
_TABLES: Final = sa.Table(
    "copied_tables",
    _metadata,
    sa.Column("name", sa.Text(), primary_key=True),
    sa.Column("number_of_rows", sa.BigInteger(), nullable=False),
    sa.Column("digest", sa.Text(), nullable=False),
)
_PARTS: Final = sa.Table(
    "copied_parts",
    _metadata,
    sa.Column("position", sa.Integer(), primary_key=True, autoincrement=False),
    sa.Column("what", sa.Text(), nullable=False),
    sa.Column("statement", sa.Text(), nullable=False),
)
_OURS: Final = sa.select(_COPIED_FROM.c.store_id, _COPIED_FROM.c.source_id, _COPIED_FROM.c.database_id)
_LOCK: Final = sa.select(_COPIED_FROM.c.database_id).with_for_update()
_IS_DONE: Final = sa.select(_TABLES.c.name).where(_TABLES.c.name == sa.bindparam("of"))
_SET_VERSION: Final = sa.text("UPDATE alembic_version SET version_num = :to")


@dataclass(frozen=True, slots=True)
class TableCopy:
    """A table that is in the target: so many rows, which were read again and are the source's."""

    name: str
    rows: int
    digest: str


@dataclass(frozen=True, slots=True)
class Part:
    """An index or a constraint that is still to be made; *what* is its table."""

    position: int
    what: str
    statement: str


@dataclass(frozen=True, slots=True)
class Begun:
    """The id that the target is to have, and whether it has all rows already."""

    database_id: UUID
    is_complete: bool


def is_empty(database: Database) -> bool:
    """Tell whether a database has nothing at all in it, not even a schema."""
    with database.read() as connection:
        return not sa.inspect(connection).get_table_names()


def is_being_filled(database: Database) -> bool:
    """Tell whether a copy goes on in a database."""
    with database.read() as connection:
        return database.schema_revision(connection) == COPYING


def start(target: Database, source: Identity, moved: Moved | None) -> Begun:
    """Make an empty database one that is being filled, or find that it is by an earlier run.

    *moved* is what the source says of where its rows go.

    Raises:
        Refused, IdentityMismatch, SchemaMismatch: it is not an empty database of this release, nor what an
            earlier run has left.
    """
    with target.transaction("copy_began") as connection:
        revision = target.schema_revision(connection)
        if revision == COPYING:
            return Begun(_go_on(target, connection, source, moved), is_complete=False)
        if revision != SCHEMA_HEAD:
            raise SchemaMismatch(f"{target.location} is at schema revision {revision}, not {SCHEMA_HEAD}")
        found = read_identity(connection)
        if found is not None:
            _require_complete(target, source, found, moved)
            return Begun(found.database_id, is_complete=True)
        if moved is not None:
            raise Refused(
                f"the rows are being moved to {moved.location}: name that database, with what was copied so"
                " far in it, or give that copy up (--abandon)"
            )
        _require_no_rows(target, connection)
        database_id = uuid4()
        _metadata.create_all(connection)
        connection.execute(
            sa.insert(_COPIED_FROM),
            {
                "id": 1,
                "store_id": source.store_id,
                "source_id": source.database_id,
                "database_id": database_id,
            },
        )
        taken = parts.take_down(connection)
        connection.execute(
            sa.insert(_PARTS),
            [
                {"position": number, "what": what, "statement": statement}
                for number, (what, statement) in enumerate(taken)
            ],
        )
        connection.execute(_SET_VERSION, {"to": COPYING})
        return Begun(database_id, is_complete=False)


def fence(connection: Connection, database_id: UUID, table: str | None = None) -> None:
    """Refuse to write where the copy is not this one any more, or a table is there already; lock it if not.

    A run that stood still must not bring back what the registry has deleted since.

    Raises:
        Refused: another run has gone on.
    """
    is_ours = sa.inspect(connection).has_table(_COPIED_FROM.name)
    if not is_ours or connection.execute(_LOCK).scalar() != database_id:
        raise Refused("the copy was finished by another run meanwhile")
    if table is not None and connection.execute(_IS_DONE, {"of": table}).first() is not None:
        raise Refused(f"another run copies as well: {table} is there already")


def copied_tables(target: Database) -> dict[str, TableCopy]:
    """Return the tables that are there and were read again."""
    with target.read() as connection:
        rows = connection.execute(sa.select(_TABLES.c.name, _TABLES.c.number_of_rows, _TABLES.c.digest))
        return {row[0]: TableCopy(*row) for row in rows}


def mark_copied(connection: Connection, done: TableCopy) -> None:
    """Note that a table was read again and is the source's."""
    connection.execute(
        sa.insert(_TABLES), {"name": done.name, "number_of_rows": done.rows, "digest": done.digest}
    )


def parts_left(target: Database) -> list[Part]:
    """Return what is still to be made, in order."""
    with target.read() as connection:
        return [Part(*row) for row in connection.execute(sa.select(_PARTS).order_by(_PARTS.c.position))]


def mark_part(connection: Connection, part: Part) -> None:
    """Note that an index or a constraint was made."""
    connection.execute(sa.delete(_PARTS).where(_PARTS.c.position == part.position))


def forget(connection: Connection) -> None:
    """Make the target a database like any other."""
    _metadata.drop_all(connection)
    connection.execute(_SET_VERSION, {"to": SCHEMA_HEAD})


def _go_on(target: Database, connection: Connection, source: Identity, moved: Moved | None) -> UUID:
    store_id, source_id, database_id = connection.execute(_OURS).one()
    if (store_id, source_id) != (source.store_id, source.database_id):
        raise IdentityMismatch(f"{target.location} is being filled from another database ({source_id})")
    if moved is None:
        # An earlier run came no further than this, or was given up: then what it has read may be old, also
        # of a table that was empty. It may go on: another id ends that, and waits for what it is writing.
        database_id = uuid4()
        connection.execute(sa.update(_COPIED_FROM).values(database_id=database_id))
        _require_no_rows(target, connection)
        if connection.execute(sa.select(_TABLES.c.name).limit(1)).first() is not None:
            raise Refused(f"{target.location} has tables of a copy that was given up: make an empty database")
    return UUID(str(database_id))


def _require_complete(target: Database, source: Identity, found: Identity, moved: Moved | None) -> None:
    if found.store_id != source.store_id:
        raise IdentityMismatch(f"{target.location} is of another registry: store {found.store_id}")
    if found.database_id == source.database_id:
        raise Refused(f"{target.location} is the database itself: name another one")
    if moved is None or found.database_id != moved.database_id:
        raise Refused(
            f"{target.location} has rows of this registry already (database {found.database_id}): make an"
            " empty one"
        )


def _require_no_rows(target: Database, connection: Connection) -> None:
    for table in _filled(connection, Base.metadata.sorted_tables):
        raise Refused(f"{target.location} is not empty (there are {table}): make an empty database")


def _filled(connection: Connection, tables: Iterable[sa.Table]) -> Iterable[str]:
    for table in tables:
        if connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first() is not None:
            yield table.name
