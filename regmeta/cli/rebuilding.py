"""``regmeta rebuild``: rows from the store."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from regmeta.cli import render
from regmeta.cli.context import Json, settings
from regmeta.errors import FINDINGS, UsageError

if TYPE_CHECKING:
    from types import TracebackType

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


class RebuildProgress:
    """Draws how a rebuild gets on, on stderr, for a terminal only."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._bars = Progress(
            TextColumn("repositories"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[manifests]} manifests"),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
            transient=True,
        )
        self._task = self._bars.add_task("repositories", total=None, manifests=0)
        self._manifests = 0

    def __enter__(self) -> RebuildProgress:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def started(self, repositories: int) -> None:
        """So many repositories are to be looked at."""
        self._bars.update(self._task, total=repositories)

    def advanced(self, manifests: int) -> None:
        """Manifests have their rows."""
        self._manifests += manifests
        self._bars.update(self._task, manifests=self._manifests)

    def finished(self, repository: str) -> None:
        """A repository is done."""
        self._bars.advance(self._task)
