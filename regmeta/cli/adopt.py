"""``regmeta adopt``: the storage of other registries is taken over."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from regmeta.cli import adopt_reports, render
from regmeta.cli.context import Json, Limit, make_default_home, settings
from regmeta.cli.defaulting import TakesArgument
from regmeta.errors import FINDINGS

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="The old registry's storage: a folder, or s3://bucket/prefix.",
        show_default=False,
    ),
]
Prefix = Annotated[
    str, typer.Option("--prefix", help="Put its repositories below this name.", show_default=False)
]


class AdoptGroup(TakesArgument):
    """Takes what is none of its commands for a source: ``regmeta adopt /srv/registry``."""

    default = "run"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put ``run`` in where an option comes first, as in ``regmeta adopt --again SOURCE``."""
        if args and args[0].startswith("-") and args[0] not in ("--help", "-h"):
            args = [self.default, *args]
        return super().parse_args(ctx, args)

    def is_argument(self, text: str) -> bool:
        """Tell a path from a command."""
        return "/" in text or Path(text).exists()


app = typer.Typer(
    cls=AdoptGroup,
    help="""Take over what another registry has stored: docker's registry, zot, or a tree of OCI layouts.

    'plan' says what there is, 'run' brings it, and again what has changed since, 'verify' proves that it is
    here, 'finalize' ends it. The old storage is never written, and its registry may be at work.
    'regmeta adopt SOURCE' is short for 'regmeta adopt run SOURCE'.

    \b
    Examples:
      regmeta adopt plan /var/lib/registry
      regmeta adopt /var/lib/registry
      regmeta adopt verify /var/lib/registry
      regmeta adopt finalize /var/lib/registry
    """,
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def plan(ctx: typer.Context, source: Source, prefix: Prefix = "", as_json: Json = False) -> None:
    """Say what there is: repositories, images, bytes, what is broken, and about how long it takes.

    Nothing is written, here or there. The exit code is 1 if something cannot be brought.

    \b
    Examples:
      regmeta adopt plan /var/lib/registry
      regmeta adopt plan s3://old-bucket/registry --prefix mirror
    """
    from regmeta.app import adopting
    from regmeta.cli.progress import CountProgress

    with CountProgress("images") as progress:
        found = adopting.plan(settings(ctx), source, prefix=prefix, advanced=progress.advanced)
    adopt_reports.show_plan(found, as_json)
    if found.failures or found.left_out or any(not each.is_brought for _, each in found.defects):
        raise typer.Exit(FINDINGS)


@app.command()
def run(
    ctx: typer.Context,
    source: Source,
    prefix: Prefix = "",
    copy: Annotated[
        bool, typer.Option("--copy", help="Copy all bytes, also where hard links would do.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Look at all repositories, not only at those that have changed.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Bring back what somebody has moved or removed here.")
    ] = False,
    believe_deletes: Annotated[
        bool,
        typer.Option(
            "--believe-deletes", help="Remove tags here also when most of a repository's are gone there."
        ),
    ] = False,
    reopen: Annotated[
        bool, typer.Option("--reopen", help="Go on with what was finalized: all is looked at again.")
    ] = False,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, max=64, help="How many images are looked at at once.")
    ] = 8,
    as_json: Json = False,
) -> None:
    """Bring all that is new there. What was brought before is not read again. Beside both registries' work.

    On one file system no byte is copied: the store keeps other names of the same files. Everything that it
    brings is kept until 'adopt finalize'. Interrupted or killed, run it again: it goes on where it was. What
    is broken there is listed by class ('adopt defects') and stops nothing. The exit code is 1 if something
    could not be brought, and 5 if a repository could not be read.

    \b
    Examples:
      regmeta adopt /var/lib/registry
      regmeta adopt /var/lib/zot --prefix mirror
    """
    from regmeta.adopt.terms import Options
    from regmeta.app import adopting
    from regmeta.cli.progress import SyncProgress

    chosen = settings(ctx)
    make_default_home(chosen)
    options = Options(again, overwrite, believe_deletes, jobs)
    with SyncProgress() as progress:
        report = adopting.run(
            chosen,
            source,
            prefix=prefix,
            links=not copy,
            reopen=reopen,
            options=options,
            progress=progress,
        )
    adopt_reports.show_run(report, as_json)
    if report.failures:
        raise typer.Exit(max(error.exit_code for error in report.failures.values()))
    if any(outcome == "left out" for _, outcome in report.defects):
        raise typer.Exit(FINDINGS)


