"""``regmeta manifest``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from regmeta.cli import moments, render
from regmeta.cli.context import Json, Limit, settings
from regmeta.cli.moments import At

if TYPE_CHECKING:
    from regmeta.oci.digest import Digest
    from regmeta.query.results import Image, Node

app = typer.Typer(help="Manifests and indexes.", no_args_is_help=True, rich_markup_mode=None)

Named = Annotated[str, typer.Argument(metavar="REPOSITORY@DIGEST", help="The manifest.")]


@app.command()
def ls(
    ctx: typer.Context,
    repository: Annotated[str, typer.Argument(help="Name of the repository.")],
    after: Annotated[int, typer.Option(help="Start behind the manifest of this id.")] = 0,
    limit: Limit = 100,
    deleted: Annotated[
        bool,
        typer.Option("--deleted", help="List those that were deleted, and until when they can come back."),
    ] = False,
    at: At = None,
    as_json: Json = False,
) -> None:
    """List the manifests of a repository, in the order in which they came.

    With --at those that were there then, without what was collected since.

    \b
    Examples:
      regmeta manifest ls hello
      regmeta manifest ls hello --deleted
    """
    from regmeta import app
    from regmeta.errors import UsageError
    from regmeta.oci.names import repository_name
    from regmeta.query import catalog

    if deleted and at is not None:
        raise UsageError("--deleted and --at: use one of them")
    if deleted:
        _list_deleted(ctx, repository, after, limit, as_json)
        return
    when = moments.parse(at)
    with app.open_for_reading(settings(ctx)) as registry:
        moment = moments.resolved(registry.database, when)
        name = repository_name(repository)
        found = catalog.manifests(registry.database, name, after=after, limit=limit, at=moment)
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


def _list_deleted(ctx: typer.Context, repository: str, after: int, limit: int, as_json: bool) -> None:
    from regmeta import app
    from regmeta.oci.names import repository_name
    from regmeta.query.deleted import deleted_manifests

    with app.open_for_reading(settings(ctx)) as registry:
        found = deleted_manifests(registry.database, repository_name(repository), after=after, limit=limit)
    if as_json:
        render.json(found)
        return
    render.table(
        ["id", "digest", "kind", "deleted", "can come back until", "tags"],
        [(m.id, m.digest, m.kind, m.deleted_at, m.until, m.tags) for m in found],
    )
    render.more_follow(len(found), limit)


@app.command()
def rm(
    ctx: typer.Context,
    reference: Named,
    cascade: Annotated[
        bool, typer.Option("--cascade", help="Delete with an index what no tag and no other index needs.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Delete a manifest and end all its tags. It can be brought back until it is collected.

    Refused while an index lists it.

    \b
    Examples:
      regmeta manifest rm hello@sha256:...
      regmeta manifest rm hello@sha256:... --cascade
    """
    from regmeta import app
    from regmeta.maintain.delete.manifest import delete_manifest

    repository, digest = _named(reference)
    with app.open_for_writing(settings(ctx)) as registry:
        found = delete_manifest(registry.writer, repository, digest, cascade=cascade)
    if as_json:
        render.json(found)
    for deleted in found.deleted:
        render.say(f"{repository}@{deleted} is deleted")
    if found.tags_ended:
        render.say(f"removed: {', '.join(f'{repository}:{tag}' for tag in found.tags_ended)}")
    for kept in found.kept:
        render.say(f"{repository}@{kept.digest} stays: {kept.why}")
    tags = " --tags" if found.tags_ended else ""
    render.say(f"to undo it: regmeta manifest undelete {repository}@{digest}{tags}")


@app.command()
def undelete(
    ctx: typer.Context,
    reference: Named,
    tags: Annotated[bool, typer.Option("--tags", help="Also the tags that its deletion removed.")] = False,
    as_json: Json = False,
) -> None:
    """Bring a deleted manifest back, with all that it lists.

    \b
    Example:
      regmeta manifest undelete hello@sha256:... --tags
    """
    from regmeta import app
    from regmeta.maintain.delete.undelete import undelete_manifest

    repository, digest = _named(reference)
    with app.open_for_writing(settings(ctx)) as registry:
        found = undelete_manifest(registry.writer, repository, digest, tags=tags)
    if as_json:
        render.json(found)
    for restored in found.restored:
        render.say(f"{repository}@{restored} is back")
    if found.tags:
        render.say(f"set again: {', '.join(f'{repository}:{tag}' for tag in found.tags)}")
    else:
        render.say(f"it has no tag and is collected in the end: regmeta tag set {repository}:TAG {digest}")


def _named(text: str) -> tuple[str, Digest]:
    from regmeta.errors import UsageError
    from regmeta.oci.names import Reference

    reference = Reference.parse(text)
    if reference.digest is None:
        raise UsageError(
            f"{text}: write REPOSITORY@DIGEST; 'regmeta tag rm' removes a tag, and 'regmeta tag show' shows"
            " its digest"
        )
    if reference.tag is not None:
        raise UsageError(f"{text}: write REPOSITORY@DIGEST, without the tag")
    return reference.repository, reference.digest


@app.command()
def show(
    ctx: typer.Context,
    reference: Annotated[str, typer.Argument(help="REPOSITORY:TAG or REPOSITORY@DIGEST.")],
    raw: Annotated[bool, typer.Option("--raw", help="Write the manifest's own bytes, exactly.")] = False,
    at: At = None,
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
    when = moments.parse(at)
    with app.open_for_reading(settings(ctx)) as registry:
        moment = moments.resolved(registry.database, when)
        if raw:
            typer.echo(tree.content(registry.database, wanted, moment), nl=False)
            return
        found = tree.image(registry.database, wanted, moment)
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
