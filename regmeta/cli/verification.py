"""``regmeta verify``: is everything as it should be?"""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from regmeta.cli import render
from regmeta.cli.context import Json, settings
from regmeta.errors import FINDINGS

MIB = 1024 * 1024  # [bytes]


class VerifyCommand(TyperCommand):
    """Lets ``--read-data`` stand alone: then it means everything."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put in the value that was left out."""
        return super().parse_args(ctx, ["--read-data=all" if arg == "--read-data" else arg for arg in args])


def verify(
    ctx: typer.Context,
    read_data: Annotated[
        str | None,
        typer.Option(
            "--read-data",
            metavar="[=N/T|X%]",
            help="Hash every object again; or slice N of T of them, or a sample of X per cent.",
        ),
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, max=64, help="Threads that hash. Default: all processors.")
    ] = os.cpu_count() or 1,
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, max=1e6, help="At most so many MiB a second.", show_default=False),
    ] = None,
    mark: Annotated[
        bool, typer.Option("--mark", help="Set blobs that are wrong to 'damaged', so that imports heal them.")
    ] = False,
    restart: Annotated[
        bool,
        typer.Option("--restart", help="Begin anew, not where an interrupted run ended."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare rows with rows, with objects and, with --read-data, with every byte. Beside writers.

    Exit code 1 if anything is not as it should be. Nothing is changed, except with --mark. An interrupted
    --read-data goes on where it was.

    \b
    Examples:
      regmeta verify
      regmeta verify --read-data --mark
      regmeta verify --read-data=1/7 --rate 50     one seventh, a slice for each day of the week
    """
    from regmeta.app import verification
    from regmeta.cli.progress import StepProgress

    with StepProgress() as shown:
        report = verification.verify(
            settings(ctx),
            shown,
            read_data=read_data,
            jobs=jobs,
            rate_bytes_per_s=None if rate is None else int(rate * MIB),
            mark=mark,
            restart=restart,
        )
    if as_json:
        render.json(report)
    elif report.findings:
        render.table(
            ["kind", "subject", "detail", "used by"],
            [(str(f.kind), f.subject, f.detail, f.used_by) for f in report.findings],
        )
    if report.resumed_at is not None:
        render.say("went on where the last run was interrupted")
    read = ""
    if read_data is not None:
        read = f", {render.count(report.objects_read, 'object')} read ({render.size(report.bytes_read)})"
    render.say(
        f"{render.count(report.repositories, 'repository', 'repositories')},"
        f" {render.count(report.manifests, 'manifest')}, {render.count(report.blobs, 'blob')}{read}:"
        f" {render.count(len(report.findings), 'finding')}"
    )
    if report.marked:
        render.say(f"{render.count(report.marked, 'blob')} marked as damaged")
    if report.hold_released:
        render.say("the hold on collection is lifted")
    if report.findings:
        raise typer.Exit(FINDINGS)
