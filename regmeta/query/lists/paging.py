"""Pages by keyset: which rows come next, in one or two statements, or as many as a pattern of names needs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Final, Literal, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.errors import UsageError
from regmeta.models.base import Name
from regmeta.query import cursors
from regmeta.query.results import Page
from regmeta.query.stored import raw_digest

T = TypeVar("T")

MAX_PAGE: Final = cursors.MAX_PAGE
check_limit: Final = cursors.check_limit
_BATCH: Final = 1000  # [rows] that are read at once where only some of them may fit

Part = Literal["first", "after", "nulls", "nulls after"]
"""Which rows a statement selects: from the first on or behind a key; of those with a key or of those
without."""
Shape = tuple[tuple[str, Hashable], ...]
"""Which filters are set, and how: what a statement looks like, without the values that are bound."""
Accept = Callable[[Any], bool]

_KINDS: Final[dict[type[int] | type[str], sa.types.TypeEngine[Any]]] = {int: sa.BigInteger(), str: Name}


@dataclass(frozen=True, slots=True)
class Key:
    """One key of an order: a column, or what is computed from columns.

    Only the first of an order may be NULL in some rows. ``is_digest`` is of one that the cursor has as text.
    """

    column: Any
    kind: type[int] | type[str] = int
    is_nullable: bool = False
    is_digest: bool = False

    @property
    def type(self) -> sa.types.TypeEngine[Any]:
        """Return the type of the raw value, that no damaged row fails."""
        return sa.LargeBinary() if self.is_digest else _KINDS[self.kind]

    def raw(self) -> Any:
        """Return the column as the row holds it, to be selected."""
        return raw_digest(self.column) if self.is_digest else self.compared()

    def compared(self) -> Any:
        """Return the column as it is compared, so that an index of it is followed."""
        return sa.type_coerce(self.column, self.type)

    def bound(self, name: str) -> Any:
        """Return the parameter that the column is compared with."""
        return sa.bindparam(name, type_=self.type)


Keys = tuple[Key, ...]


def paged(base: sa.Select[*tuple[Any, ...]], keys: Keys, part: Part, descending: bool) -> Any:
    """Return a statement for one page: *base* with its keys behind its own columns, in their order."""
    first, rest = keys[0], keys
    statement: Any = base.add_columns(*(key.raw() for key in keys))
    if part.startswith("nulls"):
        statement = statement.where(first.column.is_(None))
        rest = keys[1:]
    elif first.is_nullable:
        statement = statement.where(first.column.is_not(None))
    if part.endswith("after"):
        names = range(len(keys) - len(rest), len(keys))
        # Row values can follow an index of these columns to the place; the same said with OR cannot.
        here = sa.tuple_(*(key.compared() for key in rest))
        there = sa.tuple_(*(key.bound(f"key_{number}") for number, key in zip(names, rest, strict=True)))
        statement = statement.where(here < there if descending else here > there)
    orders = (key.column.desc() if descending else key.column.asc() for key in rest)
    return statement.order_by(*orders).limit(sa.bindparam("page", type_=sa.BigInteger()))


@dataclass(frozen=True, slots=True)
class Asked:
    """One question: which list, in which order, from where, and how much of it."""

    name: str
    keys: Keys
    descending: bool
    after: str | None
    limit: int
    parameters: Mapping[str, Any]
    accept: Accept | None = None
    pinned: tuple[int, ...] = ()  # what the first page was about and the next ones are too, as a day

    def rows(self, connection: Connection, statement: Callable[[Part], Any]) -> list[Any]:
        """Return the rows of one page and, if there is one, the first of the next."""
        wanted = self.limit + 1
        found: list[Any] = []
        for row in self._every(connection, statement):
            if self.accept is None or self.accept(row):
                found.append(row)
                if len(found) == wanted:
                    break
        return found

    def page(self, rows: Sequence[Any], make: Callable[[Any], T], total: int | None = None) -> Page[T]:
        """Return the answer: what is *made* of the rows, and the cursor behind them.

        Raises:
            IntegrityError: the page ends with a damaged row, and more follow.
        """
        more = len(rows) > self.limit
        shown = rows[: self.limit]
        following = None
        if more:
            keys = shown[-1][-len(self.keys) :]
            said = (
                value.hex() if key.is_digest and isinstance(value, bytes) else value
                for key, value in zip(self.keys, keys, strict=True)
            )
            kinds = [*[int] * len(self.pinned), *(key.kind for key in self.keys)]
            following = cursors.encode(self.name, [*self.pinned, *said], kinds)
        return Page(tuple(make(row) for row in shown), following, total)

    def _every(self, connection: Connection, statement: Callable[[Part], Any]) -> Iterator[Any]:
        keys = self._start()
        size = self.limit + 1 if self.accept is None else max(self.limit + 1, _BATCH)
        left = self.limit + 1
        nullable = self.keys[0].is_nullable
        in_nulls = keys is not None and keys[0] is None
        while True:
            asked = size if self.accept is not None else left
            part: Part = "first" if keys is None else "after"
            if in_nulls:
                part = "nulls" if keys is None else "nulls after"
            values = {**self.parameters, **self._bound(keys), "page": asked}
            rows = connection.execute(statement(part), values).all()
            yield from rows
            left -= len(rows)
            if len(rows) == asked:
                if self.accept is None:
                    return
                keys = tuple(rows[-1][-len(self.keys) :])
            elif nullable and not in_nulls:
                in_nulls, keys = True, None
            else:
                return

    def _bound(self, keys: Sequence[Any] | None) -> dict[str, Any]:
        if keys is None:
            return {}
        return {f"key_{number}": value for number, value in enumerate(keys) if value is not None}

    def _start(self) -> tuple[Any, ...] | None:
        if self.after is None:
            return None
        found = start(self.name, self.after, self.keys, len(self.pinned))
        return found[len(self.pinned) :]


def start(name: str, after: str, keys: Keys, pinned: int = 0) -> tuple[Any, ...]:
    """Return what a cursor holds: pinned numbers, and then the keys.

    Raises:
        UsageError: it is no cursor, or that of another list.
    """
    kinds = [*[int] * pinned, *(key.kind for key in keys)]
    nullable = [pinned] if keys[0].is_nullable else []
    found = list(cursors.decode(name, after, kinds, nullable))
    for number, key in enumerate(keys, pinned):
        if key.is_digest:
            try:
                found[number] = bytes.fromhex(found[number])
            except ValueError:
                raise UsageError(
                    f"--after {after[:80]!r}: no cursor; give what the page before calls next"
                ) from None
    return tuple(found)


def question(name: str, sort: str, descending: bool, where: object) -> str:
    """Return what must be the same for the next page: the list, its order, and its filters.

    Times are left out: a length of time ago is another moment for each page, and the order is the same.
    """
    said = [
        (field.name, "time" if isinstance(value, datetime) else repr(value))
        for field in fields(where)  # type: ignore[arg-type]
        if (value := getattr(where, field.name)) not in (None, ())
    ]
    return f"{name} {sort} {'down' if descending else 'up'} {said}"


def check_choice(option: str, value: str | None, choices: Sequence[str]) -> None:
    """Refuse a value that there is not; None is no choice.

    Raises:
        UsageError: names those that there are.
    """
    if value is not None and value not in choices:
        raise UsageError(f"--{option} {value[:80]!r}: there is {', '.join(choices)}")


def counted(
    connection: Connection, statement: Any, parameters: Mapping[str, Any], accept: Accept | None
) -> int:
    """Return how many rows a statement without order and limit selects; those that a pattern accepts."""
    if accept is None:
        count = statement.with_only_columns(sa.func.count(), maintain_column_froms=True)
        return int(connection.execute(count, parameters).scalar_one())
    options = {"yield_per": _BATCH}
    with connection.execute(statement, parameters, execution_options=options) as rows:
        return sum(1 for row in rows if accept(row))


def every(page: Callable[[str | None], Page[T]]) -> Iterator[T]:
    """Go through a whole list: *page* is asked for one page after the other, by its cursor.

    One page at a time is in memory, and each is of a moment of its own::

        every(lambda after: tags(database, "app", after=after, limit=1000))
    """
    after: str | None = None
    while True:
        found = page(after)
        yield from found.items
        if found.next is None:
            return
        after = found.next
