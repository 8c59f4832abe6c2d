"""A database that takes no changes, by its own refusal: whoever has it open, and however late that one comes.

Triggers refuse every INSERT, UPDATE and DELETE. They are made in one transaction, which waits for writers
that have begun; who comes after it is refused. So from then on nothing changes, no commit can be lost, and
none ever costs a statement more than before. ``moved_to`` is a table that only such a database has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.db import MOVED_STATE, RETIRED, Database
from regmeta.errors import Refused
from regmeta.ingest.retry import retried
from regmeta.models import Base

State = Literal["copying", "retired"]

_EVENTS: Final = ("INSERT", "UPDATE", "DELETE")
_VERSION_TABLE: Final = "alembic_version"
_FUNCTION: Final = "refuse_moved"
_ASIDE: Final = "repositories_retired"
_metadata: Final = sa.MetaData()
_MOVED: Final = sa.Table(
    "moved_to",
    _metadata,
    sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
    sa.Column("location", sa.Text(), nullable=False),
    sa.Column("database_id", sa.Uuid(), nullable=False),
    sa.Column("state", sa.Text(), nullable=False),
)
_READ: Final = sa.select(_MOVED.c.location, _MOVED.c.database_id, _MOVED.c.state)


@dataclass(frozen=True, slots=True)
class Moved:
    """Where the rows of a database go, or went. *location* has no password."""

    location: str
    database_id: UUID
    state: State


def moved_to(database: Database) -> Moved | None:
    """Return where a database is moved to, None if it is not."""
    with database.read() as connection:
        return _moved(connection)


def freeze(database: Database, location: str, database_id: UUID) -> None:
    """Let a database refuse all changes, since its rows go to *location*; finds it done when run again.

    Raises:
        Refused: they go somewhere else already.
        Contention: writers did not end in time.
    """
    retried(lambda: _freeze(database, location, database_id))


def thaw(database: Database) -> Moved:
    """Let a database take changes again. Returns where its rows were to go.

    Raises:
        Refused: it is not frozen, or retired already.
    """
    return retried(lambda: _thaw(database))


def retire(database: Database, database_id: UUID) -> None:
    """Let a frozen database be opened by nobody; from here on there is no way back.

    ``repositories`` gets another name, so that a process that has it open reads nothing either.

    Raises:
        Refused: the copy was given up.
    """
    retried(lambda: _retire(database, database_id))


def _freeze(database: Database, location: str, database_id: UUID) -> None:
    with database.transaction("copy_froze") as connection:
        found = _moved(connection, lock=True)
        if found is not None:
            require_same(database, found, database_id)
            return
        _metadata.create_all(connection)
        text = f"nothing is written here any more: 'regmeta db copy' moves the rows to {location}"
        for statement in _refusing(connection, text):
            _run(connection, statement)
        connection.execute(
            sa.insert(_MOVED),
            {"id": 1, "location": location, "database_id": database_id, "state": "copying"},
        )


def _thaw(database: Database) -> Moved:
    with database.transaction("copy_abandoned") as connection:
        found = _moved(connection, lock=True)
        if found is None:
            raise Refused(f"{database.location} is not being moved: there is nothing to abandon")
        if found.state == "retired":
            raise Refused(
                f"{database.location} was retired already: 'regmeta db copy' to {found.location} again"
                " finishes it"
            )
        for statement in _allowing(connection):
            _run(connection, statement)
        _metadata.drop_all(connection)
        return found


def _retire(database: Database, database_id: UUID) -> None:
    with database.transaction("copy_retired") as connection:
        found = _moved(connection, lock=True)
        if found is None:
            raise Refused(f"{database.location}: the copy was given up (--abandon) meanwhile")
        require_same(database, found, database_id)
        if found.state == "retired":
            return
        for statement in _allowing(connection, [_VERSION_TABLE], keep_function=True):
            _run(connection, statement)
        connection.execute(
            sa.text(f"UPDATE {_VERSION_TABLE} SET version_num = :to"),  # noqa: S608
            {"to": RETIRED},
        )
        connection.execute(sa.update(_MOVED).values(state="retired"))
        _run(connection, f"ALTER TABLE repositories RENAME TO {_ASIDE}")


def require_same(database: Database, found: Moved, database_id: UUID) -> None:
    """Refuse a second target.

    Raises:
        Refused: the rows go somewhere else.
    """
    if found.database_id != database_id:
        raise Refused(
            f"{database.location} is being moved to {found.location}: name that database, with what was"
            " copied so far in it, or give that copy up (--abandon)"
        )


def _moved(connection: Connection, *, lock: bool = False) -> Moved | None:
    if not sa.inspect(connection).has_table(_MOVED.name):
        return None
    row = connection.execute(_READ.with_for_update() if lock else _READ).first()
    return None if row is None else Moved(*row)


def _tables() -> list[str]:
    # The version as well: a revision that makes a table anew would lose its triggers.
    return [*sorted(Base.metadata.tables), _VERSION_TABLE]


def _refusing(connection: Connection, text: str) -> list[str]:
    quoted = text.replace("'", "''")
    if connection.dialect.name == "sqlite":
        return [
            f"CREATE TRIGGER moved_{table}_{event.lower()} BEFORE {event} ON {table}"
            f" BEGIN SELECT RAISE(ABORT, '{quoted}'); END"
            for table in _tables()
            for event in _EVENTS
        ]
    return [
        # One statement that waits for all writers, before the first trigger: no deadlock with one of them.
        f"LOCK TABLE {', '.join(_tables())} IN SHARE ROW EXCLUSIVE MODE",
        f"CREATE FUNCTION {_FUNCTION}() RETURNS trigger LANGUAGE plpgsql AS $moved$"
        f" BEGIN RAISE EXCEPTION USING ERRCODE = '{MOVED_STATE}', MESSAGE = '{quoted}'; END $moved$",
        *(
            f"CREATE TRIGGER moved BEFORE {' OR '.join(_EVENTS)} OR TRUNCATE ON {table}"
            f" FOR EACH STATEMENT EXECUTE FUNCTION {_FUNCTION}()"
            for table in _tables()
        ),
    ]


def _allowing(
    connection: Connection, tables: list[str] | None = None, *, keep_function: bool = False
) -> list[str]:
    chosen = _tables() if tables is None else tables
    if connection.dialect.name == "sqlite":
        return [f"DROP TRIGGER moved_{table}_{event.lower()}" for table in chosen for event in _EVENTS]
    dropped = [f"DROP TRIGGER moved ON {table}" for table in chosen]
    return dropped if keep_function else [*dropped, f"DROP FUNCTION {_FUNCTION}()"]


def _run(connection: Connection, statement: str) -> None:
    connection.execute(sa.text(statement.replace(":", "\\:")))
