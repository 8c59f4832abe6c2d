"""The memory of mirroring: each run, and the last outcome of each image. The only SQL of ``sync``.

========  ===================================================  =============================  ==============
step      durable effect                                       a crash right after leaves     repaired
========  ===================================================  =============================  ==============
begin     a run that has not ended; runs of the same policy    a run without an end           the next begin
          whose process has gone are *interrupted*                                            of the policy
note      the last outcomes of some images, with the next try  outcomes of a part of the run  the next run
finish    the run's outcome and its counts                     --                             --
========  ===================================================  =============================  ==============

Nothing here is needed to know what the registry holds: that stands in its own tables. An outcome that was
lost in a crash costs the next run a question, never an image.
"""

from regmeta.sync.records.items import (
    KEYS_AT_ONCE,
    due_retries,
    failing_items,
    known_items,
    next_retry_at,
    note_items,
)
from regmeta.sync.records.progress import RunState, run_state
from regmeta.sync.records.runs import begin_run, finish_run, last_run, prune_runs
from regmeta.sync.records.values import (
    LONGEST_TEXT,
    Cause,
    ItemKey,
    ItemOutcome,
    KnownItem,
    LastRun,
    Outcome,
    RunCounts,
    RunOutcome,
)

__all__ = [
    "KEYS_AT_ONCE",
    "LONGEST_TEXT",
    "Cause",
    "ItemKey",
    "ItemOutcome",
    "KnownItem",
    "LastRun",
    "Outcome",
    "RunCounts",
    "RunOutcome",
    "RunState",
    "begin_run",
    "due_retries",
    "failing_items",
    "finish_run",
    "known_items",
    "last_run",
    "next_retry_at",
    "note_items",
    "prune_runs",
    "run_state",
]
