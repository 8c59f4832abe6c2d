"""``regmeta sync``: images of other registries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from regmeta.cli import render
from regmeta.cli.context import Json, Limit, make_default_home, settings
from regmeta.errors import FINDINGS, RemoteUnavailable

if TYPE_CHECKING:
    from regmeta.app.syncing import FailedRun
    from regmeta.cli.progress import SyncProgress
    from regmeta.query.mirrored import MirrorStatus
    from regmeta.sync.records import ItemOutcome
    from regmeta.sync.run import SyncReport

SHOWN = 50  # items of a run that are shown one by one; the status shows more


class SyncGroup(TyperGroup):
    """Takes what is none of its commands for a reference: ``regmeta sync quay.io/org/app:1``."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that *args* begin with."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            args = ["image", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=SyncGroup,
    help="Bring images of other registries here: 'regmeta sync REF [DEST]', or what the settings say.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def image(
    ctx: typer.Context,
    reference: Annotated[
        str,
        typer.Argument(metavar="REF", help="HOST/REPOSITORY[:TAG|@DIGEST]; http:// in front for plain HTTP."),
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

    What is here already is not fetched again. 'sync' alone does the same: 'regmeta sync REF'.

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
    _report([report], as_json)


@app.command()
def run(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Registries of the settings. Default: all."),
    ] = None,
    believe_deletes: Annotated[
        bool,
        typer.Option("--believe-deletes", help="Also when most tags of a repository are gone upstream."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Bring what the settings want of other registries, now. Interrupted, run it again: it does the rest.

    An image that fails is reported and does not stop the others; the exit code is then that of the worst.

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
    _report(reports, as_json, failed)


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

    What failed is tried again after a while. With --json each run that has ended is a line.

    \b
    Example:
      regmeta sync watch
    """
    from regmeta.app import syncing
    from regmeta.cli.signals import Stop

    def synced(report: SyncReport) -> None:
        if as_json:
            render.json_line(_summary(report))
        if report.counts.copied or report.counts.failed or report.counts.removed:
            _say(report)

    with Stop() as stop:
        syncing.watch(
            settings(ctx),
            stop,
            synced=synced,
            changed=lambda why: render.say(f"regmeta: {why}"),
            names=tuple(names or ()),
        )


@app.command()
def status(ctx: typer.Context, as_json: Json = False) -> None:
    """Show how each registry of the settings stands: its last run, its images, and what fails.

    \b
    Example:
      regmeta sync status
    """
    from regmeta import app
    from regmeta.query import mirrored

    chosen = settings(ctx)
    with app.open_for_reading(chosen) as registry:
        found = mirrored.status(registry.database, [each.name for each in chosen.sync.registries])
    if as_json:
        render.json(found)
    else:
        _show_status(found)
    if any(each.failing for each in found):
        raise typer.Exit(FINDINGS)


def _show_status(found: list[MirrorStatus]) -> None:
    render.table(
        ["registry", "last run", "outcome", "images", "left out", "failing", "next try"],
        [
            (
                each.policy,
                None if each.last_run is None else each.last_run.started_at,
                None if each.last_run is None else each.last_run.outcome or "running",
                sum(each.images.get(outcome, 0) for outcome in ("copied", "unchanged")),
                each.images.get("left out", 0),
                each.images.get("failed", 0),
                each.next_try_at,
            )
            for each in found
        ],
    )
    failing = [(each.policy, image) for each in found for image in each.failing]
    if failing:
        typer.echo()
        render.table(
            ["registry", "image", "attempts", "next try", "error", "why"],
            [
                (
                    policy,
                    f"{image.source}:{image.reference}",
                    image.attempts,
                    image.next_try_at,
                    image.error_class,
                    image.reason,
                )
                for policy, image in failing
            ],
        )


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
    """Show the runs, newest first.

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
        ["run", "registry", "cause", "started", "outcome", "copied", "size", "here", "left out", "failed"],
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
            )
            for each in found
        ],
    )
    render.more_follow(len(found), limit)


def _progress() -> SyncProgress:
    from regmeta.cli.progress import SyncProgress

    return SyncProgress()


def _report(reports: list[SyncReport], as_json: bool, failed: Sequence[FailedRun] = ()) -> None:
    """Show how runs ended, and end with the exit code of the worst that happened."""
    if as_json:
        render.json(
            [
                *({**_summary(each), "items": [_item(item) for item in each.items]} for each in reports),
                *({"policy": each.policy, "outcome": "failed", "error": str(each.error)} for each in failed),
            ]
        )
    else:
        shown = [(report, item) for report in reports for item in report.items]
        render.table(
            ["image", "destination", "outcome", "digest", "copied"],
            [
                (_name(item), item.destination, item.outcome, item.digest, render.size(item.copied_bytes))
                for _, item in shown[:SHOWN]
            ],
        )
        if len(shown) > SHOWN:
            render.say(f"and {len(shown) - SHOWN} more: see 'regmeta sync status'")
    for report in reports:
        _say(report)
    for each in failed:
        render.say(f"regmeta: {each.policy}: {each.error}")
    code = max((_exit_code(each) for each in reports), default=0)
    code = max([code, *(each.error.exit_code for each in failed)])
    if code:
        raise typer.Exit(code)


def _say(report: SyncReport) -> None:
    for item in [item for item in report.items if item.outcome in ("failed", "left out")][:SHOWN]:
        render.say(f"regmeta: {report.policy}: {_name(item)}: {item.reason}")
    counts = report.counts
    said = [
        f"{render.count(counts.copied, 'image')} copied ({render.size(counts.copied_bytes)})",
        f"{counts.unchanged} here already",
    ]
    for number, what in (
        (counts.left_out, "left out"),
        (counts.removed, "removed"),
        (counts.failed, "failed"),
    ):
        if number:
            said.append(f"{number} {what}")
    stopped = "; stopped before its end" if report.outcome == "stopped" else ""
    render.say(f"{report.policy}: {', '.join(said)}, {render.count(counts.requests, 'request')}{stopped}")


def _name(item: ItemOutcome) -> str:
    return f"{item.source}{'@' if ':' in item.reference else ':'}{item.reference}"


def _summary(report: SyncReport) -> dict[str, object]:
    return {"policy": report.policy, "run": report.run_id, "outcome": report.outcome, "counts": report.counts}


def _item(item: ItemOutcome) -> dict[str, object]:
    return {
        "source": item.source,
        "reference": item.reference,
        "destination": item.destination,
        "outcome": item.outcome,
        "digest": item.digest,
        "upstream_digest": item.upstream_digest,
        "copied_bytes": item.copied_bytes,
        "reason": item.reason,
        "error": item.error_class,
    }


def _exit_code(report: SyncReport) -> int:
    """Return the code of the worst failure; an image that was asked for by name and left out is refused."""
    codes = [item.error.exit_code for item in report.items if item.error is not None]
    if report.counts.failed > len(codes):
        codes.append(RemoteUnavailable.exit_code)
    return max(codes, default=0)
