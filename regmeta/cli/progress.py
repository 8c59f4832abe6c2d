"""Progress bars on stderr, for a terminal only."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import TaskID

    from regmeta.ingest.plan import ImageOutcome
    from regmeta.sync.records import ItemOutcome


class _Bars:
    """What all share: they are drawn while the block runs, and gone afterwards."""

    def __init__(self, *columns: Any) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self._is_shown = sys.stderr.isatty()
        self._bars = Progress(
            *columns, console=Console(stderr=True), disable=not self._is_shown, transient=True
        )

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bars.stop()


class ImportProgress(_Bars):
    """Draws how an import gets on: images and bytes; called from several threads."""

    def __init__(self, images: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

        super().__init__(
            TextColumn("images"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[size]}"),
        )
        self._lock = threading.Lock()
        self._task = self._bars.add_task("images", total=images, size="")
        self._copied = 0
        self._planned = 0

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


class StepProgress(_Bars):
    """Draws one bar for each pass of long work; called from several threads."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

        super().__init__(
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
        )
        self._task: TaskID | None = None

    def began(self, what: str, total: int | None) -> None:
        """A pass begins; the bar of the one before goes."""
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(what, total=total)

    def advanced(self, steps: int) -> None:
        """Steps were taken."""
        if self._task is not None:
            self._bars.advance(self._task, steps)


class RebuildProgress(_Bars):
    """Draws how a rebuild gets on: repositories, and the manifests that have their rows."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

        super().__init__(
            TextColumn("repositories"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[manifests]} manifests"),
        )
        self._task = self._bars.add_task("repositories", total=None, manifests=0)
        self._manifests = 0

    def started(self, repositories: int) -> None:
        """So many repositories are to be looked at."""
        self._bars.update(self._task, total=repositories)

    def advanced(self, manifests: int) -> None:
        """Manifests have their rows."""
        self._manifests += manifests
        self._bars.update(self._task, manifests=self._manifests)

    def finished(self, repository: str) -> None:
        """A repository is done."""
        self._bars.advance(self._task)


class SyncProgress(_Bars):
    """Draws how a sync gets on: images, and the layers and bytes that come; called from several threads."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[said]}"),
            TimeRemainingColumn(),
        )
        self._lock = threading.Lock()
        self._images = self._bars.add_task("images", total=0, said="")
        self._bytes = self._bars.add_task("bytes", total=0, said="")
        self._found = self._done = self._layers = self._planned = self._came = 0
        self._began_s = time.monotonic()

    def found(self, images: int) -> None:
        """More images are to be looked at."""
        with self._lock:
            self._found += images
        self._show()

    def planned(self, size_bytes: int) -> None:
        """More is to be brought, unless it is here already."""
        with self._lock:
            self._planned += size_bytes

    def spared(self, size_bytes: int) -> None:
        """Of what was planned, so much was here already."""
        with self._lock:
            self._planned -= size_bytes

    def fetched(self) -> None:
        """A layer has come whole."""
        with self._lock:
            self._layers += 1

    def advanced(self, size_bytes: int) -> None:
        """Bytes have come."""
        with self._lock:
            self._came += size_bytes
        self._show()

    def done(self, outcomes: Iterable[ItemOutcome]) -> None:
        """Images are done."""
        with self._lock:
            self._done += sum(1 for _ in outcomes)
        self._show()

    def _show(self) -> None:
        from regmeta.cli.render import size

        if not self._is_shown:
            return
        rate = self._came / max(time.monotonic() - self._began_s, 0.001)
        self._bars.update(
            self._images, total=self._found, completed=self._done, said=f"{self._done} of {self._found}"
        )
        self._bars.update(
            self._bytes,
            total=self._planned,
            completed=self._came,
            said=f"{size(self._came)} of {size(self._planned)}, {self._layers} layers, {size(int(rate))}/s",
        )


class CountProgress(_Bars):
    """Draws how many of *what* are done, and where; nobody knows before how many there are."""

    def __init__(self, what: str) -> None:
        from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

        super().__init__(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        self._what = what
        self._task = self._bars.add_task(what, total=None)
        self._count = 0

    def advanced(self, repository: str, count: int = 1) -> None:
        """So many more of a repository were done."""
        self._count += count
        self._bars.update(self._task, description=f"{self._count} {self._what}, {repository}")
