"""The values that records are written from and read as."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, NamedTuple
from uuid import UUID

from regmeta.errors import Error, RemoteUnavailable, without_frames
from regmeta.oci.digest import Digest

LONGEST_TEXT: Final = 500  # [characters] of an error that is kept

Cause = Literal["command", "schedule", "retry", "demand"]
RunOutcome = Literal["done", "failed", "stopped"]
Outcome = Literal["copied", "unchanged", "left out", "failed", "removed"]


class ItemKey(NamedTuple):
    """Which image of an upstream: its repository *source* there, tag or digest, and repository here."""

    source: str
    reference: str
    destination: str


@dataclass(frozen=True, slots=True)
class ItemOutcome:
    """How it went with one image. A failure has the name of its error's class, and nothing else has one."""

    source: str
    reference: str
    destination: str
    outcome: Outcome
    terms: str
    upstream_digest: Digest | None = None
    digest: Digest | None = None
    copied_bytes: int = 0
    reason: str | None = None
    error_class: str | None = None
    retry_after_s: float | None = None
    error: Error | None = field(default=None, compare=False)  # for who waits; its row has the text
    is_here: bool = field(
        default=False, compare=False
    )  # the image of a failure: only what goes with it failed

    @classmethod
    def failed(cls, key: ItemKey, terms: str, error: Error) -> ItemOutcome:
        """Return the failure that *error* is, of an image of which nothing else is known."""
        return cls(
            *key,
            "failed",
            terms,
            reason=str(error),
            error_class=type(error).__name__,
            retry_after_s=error.retry_after_s if isinstance(error, RemoteUnavailable) else None,
            error=without_frames(error),
        )


@dataclass(frozen=True, slots=True)
class KnownItem:
    """What is remembered of one image: *upstream_digest* became *digest* here under *terms*.

    After a failure these three are still those of the last success, if there was one.
    """

    upstream_digest: Digest | None
    digest: Digest | None
    terms: str
    outcome: Outcome
    reason: str | None
    attempts: int
    next_try_at: datetime | None
    checked_at: datetime


@dataclass(frozen=True, slots=True)
class RunCounts:
    """What a run did: images by outcome, bytes that came, requests that were sent."""

    copied: int = 0
    unchanged: int = 0
    left_out: int = 0
    failed: int = 0
    removed: int = 0
    copied_bytes: int = 0
    requests: int = 0


@dataclass(frozen=True, slots=True)
class LastRun:
    """The newest run of a policy; ``ended_at`` and ``outcome`` are None while it goes on or was killed."""

    id: int
    cause: Cause
    host: str
    owner: UUID
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None


def short(text: str | None) -> str | None:
    """Cut what is kept of a text; it is escaped on output. What PostgreSQL cannot keep is escaped here."""
    if text is None:
        return None
    kept = text[:LONGEST_TEXT].encode("utf-8", "backslashreplace").decode()
    return kept.replace("\0", "\\0")[:LONGEST_TEXT]
