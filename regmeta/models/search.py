"""What the search box looks through: each text once, however many tags and labels say it.

A substring is found through trigrams: on PostgreSQL by a GIN index of ``pg_trgm``, on SQLite by an FTS5 table
beside each of three tables. Whoever inserts a row there writes it there as well (``ingest.searchable``): a
trigger may not, since a database file is not trusted to run code (``trusted_schema`` is off).
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from regmeta.models.base import NEVER_REUSED, Base, BigId, IdColumn, NameColumn, beside_tables
from regmeta.models.content import Repository


class TagName(Base):
    """A name that some tag has or had; ``folded`` is without regard to case."""

    __tablename__ = "tag_names"
    __table_args__ = (UniqueConstraint("name"), Index(None, "folded", "name"), NEVER_REUSED)

    id: Mapped[IdColumn]
    name: Mapped[NameColumn]
    folded: Mapped[NameColumn]


class LabelText(Base):
    """What the value of some label says, without regard to case and cut; ``id`` is derived from it."""

    __tablename__ = "label_texts"

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=False)
    folded: Mapped[NameColumn]


SEARCHED: Final = {"repositories": "name", "tag_names": "folded", "label_texts": "folded"}
"""Tables, and the column that is searched by substring; on SQLite each has a table ``<table>_fts``."""
_TABLES: Final[dict[str, Any]] = {
    "repositories": Repository.__table__,
    "tag_names": TagName.__table__,
    "label_texts": LabelText.__table__,
}
for _name, _column in SEARCHED.items():
    Index(
        f"ix_{_name}_trigrams",
        _TABLES[_name].c[_column],
        postgresql_using="gin",
        postgresql_ops={_column: "gin_trgm_ops"},
        postgresql_with={"fastupdate": "off"},
    ).ddl_if(dialect="postgresql")
    beside_tables(
        "after_create",
        "sqlite",
        f"CREATE VIRTUAL TABLE {_name}_fts USING fts5({_column}, content='{_name}', content_rowid='id',"
        " tokenize='trigram', detail='none', columnsize=0)",
    )
    beside_tables("after_drop", "sqlite", f"DROP TABLE IF EXISTS {_name}_fts")
beside_tables("before_create", "postgresql", "CREATE EXTENSION IF NOT EXISTS pg_trgm")
