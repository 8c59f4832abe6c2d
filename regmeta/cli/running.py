"""What lasts as long as a command: its log, its name for others, its metrics."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import uuid4

import typer

from regmeta import tracing
from regmeta.cli import logs
from regmeta.cli.interrupts import Interrupts
from regmeta.errors import UsageError

if TYPE_CHECKING:
    from regmeta.app.metrics import Exposure


def _option(name: str, help: str) -> Any:
    """Return a global option that the environment may give as well."""
    variable = f"REGMETA_{name.upper()}"
    flag = f"--{name.replace('_', '-')}"
    return typer.Option(
        flag, envvar=variable, show_envvar=False, show_default=False, help=f"{help} [{variable}]"
    )


LogFormat = Annotated[logs.Format, _option("log_format", "How stderr looks: lines for people, or JSON.")]
LogLevel = Annotated[logs.Level | None, _option("log_level", "Log from this level on. Default: warning.")]
RequestId = Annotated[
    str | None, _option("request_id", "What this run is called in logs and by PostgreSQL. Default: random.")
]
MetricsFile = Annotated[
    str | None, _option("metrics_file", "Write metrics of this run there, every 15 s and at the end.")
]
MetricsListen = Annotated[
    str | None,
    _option("metrics_listen", "Answer /metrics, /health and /live there meanwhile: 127.0.0.1:9400."),
]
Otel = Annotated[bool, _option("otel", "Give spans and metrics to OpenTelemetry.")]

DEFECT: Final = 70  # exit code of a bug
_REQUEST_ID: Final = r"[A-Za-z0-9._:/+=-]{1,128}"


def name_of(ctx: Any) -> str:
    """Return the name of the command that a line means: ``gc run``, without arguments."""
    names: list[str] = []
    command = ctx.command
    for word in [*ctx._protected_args, *ctx.args]:
        command = getattr(command, "commands", {}).get(word)
        if command is None:
            break
        names.append(word)
    return " ".join(names)


def words(ctx: Any) -> dict[str, str]:
    """Return what goes with each log line of a command."""
    return {"request_id": ctx.params.get("request_id") or uuid4().hex, "command": name_of(ctx)}


@contextmanager
def running(options: Mapping[str, Any], interrupts: Interrupts, began_s: float) -> Iterator[None]:
    """Log, count and show what a command does, as the global options say; *began_s* is when it began [s].

    Raises:
        UsageError: one of the options is wrong.
    """
    logs.configure(
        logs.Format(options.get("log_format") or logs.Format.text),
        None if options.get("log_level") is None else logs.Level(options["log_level"]),
        verbose=bool(options.get("verbose")),
        debug=bool(options.get("debug")),
    )
    request_id = options.get("request_id")
    if request_id and not re.fullmatch(_REQUEST_ID, request_id):
        raise UsageError(f"--request-id: {request_id[:200]!r}: write 1 to 128 of A-Z a-z 0-9 . _ : / + = -")
    with ExitStack() as stack:
        if options.get("otel"):
            from regmeta.app.telemetry import observing

            stack.enter_context(observing())
        if options.get("metrics_file") or options.get("metrics_listen"):
            stack.enter_context(_exposed(options, interrupts, began_s))
        stack.enter_context(tracing.span(f"regmeta {tracing.fields().get('command', '')}".rstrip()))
        yield


@contextmanager
def _exposed(options: Mapping[str, Any], interrupts: Interrupts, began_s: float) -> Iterator[None]:
    from regmeta.app.metrics import Exposure
    from regmeta.settings import Settings, load_settings

    def settings() -> Settings:
        return load_settings(options.get("config"), home=options.get("home"))

    exposure = Exposure(
        settings, file=options.get("metrics_file") or None, listen=options.get("metrics_listen") or None
    )
    if exposure.address is not None:
        from regmeta.cli import render

        render.say(f"metrics: {exposure.address}/metrics")
    code = 0
    try:
        yield
    except BaseException as error:
        code = _code_of(error, interrupts.exit_code)
        raise
    finally:
        _end(exposure, code, began_s)


def _end(exposure: Exposure, code: int, began_s: float) -> None:
    from regmeta.metrics import Gauge

    command = tracing.fields().get("command", "")
    ended = Gauge("regmeta_command_end_timestamp_seconds", "When the command ended.", ("command",))
    ended.set(time.time(), command)
    took = Gauge("regmeta_command_duration_seconds", "How long the command took.", ("command",))
    took.set(time.monotonic() - began_s, command)
    exit_code = Gauge("regmeta_command_exit_code", "How the command ended; 0 is well.", ("command",))
    exit_code.set(code, command)
    exposure.close([ended, took, exit_code])


def _code_of(error: BaseException, interrupted: int) -> int:
    if isinstance(error, KeyboardInterrupt):
        return interrupted
    if isinstance(error, BrokenPipeError):
        return 0
    code = getattr(error, "exit_code", None)
    return code if isinstance(code, int) else DEFECT
