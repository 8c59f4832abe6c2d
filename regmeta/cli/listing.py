"""How a list looks: a table for people, CSV for spreadsheets, JSON for programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from regmeta.cli import render

if TYPE_CHECKING:
    from regmeta.query.results import Page


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its value, as CSV has it, and how people see it if that is different."""

    name: str
    value: Callable[[Any], object]
    show: Callable[[Any], object] | None = None
    is_wide: bool = False  # with --wide only

    def shown(self, item: Any) -> object:
        """Return what people see."""
        return (self.show or self.value)(item)


def of_bytes(name: str, value: Callable[[Any], int | None], *, is_wide: bool = False) -> Column:
    """Return a column of sizes."""
    return Column(name, value, lambda item: render.size(value(item)), is_wide)


def show(
    found: Page[Any] | Sequence[Any],
    columns: Sequence[Column],
    *,
    as_json: bool = False,
    as_csv: bool = False,
    wide: bool = False,
) -> None:
    """Write a page, or a whole list, to stdout.

    Raises:
        UsageError: JSON and CSV at once.
    """
    from regmeta.errors import UsageError

    if as_json and as_csv:
        raise UsageError("--json and --csv: use one of them")
    if as_json:
        render.json(found)
        return
    from regmeta.query.results import Page

    items = found.items if isinstance(found, Page) else found
    if as_csv:
        _csv(items, columns)
    else:
        chosen = [column for column in columns if wide or not column.is_wide]
        render.table([c.name for c in chosen], [[c.shown(item) for c in chosen] for item in items])
    if isinstance(found, Page):
        _more(found)


def _more(page: Page[Any]) -> None:
    if page.total is not None:
        render.say(f"{page.total} in all")
    if page.next is not None:
        render.say(f"more follow: --after {page.next}")


def _csv(items: Sequence[Any], columns: Sequence[Column]) -> None:
    import csv
    import io

    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([_field(column.name) for column in columns])
    for item in items:
        writer.writerow([_field(column.value(item)) for column in columns])
    typer.echo(buffer.getvalue(), nl=False)


def _field(value: object) -> object:
    """Return a value as CSV has it; what a spreadsheet would run is made text."""
    plain = render.plain(value)
    if isinstance(plain, list):
        plain = " ".join(map(str, plain))
    if isinstance(plain, str):
        text = render.printable(plain)
        return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) else text
    return plain
