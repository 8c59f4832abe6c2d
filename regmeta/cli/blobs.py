"""``regmeta blob``."""

from __future__ import annotations

from typing import Annotated

import typer

from regmeta.cli import render
from regmeta.cli.context import Json, settings

app = typer.Typer(help="Blobs.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Blobs: layers, configurations, and the bytes of manifests."""


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
