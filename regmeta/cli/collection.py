"""``regmeta gc``: what nothing needs any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from regmeta.cli import render
from regmeta.cli.context import Json, settings
from regmeta.errors import FINDINGS, StoreUnavailable, UsageError

if TYPE_CHECKING:
    from regmeta.maintain.collect.run import CollectReport
    from regmeta.query.collection import CollectionStatus

SHOWN = 20  # failures of each kind; the status shows more

app = typer.Typer(help="Collect what nothing needs.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def run(
    ctx: typer.Context,
    is_watching: Annotated[
        bool,
        typer.Option("--watch/--once", help="Go on until Ctrl-C or SIGTERM, or end when nothing is due."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be collected now, and why.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Collect the manifests and blobs whose time is over, and delete the objects that are dead.

    Runs beside imports and other collectors. Interrupted, run it again.

    \b
    Examples:
      regmeta gc run
      regmeta gc run --watch
      regmeta gc run --dry-run
    """
    from regmeta.app import collecting

    if dry_run and is_watching:
        raise UsageError("--dry-run and --watch: use one of them")
    if dry_run:
        _dry_run(ctx, as_json)
        return
    if is_watching:
        _watch(ctx, as_json)
        return
    from regmeta.cli.progress import StepProgress

    with StepProgress() as progress:
        found = collecting.collect_once(settings(ctx), progress)
    if as_json:
        render.json(found)
    _say_failures(found)
    _say_collected(found)
    if found.objects.failures:
        raise typer.Exit(StoreUnavailable.exit_code)
    if found.failures or found.dead_letters:
        raise typer.Exit(FINDINGS)


def _dry_run(ctx: typer.Context, as_json: bool) -> None:
    from regmeta.app import reconciling

    found = reconciling.plan_collection(settings(ctx))
    if as_json:
        render.json(found)
    elif found.manifests:
        render.table(
            ["repository", "manifest", "why"],
            [(each.repository, each.digest, each.why) for each in found.manifests],
        )
    render.say(
        f"{render.count(len(found.manifests), 'manifest')} and {render.count(len(found.blobs), 'blob')}"
        f" ({render.size(found.size_bytes)}) would be collected,"
        f" {render.count(found.objects, 'object')} deleted ({render.size(found.objects_size_bytes)})"
    )


def _watch(ctx: typer.Context, as_json: bool) -> None:
    from regmeta.app import collecting
    from regmeta.cli.signals import Stop

    def collected(found: CollectReport) -> None:
        if as_json:
            render.json_line(found)
        _say_failures(found)
        if found.manifests or found.blobs or found.objects.deleted:
            _say_collected(found)

    with Stop() as stop:
        collecting.watch(
            settings(ctx), stop, collected=collected, changed=lambda why: render.say(f"regmeta: {why}")
        )


def _say_failures(found: CollectReport) -> None:
    for failure in (*found.failures[:SHOWN], *found.objects.failures[:SHOWN]):
        render.say(f"regmeta: {failure}")
    if found.failures or found.objects.failures:
        render.say("what failed is noted and tried again later: 'regmeta gc status' shows it")
    if found.dead_letters:
        render.say(
            f"regmeta: {render.count(found.dead_letters, 'dead letter')}: see 'regmeta gc status',"
            " then 'regmeta gc retry'"
        )


def _say_collected(found: CollectReport) -> None:
    render.say(
        f"{render.count(found.manifests, 'manifest')} and {render.count(found.blobs, 'blob')} collected,"
        f" {render.count(found.objects.deleted, 'object')} deleted ({render.size(found.objects.size_bytes)})"
    )


@app.command()
def status(ctx: typer.Context, as_json: Json = False) -> None:
    """Show what waits for a collector, what is late, what fails, and what it would free.

    \b
    Example:
      regmeta gc status
    """
    from regmeta import app
    from regmeta.query.collection import collection_status

    with app.open_for_reading(settings(ctx)) as registry:
        found = collection_status(registry.database)
    if as_json:
        render.json(found)
    else:
        _show(found)
    if not found.is_healthy:
        raise typer.Exit(FINDINGS)


