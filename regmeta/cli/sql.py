"""``regmeta sql``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from regmeta.cli import listing, render
from regmeta.cli.context import Csv, Json, settings

if TYPE_CHECKING:
    from regmeta.db import Database
    from regmeta.query.sql import Answer

_HELP = "A statement ends with ';'. .views lists the views and their columns, .quit leaves."


def sql(
    ctx: typer.Context,
    statement: Annotated[
        str | None, typer.Argument(help="One SELECT. Without it a shell, or statements from stdin.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000_000, help="How many rows at most.")] = 1000,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds that a statement may take.")] = 60,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Query the views with SQL: a read-only shell, or one statement.

    \b
    Examples:
      regmeta sql "SELECT repository, tag, size_bytes FROM v_tags ORDER BY size_bytes DESC"
      regmeta sql --csv "SELECT * FROM v_usage"
      regmeta sql
    """
    from regmeta.app import replicas
    from regmeta.errors import UsageError
    from regmeta.query import sql as query

    if as_json and as_csv:
        raise UsageError("--json and --csv: use one of them")

    with replicas.open_for_queries(settings(ctx)) as registry:

        def answer(text: str) -> None:
            found = query.run(registry.database, text, limit=limit, timeout_s=timeout)
            _show(found, as_json, as_csv)

        if statement is not None:
            answer(statement)
        elif not sys.stdin.isatty():
            for text in _statements(sys.stdin):
                answer(text)
        else:
            _shell(registry.database, answer)


def _show(found: Answer, as_json: bool, as_csv: bool) -> None:
    if as_json:
        names = _told_apart(found.columns)
        render.json([dict(zip(names, row, strict=True)) for row in found.rows])
    elif as_csv:
        columns = [
            listing.Column(name, lambda row, at=at: row[at])  # type: ignore[misc]
            for at, name in enumerate(found.columns)
        ]
        listing.show(found.rows, columns, as_csv=True)
    else:
        render.table(found.columns, found.rows)
    if found.is_cut:
        render.say(f"(the first {len(found.rows)} rows; --limit shows more)")


def _told_apart(columns: Sequence[str]) -> list[str]:
    """Return names of which each is there once: those of JSON may not come again."""
    names: list[str] = []
    for column in columns:
        name, number = column, 2
        while name in names:
            name, number = f"{column}_{number}", number + 1
        names.append(name)
    return names


def _statements(lines: Iterator[str]) -> Iterator[str]:
    """Give each statement when its semicolon has come, and what is left at the end."""
    from sqlite3 import complete_statement

    text = ""
    for line in lines:
        text += line
        if complete_statement(text):
            yield text
            text = ""
    if text.strip():
        yield text


def _shell(database: Database, answer: Callable[[str], None]) -> None:
    """Talk until the person leaves; what goes wrong is said and the shell goes on."""
    import contextlib
    from sqlite3 import complete_statement

    from regmeta.errors import Error
    from regmeta.query import sql as query

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (input() then knows the arrow keys)
    render.say(f"{database.location}, read-only. {_HELP}")
    text = ""
    while True:
        try:
            line = input("regmeta> " if not text else "    ...> ")
        except EOFError:
            typer.echo()
            return
        except KeyboardInterrupt:
            typer.echo()
            text = ""
            continue
        if not text and line.strip() in (".quit", ".exit"):
            return
        if not text and line.strip() == ".help":
            render.say(_HELP)
        elif not text and line.strip() == ".views":
            render.table(
                ["view", "column", "type"], [(c.view, c.column, c.type) for c in query.views(database)]
            )
        else:
            text += line + "\n"
            if not complete_statement(text):
                continue
            try:
                answer(text)
            except Error as error:
                render.say(f"regmeta: {error}")
            text = ""
