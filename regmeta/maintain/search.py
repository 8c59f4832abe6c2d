"""What search looks through, checked against the rows that it comes from, and made anew.

The transaction that writes a row writes what search needs of it (``ingest.searchable``), so there is nothing
to do as a rule. A check finds what another program changed; a rebuild puts it right, and drops names and
texts that nothing says any more. Both go page by page beside writers; a rebuild that was interrupted is run
again.

Names and texts are dropped under a lock (PostgreSQL). A writer adds its tags and labels first and its names
and texts last (``ingest.searchable``): it may have met a text that is there already, which a label that
nobody sees yet needs. Such a writer has a lock on the table of texts (ROW EXCLUSIVE, by its INSERT) until it
ends. So SHARE ROW EXCLUSIVE is had when it has ended, and the DELETE, whose snapshot is younger, sees its
labels. A writer that comes later waits, then does not find the text, and adds it. Each transaction takes
this lock first and no other after it that a writer could hold. SQLite has one writer at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Final, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.db import Database
from regmeta.ingest import searchable
from regmeta.ingest.reserve import chunks
from regmeta.ingest.retry import retried
from regmeta.maintain.progress import Progress
from regmeta.models import Label, LabelText, Repository, Tag, TagName
from regmeta.models.search import SEARCHED
from regmeta.oci.folding import folded, text_key, text_of

PAGE: Final = 5000  # rows that are looked at in one transaction
SHORTEST: Final = 3  # [characters] a text has that has trigrams

Row = dict[str, Any]
Kind = Literal["repository", "tag name", "text", "label", "trigrams"]

_REPOSITORIES: Final = sa.select(Repository.id, Repository.name, Repository.leaf)
_TAGS: Final = sa.select(Tag.id, Tag.name)
_TAG_NAMES: Final = sa.select(TagName.id, TagName.name, TagName.folded)
_TEXTS: Final = sa.select(LabelText.id, LabelText.folded)
_LABELS: Final = sa.select(Label.manifest_id, Label.origin, Label.name, Label.value, Label.text_key)
_KNOWN_NAMES: Final = sa.select(TagName.name).where(TagName.name.in_(sa.bindparam("of", expanding=True)))
_KNOWN_TEXTS: Final = sa.select(LabelText.id).where(LabelText.id.in_(sa.bindparam("of", expanding=True)))
_UNUSED_NAMES: Final = _TAG_NAMES.where(~sa.exists().where(Tag.name == TagName.name, Tag.ended_at.is_(None)))
_UNUSED_TEXTS: Final = _TEXTS.where(~sa.exists().where(Label.text_key == LabelText.id))
_DROP_NAMES: Final = (
    sa.delete(TagName)
    .where(
        TagName.id.in_(sa.bindparam("of", expanding=True)),
        TagName.name.not_in(sa.select(Tag.name).where(Tag.name.in_(sa.bindparam("names", expanding=True)))),
    )
    .returning(TagName.id, TagName.folded)
)
_DROP_TEXTS: Final = (
    sa.delete(LabelText)
    .where(
        LabelText.id.in_(sa.bindparam("of", expanding=True)),
        ~sa.exists().where(Label.text_key == LabelText.id),
    )
    .returning(LabelText.id, LabelText.folded)
)
_REMOVE_TEXTS: Final = sa.delete(LabelText).where(LabelText.id.in_(sa.bindparam("of", expanding=True)))
_SET_LEAF: Final = (
    sa.update(Repository).where(Repository.id == sa.bindparam("of")).values(leaf=sa.bindparam("to"))
)
_SET_FOLDED: Final = (
    sa.update(TagName).where(TagName.id == sa.bindparam("of")).values(folded=sa.bindparam("to"))
)
_SET_KEY: Final = (
    sa.update(Label)
    .where(
        Label.manifest_id == sa.bindparam("of"),
        Label.origin == sa.bindparam("from_"),
        Label.name == sa.bindparam("named"),
        Label.value == sa.bindparam("said"),  # a repair may have written another meanwhile
    )
    .values(text_key=sa.bindparam("to"))
)


@dataclass(frozen=True, slots=True)
class SearchFinding:
    """One thing that search does not find, or finds by what is not there."""

    kind: Kind
    subject: str
    detail: str


@dataclass(slots=True)
class Rebuilt:
    """How many rows a rebuild of search wrote, dropped, or indexed again."""

    repositories: int = 0
    tag_names: int = 0
    texts: int = 0
    labels: int = 0
    dropped: int = 0
    trigram_tables: int = 0

    @property
    def is_unchanged(self) -> bool:
        """Whether there was nothing to do."""
        return not any(getattr(self, field.name) for field in fields(self))


def check_search(database: Database, progress: Progress) -> Iterator[SearchFinding]:
    """Give all that is not in step with the rows; names and texts that nothing says any more are no harm."""
    for what, statement, keys, look in _PASSES:
        progress.began(f"search: {what}", None)
        for rows, wrong in _pages(database, statement, keys, look):
            yield from (one.finding for one in wrong)
            progress.advanced(len(rows))
    for table, missing in _without_trigrams(database, progress):
        yield SearchFinding("trigrams", table, f"row {missing} cannot be found by what is inside it")


def rebuild_search(database: Database, progress: Progress) -> Rebuilt:
    """Put right whatever is not in step with the rows, and drop names and texts that nothing says any more.

    On SQLite the trigrams of a table that was not right are made anew in one transaction: writers wait, about
    half a minute for 10^6 texts. Run it again after an interruption: what is right already costs a look.

    Raises:
        Contention: others had the rows all the time.
    """
    report = Rebuilt()
    for what, statement, keys, look in _PASSES:
        progress.began(f"search: {what}", None)
        for rows, wrong in _pages(database, statement, keys, look):
            if wrong:
                _fix(database, wrong, report)
            progress.advanced(len(rows))
    # What another program wrote was not in the trigrams, so they cannot be told row by row that it went.
    again = dict(_without_trigrams(database, progress)).keys() | _touched(database, report)
    for table in sorted(again):
        retried(partial(_index_again, database, table))
        report.trigram_tables += 1
    progress.began("search: names and texts that nothing says", None)
    for model, unused, drop in (
        (TagName, _UNUSED_NAMES, _drop_names),
        (LabelText, _UNUSED_TEXTS, _drop_texts),
    ):
        for rows, _ in _pages(database, unused, (model.id,), lambda *_: None):
            if rows:
                report.dropped += retried(partial(drop, database, rows))
            progress.advanced(len(rows))
    return report


def _touched(database: Database, report: Rebuilt) -> set[str]:
    """Return the tables of SQLite whose texts were not right."""
    if not database.is_sqlite:
        return set()
    names = {"tag_names"} if report.tag_names else set()
    return names | ({"label_texts"} if report.texts or report.labels else set())


# --- what is wrong ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Wrong:
    """A row that is not right, and what it should be."""

    finding: SearchFinding
    row: Any
    right: Any = None


_Look = Callable[[Connection, Sequence[Any]], list[_Wrong]]


def _repositories(_: Connection, rows: Sequence[Any]) -> list[_Wrong]:
    found = []
    for row in rows:
        leaf = row.name.rpartition("/")[2]
        if row.leaf != leaf:
            finding = SearchFinding("repository", row.name, f"is found as {row.leaf!r}, not {leaf!r}")
            found.append(_Wrong(finding, row, leaf))
    return found


def _tags(connection: Connection, rows: Sequence[Any]) -> list[_Wrong]:
    names = sorted({row.name for row in rows})
    known: set[str] = set()
    for some in chunks(names):
        known.update(connection.execute(_KNOWN_NAMES, {"of": some}).scalars())
    return [
        _Wrong(SearchFinding("tag name", name, "no search finds it"), name)
        for name in names
        if name not in known
    ]


def _tag_names(_: Connection, rows: Sequence[Any]) -> list[_Wrong]:
    return [
        _Wrong(SearchFinding("tag name", row.name, f"is found as {row.folded!r}"), row, folded(row.name))
        for row in rows
        if row.folded != folded(row.name)
    ]


def _texts(_: Connection, rows: Sequence[Any]) -> list[_Wrong]:
    return [
        _Wrong(SearchFinding("text", str(row.id), "is not the text that its number stands for"), row)
        for row in rows
        if text_key(row.folded) != row.id
    ]


def _labels(connection: Connection, rows: Sequence[Any]) -> list[_Wrong]:
    texts = {text_of(row.value): row for row in rows}
    keys = {text: text_key(text) for text in texts}
    known: set[int] = set()
    for some in chunks(sorted(set(keys.values()))):
        known.update(connection.execute(_KNOWN_TEXTS, {"of": some}).scalars())
    found = []
    for row in rows:
        key = keys[text_of(row.value)]
        lacks_text = key not in known and row.name not in searchable.NOT_TEXT
        if row.text_key != key or lacks_text:
            detail = "leads to another text" if row.text_key != key else "no search finds what it says"
            finding = SearchFinding("label", f"{row.name} of manifest {row.manifest_id}", detail)
            found.append(_Wrong(finding, row, key))
    return found


_PASSES: Final[tuple[tuple[str, Any, Any, _Look], ...]] = (
    ("repositories", _REPOSITORIES, (Repository.id,), _repositories),
    ("tags", _TAGS, (Tag.id,), _tags),
    ("names of tags", _TAG_NAMES, (TagName.id,), _tag_names),
    ("texts", _TEXTS, (LabelText.id,), _texts),
    ("labels", _LABELS, (Label.manifest_id, Label.origin, Label.name), _labels),
)


def _pages(database: Database, statement: Any, keys: Any, look: Any) -> Iterator[tuple[Sequence[Any], Any]]:
    """Give all rows in the order of their keys, and what *look* says of each page, which is read at once."""
    ordered = statement.order_by(*keys).limit(PAGE)
    names = [f"after_{number}" for number in range(len(keys))]
    behind = sa.tuple_(*(sa.bindparam(name, type_=key.type) for name, key in zip(names, keys, strict=True)))
    further = ordered.where(sa.tuple_(*keys) > behind)
    after: Row = {}
    rows: Sequence[Any] = ()
    while not after or len(rows) == PAGE:
        with database.read() as connection:
            rows = connection.execute(further if after else ordered, after).all()
            found = look(connection, rows)
        yield rows, found
        after = dict(zip(names, rows[-1], strict=False)) if rows else {"": None}


def _without_trigrams(database: Database, progress: Progress) -> Iterator[tuple[str, int]]:
    """Give the first row that each table of trigrams lacks; PostgreSQL looks after its own."""
    if not database.is_sqlite:
        return
    for table, column in SEARCHED.items():
        progress.began(f"search: trigrams of {table}", None)
        source = sa.table(table, sa.column("id", sa.Integer()), sa.column(column, sa.String()))
        for rows, missing in _pages(database, sa.select(source), (source.c.id,), partial(_missing, table)):
            progress.advanced(len(rows))
            if missing is not None:
                yield table, missing
                break


def _missing(table: str, connection: Connection, rows: Sequence[Any]) -> int | None:
    """Return the id of the first row that its first and last trigrams do not lead to."""
    is_there = sa.text(f"SELECT 1 FROM {table}_fts WHERE {table}_fts MATCH :ends AND rowid = :id")  # noqa: S608
    for number, text in rows:
        if len(text) >= SHORTEST and "\0" not in text:
            ends = " AND ".join('"{}"'.format(part.replace('"', '""')) for part in (text[:3], text[-3:]))
            if connection.execute(is_there, {"ends": ends, "id": number}).first() is None:
                return int(number)
    return None


# --- putting it right ---------------------------------------------------------------------------


def _fix(database: Database, wrong: Sequence[_Wrong], report: Rebuilt) -> None:
    """Put the rows of one page right. Texts are added in a transaction that has locked nothing before."""
    kind = wrong[0].finding.kind
    if kind == "repository":
        retried(lambda: _update(database, _SET_LEAF, [{"of": w.row.id, "to": w.right} for w in wrong]))
        report.repositories += len(wrong)
    elif kind == "tag name" and wrong[0].right is None:
        retried(lambda: _add_names(database, [w.row for w in wrong]))
        report.tag_names += len(wrong)
    elif kind == "tag name":
        retried(lambda: _refold(database, wrong))
        report.tag_names += len(wrong)
    elif kind == "text":
        retried(lambda: _remove_texts(database, [w.row.id for w in wrong]))
        report.texts += len(wrong)
    else:
        retried(lambda: _add_texts(database, wrong))
        keys = [
            {"of": r.manifest_id, "from_": r.origin, "named": r.name, "said": r.value, "to": w.right}
            for w in wrong
            if (r := w.row).text_key != w.right
        ]
        if keys:
            retried(lambda: _update(database, _SET_KEY, keys))
        report.labels += len(wrong)


def _update(database: Database, statement: Any, values: list[Row]) -> None:
    with database.transaction("search_keys") as connection:
        connection.execute(statement, values)


def _add_names(database: Database, names: list[str]) -> None:
    with database.transaction("search_names") as connection:
        searchable.add_tags(connection, names)


def _add_texts(database: Database, wrong: Sequence[_Wrong]) -> None:
    labels = [{"name": w.row.name, "value": w.row.value, "text_key": w.right} for w in wrong]
    with database.transaction("search_texts") as connection:
        searchable.add_labels(connection, labels)


def _refold(database: Database, wrong: Sequence[_Wrong]) -> None:
    with database.transaction("search_refolded") as connection:
        connection.execute(_SET_FOLDED, [{"of": w.row.id, "to": w.right} for w in wrong])


def _remove_texts(database: Database, ids: list[int]) -> None:
    """Remove texts that are not those of their numbers: labels that have these get theirs in a later pass."""
    with database.transaction("search_removed") as connection:
        _lock(connection, "label_texts")
        for some in chunks(ids):
            connection.execute(_REMOVE_TEXTS, {"of": some})


def _drop_names(database: Database, rows: Sequence[Any]) -> int:
    with database.transaction("search_unused_names") as connection:
        _lock(connection, "tag_names")
        dropped: list[tuple[int, str]] = []
        for some in chunks(rows):
            of = {"of": [row.id for row in some], "names": [row.name for row in some]}
            dropped += _pairs(connection.execute(_DROP_NAMES, of))
        searchable.forget(connection, "tag_names", dropped)
    return len(dropped)


def _drop_texts(database: Database, rows: Sequence[Any]) -> int:
    with database.transaction("search_unused_texts") as connection:
        _lock(connection, "label_texts")
        dropped: list[tuple[int, str]] = []
        for some in chunks(rows):
            dropped += _pairs(connection.execute(_DROP_TEXTS, {"of": [row.id for row in some]}))
        searchable.forget(connection, "label_texts", dropped)
    return len(dropped)


def _index_again(database: Database, table: str) -> None:
    with database.transaction("search_trigrams") as connection:
        connection.execute(sa.text(f"INSERT INTO {table}_fts ({table}_fts) VALUES ('rebuild')"))  # noqa: S608


def _lock(connection: Connection, table: str) -> None:
    """Wait for all writers that have looked at a table of texts, and let no other look until we are done."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE"))


def _pairs(rows: Any) -> list[tuple[int, str]]:
    return [(number, text) for number, text in rows]
