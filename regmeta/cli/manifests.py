"""``regmeta manifest``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from regmeta.cli import render
from regmeta.cli.context import Json, Limit, settings

if TYPE_CHECKING:
    from regmeta.query.results import Image, Node

app = typer.Typer(help="Manifests and indexes.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def ls(
    ctx: typer.Context,
    repository: Annotated[str, typer.Argument(help="Name of the repository.")],
    after: Annotated[int, typer.Option(help="Start behind the manifest of this id.")] = 0,
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """List the manifests of a repository, in the order in which they came.

    \b
    Example:
      regmeta manifest ls hello
    """
    from regmeta import app
    from regmeta.oci.names import repository_name
    from regmeta.query import catalog

    with app.open_for_reading(settings(ctx)) as registry:
        found = catalog.manifests(registry.database, repository_name(repository), after=after, limit=limit)
    if as_json:
        render.json(found)
        return
    render.table(
        ["id", "digest", "kind", "platform", "type", "size", "tags"],
        [
            (
                m.id,
                m.digest,
                m.kind,
                m.platform,
                m.artifact_type or m.media_type,
                render.size(m.size_bytes),
                m.tags,
            )
            for m in found
        ],
    )
    render.more_follow(len(found), limit)


@app.command()
def show(
    ctx: typer.Context,
    reference: Annotated[str, typer.Argument(help="REPOSITORY:TAG or REPOSITORY@DIGEST.")],
    raw: Annotated[bool, typer.Option("--raw", help="Write the manifest's own bytes, exactly.")] = False,
    as_json: Json = False,
) -> None:
    """Show an image as a tree: platforms, layers and sizes.

    \b
    Examples:
      regmeta manifest show hello:1.0
      regmeta manifest show hello:1.0 --raw | sha256sum
    """
    from regmeta import app
    from regmeta.oci.names import Reference
    from regmeta.query import tree

    wanted = Reference.parse(reference)
    with app.open_for_reading(settings(ctx)) as registry:
        if raw:
            typer.echo(tree.content(registry.database, wanted), nl=False)
            return
        found = tree.image(registry.database, wanted)
    if as_json:
        render.json(found)
        return
    _show(found)


def _show(image: Image) -> None:
    render.fields(
        [
            ("image", f"{image.repository}@{image.digest}"),
            ("tags", image.tags),
            ("type", image.tree.media_type),
            ("size", f"{render.size(image.unique_bytes)}, each blob counted once"),
            ("pushed", f"{render.moment(image.pushed_at)} by {image.pushed_by}"),
            *((f"  {name}", value) for name, value in image.labels.items()),
        ]
    )
    typer.echo()
    for line in _lines(image.tree):
        typer.echo(line)


def _lines(node: Node, indent: str = "") -> Iterator[str]:
    """Return a node and what is below it, drawn as a tree."""
    yield indent + _title(node)
    parts: list[Node | str] = []
    if node.config is not None:
        parts.append(f"config  {node.config.digest}  {render.size(node.config.size_bytes)}")
    for layer in node.layers:
        absent = "  (absent)" if layer.is_absent else ""
        parts.append(f"layer   {layer.digest}  {render.size(layer.size_bytes)}{absent}")
    parts += node.children
    below = indent.replace("├─", "│ ").replace("└─", "  ")
    for number, part in enumerate(parts):
        branch = f"{below}{'└─' if number == len(parts) - 1 else '├─'} "
        if isinstance(part, str):
            yield branch + part
        else:
            yield from _lines(part, branch)


def _title(node: Node) -> str:
    if node.absence is not None:
        return f"absent  {node.digest}  {render.cell(node.platform)}  ({node.absence})"
    shown = [node.kind.ljust(6), str(node.digest)]
    if node.platform:
        shown.append(render.cell(node.platform))
    if node.artifact_type:
        shown.append(render.cell(node.artifact_type))
    shown.append(render.size(node.total_bytes))
    if node.subject is not None:
        shown.append(f"refers to {node.subject}")
    return "  ".join(shown)
