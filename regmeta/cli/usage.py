"""``regmeta usage``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from regmeta.cli import bars, listing, render
from regmeta.cli.context import Csv, Json, Limit, Wide, settings
from regmeta.cli.defaulting import ShowByDefault
from regmeta.cli.filters import After

if TYPE_CHECKING:
    from collections.abc import Sequence

    from regmeta.query.results import Page
    from regmeta.query.statistics.usage import Usage

app = typer.Typer(
    help="How much room repositories take, now and day by day. 'regmeta usage PREFIX' shows it.",
    cls=ShowByDefault,
    rich_markup_mode=None,
)

Prefix = Annotated[
    str | None, typer.Argument(help="A repository, and all below it. Without it all.", show_default=False)
]
Days = Annotated[int, typer.Option(min=1, max=3660, help="How many days up to today.")]


@app.command()
def show(
    ctx: typer.Context,
    prefix: Prefix = None,
    depth: Annotated[
        int | None,
        typer.Option(
            min=0, help="Together by so many components of their names, 0: all.", show_default=False
        ),
    ] = None,
    now: Annotated[bool, typer.Option("--now", help="Compute it, do not show the last samples.")] = False,
    after: After = None,
    limit: Limit = 100,
    as_json: Json = False,
    as_csv: Csv = False,
    wide: Wide = False,
) -> None:
    """Show what repositories hold, the greatest first, each with a bar.

    UNIQUE is each blob once: what is stored for it, and what the bar shows. EXCLUSIVE of these are those that
    no other repository has: what deleting it would give back. LOGICAL counts a blob for each image that has
    it. It is as of the last 'regmeta usage record', if there was one; --now and --depth compute it.

    \b
    Examples:
      regmeta usage
      regmeta usage team --now
      regmeta usage --depth 1
    """
    from regmeta.app import replicas
    from regmeta.errors import UsageError
    from regmeta.query.results import Page
    from regmeta.query.statistics import usage as statistics

    if after is not None and (now or depth is not None):
        raise UsageError("--after: of samples only; leave --now and --depth out")
    name = _name(prefix)
    with replicas.open_for_queries(settings(ctx)) as registry:
        page: Page[Usage] = Page((), None)
        if not now and depth is None:
            page = statistics.sampled_usage(registry.database, name, after=after, limit=limit)
        if not page.items and after is None:
            found = statistics.usage(registry.database, name, depth=depth)
            page = Page(found[:limit], None, len(found) if len(found) > limit else None)
    _show(page, as_json=as_json, as_csv=as_csv, wide=wide)


@app.command()
def growth(
    ctx: typer.Context,
    prefix: Prefix = None,
    days: Days = 30,
    as_json: Json = False,
    as_csv: Csv = False,
    wide: Wide = False,
) -> None:
    """Show what repositories held day by day, from the samples of 'regmeta usage record'.

    Sizes are sums over repositories: what several of them hold is in UNIQUE once for each.

    \b
    Examples:
      regmeta usage growth
      regmeta usage growth team --days 90
    """
    from regmeta.app import replicas
    from regmeta.query.statistics.growth import growth as growth_of

    name = _name(prefix)
    with replicas.open_for_queries(settings(ctx)) as registry:
        found = growth_of(registry.database, name, days=days)
    pictures = dict(zip(found, bars.bars([point.unique_bytes for point in found]), strict=True))
    columns = [
        listing.Column("day", lambda point: point.day.isoformat()),
        listing.Column("repositories", lambda point: point.repositories),
        listing.Column("tags", lambda point: point.tags, is_wide=True),
        listing.Column("manifests", lambda point: point.manifests, is_wide=True),
        listing.of_bytes("logical", lambda point: point.logical_bytes, is_wide=True),
        listing.of_bytes("exclusive", lambda point: point.exclusive_bytes, is_wide=True),
        listing.of_bytes("unique", lambda point: point.unique_bytes),
    ]
    if not as_csv:
        columns.append(listing.Column("", lambda point: pictures[point]))
    if as_json:
        render.json([{**render.plain(point), "day": point.day.isoformat()} for point in found])
        return
    listing.show(found, columns, as_csv=as_csv, wide=wide)
    if not found and not as_csv:
        render.say("no samples: 'regmeta usage record' writes those of a day")


@app.command()
def record(
    ctx: typer.Context,
    resume: Annotated[
        bool, typer.Option("--resume", help="Leave those that were measured today already.")
    ] = False,
) -> None:
    """Measure all repositories, for the lists and for growth. Once a day; the last run of a day stands.

    Runs beside everything else. Interrupted, run it again with --resume.

    \b
    Examples:
      regmeta usage record
      regmeta usage record --resume
    """
    from regmeta import app
    from regmeta.cli.progress import StepProgress
    from regmeta.maintain.usage import record_usage

    with app.open_for_writing(settings(ctx)) as registry, StepProgress() as progress:
        done = record_usage(registry.database, progress, resume=resume)
    left = f", {done.left} left as they were" if done.left else ""
    render.say(f"{render.count(done.measured, 'repository', 'repositories')} measured{left}")


def _name(prefix: str | None) -> str | None:
    from regmeta.oci.names import repository_name

    return None if prefix is None else repository_name(prefix.rstrip("/"))


def _show(page: Page[Usage], *, as_json: bool, as_csv: bool, wide: bool) -> None:
    columns = [
        listing.Column("repository", lambda each: each.name),
        listing.Column("repositories", lambda each: each.repositories, is_wide=True),
        listing.Column("tags", lambda each: each.tags),
        listing.Column("manifests", lambda each: each.manifests, is_wide=True),
        listing.Column("blobs", lambda each: each.blobs, is_wide=True),
        listing.of_bytes("logical", lambda each: each.logical_bytes, is_wide=True),
        listing.of_bytes("shared", lambda each: each.shared_bytes, is_wide=True),
        listing.of_bytes("exclusive", lambda each: each.exclusive_bytes),
        listing.of_bytes("unique", lambda each: each.unique_bytes),
    ]
    if not as_csv:
        columns.append(_picture(page.items))
    listing.show(page, columns, as_json=as_json, as_csv=as_csv, wide=wide)
    if page.items and not as_json and not as_csv:
        sampled_at = page.items[0].sampled_at
        if sampled_at is not None:
            render.say(f"as of {render.moment(sampled_at)}; --now computes it")


def _picture(items: Sequence[Usage]) -> listing.Column:
    drawn = {
        each.name: bar for each, bar in zip(items, bars.bars([e.unique_bytes for e in items]), strict=True)
    }
    return listing.Column("", lambda each: drawn[each.name])
