"""Named points right after each durable step, where a test makes the process die, stand still or fail.

Off, a point costs one comparison. They are armed by a test in this process (:func:`armed`), or for a process
of its own by ``REGMETA_FAILPOINT``, which is refused unless ``REGMETA_TESTING=1`` is set as well::

    REGMETA_FAILPOINT=ingest.committing=kill           the first time this point is reached
    REGMETA_FAILPOINT=publish.renamed:3=raise:ENOSPC   the third time

A point is named after its operation and what has just been done: ``publish.renamed`` is reached when the
rename has returned. Each transaction has two, ``<name>.committing`` before its COMMIT and
``<name>.committed`` after it.
"""

from __future__ import annotations

import errno
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from regmeta.errors import UsageError

Handler = Callable[[str], None]

VARIABLE: Final = "REGMETA_FAILPOINT"
_SPEC: Final = re.compile(
    r"(?P<name>[a-z_.]+)(:(?P<number>[1-9][0-9]*))?=(?P<action>kill|stop|raise:[A-Z]+|sleep:[0-9.]+)"
)

_handler: Handler | None = None


def reach(name: str) -> None:
    """Say that a durable step was taken. Does nothing unless a test has armed the points."""
    if _handler is not None:
        _handler(name)


def is_armed() -> bool:
    """Whether a test waits for points."""
    return _handler is not None


@contextmanager
def armed(handler: Handler) -> Iterator[None]:
    """Call *handler* with the name of each point that any thread reaches while the block runs."""
    global _handler
    previous, _handler = _handler, handler
    try:
        yield
    finally:
        _handler = previous


def arm(spec: str) -> None:
    """Arm the points of this process for good, as ``REGMETA_FAILPOINT`` says.

    Raises:
        UsageError: the text is not of the form ``name[:n]=kill|stop|raise:ERRNO|sleep:SECONDS``.
    """
    global _handler
    match = _SPEC.fullmatch(spec)
    action = match["action"] if match else ""
    if match is None or (action.startswith("raise:") and not hasattr(errno, action[6:])):
        raise UsageError(f"{VARIABLE}: {spec!r} is not name[:n]=kill|stop|raise:ERRNO|sleep:SECONDS")
    wanted, left = match["name"], int(match["number"] or 1)

    def handler(name: str) -> None:
        nonlocal left
        if name == wanted:
            left -= 1
            if left == 0:
                _act(action)

    _handler = handler


def _act(action: str) -> None:
    verb, _, argument = action.partition(":")
    if verb == "kill":
        signal.raise_signal(signal.SIGKILL)
    elif verb == "stop":
        signal.raise_signal(signal.SIGSTOP)
    elif verb == "sleep":
        time.sleep(float(argument))
    else:
        number = getattr(errno, argument)
        raise OSError(number, argument)
