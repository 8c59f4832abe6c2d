"""Whether Ctrl-C was pressed: what happened afterwards is then no defect."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import FrameType, TracebackType


class Interrupts:
    """Remembers, while the block runs, that Ctrl-C was pressed. Does nothing outside the main thread.

    A ``KeyboardInterrupt`` is raised wherever the main thread is, also between taking a lock and the block
    that lets go of it; then what is seen at the edge is another error, and no defect.
    """

    def __init__(self) -> None:
        self.were_seen = False
        self._is_installed = False

    def __enter__(self) -> Self:
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._received)
            self._is_installed = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._is_installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _received(self, number: int, frame: FrameType | None) -> None:
        self.were_seen = True
        raise KeyboardInterrupt
