"""``regmeta rebuild``: rows from the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from regmeta.cli import render
from regmeta.cli.context import Json, settings
from regmeta.errors import FINDINGS, UsageError

if TYPE_CHECKING:
    from regmeta.maintain.rebuild.report import Report


def rebuild(
    ctx: typer.Context,
    lost_database: Annotated[
        bool, typer.Option("--lost-database", help="Make a new database: the one that was is gone.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="No other process works on the store, on any host.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Put back rows that the store knows and the database lacks. Nothing is deleted.

    Beside writers it only reconciles. With --lost-database it makes all rows of a new database from the
    store's snapshots; every other process must have ended. Interrupted, run it again: it goes on.

    \b
    Examples:
      regmeta rebuild
      regmeta rebuild --lost-database --yes
    """
    from regmeta.app import rebuilding
    from regmeta.cli.progress import RebuildProgress

    chosen = settings(ctx)
    if yes and not lost_database:
        raise UsageError("--yes goes with --lost-database")
    if lost_database and not yes:
        raise UsageError(
            "processes on other hosts cannot be seen from here: end every process that works on"
            f" {chosen.store}, then say --yes"
        )
    run = rebuilding.rebuild_lost_database if lost_database else rebuilding.reconcile_rows
    report = run(chosen, RebuildProgress)
    _report(report, as_json)
    if lost_database:
        render.say(
            f"{chosen.database} is the database now; run 'regmeta verify --mark' before any collection"
        )
    if report.problems:
        raise typer.Exit(FINDINGS)


def _report(report: Report, as_json: bool) -> None:
    if as_json:
        render.json(report)
    else:
        for problem in report.problems:
            typer.echo(render.printable(str(problem)))
    render.say(
        f"{render.count(report.repositories, 'repository', 'repositories')} looked at,"
        f" {report.changed} changed: {render.count(report.manifests, 'manifest')},"
        f" {render.count(report.blobs, 'blob')}, {render.count(report.tags, 'tag')} put back;"
        f" {render.count(len(report.problems), 'problem')}"
    )
