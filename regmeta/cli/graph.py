"""How content hangs together: referrers, bases, derived images, members of indexes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regmeta.cli import render
from regmeta.cli.context import Csv, Json, Limit, Wide, settings
from regmeta.cli.filters import After, Total
from regmeta.cli.listing import Column, of_bytes, show

if TYPE_CHECKING:
    from regmeta.query.graph.lineage import Kin
    from regmeta.query.graph.referrers import Referrer, ReferrerNode

_SHORT = 12  # hex digits of a digest that stands beside a tag

Image = Annotated[str, typer.Argument(metavar="REPOSITORY[:TAG|@DIGEST]", help="The image or index.")]
Platform = Annotated[
    str | None,
    typer.Option(metavar="OS/ARCH[/VARIANT]", help="Only images for this platform.", show_default=False),
]

# --- referrers ----------------------------------------------------------------------------------


def referrers(
    ctx: typer.Context,
    reference: Image,
    artifact_type: Annotated[
        list[str] | None,
        typer.Option(
            "--type",
            metavar="TYPE",
            help="Only those of this artifact type; can be repeated.",
            show_default=False,
        ),
    ] = None,
    tree: Annotated[bool, typer.Option("--tree", help="Also what refers to referrers, as a tree.")] = False,
    after: After = None,
    limit: Limit = 100,
    total: Total = False,
    as_json: Json = False,
    as_csv: Csv = False,
    wide: Wide = False,
) -> None:
    """Show what refers to an image: signatures, bills of materials, whatever names it as its subject.

    They are listed in the order in which they came. An image that is given by its digest need not be here. A
    tree goes 8 steps far.

    \b
    Examples:
      regmeta referrers hello:1.0
      regmeta referrers hello:1.0 --type application/spdx+json
      regmeta referrers hello:1.0 --tree
    """
    from regmeta.app import replicas
    from regmeta.errors import UsageError
    from regmeta.oci.names import Reference
    from regmeta.query import catalog
    from regmeta.query.graph.referrers import referrer_tree
    from regmeta.query.graph.referrers import referrers as referrers_of

    if tree and (artifact_type or after or total or as_csv):
        raise UsageError("--tree shows all referrers: it goes with --limit, --json and --wide only")
    wanted = Reference.parse(reference)
    with replicas.open_for_queries(settings(ctx)) as registry:
        database = registry.database
        subject = wanted.digest or catalog.resolve(database, wanted)
        if tree:
            whole = referrer_tree(database, wanted.repository, subject, limit=limit)
        else:
            page = referrers_of(
                database,
                wanted.repository,
                subject,
                artifact_types=artifact_type or (),
                after=after,
                limit=limit,
                total=total,
            )
    if not tree:
        columns = [
            Column("digest", lambda item: item.digest),
            Column("type", lambda item: item.artifact_type),
            Column("signature", lambda item: item.signature),
            of_bytes("size", lambda item: item.size_bytes),
            Column("pushed", lambda item: item.pushed_at),
            Column("media type", lambda item: item.media_type, is_wide=True),
            Column("annotations", _annotations, is_wide=True),
        ]
        show(page, columns, as_json=as_json, as_csv=as_csv, wide=wide)
        return
    if as_json:
        render.json(whole)
        return
    typer.echo(f"{wanted.repository}@{subject}")
    for line in _lines(whole.referrers, "", wide=wide):
        typer.echo(line)
    if whole.is_cut:
        render.say("there are more, deeper or further; --limit shows more")


def _annotations(item: Referrer) -> list[str]:
    return [f"{name}={value}" for name, value in item.annotations.items()]


def _lines(nodes: tuple[ReferrerNode, ...], indent: str, *, wide: bool) -> Iterator[str]:
    for number, node in enumerate(nodes):
        is_last = number == len(nodes) - 1
        found, below = node.referrer, indent + ("   " if is_last else "│  ")
        shown = [str(found.digest), render.cell(found.artifact_type or found.media_type)]
        if found.signature is not None:
            shown.append(f"{found.signature} signature")
        yield f"{indent}{'└─' if is_last else '├─'} {'  '.join(shown)}"
        for said in _annotations(found) if wide else ():
            yield f"{below}   {render.cell(said)}"
        yield from _lines(node.referrers, below, wide=wide)


# --- kin ----------------------------------------------------------------------------------------


def bases(
    ctx: typer.Context,
    reference: Image,
    platform: Platform = None,
    after: After = None,
    limit: Limit = 100,
    as_json: Json = False,
    as_csv: Csv = False,
    wide: Wide = False,
) -> None:
    """Show the images that an image is built on: all their layers are its first ones. The nearest come first.

    Of an index each image is asked about. Layers are compared uncompressed.

    \b
    Examples:
      regmeta bases hello:1.0
      regmeta bases hello:1.0 --platform linux/arm64
    """
    from regmeta.app import replicas
    from regmeta.oci.names import Reference
    from regmeta.query.graph.lineage import bases as bases_of

    wanted = Reference.parse(reference)
    with replicas.open_for_queries(settings(ctx)) as registry:
        found = bases_of(registry.database, wanted, platform=platform, after=after, limit=limit)
    show(found, _kin(), as_json=as_json, as_csv=as_csv, wide=wide)


def derived(
    ctx: typer.Context,
    reference: Image,
    same: Annotated[
        bool,
        typer.Option("--same", help="Show those with the very same layers, which are not derived, instead."),
    ] = False,
    platform: Platform = None,
    after: After = None,
    limit: Limit = 100,
    as_json: Json = False,
    as_csv: Csv = False,
    wide: Wide = False,
) -> None:
    """Show the images that are built on an image: their first layers are all of its, and they have more.

    They are listed in the order in which they came. Of an index each image is asked about.

    \b
    Examples:
      regmeta derived base/debian:13
      regmeta derived base/debian:13 --same
    """
    from regmeta.app import replicas
    from regmeta.oci.names import Reference
    from regmeta.query.graph import lineage

    wanted = Reference.parse(reference)
    ask = lineage.same_layers if same else lineage.derived
    with replicas.open_for_queries(settings(ctx)) as registry:
        found = ask(registry.database, wanted, platform=platform, after=after, limit=limit)
    show(found, _kin(), as_json=as_json, as_csv=as_csv, wide=wide)


def _kin() -> list[Column]:
    return [
        Column("repository", lambda item: item.repository),
        Column("tags", lambda item: [*item.tags, *item.index_tags], _tags),
        Column("digest", lambda item: item.digest, _short),
        Column("platform", lambda item: item.platform),
        Column("shared", lambda item: item.shared_layers, _shared),
        Column("layers", lambda item: item.layers, is_wide=True),
        of_bytes("size", lambda item: item.total_bytes),
        Column("pushed", lambda item: item.pushed_at),
        Column("of", lambda item: item.of, is_wide=True),
        Column("of platform", lambda item: item.of_platform, is_wide=True),
    ]


def _tags(item: Kin) -> str:
    """Return tags as people see them: those of an index that lists the image in brackets."""
    return ", ".join([*item.tags, *(f"({tag})" for tag in item.index_tags)]) or "-"


def _shared(item: Kin) -> str:
    return f"{item.shared_layers} of {item.layers}"


def _short(item: Any) -> str:
    return f"{item.digest.algorithm}:{item.digest.hex[:_SHORT]}"


# --- members ------------------------------------------------------------------------------------


def children(
    ctx: typer.Context,
    reference: Image,
    after: After = None,
    limit: Limit = 100,
    total: Total = False,
    as_json: Json = False,
    as_csv: Csv = False,
    wide: Wide = False,
) -> None:
    """Show what an index lists, in its order, also what is absent here.

    \b
    Example:
      regmeta manifest children hello:1.0
    """
    from regmeta.app import replicas
    from regmeta.oci.names import Reference
    from regmeta.query.graph.members import children as children_of

    wanted = Reference.parse(reference)
    with replicas.open_for_queries(settings(ctx)) as registry:
        found = children_of(registry.database, wanted, after=after, limit=limit, total=total)
    columns = [
        Column("position", lambda item: item.position),
        Column("digest", lambda item: item.digest),
        Column("kind", lambda item: item.kind),
        Column("platform", lambda item: item.platform),
        of_bytes("size", lambda item: item.size_bytes),
        Column("absence", lambda item: item.absence, is_wide=True),
        Column("os version", lambda item: item.os_version, is_wide=True),
        Column("media type", lambda item: item.media_type, is_wide=True),
    ]
    show(found, columns, as_json=as_json, as_csv=as_csv, wide=wide)


def parents(
    ctx: typer.Context,
    reference: Image,
    after: After = None,
    limit: Limit = 100,
    as_json: Json = False,
    as_csv: Csv = False,
    wide: Wide = False,
) -> None:
    """Show the indexes that list a manifest. One that is given by its digest need not be here.

    \b
    Example:
      regmeta manifest parents hello@sha256:...
    """
    from regmeta.app import replicas
    from regmeta.oci.names import Reference
    from regmeta.query import catalog
    from regmeta.query.graph.members import parents as parents_of

    wanted = Reference.parse(reference)
    with replicas.open_for_queries(settings(ctx)) as registry:
        digest = wanted.digest or catalog.resolve(registry.database, wanted)
        found = parents_of(registry.database, wanted.repository, digest, after=after, limit=limit)
    columns = [
        Column("digest", lambda item: item.digest),
        Column("tags", lambda item: item.tags),
        Column("pushed", lambda item: item.pushed_at),
        Column("media type", lambda item: item.media_type, is_wide=True),
    ]
    show(found, columns, as_json=as_json, as_csv=as_csv, wide=wide)
