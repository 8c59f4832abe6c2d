"""Who is told how long work gets on, pass by pass."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Who is told. May be called from several threads."""

    def began(self, what: str, total: int | None) -> None:
        """A pass begins, of about so many steps (bytes when data is read), None if nobody knows."""

    def advanced(self, steps: int) -> None:
        """Steps were taken."""


class NoProgress:
    """Tells nobody."""

    def began(self, what: str, total: int | None) -> None:
        """Ignore it."""

    def advanced(self, steps: int) -> None:
        """Ignore it."""
