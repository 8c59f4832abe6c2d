"""What is said on stderr: lines for people, or JSON for programs. Passwords and tokens are masked in both.

A library logs through ``logging`` of the standard library; only here handlers are set up (design page 005).
"""

from __future__ import annotations

import logging
import re
import sys
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, TextIO

from regmeta import tracing

MASK: Final = "***"


class Format(StrEnum):
    """How lines look."""

    text = "text"
    json = "json"


class Level(StrEnum):
    """From which level on something is logged."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


_NAMES: Final = (
    r"(?:password|passwd|secret|token|secret_?access_?key|api_?key"
    r"|x-amz-(?:signature|credential|security-token))"
)
_SECRETS: Final = (
    # The password of a URL; a host may have a port, and a path an @.
    (r"(\w://[^\s/:@]*:)[^\s/]*@", rf"\1{MASK}@"),
    (r"(?i)(\bauthorization['\"]?\s*[:=]\s*['\"]?(?:basic|bearer)\s+)[^\s'\",]+", rf"\1{MASK}"),
    (r"(?i)(\bbearer\s+)[\w.~+/=-]{16,}", rf"\1{MASK}"),
    (rf"(?i)({_NAMES}['\"]?\s*[=:]\s*['\"])[^'\"]+", rf"\1{MASK}"),
    (rf"(?i)({_NAMES}=)[^\s'\"&,;]+", rf"\1{MASK}"),
)
"""What is masked, and how. Compiled when the first line is written: most commands write none."""

_log = logging.getLogger("regmeta.cli")
_handler: logging.Handler | None = None
_is_json = False


def redacted(text: str) -> str:
    """Return *text* without the passwords and tokens that can be told from other words."""
    for pattern, replacement in _SECRETS:
        text = re.sub(pattern, replacement, text)
    return text


def configure(format: Format, level: Level | None, *, verbose: bool, debug: bool) -> None:
    """Set the handlers up. Of libraries warnings are shown; with *debug* everything."""
    global _handler, _is_json
    root = logging.getLogger()
    if _handler is not None:
        root.removeHandler(_handler)
        _handler = None
    _is_json = format is Format.json
    if _is_json or not root.handlers:
        _handler = _Stderr()
        _handler.setFormatter(_JsonLines() if _is_json else _Text("regmeta: %(message)s"))
        root.addHandler(_handler)
        root.setLevel(logging.DEBUG if debug else logging.WARNING)
    chosen = level.value.upper() if level is not None else "INFO" if verbose else "NOTSET"
    logging.getLogger("regmeta").setLevel(chosen)
    # What is said to people is part of the log in JSON, whatever its level else.
    _log.setLevel("INFO" if _is_json and level is None else "NOTSET")
    retries_are_shown = verbose or debug or (level is not None and level is not Level.error)
    logging.getLogger("stamina").setLevel(logging.WARNING if retries_are_shown else logging.ERROR)
    logging.captureWarnings(_is_json)


def is_json() -> bool:
    """Tell whether each line on stderr is to be JSON."""
    return _is_json


def say(message: str) -> None:
    """Log what would be said to people."""
    is_bad = message.startswith("regmeta: ")
    _log.log(logging.WARNING if is_bad else logging.INFO, "%s", message.removeprefix("regmeta: "))


def fail(message: str, exit_code: int, *, with_traceback: bool) -> None:
    """Log why a command ends, and with which exit code."""
    text = message.removeprefix("regmeta: ")
    _log.error("%s", text, exc_info=with_traceback, extra={"exit_code": exit_code})


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to what is stderr now: a test may have put something else there since."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        """Return it."""
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None:
        raise AttributeError("it is stderr")


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        from json import dumps

        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, str | int] = {
            "time": at.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redacted(record.getMessage()),
            **{name: redacted(value) for name, value in tracing.fields().items()},
        }
        exit_code = getattr(record, "exit_code", None)
        if exit_code is not None:
            line["exit_code"] = exit_code
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            line["traceback"] = redacted(self.formatException(record.exc_info))
        return dumps(line, ensure_ascii=False)
