"""``regmeta repo``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from regmeta.cli import filters, render
from regmeta.cli.context import Csv, Json, Limit, Wide, settings
from regmeta.cli.listing import Column, of_bytes
from regmeta.cli.listing import show as show_list

if TYPE_CHECKING:
    from regmeta.query.lists.repositories import RepositorySort
    from regmeta.query.results import RepositoryDetails

app = typer.Typer(help="Repositories.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def ls(
    ctx: typer.Context,
    name: filters.Name = None,
    contains: filters.Contains = None,
    under: Annotated[
        str | None, typer.Option(metavar="NAME", help="This one and all below it.", show_default=False)
    ] = None,
    has_tag: Annotated[
        str | None, typer.Option(metavar="TAG", help="That has this tag.", show_default=False)
    ] = None,
    created_after: filters.StoredAfter = None,
    created_before: filters.StoredBefore = None,
    updated_after: filters.UpdatedAfter = None,
    updated_before: filters.UpdatedBefore = None,
    starred_by: Annotated[
        str | None, typer.Option(metavar="USER", help="That this user has starred.", show_default=False)
    ] = None,
    bookmarked_by: Annotated[
        str | None, typer.Option(metavar="USER", help="That this user has bookmarked.", show_default=False)
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(
            help="name, created, updated, size, tags, manifests, pulls or stars; name if not said.",
            show_default=False,
        ),
    ] = None,
    descending: filters.Descending = False,
    after: filters.After = None,
    limit: Limit = 100,
    total: filters.Total = False,
    deleted: Annotated[
        bool,
        typer.Option(
            "--deleted",
            help="List those that were deleted, and until when they can come back; --after takes a name.",
        ),
    ] = False,
    as_json: Json = False,
    as_csv: Csv = False,
    wide: Wide = False,
) -> None:
    """List repositories, by name or in another order, all or those that filters let through.

    Sizes are of the newest day on which usage was recorded; pulls are of 30 days.

    \b
    Examples:
      regmeta repo ls
      regmeta repo ls --under team --sort size --desc --limit 20
      regmeta repo ls --name 'team/*' --updated-after 7d --total
      regmeta repo ls --deleted
    """
    from regmeta.app import replicas
    from regmeta.query.lists.repositories import RepositoryFilter, repositories

    said: dict[str, Any] = {"name": name, "contains": contains, "under": under, "has_tag": has_tag}
    said |= {"starred_by": starred_by, "bookmarked_by": bookmarked_by}
    times = {"created_from": created_after, "created_until": created_before}
    times |= {"updated_from": updated_after, "updated_until": updated_before}
    if deleted:
        others = {"sort": sort, "desc": descending, "total": total, "csv": as_csv, "wide": wide}
        filters.refuse_with("--deleted", {**said, **times, **others})
        _list_deleted(ctx, after or "", limit, as_json)
        return
    with replicas.open_for_queries(settings(ctx)) as registry:
        between: dict[str, Any] = {
            field: filters.time(registry.database, text) for field, text in times.items()
        }
        found = repositories(
            registry.database,
            RepositoryFilter(**said, **between),
            sort=cast("RepositorySort", sort or "name"),
            descending=descending,
            after=after,
            limit=limit,
            total=total,
        )
    columns = [
        Column("repository", lambda item: item.name),
        Column("tags", lambda item: item.tags),
        Column("manifests", lambda item: item.manifests),
        of_bytes("size", lambda item: item.size_bytes, is_wide=sort != "size"),
        Column("stars", lambda item: item.stars, is_wide=sort != "stars"),
        Column("created", lambda item: item.created_at, is_wide=sort != "created"),
        Column("changed", lambda item: item.updated_at),
    ]
    if sort == "pulls":
        columns.insert(3, Column("pulls", lambda item: item.pulls))
    show_list(found, columns, as_json=as_json, as_csv=as_csv, wide=wide)


def _list_deleted(ctx: typer.Context, after: str, limit: int, as_json: bool) -> None:
    from regmeta.app import replicas
    from regmeta.query.deleted import deleted_repositories

    with replicas.open_for_queries(settings(ctx)) as registry:
        found = deleted_repositories(registry.database, after=after, limit=limit)
    if as_json:
        render.json(found)
        return
    render.table(
        ["repository", "tags", "manifests", "deleted", "can come back until"],
        [
            (
                item.name,
                item.tags,
                item.manifests,
                item.deleted_at,
                item.until if item.state == "deleted" else "(is being removed)",
            )
            for item in found
        ],
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
    from regmeta.app import replicas
    from regmeta.oci.names import repository_name
    from regmeta.query import catalog

    with replicas.open_for_queries(settings(ctx)) as registry:
        found = catalog.repository(registry.database, repository_name(repository))
    if as_json:
        render.json(found)
        return
    render.fields(
        [
            ("repository", found.name),
            ("state", _state(found)),
            ("revision", f"{found.revision}{' (snapshot is behind)' if found.snapshot_is_behind else ''}"),
            ("tags", found.tags),
            ("manifests", f"{found.manifests}, {found.manifests - found.untagged_manifests} of them tagged"),
            ("blobs", f"{found.blobs} ({render.size(found.size_bytes)})"),
            ("created", found.created_at),
            ("changed", found.updated_at),
        ]
    )


def _state(found: RepositoryDetails) -> str:
    if found.deleted_at is None:
        return found.state
    since = f"deleted at {render.moment(found.deleted_at)}"
    if found.state == "deleted":
        return f"{since} ('regmeta repo undelete {found.name}' brings it back)"
    return f"being removed, {since}"


@app.command()
def rm(
    ctx: typer.Context,
    repository: Annotated[str, typer.Argument(help="Name of the repository.")],
    as_json: Json = False,
) -> None:
    """Delete a repository with all its tags. It can be brought back until its time is over.

    A push into it brings it back as well, without its tags.

    \b
    Example:
      regmeta repo rm hello
    """
    from regmeta import app
    from regmeta.maintain.delete.repository import delete_repository
    from regmeta.oci.names import repository_name

    with app.open_for_writing(settings(ctx)) as registry:
        found = delete_repository(registry.writer, repository_name(repository))
    if as_json:
        render.json(found)
    render.say(
        f"{found.repository} is deleted: {render.count(found.tags, 'tag')},"
        f" {render.count(found.manifests, 'manifest')}"
    )
    render.say(f"to undo it, until {render.moment(found.until)}: regmeta repo undelete {found.repository}")


@app.command()
def undelete(
    ctx: typer.Context,
    repository: Annotated[str, typer.Argument(help="Name of the repository.")],
    as_json: Json = False,
) -> None:
    """Bring a deleted repository back, with the tags that its deletion ended.

    \b
    Example:
      regmeta repo undelete hello
    """
    from regmeta import app
    from regmeta.maintain.delete.undelete import undelete_repository
    from regmeta.oci.names import repository_name

    with app.open_for_writing(settings(ctx)) as registry:
        found = undelete_repository(registry.writer, repository_name(repository))
    if as_json:
        render.json(found)
    lost = f"; {render.count(found.tags_lost, 'tag')} lost: collected already" if found.tags_lost else ""
    render.say(f"{found.repository} is back with {render.count(found.tags, 'tag')}{lost}")
