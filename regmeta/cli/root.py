"""The program itself: global options, the commands, and what becomes of an error."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from regmeta import tracing
from regmeta.cli import (
    adopt,
    backups,
    blobs,
    collection,
    database,
    events,
    graph,
    health,
    image,
    images,
    logs,
    manifests,
    metrics,
    probing,
    rebuilding,
    registry,
    repairing,
    repositories,
    retention,
    running,
    search,
    sql,
    stats,
    stores,
    sync,
    tags,
    usage,
    verification,
)
from regmeta.cli.context import Options
from regmeta.cli.interrupts import Interrupts
from regmeta.errors import Error


class Program(TyperGroup):
    """Turns what is raised into one line on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        began_s = time.monotonic()
        with tracing.bound(**running.words(ctx)):
            return self._invoke(ctx, began_s)

    def _invoke(self, ctx: Any, began_s: float) -> Any:
        interrupts = Interrupts()
        try:
            with interrupts, running.running(ctx.params, interrupts, began_s):
                return super().invoke(ctx)
        except Error as error:
            _say(ctx, f"regmeta: {error}", error.exit_code)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            raise _interrupted(ctx, interrupts) from error
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
                raise _interrupted(ctx, interrupts) from error
            if isinstance(error, UnicodeEncodeError) and not " ".join(sys.argv).isprintable():
                _say(ctx, f"regmeta: an argument is not UTF-8: {' '.join(sys.argv[1:])}", 2)
                raise typer.Exit(2) from error
            message = f"regmeta: internal error: {type(error).__name__}: {error} (--debug shows where)"
            _say(ctx, message, running.DEFECT)
            raise typer.Exit(running.DEFECT) from error


def _is_usage(error: Exception) -> bool:
    return hasattr(error, "exit_code") and hasattr(error, "format_message")


def _interrupted(ctx: Any, interrupts: Interrupts) -> typer.Exit:
    message = "regmeta: interrupted; what was reported as done is done, run it again for the rest"
    _say(ctx, message, interrupts.exit_code)
    return typer.Exit(interrupts.exit_code)


def _say(ctx: Any, message: str, exit_code: int) -> None:
    from regmeta.cli.render import printable

    is_debugging = isinstance(ctx.obj, Options) and ctx.obj.debug
    if logs.is_json():
        logs.fail(message, exit_code, with_traceback=is_debugging)
        return
    if is_debugging:
        import traceback

        typer.echo(logs.redacted(traceback.format_exc()), err=True, nl=False)
    typer.echo(printable(logs.redacted(message)), err=True)


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
app.command("health")(probing.health)
app.command("metrics")(metrics.metrics)
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
app.add_typer(stores.app, name="store")
app.add_typer(events.app, name="events")
app.add_typer(collection.app, name="gc")
app.add_typer(retention.app, name="retention")
app.add_typer(sync.app, name="sync")
app.add_typer(adopt.app, name="adopt")
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
    log_format: running.LogFormat = logs.Format.text,
    log_level: running.LogLevel = None,
    request_id: running.RequestId = None,
    metrics_file: running.MetricsFile = None,
    metrics_listen: running.MetricsListen = None,
    otel: running.Otel = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """The metadata database of an OCI registry, bound to its storage.

    Images go in as OCI layouts; their bytes and their rows commit together.
    """
    ctx.obj = Options(home, config, verbose, debug)
