"""``regmeta doctor`` and ``regmeta recover``: is all well, and what processes that have ended left behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from regmeta.cli import render
from regmeta.cli.context import Json, settings
from regmeta.errors import FINDINGS

if TYPE_CHECKING:
    from regmeta.maintain.doctor.check import Check


def doctor(
    ctx: typer.Context,
    quick_check: Annotated[
        bool, typer.Option("--quick-check", help="SQLite looks through its whole file as well.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Look at everything that the registry stands on, and say what to do. Changes nothing.

    Exit code 1 if there is a problem; warnings end with 0. What is broken is listed, whatever it is.

    \b
    Examples:
      regmeta doctor
      regmeta doctor --json
    """
    from regmeta.app import health

    found = health.examine(settings(ctx), pages=quick_check)
    problems = [check for check in found if check.level == "problem"]
    warnings = [check for check in found if check.level == "warning"]
    if as_json:
        render.json({"problems": len(problems), "warnings": len(warnings), "checks": found})
    else:
        _show(found)
    render.say(
        f"{render.count(len(found), 'check')}: {render.count(len(problems), 'problem')},"
        f" {render.count(len(warnings), 'warning')}"
    )
    if problems:
        raise typer.Exit(FINDINGS)


def _show(checks: Sequence[Check]) -> None:
    render.table(["check", "level", "found"], [(check.name, check.level, check.found) for check in checks])
    for check in checks:
        if check.advice:
            typer.echo(render.printable(f"{check.name}: {check.advice}"))


def recover(
    ctx: typer.Context,
    host_gone: Annotated[
        str | None,
        typer.Option(
            "--host-gone",
            metavar="HOST",
            help="This machine has gone for good: end what its processes left, now and not when it expires.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Clear up after processes that have ended, and write the snapshots that are behind.

    Every command that writes does the same before its own work. Run again, it finds nothing to do. Whether
    the processes of other hosts live cannot be known: what they reserved expires after an hour. Say
    --host-gone only of a machine that will not come back.

    \b
    Examples:
      regmeta recover
      regmeta recover --host-gone worker-3
      regmeta recover --json
    """
    from regmeta import app

    if host_gone is not None:
        _host_gone(ctx, host_gone, as_json)
        return

    with app.open_for_writing(settings(ctx)) as registry:
        done = registry.recovered
    if as_json:
        render.json(done)
        return
    render.fields(
        [
            ("staging folders removed", done.stagings_removed),
            ("intents taken back", done.intents_taken_back),
            ("snapshots written", done.snapshots_written),
        ]
    )


def _host_gone(ctx: typer.Context, host: str, as_json: bool) -> None:
    from regmeta.app import hosts

    done = hosts.host_gone(settings(ctx), host)
    if as_json:
        render.json(done)
        return
    render.fields(
        [
            ("hosts", ", ".join(done.hosts)),
            ("intents taken back", done.intents_taken_back),
            ("runs ended", done.runs_ended),
            ("signs removed", done.signs_removed),
        ]
    )
