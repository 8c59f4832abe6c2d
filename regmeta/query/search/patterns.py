"""Finding a term in texts by the databases' trigrams, and by ranges of ordered names.

A substring is looked for only if its trigrams lead to it on both databases: so no question scans a table,
and both answer the same. SQLite takes any three characters in a row; PostgreSQL those of a word of letters
and digits, and of its edges.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.models.search import SEARCHED

_TRIGRAMS: Final = 8  # of a term, that SQLite reads the lists of


def has_trigram(term: str) -> bool:
    """Tell whether *term* can be looked for inside texts; if not, only names that start with it are found."""
    return any(_is_usable(term[start : start + 3]) for start in range(len(term) - 2))


def _is_usable(three: str) -> bool:
    """Tell whether there is a whole trigram: a word has an edge of two before it and one of one behind it."""
    _, two, last = (character.isalnum() for character in three)
    return two or last  # "a--" has a letter and one character of its edge


Way = Literal["rowids", "bitmap", "ids"]
Only = Callable[[Any], sa.ColumnElement[bool]]
"""A condition that is made of the columns of a row."""


def way_to(connection: Connection, model: Any, term: str, considered: int) -> Way:
    """Return how the rows of *model* that hold a term are best found, *considered* of them at most.

    SQLite's trigrams give rows in the order of their ids. PostgreSQL's give all of them, to be sorted: slow
    where very many hold the term, and then reading rows by id until enough do is not. What its planner
    takes is often the wrong one (rows read by id seem cheap to it), so its guess of how many rows
    there are is asked for, which takes no longer than planning.
    """
    if connection.dialect.name == "sqlite":
        return "rowids"
    of = parameters_of(term, considered, is_sqlite=False)
    rows = int(connection.execute(_estimate(model), of).scalar_one()[0]["Plan"]["Plan Rows"])
    table_rows = connection.execute(_TABLE_ROWS, {"of": str(model.__tablename__)}).scalar_one()
    # A row by id costs about three times one by trigrams: where both ways cost the same, they are this many.
    return "ids" if rows * rows > 3 * considered * max(int(table_rows), 0) else "bitmap"


_TABLE_ROWS: Final = sa.text("SELECT reltuples::bigint FROM pg_class WHERE oid = CAST(:of AS regclass)")


@lru_cache(maxsize=3)
def _estimate(model: Any) -> Any:
    table = str(model.__tablename__)
    pattern: Any = sa.bindparam("pattern", type_=sa.String(), literal_execute=True)
    explain = f"EXPLAIN (FORMAT JSON) SELECT 1 FROM {table} WHERE {SEARCHED[table]} LIKE :pattern"  # noqa: S608
    return sa.text(explain).bindparams(pattern)


def holding(columns: Any, model: Any, way: Way, only: Only | None = None) -> sa.Select[Any]:
    """Return the statement of the rows that hold a term; its parameters are parameters_of().

    *columns* selects from *model*, one of the tables that are searched. Of the ``considered`` rows with the
    lowest ids it gives the first ``page``, those that start with the term before the others, then by text;
    ``candidates`` says how many there are. Candidates are only rows for which *only* holds: it is asked in
    the order of ids, until there are enough.
    """
    table = str(model.__tablename__)
    text = getattr(model, SEARCHED[table])
    asked: Any = model.__table__.c
    term = sa.bindparam("term", type_=sa.String())
    if way == "rowids":
        fts = sa.table(f"{table}_fts", sa.column("rowid", sa.Integer()))
        # The sign keeps SQLite from asking the trigram table row by row.
        rowid: Any = sa.literal_column(f"+{table}_fts.rowid")
        found = columns.select_from(sa.join(fts, model, model.id == rowid)).where(
            is_matched(table, sa.bindparam("trigrams", type_=sa.String())), sa.func.instr(text, term) > 0
        )
        order: Any = fts.c.rowid
    else:
        # Written into the statement: a plan that is made for any pattern does not use the trigrams.
        pattern: Any = sa.bindparam("pattern", type_=sa.String(), literal_execute=True)
        found = columns.where(text.op("LIKE", is_comparison=True)(pattern))
        order = model.id
        if way == "bitmap":
            all_of_them = found.cte().prefix_with("MATERIALIZED")
            found, order = sa.select(all_of_them), all_of_them.c.id
            if only is not None:
                # OFFSET keeps the sorting inside: what *only* costs is paid for the first rows alone.
                in_order = found.order_by(order).offset(sa.literal_column("0")).subquery()
                found, order = sa.select(in_order), in_order.c.id
                asked = in_order.c
    if only is not None:
        found = found.where(only(asked))
    ranked = found.order_by(order).limit(sa.bindparam("considered", type_=sa.Integer())).subquery()
    named = ranked.c[SEARCHED[table]]
    is_inside = sa.func.substr(named, 1, sa.bindparam("length", type_=sa.Integer())) != term
    last = [column for column in ranked.c if column.key == "name"]
    counted = sa.select(ranked, sa.func.count().over().label("candidates"))
    return counted.order_by(is_inside, named, *last).limit(sa.bindparam("page"))


def parameters_of(term: str, considered: int, *, is_sqlite: bool) -> dict[str, Any]:
    """Return what a statement of holding() looks for, among how many rows at most."""
    of: dict[str, Any] = {"term": term, "length": len(term), "considered": considered}
    if not is_sqlite:
        escaped = "".join(f"\\{character}" if character in "%_\\" else character for character in term)
        return {**of, "pattern": f"%{escaped}%"}
    return {**of, "trigrams": trigrams_of(term)}


def trigrams_of(term: str) -> str:
    """Return what SQLite's table of trigrams is asked for, for a term of three characters or more.

    Side by side they find about what all of them do, in a third of the time; the text itself must decide.
    """
    starts = [*range(0, len(term) - 3, 3), len(term) - 3]
    step = -(-len(starts) // _TRIGRAMS)
    trigrams = {term[start : start + 3].replace('"', '""') for start in starts[::-1][::step]}
    return " AND ".join(f'"{trigram}"' for trigram in sorted(trigrams))


def is_matched(table: str, trigrams: Any) -> sa.ColumnElement[bool]:
    """Return the condition, on SQLite, that a row of a table of trigrams has those of :func:`trigrams_of`."""
    return sa.literal_column(f"{table}_fts").op("MATCH", is_comparison=True)(trigrams)
