"""Progress bars on stderr, for a terminal only."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import TaskID

    from regmeta.ingest.plan import ImageOutcome


class ImportProgress:
    """Draws how an import gets on; called from several threads."""

    def __init__(self, images: int) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
        )

        self._lock = threading.Lock()
        console = Console(stderr=True)
        disable = not sys.stderr.isatty()
        self._bars = Progress(
            TextColumn("images"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[size]}"),
            console=console,
            disable=disable,
            transient=True,
        )
        self._task = self._bars.add_task("images", total=images, size="")
        self._copied = 0
        self._planned = 0

    def __enter__(self) -> ImportProgress:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def planned(self, images: int, size_bytes: int) -> None:
        """More was found to do."""
        with self._lock:
            self._planned += size_bytes
        self._show()

    def advanced(self, size_bytes: int) -> None:
        """Bytes were copied."""
        with self._lock:
            self._copied += size_bytes
        self._show()

    def finished(self, outcomes: Iterable[ImageOutcome]) -> None:
        """Images are done."""
        self._bars.advance(self._task, sum(1 for _ in outcomes))

    def _show(self) -> None:
        from regmeta.cli.render import size

        self._bars.update(self._task, size=f"{size(self._copied)} of {size(self._planned)}")


class StepProgress:
    """Draws one bar for each pass of long work; called from several threads."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> StepProgress:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def began(self, what: str, total: int | None) -> None:
        """A pass begins; the bar of the one before goes."""
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(what, total=total)

    def advanced(self, steps: int) -> None:
        """Steps were taken."""
        if self._task is not None:
            self._bars.advance(self._task, steps)