@app.command()
def verify(
    ctx: typer.Context,
    source: Source,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read and hash all blobs here, not only the manifests.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Prove that what is here is what is there: tags, manifests and their bytes, and all blobs.

    Of what was adopted from SOURCE, each repository is compared. The exit code is 1 if anything differs that
    no defect of the old registry explains. Nothing is changed.

    \b
    Examples:
      regmeta adopt verify /var/lib/registry
      regmeta adopt verify /var/lib/registry --deep --json
    """
    from regmeta.app import adopting
    from regmeta.cli.progress import CountProgress

    with CountProgress("repositories") as progress:
        found = list(adopting.verify(settings(ctx), source, deep=deep, advanced=progress.advanced))
    adopt_reports.show_comparison(found, as_json)
    failures = [each.failure.exit_code for each in found if each.failure is not None]
    if failures:
        raise typer.Exit(max(failures))
    if not all(each.is_equal for each in found):
        raise typer.Exit(FINDINGS)


@app.command()
def status(
    ctx: typer.Context,
    source: Annotated[str | None, typer.Argument(metavar="[SOURCE]", help="Only this one.")] = None,
    as_json: Json = False,
) -> None:
    """Show each adoption: how far it is, what is broken there, and whether it was finalized.

    \b
    Examples:
      regmeta adopt status
    """
    from regmeta.app import adopting

    adopt_reports.show_status(adopting.status(settings(ctx), source), as_json)


@app.command()
def defects(ctx: typer.Context, source: Source, limit: Limit = 1000, as_json: Json = False) -> None:
    """List what was wrong with the old registry, as the last run saw it: class, image, and why.

    \b
    Examples:
      regmeta adopt defects /var/lib/registry
    """
    from regmeta.app import adopting

    adopt_reports.show_defects(adopting.rejects(settings(ctx), source, limit), as_json, limit)


@app.command()
def statistics(
    ctx: typer.Context,
    source: Source,
    zot_url: Annotated[
        str | None, typer.Option("--zot-url", help="A running zot with its search extension.")
    ] = None,
    meta_db: Annotated[
        str | None, typer.Option("--meta-db", help="zot's own database, a file beside its storage.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Take over what zot has counted: pulls, last pulls, push times and pushers, stars and bookmarks.

    After SOURCE was adopted; again at any time: nothing is counted twice. The database tells more than the
    API, such as whose the stars are. What zot knows no day of is on no day here either.

    \b
    Examples:
      regmeta adopt statistics /var/lib/zot --zot-url http://localhost:5000
      regmeta adopt statistics /var/lib/zot --meta-db /var/lib/zot/meta.db
    """
    from regmeta.app import adopting

    report = adopting.take_statistics(settings(ctx), source, zot_url=zot_url, meta_db=meta_db)
    adopt_reports.show_statistics(report, as_json)
    if report.problems:
        raise typer.Exit(FINDINGS)


@app.command()
def finalize(
    ctx: typer.Context,
    source: Source,
    unchecked: Annotated[
        bool, typer.Option("--unchecked", help="Do not look at SOURCE again: it may be gone.")
    ] = False,
    as_json: Json = False,
) -> None:
    """End an adoption: what no tag keeps is collected from then on, as anything else.

    Refused if something there has changed since the last run. The old storage is not needed any more, and may
    be removed: hard links keep the bytes.

    \b
    Examples:
      regmeta adopt finalize /var/lib/registry
    """
    from regmeta.app import adopting
    from regmeta.cli.progress import StepProgress

    with StepProgress() as progress:
        progress.began("leases", None)
        done = adopting.finalize(settings(ctx), source, unchecked=unchecked, advanced=progress.advanced)
    if as_json:
        render.json(done)
        return
    render.say(f"{done.location} is finalized: what it brought is collected like anything else from now on")
