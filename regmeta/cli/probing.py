"""``regmeta health``: does the registry answer, and is its work being done?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from regmeta.cli import render
from regmeta.cli.context import Json, settings
from regmeta.errors import FINDINGS, Unavailable

if TYPE_CHECKING:
    from regmeta.app.probe import Health, Part


def health(
    ctx: typer.Context,
    max_age: Annotated[
        str | None,
        typer.Option("--max-age", help="Exit code 1 if something has been due for longer: 30m, 6h, 2d."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask the database and the store whether they answer, quickly. For probes; changes nothing.

    Exit code 5 if one of them does not, if they do not belong together, or if the schema is not the one that
    this release needs; what is wrong is listed. 'regmeta doctor' looks at everything and takes longer.

    \b
    Examples:
      regmeta health
      regmeta health --max-age 6h --json
    """
    from regmeta.app.probe import probe
    from regmeta.settings import duration

    max_age_s = None if max_age is None else duration(max_age).total_seconds()
    found = probe(settings(ctx), max_age_s=max_age_s)
    if as_json:
        render.json(found)
    else:
        _show(found)
    if found.status == "down":
        raise typer.Exit(Unavailable.exit_code)
    if found.status == "late":
        raise typer.Exit(FINDINGS)


def _show(found: Health) -> None:
    render.fields(
        [
            ("status", found.status),
            ("database", _part(found.database)),
            ("schema", _part(found.schema)),
            ("store", _part(found.store)),
            ("identity", _part(found.identity)),
            *(
                (each.name, f"due for {each.age_s:.0f} s{' (late)' if each.name in found.late else ''}")
                for each in found.queues
                if each.age_s is not None
            ),
        ]
    )
    if found.replica is not None:
        lag_s = found.replica.lag_s
        render.fields([("replica", "nothing replayed yet" if lag_s is None else f"{lag_s:.1f} s behind")])


def _part(part: Part) -> str:
    if part.error is not None:
        return part.error
    return "ok" if part.latency_s is None else f"ok, {part.latency_s * 1000:.1f} ms"
