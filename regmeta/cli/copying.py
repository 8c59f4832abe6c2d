"""``regmeta db copy``: the registry's rows move to another database."""

from __future__ import annotations

from typing import Annotated

import typer

from regmeta.cli import render
from regmeta.cli.context import Json, settings
from regmeta.errors import UsageError


def copy(
    ctx: typer.Context,
    target: Annotated[
        str | None,
        typer.Argument(
            help="An empty database: sqlite:////path (the file is made) or postgresql://user@host/name.",
            show_default=False,
        ),
    ] = None,
    abandon: Annotated[
        bool, typer.Option("--abandon", help="Give a copy up that was begun: the database is in use again.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Move all rows to another database, SQLite or PostgreSQL, compare them, and put that one to use.

    The registry can be read meanwhile, and not be written. At the end the old database is retired: nobody can
    open it any more. Interrupted, run it again: it goes on from there.

    \b
    Examples:
      regmeta db copy postgresql://regmeta@db.example/regmeta
      regmeta db copy sqlite:////srv/regmeta/regmeta.db
      regmeta db copy --abandon
    """
    from regmeta.app import database_copy
    from regmeta.cli.progress import StepProgress

    if (target is None) != abandon:
        raise UsageError("give the URL of the database to copy into, or --abandon")
    if target is None:
        given_up = database_copy.abandon(settings(ctx))
        if as_json:
            render.json(given_up)
            return
        render.say(f"the copy to {given_up.location} was given up: the database is in use again")
        render.say(f"what was copied there is of no use: make {given_up.location} anew before the next copy")
        return
    done = database_copy.copy(settings(ctx), target, StepProgress)
    if as_json:
        render.json(done)
        return
    if done.tables:
        render.say(
            f"{render.count(done.rows, 'row')} of {render.count(len(done.tables), 'table')} were copied,"
            " read again and are the same"
        )
    render.say(f"the registry's database is {done.target} (id {done.identity.database_id})")
    render.say(f"{done.source} is retired: set REGMETA_DATABASE, or 'database' in the settings' file")
