"""``regmeta db``: the schema, and who may do what with it."""

from __future__ import annotations

from typing import Annotated

import typer

from regmeta.cli import render
from regmeta.cli.context import Json, settings
from regmeta.cli.copying import copy
from regmeta.errors import FINDINGS

app = typer.Typer(help="The database's schema.", no_args_is_help=True, rich_markup_mode=None)
app.command()(copy)

Revision = Annotated[str, typer.Argument(help="A revision; see 'regmeta db history'.")]


@app.command()
def upgrade(ctx: typer.Context, revision: Revision = "head") -> None:
    """Bring the schema up to a revision, by default to that of this release. Make a copy first.

    \b
    Example:
      regmeta db upgrade
    """
    from regmeta import app
    from regmeta.maintain import schema

    with app.open_database(settings(ctx)) as database:
        schema.upgrade(database, app.migrations_folder(), revision)
        render.say(f"{database.location} is at revision {schema.current(database)}")


@app.command()
def downgrade(
    ctx: typer.Context,
    revision: Revision,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it: what older schemas cannot hold is lost.")
    ] = False,
) -> None:
    """Bring the schema down to a revision.

    \b
    Example:
      regmeta db downgrade 0001 --yes
    """
    from regmeta import app
    from regmeta.errors import UsageError
    from regmeta.maintain import schema

    if revision == schema.BASE:
        raise UsageError("below the first revision there is nothing left to keep: remove the database")
    if not yes:
        raise UsageError("a downgrade loses what the older schema cannot hold: say --yes")
    with app.open_database(settings(ctx)) as database:
        schema.downgrade(database, app.migrations_folder(), revision)
        render.say(f"{database.location} is at revision {schema.current(database) or 'none'}")


@app.command()
def current(ctx: typer.Context, as_json: Json = False) -> None:
    """Show which revision the schema is at, and which one this release needs.

    \b
    Example:
      regmeta db current
    """
    from regmeta import app
    from regmeta.db import SCHEMA_HEAD

    with app.open_database(settings(ctx)) as database, database.read() as connection:
        found = database.schema_revision(connection)
    if as_json:
        render.json({"current": found, "needed": SCHEMA_HEAD})
    else:
        render.fields([("current", found), ("needed", SCHEMA_HEAD)])
    if found != SCHEMA_HEAD:
        raise typer.Exit(FINDINGS)


@app.command()
def history(as_json: Json = False) -> None:
    """List the revisions, newest first.

    \b
    Example:
      regmeta db history
    """
    from regmeta import app
    from regmeta.maintain import schema

    found = schema.history(app.migrations_folder())
    if as_json:
        render.json([{"revision": revision, "what": what} for revision, what in found])
    else:
        render.table(["revision", "what"], [(revision, what.splitlines()[0]) for revision, what in found])


@app.command()
def check(ctx: typer.Context, as_json: Json = False) -> None:
    """Compare the database's schema with what this release expects; exit code 1 if it differs.

    \b
    Example:
      regmeta db check
    """
    from regmeta import app
    from regmeta.maintain import schema

    with app.open_database(settings(ctx)) as database:
        found = schema.differences(database)
    if as_json:
        render.json(found)
    for line in [] if as_json else found:
        typer.echo(render.printable(line))
    if found:
        raise typer.Exit(FINDINGS)
    render.say("the schema is as expected")


@app.command()
def roles(
    ctx: typer.Context,
    migrate: Annotated[str, typer.Option(help="Who owns the schema and changes it: 'init', 'db upgrade'.")],
    runtime: Annotated[str, typer.Option(help="Who reads and writes rows: all other commands.")],
    read: Annotated[str, typer.Option(help="Who only reads.")],
    apply: Annotated[
        bool, typer.Option("--apply", help="Run the statements, all or nothing, instead of writing them.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write the SQL that gives three roles of PostgreSQL their rights; --apply runs it. May be repeated.

    Roles that are missing are made, without a password. Run it before 'regmeta init', once more behind it,
    and after rights were changed by hand. It needs who may make roles and owns the database.

    \b
    Examples:
      regmeta db roles --migrate rm_migrate --runtime rm_runtime --read rm_read
      regmeta db roles --migrate rm_migrate --runtime rm_runtime --read rm_read --apply
    """
    from regmeta import app
    from regmeta.maintain.roles import Roles, apply_roles, role_statements

    wanted = Roles(migrate, runtime, read)
    with app.open_database(settings(ctx)) as database:
        statements = (apply_roles if apply else role_statements)(database, wanted)
        if as_json:
            render.json({"applied": apply, "statements": statements})
        elif not apply:
            for line in ("BEGIN", *statements, "COMMIT"):
                typer.echo(f"{line};")
        if apply:
            render.say(f"{database.location}: {render.count(len(statements), 'statement')} run")
