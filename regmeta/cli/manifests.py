"""``regmeta manifest``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from regmeta.cli import filters, graph, moments, render
from regmeta.cli.context import Csv, Json, Limit, Wide, settings
from regmeta.cli.listing import Column, of_bytes
from regmeta.cli.listing import show as show_list
from regmeta.cli.moments import At

if TYPE_CHECKING:
    from regmeta.oci.digest import Digest
    from regmeta.query.lists.manifests import ManifestKind, ManifestSort
    from regmeta.query.results import Image, Node

app = typer.Typer(help="Manifests and indexes.", no_args_is_help=True, rich_markup_mode=None)

app.command("children")(graph.children)
app.command("parents")(graph.parents)

Named = Annotated[str, typer.Argument(metavar="REPOSITORY@DIGEST", help="The manifest.")]


@app.command()
def ls(
    ctx: typer.Context,
    repository: Annotated[
        str | None, typer.Argument(help="Name of the repository; all if not said.", show_default=False)
    ] = None,
    kind: Annotated[str | None, typer.Option(help="image or index.", show_default=False)] = None,
    tagged: Annotated[
        bool | None,
        typer.Option("--tagged/--untagged", help="That has a tag, or none.", show_default=False),
    ] = None,
    subject: Annotated[
        str | None,
        typer.Option(metavar="DIGEST", help="That names this as its subject.", show_default=False),
    ] = None,
    has_referrers: Annotated[
        bool | None,
        typer.Option(
            "--referrers/--no-referrers",
            help="That others name as their subject, or none.",
            show_default=False,
        ),
    ] = None,
    in_index: Annotated[
        bool | None,
        typer.Option("--in-index/--not-in-index", help="That an index lists, or none.", show_default=False),
    ] = None,
    media_type: filters.MediaType = None,
    artifact_type: filters.ArtifactType = None,
    os: filters.Os = None,
    arch: filters.Arch = None,
    variant: filters.Variant = None,
    label: filters.Labels = None,
    signed: filters.Signed = None,
    digest: filters.DigestIs = None,
    larger: filters.Larger = None,
    smaller: filters.Smaller = None,
    created_after: filters.CreatedAfter = None,
    created_before: filters.CreatedBefore = None,
    pushed_after: filters.PushedAfter = None,
    pushed_before: filters.PushedBefore = None,
    pulled: filters.Pulled = None,
    pulled_after: filters.PulledAfter = None,
    pulled_before: filters.PulledBefore = None,
    sort: Annotated[
        str, typer.Option(help="pushed (the order in which they came), id, created, size or pulled.")
    ] = "pushed",
    descending: filters.Descending = False,
    after: filters.After = None,
    limit: Limit = 100,
    total: filters.Total = False,
    deleted: Annotated[
        bool,
        typer.Option(
            "--deleted",
            help="List those that were deleted, and until when they can come back; --after takes an id.",
        ),
    ] = False,
    at: At = None,
    as_json: Json = False,
    as_csv: Csv = False,
    wide: Wide = False,
) -> None:
    """List manifests, as they came or in another order, all or those that filters let through.

    With --at those of a repository that were there then, without what was collected since.

    \b
    Examples:
      regmeta manifest ls hello
      regmeta manifest ls hello --untagged --not-in-index --pushed-before 30d
      regmeta manifest ls --larger 1GiB --sort size --desc
      regmeta manifest ls hello --deleted
    """
    from regmeta.app import replicas
    from regmeta.oci.digest import Digest
    from regmeta.oci.names import repository_name
    from regmeta.query.lists.manifests import ManifestFilter, manifests

    images: dict[str, Any] = {
        "media_type": media_type,
        "artifact_type": artifact_type,
        "os": os,
        "arch": arch,
        "variant": variant,
        "label": label,
        "signed": signed,
        "digest": digest,
        "larger": larger,
        "smaller": smaller,
        "created_after": created_after,
        "created_before": created_before,
        "pushed_after": pushed_after,
        "pushed_before": pushed_before,
        "pulled": pulled,
        "pulled_after": pulled_after,
        "pulled_before": pulled_before,
    }
    links: dict[str, Any] = {"tagged": tagged, "has_referrers": has_referrers, "in_index": in_index}
    if deleted:
        others = {
            "kind": kind,
            "subject": subject,
            "at": at,
            "desc": descending,
            "total": total,
            "csv": as_csv,
        }
        filters.refuse_with("--deleted", {**others, **links, **images, "wide": wide})
        _list_deleted(ctx, repository, after, limit, as_json)
        return
    of = None if repository is None else repository_name(repository)
    with replicas.open_for_queries(settings(ctx)) as registry:
        where = ManifestFilter(
            kind=cast("ManifestKind | None", kind),
            subject=None if subject is None else Digest.parse(subject),
            **links,
            **filters.of_images(registry.database, **images),
        )
        found = manifests(
            registry.database,
            of,
            where,
            sort=cast("ManifestSort", sort),
            descending=descending,
            after=after,
            limit=limit,
            total=total,
            at=filters.time(registry.database, at),
        )
    columns = [
        Column("repository", lambda item: item.repository, is_wide=of is not None),
        Column("id", lambda item: item.id),
        Column("digest", lambda item: item.digest),
        Column("kind", lambda item: item.kind),
        Column("platform", lambda item: item.platform),
        Column("type", lambda item: item.artifact_type or item.media_type),
        of_bytes("size", lambda item: item.size_bytes),
        Column("created", lambda item: item.created_at, is_wide=sort != "created"),
        Column("pushed", lambda item: item.pushed_at, is_wide=True),
        Column("pulled", lambda item: item.pulled_at, is_wide=sort != "pulled"),
        Column("by", lambda item: item.pushed_by, is_wide=True),
        Column("subject", lambda item: item.subject, is_wide=True),
        Column("tags", lambda item: item.tags),
    ]
    show_list(found, columns, as_json=as_json, as_csv=as_csv, wide=wide)


def _list_deleted(
    ctx: typer.Context, repository: str | None, after: str | None, limit: int, as_json: bool
) -> None:
    from regmeta.app import replicas
    from regmeta.errors import UsageError
    from regmeta.oci.names import repository_name
    from regmeta.query.deleted import deleted_manifests

    if repository is None:
        raise UsageError("--deleted: name the repository")
    if after is not None and not (after.isascii() and after.isdigit() and len(after) < 19):
        raise UsageError(f"--after {after[:80]!r}: with --deleted give the id of a manifest")
    with replicas.open_for_queries(settings(ctx)) as registry:
        name, behind = repository_name(repository), int(after or 0)
        found = deleted_manifests(registry.database, name, after=behind, limit=limit)
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
    from regmeta.app import replicas
    from regmeta.oci.names import Reference
    from regmeta.query import tree

    wanted = Reference.parse(reference)
    when = moments.parse(at)
    with replicas.open_for_queries(settings(ctx)) as registry:
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
