"""``regmeta repair``: putting right what ``regmeta verify`` finds."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from regmeta.cli import render
from regmeta.cli.context import Json, settings
from regmeta.errors import FINDINGS


def repair(
    ctx: typer.Context,
    kind: Annotated[
        list[str] | None,
        typer.Option("--kind", "-k", help="Only this kind, as 'regmeta verify' names it. Repeat."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="SOURCE", help="A layout or archive that may hold good bytes."),
    ] = None,
    read_data: Annotated[
        str | None,
        typer.Option("--read-data", metavar="[=N/T|X%]", help="Look for rot first: see 'regmeta verify'."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it. Without, only say what would be done.")] = False,
    as_json: Json = False,
) -> None:
    """Put right what 'regmeta verify' finds; without --yes only say how. Nothing is deleted.

    A bad object's row is marked as damaged, and healed by a good copy under a new key: another object, a
    manifest's row, or --from. Exit code 1 if anything is left.

    \b
    Examples:
      regmeta repair
      regmeta repair --yes
      regmeta repair --read-data --kind object-corrupt --from ./layout --yes
    """
    from regmeta.app import repairing
    from regmeta.cli.progress import StepProgress
    from regmeta.errors import UsageError
    from regmeta.maintain.verify.findings import Kind

    try:
        kinds = [Kind(name) for name in kind or ()]
    except ValueError as error:
        known = ", ".join(Kind)
        raise UsageError(f"--kind: {error}; there are {known}") from error
    chosen = settings(ctx)
    with StepProgress() as shown:
        actions = repairing.plan_repair(
            chosen, shown, read_data=read_data, jobs=os.cpu_count() or 1, kinds=kinds
        )
    if not yes:
        if as_json:
            render.json(actions)
        elif actions:
            render.table(
                ["kind", "subject", "what would be done"],
                [(str(a.finding.kind), a.finding.subject, a.what) for a in actions],
            )
        render.say(f"{render.count(len(actions), 'finding')}" + ("; --yes repairs them" if actions else ""))
        if actions:
            raise typer.Exit(FINDINGS)
        return
    outcomes = repairing.repair(chosen, actions, source) if actions else []
    left = [outcome for outcome in outcomes if not outcome.is_repaired]
    if as_json:
        render.json(outcomes)
    elif outcomes:
        render.table(
            ["kind", "subject", "outcome"],
            [(str(o.finding.kind), o.finding.subject, o.detail) for o in outcomes],
        )
    render.say(f"{len(outcomes) - len(left)} repaired, {len(left)} left")
    if left:
        raise typer.Exit(FINDINGS)
