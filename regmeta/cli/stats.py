"""``regmeta stats``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from regmeta.cli import bars, listing, render
from regmeta.cli.context import Csv, Json, Limit, settings
from regmeta.cli.defaulting import ShowByDefault
from regmeta.cli.filters import After
from regmeta.cli.usage import Days

if TYPE_CHECKING:
    from regmeta.query.statistics.favorites import Kind

app = typer.Typer(
    help="Pulls, who pushes, stars and bookmarks. 'regmeta stats REFERENCE' shows those of one.",
    cls=ShowByDefault,
    no_args_is_help=True,
    rich_markup_mode=None,
)

User = Annotated[str, typer.Option(metavar="NAME", help="Whose.")]
Repository = Annotated[str, typer.Argument(help="Name of the repository.")]


@app.command()
def show(
    ctx: typer.Context,
    reference: Annotated[
        str, typer.Argument(metavar="REPOSITORY[:TAG|@DIGEST]", help="A repository, a tag or a digest.")
    ],
    days: Days = 30,
    as_json: Json = False,
) -> None:
    """Show how often something was pulled, day by day, and when last; of a repository also who pushes it.

    \b
    Examples:
      regmeta stats team/app
      regmeta stats team/app:1.0 --days 90
    """
    from regmeta.app import replicas
    from regmeta.oci.names import Reference
    from regmeta.query.statistics import favorites, pulls

    wanted = Reference.parse(reference)
    is_whole = wanted.tag is None and wanted.digest is None
    with replicas.open_for_queries(settings(ctx)) as registry:
        found = pulls.pulls(registry.database, wanted, days=days)
        counts = favorites.favorite_counts(registry.database, wanted.repository)
        pushers = pulls.pushers(registry.database, wanted.repository) if is_whole else ()
    by_day = [each.pulls for each in found.days]
    if as_json:
        render.json(
            {
                **render.plain(found),
                "days": [{"day": each.day.isoformat(), "pulls": each.pulls} for each in found.days],
                "stars": counts.stars,
                "bookmarks": counts.bookmarks,
                "pushers": pushers,
            }
        )
        return
    render.fields(
        [
            ("name", found.name),
            (f"pulls in {render.count(days, 'day')}", found.pulls),
            ("last pulled", found.last_pulled_at or "never"),
            ("day by day", bars.sparkline(by_day)),
            ("stars", counts.stars),
            ("bookmarks", counts.bookmarks),
        ]
    )
    if pushers:
        typer.echo()
        render.table(
            ["pushed by", "manifests", "last"],
            [(each.actor, each.manifests, each.last_pushed_at) for each in pushers],
        )


@app.command()
def top(
    ctx: typer.Context,
    days: Days = 30,
    images: Annotated[bool, typer.Option("--images", help="Images, not repositories.")] = False,
    limit: Limit = 20,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Show what was pulled most.

    \b
    Examples:
      regmeta stats top
      regmeta stats top --images --days 7
    """
    from regmeta.app import replicas
    from regmeta.query.statistics import pulls

    with replicas.open_for_queries(settings(ctx)) as registry:
        ask = pulls.top_images if images else pulls.top_repositories
        found = ask(registry.database, days=days, limit=limit)
    columns = [listing.Column("repository", lambda each: each.repository)]
    if images:
        columns.append(listing.Column("digest", lambda each: each.digest))
    columns += [
        listing.Column("pulls", lambda each: each.pulls),
        listing.Column("last pulled", lambda each: each.last_pulled_at),
    ]
    if not as_csv:
        drawn = dict(zip(found, bars.bars([each.pulls for each in found]), strict=True))
        columns.append(listing.Column("", lambda each: drawn[each]))
    listing.show(found, columns, as_json=as_json, as_csv=as_csv)


@app.command()
def star(ctx: typer.Context, repository: Repository, user: User) -> None:
    """Star a repository for a user.

    \b
    Example:
      regmeta stats star team/app --user ann
    """
    _set(ctx, user, "star", repository, on=True)


@app.command()
def unstar(ctx: typer.Context, repository: Repository, user: User) -> None:
    """Take a user's star away.

    \b
    Example:
      regmeta stats unstar team/app --user ann
    """
    _set(ctx, user, "star", repository, on=False)


@app.command()
def bookmark(ctx: typer.Context, repository: Repository, user: User) -> None:
    """Bookmark a repository for a user.

    \b
    Example:
      regmeta stats bookmark team/app --user ann
    """
    _set(ctx, user, "bookmark", repository, on=True)


@app.command()
def unbookmark(ctx: typer.Context, repository: Repository, user: User) -> None:
    """Take a user's bookmark away.

    \b
    Example:
      regmeta stats unbookmark team/app --user ann
    """
    _set(ctx, user, "bookmark", repository, on=False)


@app.command()
def favorites(
    ctx: typer.Context,
    user: User,
    after: After = None,
    limit: Limit = 100,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """List what a user has starred and bookmarked, by repository.

    \b
    Example:
      regmeta stats favorites --user ann
    """
    from regmeta.app import replicas
    from regmeta.query.statistics import favorites as of_users

    with replicas.open_for_queries(settings(ctx)) as registry:
        found = of_users.favorites(registry.database, user, after=after, limit=limit)
    columns = [
        listing.Column("repository", lambda each: each.repository),
        listing.Column("kind", lambda each: each.kind),
        listing.Column("since", lambda each: each.created_at),
    ]
    listing.show(found, columns, as_json=as_json, as_csv=as_csv)


def _set(ctx: typer.Context, user: str, kind: Kind, repository: str, *, on: bool) -> None:
    from regmeta import app
    from regmeta.ingest.favorites import set_favorite
    from regmeta.oci.names import repository_name

    name = repository_name(repository)
    with app.open_for_writing(settings(ctx)) as registry:
        done = set_favorite(registry.database, user, kind, name, on=on)
    state = f"{kind}{'red' if kind == 'star' else 'ed'}"
    now = "" if done.has_changed else " already" if on else " anyway"
    render.say(f"{name} is {'' if on else 'not '}{state} by {user}{now}")
