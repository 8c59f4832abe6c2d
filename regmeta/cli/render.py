"""How answers look: tables and trees for people, JSON for programs. What strangers wrote is escaped."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields as fields_of
from dataclasses import is_dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import typer

from regmeta.cli import logs
from regmeta.oci.digest import Digest

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def printable(text: str) -> str:
    """Show control and format characters as escapes, so that no name or label steers a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def json(value: Any) -> None:
    """Write *value* to stdout as JSON: digests and ids as text, times in UTC, sizes in bytes."""
    from json import dumps

    typer.echo(dumps(plain(value), indent=2, ensure_ascii=False))


def json_line(value: Any) -> None:
    """Write *value* as one line of JSON, at once: for who reads one after the other."""
    from json import dumps

    typer.echo(dumps(plain(value), ensure_ascii=False))
    sys.stdout.flush()


def plain(value: Any) -> Any:
    """Return a value as JSON has it: digests and ids as text, times in UTC."""
    if isinstance(value, (Digest, UUID)):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields_of(value)}
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return value


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write rows under headings; a column of numbers or sizes is aligned to the right."""
    cells = [[cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(map(cell, columns), *cells, strict=True)]
    right = [
        bool(cells)
        and all((row[i][:1].isdigit() and " " in row[i]) or row[i].isdigit() for row in cells)
        and ":" not in cells[0][i]
        for i in range(len(columns))
    ]
    for line in [[cell(name).upper() for name in columns], *cells]:
        parts = [
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(line, widths, right, strict=True)
        ]
        typer.echo("  ".join(parts).rstrip())


def fields(pairs: Iterable[tuple[str, object]]) -> None:
    """Write names and values, one to a line."""
    shown = [(name, cell(value)) for name, value in pairs]
    width = max(len(name) for name, _ in shown)
    for name, value in shown:
        typer.echo(f"{name.ljust(width)}  {value}".rstrip())


def cell(value: object) -> str:
    """Return a value as one line of text."""
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, (tuple, list)):
        return ", ".join(map(cell, value)) or "-"
    return printable(str(value)).replace("\n", "\\n")


def size(size_bytes: int | None) -> str:
    """Return a number of bytes as people read it."""
    if size_bytes is None:
        return "-"
    value = float(size_bytes)
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:
            return f"{size_bytes} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("the last unit takes any number")


def moment(value: datetime) -> str:
    """Return a time to the second, in UTC."""
    return value.strftime("%Y-%m-%d %H:%M:%SZ")


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def say(message: str) -> None:
    """Talk to the person, on stderr."""
    if logs.is_json():
        logs.say(message)
        return
    typer.echo(printable(message), err=True)


def more_follow(shown: int, limit: int) -> None:
    """Say that a list was cut, where it was."""
    if shown >= limit and sys.stderr.isatty():
        say(f"(the first {limit}; --limit shows more, --after goes on behind the last)")
