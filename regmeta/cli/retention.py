"""``regmeta retention``: which tags stay, and ending the others."""

from __future__ import annotations

from typing import Annotated

import typer

from regmeta.cli import render
from regmeta.cli.context import Json, settings

app = typer.Typer(
    help="Keep tags by policies, and end the others.", no_args_is_help=True, rich_markup_mode=None
)


@app.command()
def plan(
    ctx: typer.Context,
    repository: Annotated[
        list[str] | None,
        typer.Argument(metavar="[REPOSITORY]...", help="Default: all that a policy is for."),
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Write the plan, to be applied.")
    ] = None,
    dropped: Annotated[bool, typer.Option("--dropped", help="Show only the tags that are dropped.")] = False,
    as_json: Json = False,
) -> None:
    """Say of each tag whether it stays, and by which rule. Changes nothing.

    The policies are those of the settings file. The plan that --output writes is what 'regmeta retention
    apply' does.

    \b
    Examples:
      regmeta retention plan
      regmeta retention plan team/app --dropped
      regmeta retention plan --output plan.json
    """
    from regmeta.app import retention
    from regmeta.oci.names import repository_name

    found = retention.plan(settings(ctx), [repository_name(name) for name in repository or ()])
    if output is not None:
        retention.write_plan(found.drop_plan, output)
    drops = sum(decision.decision == "drop" for decision in found.decisions)
    kept = len(found.decisions) - drops
    shown = tuple(each for each in found.decisions if not dropped or each.decision == "drop")
    if as_json:
        document = {
            "moment": found.moment,
            "repositories": found.repositories,
            "kept": kept,
            "dropped": drops,
            "decisions": shown,
        }
        render.json(document)
    else:
        render.table(
            ["tag", "digest", "decision", "reason"],
            [
                (
                    f"{each.repository}:{each.tag}",
                    each.digest,
                    each.decision,
                    f"{each.rule}: {each.reason}" if each.rule else each.reason,
                )
                for each in shown
            ],
        )
    render.say(
        f"{render.count(found.repositories, 'repository', 'repositories')}:"
        f" {render.count(kept, 'tag')} kept, {drops} dropped"
        + (f"; 'regmeta retention apply {output}' drops them" if output is not None and drops else "")
    )


@app.command()
def apply(
    ctx: typer.Context,
    plan_file: Annotated[
        str, typer.Argument(metavar="PLAN_FILE", help="What 'regmeta retention plan --output' wrote.")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say whether the plan still holds.")
    ] = False,
    as_json: Json = False,
) -> None:
    """End the tags that a plan drops: exactly these, or none of a repository in which something has changed.

    A dropped tag can be restored as long as its history is kept. Images are collected later, as after
    'regmeta tag rm'. A plan takes effect once; interrupted, run it again: it does the rest. Exit code 6 if it
    was refused anywhere.

    \b
    Examples:
      regmeta retention apply plan.json --dry-run
      regmeta retention apply plan.json
    """
    from regmeta.app import retention
    from regmeta.errors import Refused

    outcomes = retention.apply(settings(ctx), plan_file, dry_run=dry_run)
    if as_json:
        render.json(
            [
                {
                    "repository": each.repository,
                    "status": each.status,
                    "tags": each.tags,
                    "error": None if each.error is None else str(each.error),
                }
                for each in outcomes
            ]
        )
    elif outcomes:
        render.table(
            ["repository", "tags", "outcome"],
            [(each.repository, len(each.tags), each.status) for each in outcomes],
        )
    refused = [each for each in outcomes if each.error is not None]
    for each in refused:
        render.say(f"regmeta: {each.error}")
    done = sum(len(each.tags) for each in outcomes if each.status in ("applied", "would be applied"))
    before = sum(len(each.tags) for each in outcomes if each.status == "applied before")
    render.say(
        f"{render.count(done, 'tag')} {'would be dropped' if dry_run else 'dropped'},"
        f" {before} before, {render.count(len(refused), 'repository', 'repositories')} refused"
    )
    if refused:
        raise typer.Exit(Refused.exit_code)
