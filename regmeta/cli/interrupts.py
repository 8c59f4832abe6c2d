"""Ctrl-C and SIGTERM end a command the same way: what happened afterwards is then no defect."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from types import FrameType, TracebackType


_DEFAULTS: Final = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


class Interrupts:
    """Remembers, while the block runs, that a signal has come. Does nothing outside the main thread.

    SIGTERM does what Ctrl-C does: it raises ``KeyboardInterrupt``, so that what was begun is given back, and
    a second one breaks that off as well. Commands that run without an end have
    :class:`regmeta.cli.signals.Stop`.

    A ``KeyboardInterrupt`` is raised wherever the main thread is, also between taking a lock and the block
    that lets go of it; then what is seen at the edge is another error, and no defect.
    """

    def __init__(self) -> None:
        self.were_seen = False
        self.exit_code = 128 + signal.SIGINT
        """What a shell calls the signal that came."""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread:
            for number, default in _DEFAULTS.items():
                # One that is ignored, as nohup does, or handled by others, stays so.
                if signal.getsignal(number) is default:
                    self._before[number] = signal.signal(number, self._received)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _received(self, number: int, frame: FrameType | None) -> None:
        self.were_seen = True
        self.exit_code = 128 + number
        raise KeyboardInterrupt
