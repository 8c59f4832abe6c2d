"""``regmeta gc``: what nothing needs any more."""

from __future__ import annotations

from typing import Annotated

import typer

from regmeta.cli import render
from regmeta.cli.context import Json, settings
from regmeta.errors import FINDINGS

app = typer.Typer(help="Collect what nothing needs.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def run(ctx: typer.Context, as_json: Json = False) -> None:
    """Collect the manifests and blobs whose time is over, and delete the objects that are dead.

    Runs beside imports and other collectors. Interrupted, run it again.

    \b
    Example:
      regmeta gc run
    """
    from regmeta import app
    from regmeta.maintain.collect.run import collect

    with app.open_for_writing(settings(ctx)) as registry:
        found = collect(registry.writer, registry.store)
    if as_json:
        render.json(found)
    for failure in found.failures:
        render.say(f"regmeta: {failure}")
    render.say(
        f"{render.count(found.manifests, 'manifest')} and {render.count(found.blobs, 'blob')} collected,"
        f" {render.count(found.objects.deleted, 'object')} deleted ({render.size(found.objects.size_bytes)})"
    )
    if found.failures:
        raise typer.Exit(FINDINGS)


@app.command()
def sweep(
    ctx: typer.Context,
    force: Annotated[
        bool, typer.Option("--force", help="Also when more than a fifth of all objects are unknown.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Look for objects that no row knows, and have them deleted by a later 'regmeta gc run'.

    \b
    Example:
      regmeta gc sweep
    """
    from regmeta import app
    from regmeta.maintain.collect.sweep import sweep as look

    with app.open_for_writing(settings(ctx)) as registry:
        found = look(registry.database, registry.store, registry.writer.lifetimes, force=force)
    if as_json:
        render.json(found)
        return
    render.say(
        f"{render.count(found.objects, 'object')}, {found.unknown} unknown:"
        f" {found.buried} to be deleted, {found.too_young} left alone since they are young"
        + (f", {found.kept} since they may heal a damaged blob" if found.kept else "")
    )
