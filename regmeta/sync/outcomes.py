"""What one run has done so far: counted, kept for who started it, and noted in the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from regmeta.db import Database
from regmeta.errors import Error, NotFound
from regmeta.sync.policy import Policy
from regmeta.sync.records import ItemKey, ItemOutcome, RunCounts, note_items

NOTED_AT_ONCE: Final = 2000  # outcomes that one statement writes


class Outcomes:
    """The outcomes of one run. For one thread.

    With *keeps_all*, for images that were asked for by name, what was unchanged is kept as well, and why
    something was left out.
    """

    def __init__(self, database: Database, policy: Policy, *, keeps_all: bool = False) -> None:
        self._database = database
        self._policy = policy
        self._keeps_all = keeps_all
        self._counts: Counter[str] = Counter()
        self._copied_bytes = 0
        self._unnoted: list[ItemOutcome] = []
        self.kept: list[ItemOutcome] = []
        self.run_id = 0

    def add(self, outcomes: Iterable[ItemOutcome]) -> None:
        """Take in final outcomes; many of them are noted at once."""
        for each in outcomes:
            self._counts[each.outcome] += 1
            self._copied_bytes += each.copied_bytes
            if self._keeps_all:
                self.kept.append(each)
            elif each.outcome != "unchanged":
                # What a policy leaves out is no error of its run.
                self.kept.append(replace(each, error=None) if each.outcome == "left out" else each)
            if self._keeps_all and isinstance(each.error, NotFound):
                continue  # else whoever asks by name for what there is not would fill the table
            self._unnoted.append(each)
        # What is unchanged costs a question if its outcome is lost; what was copied is here.
        if len(self._unnoted) >= NOTED_AT_ONCE:
            self.note()

    def fail(self, key: ItemKey, error: Error) -> None:
        """Take in that something failed before it was looked at."""
        self.add([ItemOutcome.failed(key, self._policy.terms, error)])

    def forget(self, key: ItemKey, reason: str) -> None:
        """Note that a failure is none any more; it is not counted."""
        self._unnoted.append(ItemOutcome(*key, "removed", self._policy.terms, reason=reason))

    def note(self) -> None:
        """Write what is not written yet."""
        noted, self._unnoted = self._unnoted, []
        note_items(self._database, self.run_id, noted, self._policy.backoff)

    def counts(self, requests: int) -> RunCounts:
        """Return what was counted, with the number of *requests* that were sent."""
        return RunCounts(
            copied=self._counts["copied"],
            unchanged=self._counts["unchanged"],
            left_out=self._counts["left out"],
            failed=self._counts["failed"],
            removed=self._counts["removed"],
            copied_bytes=self._copied_bytes,
            requests=requests,
        )
