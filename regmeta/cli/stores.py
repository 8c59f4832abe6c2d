"""``regmeta store``: where the objects are."""

from __future__ import annotations

from typing import Annotated

import typer

from regmeta.cli import render
from regmeta.cli.context import Json, settings
from regmeta.errors import UsageError

MIB = 1024 * 1024  # [bytes]

app = typer.Typer(help="The store of all objects.", no_args_is_help=True, rich_markup_mode=None)


@app.command("copy")
def copy(
    ctx: typer.Context,
    target: Annotated[
        str | None,
        typer.Argument(
            help="An empty folder, which is made, or the URL of a bucket and a prefix: s3://bucket/prefix.",
            show_default=False,
        ),
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, max=64, help="Objects copied at once.")] = 4,
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, max=1e6, help="At most so many MiB a second.", show_default=False),
    ] = None,
    mark: Annotated[
        bool,
        typer.Option(
            "--mark", help="Set blobs whose objects are damaged to 'damaged', and move without them."
        ),
    ] = False,
    verify_data: Annotated[
        bool,
        typer.Option("--verify-data", help="Hash every object in the new store before it is put to use."),
    ] = False,
    abandon: Annotated[
        bool, typer.Option("--abandon", help="Let writers go on where a copy was killed on another host.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Copy all objects to another store, a folder or a bucket, compare them, and put that one to use.

    Readers and writers go on meanwhile; new images are refused for the last pass only. At the end the new
    store must be named in the settings: with the old ones nothing opens. Interrupted, run it again.

    \b
    Examples:
      regmeta store copy s3://bucket/registry
      regmeta store copy /srv/registry/store --verify-data --rate 100
      regmeta store copy --abandon
    """
    from regmeta.app import store_copy
    from regmeta.cli.progress import StepProgress

    if (target is None) != abandon:
        raise UsageError("give the folder or the URL to copy into, or --abandon")
    if target is None:
        given_up = store_copy.abandon(settings(ctx))
        if as_json:
            render.json(given_up)
            return
        render.say(
            f"the move to {given_up.location} was given up: writers go on with the store of the settings"
        )
        return
    moved = store_copy.copy(
        settings(ctx),
        target,
        StepProgress,
        jobs=jobs,
        rate_bytes_per_s=None if rate is None else int(rate * MIB),
        mark=mark,
        verify_data=verify_data,
    )
    if as_json:
        render.json(moved)
        return
    for damage in moved.damaged:
        typer.echo(render.printable(f"{damage.digest}: {damage.detail}"))
    if moved.was_moved:
        render.say("an earlier run had moved everything; the stores' records were put right")
    else:
        render.say(
            f"{render.count(moved.live, 'object')} ({render.size(moved.live_bytes)}) and"
            f" {render.count(moved.snapshots, 'snapshot')} are there,"
            f" {render.count(moved.copied, 'object')} copied in this run"
        )
    if moved.marked:
        render.say(f"{render.count(moved.marked, 'blob')} marked as damaged")
    if moved.not_live:
        render.say(f"{render.count(moved.not_live, 'object')} of no live blob: 'regmeta gc sweep' finds them")
    render.say(f"the registry's store is {moved.target} (id {moved.identity.store_id})")
    render.say(f"{moved.source} is closed: set REGMETA_STORE, or 'store' in the settings' file")
