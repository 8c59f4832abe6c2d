"""``regmeta metrics``: what the rows say, for Prometheus."""

from __future__ import annotations

from typing import Annotated

import typer

from regmeta.cli.context import settings


def metrics(
    ctx: typer.Context,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="Write to this file, at once, instead of to stdout."),
    ] = None,
) -> None:
    """Show the ages and lengths of the queues in the text format of Prometheus. Changes nothing.

    For node_exporter's textfile collector, from cron or a timer. What one process does is shown by the global
    options --metrics-file and --metrics-listen. A database that does not answer is a figure as well, and ends
    with exit code 5.

    \b
    Examples:
      regmeta metrics
      regmeta metrics --output /var/lib/node_exporter/regmeta.prom
    """
    from regmeta.app import metrics as wiring
    from regmeta.errors import Error

    chosen = settings(ctx)
    failure: Error | None = None
    try:
        text = wiring.scrape(chosen)
    except Error as error:
        failure, text = error, wiring.down()
    if output is None:
        typer.echo(text, nl=False)
    else:
        wiring.write_file(output, text)
    if failure is not None:
        raise failure
