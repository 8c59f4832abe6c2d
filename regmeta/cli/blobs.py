"""``regmeta blob``."""

from __future__ import annotations

from typing import Annotated

import typer

from regmeta.cli import render
from regmeta.cli.context import Json, settings

app = typer.Typer(help="Blobs.", no_args_is_help=True, rich_markup_mode=None)


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
