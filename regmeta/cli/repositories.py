"""``regmeta repo``."""

from __future__ import annotations

from typing import Annotated

import typer

from regmeta.cli import render
from regmeta.cli.context import Json, Limit, settings

app = typer.Typer(help="Repositories.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def ls(
    ctx: typer.Context,
    after: Annotated[str, typer.Option(help="Start behind this name.")] = "",
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """List repositories, by name.

    \b
    Examples:
      regmeta repo ls
      regmeta repo ls --after team/app --limit 20
    """
    from regmeta import app
    from regmeta.query import catalog

    with app.open_for_reading(settings(ctx)) as registry:
        found = catalog.repositories(registry.database, after=after, limit=limit)
    if as_json:
        render.json(found)
        return
    render.table(
        ["repository", "tags", "manifests", "changed"],
        [(item.name, item.tags, item.manifests, item.updated_at) for item in found],
    )
    render.more_follow(len(found), limit)


@app.command()
def show(
    ctx: typer.Context,
    repository: Annotated[str, typer.Argument(help="Name of the repository.")],
    as_json: Json = False,
) -> None:
    """Show one repository: what it holds, and its size with each blob counted once.

    \b
    Example:
      regmeta repo show hello
    """
    from regmeta import app
    from regmeta.oci.names import repository_name
    from regmeta.query import catalog

    with app.open_for_reading(settings(ctx)) as registry:
        found = catalog.repository(registry.database, repository_name(repository))
    if as_json:
        render.json(found)
        return
    render.fields(
        [
            ("repository", found.name),
            ("state", found.state),
            ("revision", f"{found.revision}{' (snapshot is behind)' if found.snapshot_is_behind else ''}"),
            ("tags", found.tags),
            ("manifests", f"{found.manifests}, {found.manifests - found.untagged_manifests} of them tagged"),
            ("blobs", f"{found.blobs} ({render.size(found.size_bytes)})"),
            ("created", found.created_at),
            ("changed", found.updated_at),
        ]
    )
