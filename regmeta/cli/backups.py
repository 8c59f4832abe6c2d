"""``regmeta backup`` and ``regmeta restore``: copies of the database."""

from __future__ import annotations

from typing import Annotated

import typer

from regmeta.cli import render
from regmeta.cli.context import Json, settings
from regmeta.errors import FINDINGS, UsageError


def backup(
    ctx: typer.Context,
    dest: Annotated[str, typer.Argument(help="The file to be made.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Copy the database into a new file, as of one moment, while it is in use. The copy is checked.

    The store's files are copied afterwards, by other means: first the database, then the store.

    \b
    Examples:
      regmeta backup /backup/regmeta.db
      regmeta backup /backup/regmeta-$(date +%F).dump --json
    """
    from regmeta.app import backups

    made = backups.backup(settings(ctx), dest)
    if as_json:
        render.json(made)
        return
    render.say(
        f"{made.path}: {render.size(made.size_bytes)}, checked; database {made.identity.database_id},"
        f" epoch {made.identity.epoch}, schema {made.schema}"
    )


def restore(
    ctx: typer.Context,
    copy: Annotated[
        str | None, typer.Argument(help="A file that 'regmeta backup' made.", show_default=False)
    ] = None,
    loaded: Annotated[
        bool, typer.Option("--loaded", help="PostgreSQL: pg_restore has loaded the copy already.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="No other process uses the registry, on any host.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Put a copy in the place of the database. Every other process must have ended.

    What the store's snapshots know and the copy does not is put back; what cannot be is listed. Collection is
    on hold until 'regmeta verify --mark' was clean. Interrupted, run it again.

    \b
    Examples:
      regmeta restore /backup/regmeta.db --yes
      regmeta restore --loaded --yes
    """
    from regmeta.app import backups
    from regmeta.cli.progress import RebuildProgress

    chosen = settings(ctx)
    if (copy is None) != loaded:
        raise UsageError("give the file of a copy, or --loaded where pg_restore has loaded it")
    if not yes:
        raise UsageError(
            "processes on other hosts cannot be seen from here: end every process that uses"
            f" {chosen.store}, then say --yes"
        )
    if copy is None:
        done = backups.restore_loaded(chosen, RebuildProgress)
    else:
        done = backups.restore_file(chosen, copy, RebuildProgress)
    _tell(done, as_json)
    if done.reconciled.problems:
        raise typer.Exit(FINDINGS)


def _tell(done: object, as_json: bool) -> None:
    from regmeta.app.backups import Restored

    assert isinstance(done, Restored)
    report = done.reconciled
    if as_json:
        render.json(done)
    for problem in [] if as_json else report.problems:
        typer.echo(render.printable(str(problem)))
    if done.moved_aside is not None:
        render.say(f"the database that was is {done.moved_aside}")
    render.say(
        f"{done.database} is restored (epoch {done.identity.epoch}); from newer snapshots came"
        f" {render.count(report.manifests, 'manifest')}, {render.count(report.blobs, 'blob')} and"
        f" {render.count(report.tags, 'tag')}; {render.count(len(report.problems), 'problem')}"
    )
    render.say("collection is on hold: run 'regmeta verify --mark'")
