"""``regmeta blob``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from regmeta.cli import filters, render
from regmeta.cli.context import Csv, Json, Limit, Wide, settings
from regmeta.cli.listing import Column, of_bytes
from regmeta.cli.listing import show as show_list

if TYPE_CHECKING:
    from regmeta.query.lists.blobs import BlobSort, BlobState

app = typer.Typer(help="Blobs.", no_args_is_help=True, rich_markup_mode=None)

Whole = Annotated[str, typer.Argument(metavar="DIGEST", help="The whole digest, with its algorithm.")]


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
    from regmeta.app import replicas
    from regmeta.oci.names import repository_name
    from regmeta.query.lists.blobs import BlobFilter, blobs

    of = None if repository is None else repository_name(repository)
    with replicas.open_for_queries(settings(ctx)) as registry:
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
    from regmeta.app import replicas
    from regmeta.oci.digest import Digest
    from regmeta.query.blobs import blob

    wanted = Digest.parse(digest)
    with replicas.open_for_queries(settings(ctx)) as registry:
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


@app.command()
def users(
    ctx: typer.Context,
    digest: Whole,
    repositories: Annotated[
        bool, typer.Option("--repositories", help="Show the repositories that hold it instead.")
    ] = False,
    after: filters.After = None,
    limit: Limit = 100,
    as_json: Json = False,
    as_csv: Csv = False,
    wide: Wide = False,
) -> None:
    """Show the manifests that use a blob, and how.

    \b
    Examples:
      regmeta blob users sha256:...
      regmeta blob users sha256:... --repositories
    """
    from regmeta.app import replicas
    from regmeta.oci.digest import Digest
    from regmeta.query.blobs import blob_repositories, blob_users

    wanted = Digest.parse(digest)
    found: Any
    with replicas.open_for_queries(settings(ctx)) as registry:
        ask: Any = blob_repositories if repositories else blob_users
        found = ask(registry.database, wanted, after=after, limit=limit)
    columns = [Column("repository", lambda item: item)]
    if not repositories:
        columns = [
            Column("repository", lambda item: item.repository),
            Column("tags", lambda item: item.tags),
            Column("digest", lambda item: item.digest),
            Column("kind", lambda item: item.kind),
            Column("use", lambda item: item.use),
            Column("position", lambda item: item.position),
        ]
    show_list(found, columns, as_json=as_json, as_csv=as_csv, wide=wide)


@app.command()
def url(
    ctx: typer.Context,
    repository: Annotated[str, typer.Argument(help="Name of the repository.")],
    digest: Whole,
    lifetime: Annotated[
        str, typer.Option("--for", help="How long it works: 90s, 15m, 12h; 7d at most.")
    ] = "15m",
) -> None:
    """Show a URL at which anybody can read a blob's bytes for a while. For a store in a bucket.

    Whoever has it needs no account. What is read there is to be compared with the digest.

    \b
    Example:
      regmeta blob url hello sha256:... --for 1h
    """
    from regmeta import app
    from regmeta.content.urls import signed_url
    from regmeta.oci.digest import Digest
    from regmeta.oci.names import repository_name
    from regmeta.settings import duration

    wanted, of = Digest.parse(digest), repository_name(repository)
    lifetime_s = int(duration(lifetime).total_seconds())
    with app.open_for_reading(settings(ctx), check_store=True) as registry:
        typer.echo(signed_url(registry.database, registry.store, of, wanted, lifetime_s))


@app.command()
def find(
    ctx: typer.Context,
    prefix: Annotated[str, typer.Argument(help="The first digits, with or without the algorithm.")],
    limit: Limit = 20,
    as_json: Json = False,
    as_csv: Csv = False,
    wide: Wide = False,
) -> None:
    """Find images, indexes and other blobs by the first digits of their digests, two at least.

    \b
    Examples:
      regmeta blob find 3f2a
      regmeta blob find sha512:3f2
    """
    from regmeta.app import replicas
    from regmeta.query.graph.prefixes import digests

    with replicas.open_for_queries(settings(ctx)) as registry:
        found = digests(registry.database, prefix, limit=limit)
    columns = [
        Column("digest", lambda item: item.digest),
        Column("kind", lambda item: item.kind),
        of_bytes("size", lambda item: item.size_bytes),
        Column("in", lambda item: item.repository),
        Column("stored", lambda item: item.created_at, is_wide=True),
    ]
    show_list(found, columns, as_json=as_json, as_csv=as_csv, wide=wide)
    if not as_json:
        render.more_follow(len(found), limit)


@app.command()
def dedup(
    ctx: typer.Context,
    by: Annotated[str, typer.Option(help="Which blobs to show: saved or repositories.")] = "saved",
    limit: Limit = 20,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Report how much room it saves that a blob is stored once, and by which blobs most.

    It reads all that repositories hold: that takes seconds in a very large registry.

    \b
    Examples:
      regmeta blob dedup
      regmeta blob dedup --by repositories --limit 100 --csv
    """
    from regmeta.app import replicas
    from regmeta.errors import UsageError
    from regmeta.query.graph import sharing

    if as_json and as_csv:
        raise UsageError("--json and --csv: use one of them")
    if by not in ("saved", "repositories"):
        raise UsageError(f"--by {by}: saved or repositories")
    order: sharing.Order = "saved" if by == "saved" else "repositories"
    with replicas.open_for_queries(settings(ctx)) as registry:
        found = sharing.dedup(registry.database, order=order, limit=limit)
    if as_json:
        render.json(found)
        return
    if not as_csv:
        share = found.saved_bytes / found.logical_bytes if found.logical_bytes else 0
        render.fields(
            [
                ("blobs", f"{found.blobs}, of which {found.shared_blobs} are in more than one repository"),
                ("in repositories", render.size(found.logical_bytes)),
                ("stored", render.size(found.unique_bytes)),
                ("saved", f"{render.size(found.saved_bytes)} ({share:.0%})"),
            ]
        )
        typer.echo()
    columns = [
        Column("digest", lambda item: item.digest),
        of_bytes("size", lambda item: item.size_bytes),
        Column("repositories", lambda item: item.repositories),
        of_bytes("saved", lambda item: item.saved_bytes),
    ]
    show_list(found.most, columns, as_csv=as_csv)
