"""The program itself: global options, the commands, and what becomes of an error."""

from __future__ import annotations

import logging
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from regmeta.cli import (
    backups,
    blobs,
    collection,
    database,
    events,
    graph,
    health,
    image,
    images,
    manifests,
    rebuilding,
    registry,
    repairing,
    repositories,
    retention,
    search,
    sql,
    stats,
    sync,
    tags,
    usage,
    verification,
)
from regmeta.cli.context import Options
from regmeta.cli.interrupts import Interrupts
from regmeta.errors import Error

DEFECT = 70
INTERRUPTED = 130


class Program(TyperGroup):
    """Turns what is raised into one line on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        interrupts = Interrupts()
        try:
            with interrupts:
                return super().invoke(ctx)
        except Error as error:
            _say(ctx, f"regmeta: {error}")
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            raise _interrupted(ctx) from error
        except BrokenPipeError:
            # Whoever read our output has enough; nothing more can be written there.
            sys.stdout = None
            raise typer.Exit(0) from None
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            if _is_usage(error):
                raise
            if interrupts.were_seen:
                raise _interrupted(ctx) from error
            if isinstance(error, UnicodeEncodeError) and not " ".join(sys.argv).isprintable():
                _say(ctx, f"regmeta: an argument is not UTF-8: {' '.join(sys.argv[1:])}")
                raise typer.Exit(2) from error
            _say(ctx, f"regmeta: internal error: {type(error).__name__}: {error} (--debug shows where)")
            raise typer.Exit(DEFECT) from error


def _is_usage(error: Exception) -> bool:
    return hasattr(error, "exit_code") and hasattr(error, "format_message")


def _interrupted(ctx: Any) -> typer.Exit:
    _say(ctx, "regmeta: interrupted; what was reported as done is done, run it again for the rest")
    return typer.Exit(INTERRUPTED)


def _say(ctx: Any, message: str) -> None:
    from regmeta.cli.render import printable

    if isinstance(ctx.obj, Options) and ctx.obj.debug:
        import traceback

        traceback.print_exc()
    typer.echo(printable(message), err=True)


app = typer.Typer(
    name="regmeta",
    cls=Program,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 ok, 1 findings, 2 usage, 3 bad input, 4 integrity, 5 unavailable, 6 refused.",
)
app.command("init")(registry.init)
app.command("import")(images.import_)
app.command("export")(images.export)
app.command("status")(registry.status)
app.command("doctor")(health.doctor)
app.command("recover")(health.recover)
app.command("verify", cls=verification.VerifyCommand)(verification.verify)
app.command("repair", cls=verification.VerifyCommand)(repairing.repair)
app.command("backup")(backups.backup)
app.command("restore")(backups.restore)
app.command("rebuild")(rebuilding.rebuild)
app.command("search")(search.search)
app.command("referrers")(graph.referrers)
app.command("bases")(graph.bases)
app.command("derived")(graph.derived)
app.command("sql")(sql.sql)
app.add_typer(repositories.app, name="repo")
app.add_typer(tags.app, name="tag")
app.add_typer(manifests.app, name="manifest")
app.add_typer(blobs.app, name="blob")
app.add_typer(image.app, name="image")
app.add_typer(usage.app, name="usage")
app.add_typer(stats.app, name="stats")
app.add_typer(events.app, name="events")
app.add_typer(collection.app, name="gc")
app.add_typer(retention.app, name="retention")
app.add_typer(sync.app, name="sync")
database.app.command("rebuild-search")(search.rebuild_search)
app.add_typer(database.app, name="db")


def _version(wanted: bool) -> None:
    if wanted:
        from regmeta import __version__

        typer.echo(f"regmeta {__version__}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    home: Annotated[
        str | None, typer.Option(help="Folder of the registry. [REGMETA_HOME]", show_default=False)
    ] = None,
    config: Annotated[
        str | None, typer.Option(help="TOML file with settings. [REGMETA_CONFIG]", show_default=False)
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more on stderr.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """The metadata database of an OCI registry, bound to its storage.

    Images go in as OCI layouts; their bytes and their rows commit together.
    """
    logging.basicConfig(
        stream=sys.stderr, format="regmeta: %(message)s", level=logging.DEBUG if debug else logging.WARNING
    )
    logging.getLogger("stamina").setLevel(logging.WARNING if verbose or debug else logging.ERROR)
    if verbose:
        logging.getLogger("regmeta").setLevel(logging.INFO)
    ctx.obj = Options(home, config, verbose, debug)
