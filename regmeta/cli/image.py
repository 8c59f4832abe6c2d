"""``regmeta image``: images as people look at them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from regmeta.cli import image_views, listing, moments, render
from regmeta.cli.context import Csv, Json, Wide, settings
from regmeta.cli.listing import Column, of_bytes
from regmeta.cli.moments import At

if TYPE_CHECKING:
    from regmeta.oci.descriptor import Platform

app = typer.Typer(
    help="Images: what they are, how they were made, how they differ.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Named = Annotated[str, typer.Argument(metavar="REFERENCE", help="REPOSITORY:TAG or REPOSITORY@DIGEST.")]
ForPlatform = Annotated[
    str | None,
    typer.Option(
        "--platform",
        metavar="OS/ARCH[/VARIANT]",
        help="Of an index, the image for this platform.",
        show_default=False,
    ),
]


@app.command()
def show(
    ctx: typer.Context,
    reference: Named,
    platform: ForPlatform = None,
    at: At = None,
    as_json: Json = False,
) -> None:
    """Show what an image is: platforms, sizes, times, labels, signatures, and how it runs.

    Sizes count each blob once. Nothing is verified of signatures: they say that somebody signed.

    \b
    Examples:
      regmeta image show hello:1.0
      regmeta image show hello:1.0 --platform linux/arm64
    """
    from regmeta import app
    from regmeta.content import configs
    from regmeta.oci.names import Reference

    wanted, of = Reference.parse(reference), _platform(platform)
    when = moments.parse(at)
    with app.open_for_reading(settings(ctx)) as registry:
        moment = moments.resolved(registry.database, when)
        found = configs.view(registry.database, registry.store, wanted, platform=of, at=moment)
    if as_json:
        render.json(found)
        return
    image_views.show(found)


@app.command()
def tree(ctx: typer.Context, reference: Named, at: At = None, as_json: Json = False) -> None:
    """Draw an image as a tree: platforms, layers and sizes. A layer seen before is marked as shared.

    'regmeta manifest show' draws the same with whole digests.

    \b
    Example:
      regmeta image tree hello:1.0
    """
    from regmeta.app import replicas
    from regmeta.oci.names import Reference
    from regmeta.query import tree

    wanted = Reference.parse(reference)
    when = moments.parse(at)
    with replicas.open_for_queries(settings(ctx)) as registry:
        found = tree.image(registry.database, wanted, moments.resolved(registry.database, when))
    if as_json:
        render.json(found)
        return
    for line in image_views.tree(found):
        typer.echo(line)


@app.command()
def history(
    ctx: typer.Context,
    reference: Named,
    platform: ForPlatform = None,
    at: At = None,
    wide: Wide = False,
    as_json: Json = False,
) -> None:
    """Show how an image was made: each step beside the layer that it made, the base first.

    With --wide whole digests and commands.

    \b
    Examples:
      regmeta image history hello:1.0
      regmeta image history hello:1.0 --platform linux/arm64 --wide
    """
    from regmeta import app
    from regmeta.content import configs
    from regmeta.oci.names import Reference

    wanted, of = Reference.parse(reference), _platform(platform)
    when = moments.parse(at)
    with app.open_for_reading(settings(ctx)) as registry:
        moment = moments.resolved(registry.database, when)
        found = configs.history(registry.database, registry.store, wanted, platform=of, at=moment)
    if as_json:
        render.json(found)
        return
    image_views.history(found, wide)


@app.command()
def layers(
    ctx: typer.Context,
    reference: Named,
    platform: ForPlatform = None,
    at: At = None,
    wide: Wide = False,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """List the layers of an image, the base first. The chain digest names a layer with all below it.

    \b
    Examples:
      regmeta image layers hello:1.0 --platform linux/amd64
      regmeta image layers hello:1.0 --platform linux/amd64 --csv
    """
    from regmeta.app import replicas
    from regmeta.oci.names import Reference
    from regmeta.query.images import layers as images

    wanted, of = Reference.parse(reference), _platform(platform)
    when = moments.parse(at)
    with replicas.open_for_queries(settings(ctx)) as registry:
        moment = moments.resolved(registry.database, when)
        found = images.layers(registry.database, wanted, platform=of, at=moment)
    if as_json and not as_csv:
        render.json(found)
        return
    columns = [
        Column("layer", lambda layer: layer.position),
        Column("digest", lambda layer: layer.digest),
        of_bytes("size", lambda layer: layer.size_bytes),
        Column("type", lambda layer: layer.media_type),
        Column("state", lambda layer: layer.state),
        Column("chain digest", lambda layer: layer.chain_digest, is_wide=True),
    ]
    listing.show(found.layers, columns, as_json=as_json, as_csv=as_csv, wide=wide)
    if not as_csv:
        again = (
            "" if found.total_bytes == found.size_bytes else f", {render.size(found.size_bytes)} once each"
        )
        render.say(
            f"{render.count(len(found.layers), 'layer')}, {render.size(found.total_bytes)}{again}"
            + (f", for {found.platform}" if found.platform else "")
        )


@app.command()
def diff(
    ctx: typer.Context,
    first: Named,
    second: Named,
    platform: ForPlatform = None,
    as_json: Json = False,
) -> None:
    """Show what differs between two images or indexes: platforms, layers, labels, configuration.

    Of two indexes, each platform that both have is compared.

    \b
    Examples:
      regmeta image diff hello:1.0 hello:1.1
      regmeta image diff hello:1.0 other:2 --platform linux/amd64
    """
    from regmeta import app
    from regmeta.content import configs
    from regmeta.oci.names import Reference

    one, two, of = Reference.parse(first), Reference.parse(second), _platform(platform)
    with app.open_for_reading(settings(ctx)) as registry:
        found = configs.compare(registry.database, registry.store, one, two, platform=of)
    if as_json:
        render.json(found)
        return
    image_views.diff(found)


def _platform(text: str | None) -> Platform | None:
    from regmeta.query.images.choose import parse_platform

    return None if text is None else parse_platform(text)
