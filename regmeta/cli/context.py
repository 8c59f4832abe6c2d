"""The global options, as every command gets them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from regmeta.settings import Settings


@dataclass(frozen=True, slots=True)
class Options:
    """What was said before the command."""

    home: str | None
    config: str | None
    verbose: bool
    debug: bool


Json = Annotated[bool, typer.Option("--json", help="Write JSON to stdout.")]
Csv = Annotated[bool, typer.Option("--csv", help="Write CSV to stdout: all columns, sizes in bytes.")]
Wide = Annotated[bool, typer.Option("--wide", help="Show more columns.")]
Limit = Annotated[int, typer.Option(min=1, max=1_000_000, help="How many rows at most.")]


def settings(ctx: typer.Context) -> Settings:
    """Put the settings together: command line, environment, file, defaults."""
    from regmeta.settings import load_settings

    options = cast("Options", ctx.obj)
    return load_settings(options.config, home=options.home)


def make_default_home(chosen: Settings) -> None:
    """Make the registry at the first command that brings images in, if nobody chose a place for it.

    A folder that was named and is empty may be a disk that is not mounted.
    """
    from regmeta import app
    from regmeta.cli import render

    if chosen.is_default_home and not app.is_initialised(chosen):
        app.initialise(chosen)
        render.say(f"made the registry in {chosen.home}")
