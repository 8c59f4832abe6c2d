"""``regmeta blob``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

from regmeta.cli import filters, graph, render
from regmeta.cli.context import Csv, Json, Limit, settings
from regmeta.cli.listing import Column, of_bytes
from regmeta.cli.listing import show as show_list

if TYPE_CHECKING:
    from regmeta.query.lists.blobs import BlobSort, BlobState

app = typer.Typer(help="Blobs.", no_args_is_help=True, rich_markup_mode=None)

app.command("users")(graph.users)
app.command("find")(graph.find)
app.command("dedup")(graph.dedup)


@app.command()
def ls(
    ctx: typer.Context,
    repository: Annotated[
        str | None,
        typer.Argument(
            help="Name of the repository that may read them; all blobs if not said.", show_default=False
        ),
    ] = None,
    larger: filters.Larger = None,
    smaller: filters.Smaller = None,
    created_after: filters.StoredAfter = None,
    created_before: filters.StoredBefore = None,
    state: Annotated[str | None, typer.Option(help="live or damaged.", show_default=False)] = None,
    used: Annotated[
        bool | None,
        typer.Option("--used/--unused", help="That a repository may read, or none.", show_default=False),
    ] = None,
    sort: Annotated[str, typer.Option(help="digest, size or created.")] = "digest",
    descending: filters.Descending = False,
    after: filters.After = None,
    limit: Limit = 100,
    total: filters.Total = False,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """List stored blobs, all or those that filters let through.

    \b
    Examples:
      regmeta blob ls --sort size --desc --limit 20
      regmeta blob ls hello --larger 100MiB
      regmeta blob ls --unused
    """
    from regmeta import app
    from regmeta.oci.names import repository_name
    from regmeta.query.lists.blobs import BlobFilter, blobs

    of = None if repository is None else repository_name(repository)
    with app.open_for_reading(settings(ctx)) as registry:
        where = BlobFilter(
            min_bytes=filters.size(larger),
            max_bytes=filters.size(smaller),
            created_from=filters.time(registry.database, created_after),
            created_until=filters.time(registry.database, created_before),
            state=cast("BlobState | None", state),
            used=used,
        )
        found = blobs(
            registry.database,
            of,
            where,
            sort=cast("BlobSort", sort),
            descending=descending,
            after=after,
            limit=limit,
            total=total,
        )
    columns = [
        Column("digest", lambda item: item.digest),
        of_bytes("size", lambda item: item.size_bytes),
        Column("state", lambda item: item.state),
        Column("used", lambda item: "yes" if item.is_used else "no"),
        Column("stored", lambda item: item.created_at),
    ]
    show_list(found, columns, as_json=as_json, as_csv=as_csv)


@app.command()
def show(
    ctx: typer.Context,
    digest: Annotated[str, typer.Argument(help="The whole digest, with its algorithm.")],
    as_json: Json = False,
) -> None:
    """Show a blob: its state, where its bytes are, and who uses it.

    \b
    Example:
      regmeta blob show sha256:...
    """
    from regmeta import app
    from regmeta.oci.digest import Digest
    from regmeta.query.blobs import blob

    wanted = Digest.parse(digest)
    with app.open_for_reading(settings(ctx)) as registry:
        found = blob(registry.database, wanted)
    if as_json:
        render.json(found)
        return
    render.fields(
        [
            ("blob", found.digest),
            ("size", f"{render.size(found.size_bytes)} ({found.size_bytes} bytes)"),
            ("state", found.state),
            ("key", found.key),
            ("stored", found.created_at),
            ("leased until", found.lease_until),
        ]
    )
    typer.echo()
    render.table(["repository", "manifests"], [(use.repository, use.manifests) for use in found.uses])


@app.command()
def rm(
    ctx: typer.Context,
    repository: Annotated[str, typer.Argument(help="Name of the repository.")],
    digest: Annotated[str, typer.Argument(help="The whole digest, with its algorithm.")],
) -> None:
    """Take a repository's access to a blob away. Its bytes are collected when no other repository has any.

    Refused while a manifest of the repository names it.

    \b
    Example:
      regmeta blob rm hello sha256:...
    """
    from regmeta import app
    from regmeta.maintain.delete.blob import delete_blob
    from regmeta.oci.digest import Digest
    from regmeta.oci.names import repository_name

    wanted = Digest.parse(digest)
    with app.open_for_writing(settings(ctx)) as registry:
        delete_blob(registry.writer, repository_name(repository), wanted)
    render.say(f"{repository} has no access to {wanted} any more; to undo it, push it again")
