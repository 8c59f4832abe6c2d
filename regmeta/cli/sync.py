"""``regmeta sync``: images of other registries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from regmeta.cli import render, sync_reports
from regmeta.cli.context import Json, Limit, make_default_home, settings
from regmeta.cli.defaulting import TakesArgument
from regmeta.errors import FINDINGS

if TYPE_CHECKING:
    from regmeta.app.syncing import FailedRun
    from regmeta.cli.progress import SyncProgress
    from regmeta.sync.run import SyncReport


class SyncGroup(TakesArgument):
    """Takes what is none of its commands for a reference: ``regmeta sync quay.io/org/app:1``."""

    default = "image"


app = typer.Typer(
    cls=SyncGroup,
    help="""Bring images of other registries here.

    One image, now: 'regmeta sync REF [DEST]', which is short for 'regmeta sync image REF [DEST]'. Many, as
    [[sync.registries]] in the settings says: 'sync run' once, 'sync watch' again and again.

    \b
    Examples:
      regmeta sync docker.io/library/alpine:3.20
      regmeta sync quay.io/org/app:1.2 mirror/app --platform linux/amd64
      regmeta sync run
    """,
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def image(
    ctx: typer.Context,
    reference: Annotated[
        str,
        typer.Argument(
            metavar="REF",
            help="HOST/REPOSITORY[:TAG|@DIGEST]; http:// in front for plain HTTP. Without a tag, latest.",
        ),
    ],
    destination: Annotated[
        str | None,
        typer.Argument(metavar="[DEST]", help="REPOSITORY or REPOSITORY:TAG here. Default: as it is there."),
    ] = None,
    platform: Annotated[
        list[str] | None,
        typer.Option("--platform", "-p", help="Only for this platform, like linux/amd64. May be repeated."),
    ] = None,
    only_signed: Annotated[
        bool, typer.Option("--only-signed", help="Only if it has a signature, and with it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Bring one image of another registry, with its signatures and what else refers to it.

    What is here already is not fetched again. 'regmeta sync REF' is short for it. A registry that the
    settings name is spoken to as they say; credentials come from there or from Docker's config.json. The exit
    code is 6 if the image is there and left out: not signed, or for none of the platforms.

    \b
    Examples:
      regmeta sync docker.io/library/alpine:3.20
      regmeta sync quay.io/org/app:1.2 mirror/app -p linux/amd64
      regmeta sync http://localhost:5000/app:1 app
    """
    from regmeta.app import syncing

    chosen = settings(ctx)
    make_default_home(chosen)
    with _progress() as progress:
        report = syncing.sync_one(
            chosen,
            reference,
            destination,
            platforms=tuple(platform or ()),
            only_signed=only_signed,
            progress=progress,
        )
    sync_reports.show([report], as_json)


@app.command()
def run(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Registries of the settings. Default: all."),
    ] = None,
    believe_deletes: Annotated[
        bool,
        typer.Option(
            "--believe-deletes", help="Remove tags here also when most of a repository's are gone upstream."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Bring what the settings want of other registries, now. Interrupted, run it again: it does the rest.

    An image that fails is reported and does not stop the others, nor does a registry that is away; the exit
    code is then that of the worst. What a policy leaves out is no failure.

    \b
    Examples:
      regmeta sync run
      regmeta sync run hub quay
    """
    from regmeta.app import syncing

    reports: list[SyncReport] = []
    failed: list[FailedRun] = []
    with _progress() as progress:
        for each in syncing.sync_policies(
            settings(ctx), tuple(names or ()), believe_deletes=believe_deletes, progress=progress
        ):
            if isinstance(each, syncing.FailedRun):
                failed.append(each)
            else:
                reports.append(each)
    sync_reports.show(reports, as_json, failed)


@app.command()
def watch(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Registries of the settings. Default: all."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Bring what the settings want whenever it is due, until Ctrl-C or SIGTERM.

    Each registry is looked at every 'poll' of its settings. What failed is tried again after 1 minute, then
    2, 4 and so on up to an hour. On stderr stands what it watches, each run that did something, and what does
    not work; with --json each run that has ended is a line on stdout.

    \b
    Examples:
      regmeta sync watch
      regmeta sync watch hub --json
    """
    from regmeta.app import sync_watch
    from regmeta.cli.signals import Stop

    def synced(report: SyncReport) -> None:
        if as_json:
            render.json_line(sync_reports.document(report))
        if report.counts.copied or report.counts.failed or report.counts.removed:
            sync_reports.say(report)

    chosen = settings(ctx)
    polls = {each.name: each.poll for each in chosen.sync.registries}
    for policy in sync_watch.watched_policies(chosen, tuple(names or ())):
        poll = polls[policy.name]
        when = f"every {poll}" if poll else "only what failed on demand, when it is due again"
        render.say(f"watching {policy.name}: {when}")
    with Stop() as stop:
        sync_watch.watch(
            chosen,
            stop,
            synced=synced,
            changed=lambda why: render.say(f"regmeta: {why}"),
            names=tuple(names or ()),
        )


@app.command()
def status(ctx: typer.Context, as_json: Json = False) -> None:
    """Show how each registry stands: its last run, its images, and what fails and why.

    The exit code is 1 if a registry of the settings has an image that fails, or its last run failed. What was
    asked for by name is shown too; it is not tried again by itself.

    \b
    Examples:
      regmeta sync status
      regmeta sync status --json
    """
    from regmeta import app
    from regmeta.query import mirrored

    chosen = settings(ctx)
    with app.open_for_reading(chosen) as registry:
        names = [each.name for each in chosen.sync.registries]
        found = mirrored.status(registry.database, names)
    if as_json:
        render.json(found)
    else:
        sync_reports.show_status(found, names)
    if any(sync_reports.is_bad(each) for each in found if each.policy in names):
        raise typer.Exit(FINDINGS)


@app.command()
def history(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only runs of this registry.")] = None,
    before: Annotated[
        int | None, typer.Option("--before", min=1, help="Only runs older than the one of this number.")
    ] = None,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """Show the runs, newest first. A registry that was asked for by name stands under its host.

    \b
    Examples:
      regmeta sync history
      regmeta sync history hub --limit 5
    """
    from regmeta import app
    from regmeta.query import mirrored

    with app.open_for_reading(settings(ctx)) as registry:
        found = mirrored.history(registry.database, policy=name, before=before, limit=limit)
    if as_json:
        render.json(found)
        return
    render.table(
        [
            "run",
            "registry",
            "cause",
            "started",
            "outcome",
            "copied",
            "size",
            "here",
            "left out",
            "failed",
            "why",
        ],
        [
            (
                each.id,
                each.policy,
                each.cause,
                each.started_at,
                each.outcome or "running",
                each.copied,
                render.size(each.copied_bytes),
                each.unchanged,
                each.left_out,
                each.failed,
                each.error,
            )
            for each in found
        ],
    )
    if len(found) >= limit:
        render.say(f"(older ones: --before {found[-1].id})")


def _progress() -> SyncProgress:
    from regmeta.cli.progress import SyncProgress

    return SyncProgress()