def _show(found: CollectionStatus) -> None:
    render.table(
        ("kind", "queued", "due", "overdue", "due since", "dead letters"),
        [
            (each.kind, each.queued, each.due, each.overdue, each.oldest_due_at, each.dead_letters)
            for each in found.queues
        ],
    )
    dead = found.tombstones
    paused = None
    if found.paused_until is not None:
        paused = f"until {render.moment(found.paused_until)}: {found.pause_reason}"
    typer.echo()
    render.fields(
        (
            ("reclaimable", render.size(found.reclaimable_bytes)),
            ("dead objects", f"{dead.waiting} to be deleted ({render.size(dead.waiting_bytes)})"),
            ("deleted objects", f"{dead.deleted} not forgotten yet"),
            ("failing objects", f"{dead.failed} ({render.size(dead.failed_bytes)})"),
            ("hold", found.hold),
            ("pause", paused),
        )
    )
    if found.failures:
        typer.echo()
        render.table(
            ("kind", "target", "why", "attempts", "next try", "last error"),
            [
                (
                    each.kind,
                    each.target,
                    each.reason,
                    each.attempts,
                    each.next_try_at or "never",
                    each.last_error,
                )
                for each in found.failures
            ],
        )


@app.command()
def retry(ctx: typer.Context, as_json: Json = False) -> None:
    """Let the next run try again all that has failed, dead letters as well, and end a pause.

    \b
    Example:
      regmeta gc retry
    """
    from regmeta import app
    from regmeta.maintain.collect.again import retry_now

    with app.open_for_writing(settings(ctx)) as registry:
        found = retry_now(registry.database)
    if as_json:
        render.json(found)
        return
    render.say(
        f"{render.count(found.tasks, 'task')} and {render.count(found.objects, 'object')} are due now"
        + ("; the pause has ended" if found.ended_pause else "")
    )


@app.command()
def sweep(
    ctx: typer.Context,
    force: Annotated[
        bool, typer.Option("--force", help="Also when more than a fifth of all objects are unknown.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Look for objects that no row knows, and have them deleted by a later 'regmeta gc run'.

    In a bucket, uploads that nobody will finish any more are given up as well.

    \b
    Example:
      regmeta gc sweep
    """
    from regmeta import app
    from regmeta.maintain.collect.sweep import sweep as look

    with app.open_for_writing(settings(ctx)) as registry:
        found = look(registry.database, registry.store, registry.writer.lifetimes, force=force)
    if as_json:
        render.json(found)
        return
    render.say(
        f"{render.count(found.objects, 'object')}, {found.unknown} unknown:"
        f" {found.buried} to be deleted, {found.too_young} left alone since they are young"
        + (f", {found.kept} since they may heal a damaged blob" if found.kept else "")
    )
    if found.aborted_uploads:
        render.say(f"{render.count(found.aborted_uploads, 'unfinished upload')} given up")


@app.command()
def reconcile(
    ctx: typer.Context,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count what no task would collect; queue nothing.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Also when more than a fifth of all manifests or blobs are garbage."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Look for garbage that waits for no collector, and queue it. Deletes nothing. Beside everything.

    There should be none. Interrupted, run it again.

    \b
    Examples:
      regmeta gc reconcile --dry-run
      regmeta gc reconcile
    """
    from regmeta.app import reconciling
    from regmeta.cli.progress import StepProgress

    with StepProgress() as progress:
        found = reconciling.reconcile(settings(ctx), progress, force=force, dry_run=dry_run)
    if as_json:
        render.json(found)
    render.say(
        f"without a task: {found.forgotten_manifests} of {render.count(found.manifests, 'manifest')},"
        f" {found.forgotten_blobs} of {render.count(found.blobs, 'blob')},"
        f" {found.forgotten_repositories} of"
        f" {render.count(found.repositories, 'repository', 'repositories')}; {found.queued} queued"
    )
    if dry_run and (found.forgotten_manifests or found.forgotten_blobs or found.forgotten_repositories):
        raise typer.Exit(FINDINGS)
