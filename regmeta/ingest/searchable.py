"""What search looks through, kept in step with the rows by the transaction that writes them.

Each text is kept once: the names of repositories and tags, and what labels say. Texts are only ever added;
what nothing says any more is dropped when search is rebuilt (``maintain.search``, which relies on this
order). On SQLite each new row goes into the trigram table beside it too (``models.search``); on PostgreSQL
its index does that.

On PostgreSQL a second transaction that adds the same text waits until the first has ended. So a transaction
adds its texts last, first tags, then labels, each in order: no two can wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.ingest.inserting import Conflict, many
from regmeta.models import Base, LabelText, TagName
from regmeta.models.search import SEARCHED
from regmeta.oci.folding import folded, text_of

NOT_TEXT: Final = frozenset({"org.opencontainers.image.created", "org.label-schema.build-date", "build-date"})
"""Labels whose values are times: nobody searches for them as text, and each image has others."""

_OUT_OF_FTS: Final = {
    table: sa.text(f"INSERT INTO {table}_fts ({table}_fts, rowid, {column}) VALUES ('delete', :id, :text)")  # noqa: S608
    for table, column in SEARCHED.items()
}
_INTO_FTS: Final = {
    table: sa.text(f"INSERT INTO {table}_fts (rowid, {column}) VALUES (:id, :text)")  # noqa: S608
    for table, column in SEARCHED.items()
}


def add_repositories(connection: Connection, names: Mapping[int, str]) -> None:
    """Let repositories that were made just now be found by their names (by id)."""
    index(connection, "repositories", names.items())


def add_tags(connection: Connection, names: Iterable[str]) -> None:
    """Let tags be found by their names; a name that is known already costs one refused insert."""
    values = [{"name": name, "folded": folded(name)} for name in sorted(set(names))]
    _add(connection, TagName, "name", values)


def add_labels(connection: Connection, labels: Sequence[Mapping[str, Any]]) -> None:
    """Let images be found by what their labels (rows of ``labels``) say."""
    said = {row["text_key"]: row["value"] for row in labels if row["name"] not in NOT_TEXT}
    values = [{"id": key, "folded": text_of(value)} for key, value in sorted(said.items())]
    _add(connection, LabelText, "id", values)


def _add(connection: Connection, model: type[Base], key: str, rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    # Only SQLite has to be told which of them are new; without an answer nobody has to wait for one.
    returning = ("id", "folded") if connection.dialect.name == "sqlite" else ()
    inserted = connection.execute(
        *many(connection, model, rows, conflict=Conflict((key,)), returning=returning)
    )
    if returning:
        new: Any = inserted.all()
        index(connection, model.__tablename__, new)


def index(connection: Connection, table: str, rows: Iterable[tuple[int, str]]) -> None:
    """Write rows that were made just now, ids and texts, into the trigram table of SQLite."""
    _tell(connection, _INTO_FTS[table], rows)


def forget(connection: Connection, table: str, rows: Iterable[tuple[int, str]]) -> None:
    """Take rows that were removed just now, ids and texts, out of the trigram table of SQLite."""
    _tell(connection, _OUT_OF_FTS[table], rows)


def _tell(connection: Connection, statement: Any, rows: Iterable[tuple[int, str]]) -> None:
    values = [{"id": number, "text": text} for number, text in rows]
    if values and connection.dialect.name == "sqlite":
        connection.execute(statement, values)
