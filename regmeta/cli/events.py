"""``regmeta events``."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from regmeta.cli import render
from regmeta.cli.context import settings

if TYPE_CHECKING:
    from regmeta.query.feed import EventPage
    from regmeta.query.feed_events import Event

app = typer.Typer(
    help="The feed of changes: every committed one, in order.", no_args_is_help=True, rich_markup_mode=None
)

PAGE = 500


class From(StrEnum):
    """Where to start without a cursor."""

    BEGINNING = "beginning"
    NOW = "now"


@app.command()
def tail(
    ctx: typer.Context,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Wait for more, until Ctrl-C or SIGTERM.")
    ] = False,
    after: Annotated[
        str | None, typer.Option(metavar="CURSOR", help="Go on behind this cursor.", show_default=False)
    ] = None,
    start: Annotated[
        From | None,
        typer.Option(
            "--from", help="Or start here: now with --follow, else the beginning.", show_default=False
        ),
    ] = None,
    kinds: Annotated[
        list[str] | None,
        typer.Option("--kind", help="These only, as tag.moved. Repeatable.", show_default=False),
    ] = None,
    repository: Annotated[
        str | None, typer.Option(help="Of this repository only.", show_default=False)
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="End after so many events.", show_default=False)
    ] = None,
    interval: Annotated[
        float, typer.Option(min=0.05, max=3600, help="Seconds between two looks at the feed.")
    ] = 1.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="One line of JSON for each event, and one with each cursor.")
    ] = False,
) -> None:
    """Show events, the oldest first, and the cursor behind them.

    Give the cursor to the next run with --after: no event is skipped. Who keeps it after an event is dealt
    with gets each at least once. A cursor that cannot be followed ends with exit code 6.

    \b
    Examples:
      regmeta events tail --kind tag.moved --repository team/app
      regmeta events tail --follow --from now
      regmeta events tail --after CURSOR --json
    """
    from regmeta import app
    from regmeta.cli.signals import Stop
    from regmeta.errors import UsageError
    from regmeta.query import feed

    if after is not None and start is not None:
        raise UsageError("--after and --from: use one of them")
    with app.open_for_reading(settings(ctx)) as registry, Stop() as stop:
        cursor = after
        if after is None and (start or (From.NOW if follow else From.BEGINNING)) is From.NOW:
            cursor = feed.newest_cursor(registry.database)
        left, is_told = limit, False
        while not stop.is_set() and left != 0:
            page = feed.events(
                registry.database,
                after=cursor,
                limit=PAGE if left is None else min(PAGE, left),
                kinds=kinds or (),
                repository=repository,
            )
            left = None if left is None else left - len(page.items)
            # While nothing happens the one that was told before is as good.
            is_new = bool(page.items) or not page.is_caught_up or not is_told
            _show(page, as_json=as_json, is_new=is_new)
            cursor, is_told = page.cursor, True
            if page.is_caught_up:
                if not follow:
                    break
                stop.wait(interval)
    if cursor is not None and not as_json:
        render.say(f"go on with --after {cursor}")


@app.command()
def prune(
    ctx: typer.Context,
    older: Annotated[str, typer.Option(metavar="LENGTH", help="Those that are older, as 400d.")],
) -> None:
    """Delete old events. Consumers that have not read them yet are refused, and have to start anew.

    Runs beside everything else. Interrupted, run it again.

    \b
    Example:
      regmeta events prune --older 400d
    """
    from regmeta import app
    from regmeta.maintain.feed import prune_events
    from regmeta.settings import duration

    length = duration(older)
    with app.open_for_writing(settings(ctx)) as registry:
        done = prune_events(registry.database, length)
    render.say(f"{render.count(done.events, 'event')} of before {render.moment(done.before)} deleted")


def _show(page: EventPage, *, as_json: bool, is_new: bool) -> None:
    if as_json:
        for event in page.items:
            render.json_line(event)
        if is_new:
            render.json_line({"cursor": page.cursor})
        return
    for event in page.items:
        typer.echo(_line(event))


def _line(event: Event) -> str:
    what = event.repository
    if event.tag is not None:
        what += f":{event.tag}"
    parts = [render.cell(event.at), event.kind.ljust(19), what]
    if event.digest is not None:
        parts.append(f"-> {event.digest}" if event.tag is not None else f"@ {event.digest}")
    if event.previous is not None:
        parts.append(f"(was {event.previous})")
    parts.append(f"by {event.actor}")
    if event.is_damaged:
        parts.append("(the row is damaged)")
    return render.cell("  ".join(parts))
