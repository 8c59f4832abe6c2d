"""``regmeta repo``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from regmeta.cli import render
from regmeta.cli.context import Json, Limit, settings

if TYPE_CHECKING:
    from regmeta.query.results import RepositoryDetails

app = typer.Typer(help="Repositories.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def ls(
    ctx: typer.Context,
    after: Annotated[str, typer.Option(help="Start behind this name.")] = "",
    limit: Limit = 100,
    deleted: Annotated[
        bool,
        typer.Option("--deleted", help="List those that were deleted, and until when they can come back."),
    ] = False,
    as_json: Json = False,
) -> None:
    """List repositories, by name.

    \b
    Examples:
      regmeta repo ls
      regmeta repo ls --after team/app --limit 20
      regmeta repo ls --deleted
    """
    from regmeta import app
    from regmeta.query import catalog

    if deleted:
        _list_deleted(ctx, after, limit, as_json)
        return
    with app.open_for_reading(settings(ctx)) as registry:
        found = catalog.repositories(registry.database, after=after, limit=limit)
    if as_json:
        render.json(found)
        return
    render.table(
        ["repository", "tags", "manifests", "changed"],
        [(item.name, item.tags, item.manifests, item.updated_at) for item in found],
    )
    render.more_follow(len(found), limit)


def _list_deleted(ctx: typer.Context, after: str, limit: int, as_json: bool) -> None:
    from regmeta import app
    from regmeta.query.deleted import deleted_repositories

    with app.open_for_reading(settings(ctx)) as registry:
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
    from regmeta import app
    from regmeta.oci.names import repository_name
    from regmeta.query import catalog

    with app.open_for_reading(settings(ctx)) as registry:
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
