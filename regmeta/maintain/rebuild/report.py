"""What a rebuild did, what it could not do, and who is told meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as the store's snapshots say.

    *subject* is a digest, a reference or the name of a snapshot; *detail* says in words what is wrong.
    """

    repository: str
    subject: str
    detail: str

    def __str__(self) -> str:
        where = f"{self.repository}: " if self.repository and self.repository != self.subject else ""
        return f"{where}{self.subject}: {self.detail}"


@dataclass(slots=True)
class Report:
    """Counts of what was written; what was there before is not counted."""

    repositories: int = 0  # looked at
    changed: int = 0  # repositories that rows were written for
    manifests: int = 0
    blobs: int = 0
    tags: int = 0
    problems: list[Problem] = field(default_factory=list)


class Progress(Protocol):
    """Who is told how a rebuild gets on."""

    def started(self, repositories: int) -> None:
        """So many repositories are to be looked at."""

    def advanced(self, manifests: int) -> None:
        """Manifests have their rows."""

    def finished(self, repository: str) -> None:
        """A repository is done."""


class NoProgress:
    """Tells nobody."""

    def started(self, repositories: int) -> None:
        """Ignore it."""

    def advanced(self, manifests: int) -> None:
        """Ignore it."""

    def finished(self, repository: str) -> None:
        """Ignore it."""
