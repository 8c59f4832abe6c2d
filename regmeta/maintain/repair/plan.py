"""What would be done about findings. Nothing is done here."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from regmeta.maintain.verify.findings import Finding, Kind

# In the order in which they are done: what comes later relies on what came before.
ACTIONS: Final = {
    Kind.OBJECT_MISSING: "mark as damaged, and heal from another copy",
    Kind.OBJECT_SIZE: "mark as damaged, and heal from another copy",
    Kind.OBJECT_UNREADABLE: "mark as damaged, and heal from another copy",
    Kind.OBJECT_CORRUPT: "mark as damaged, and heal from another copy",
    Kind.BLOB_DAMAGED: "heal from another copy",
    Kind.MANIFEST_CONTENT: "take the bytes from the object, and derive the rows again",
    Kind.MANIFEST_DRIFT: "derive the rows again from the bytes",
    Kind.EDGE_DRIFT: "derive the rows again from the bytes",
    Kind.LINK_MISSING: "derive the rows again from the bytes",
    Kind.TAG_DRIFT: "point at the manifest that it says, or go back in its history",
    Kind.DELETED_IN_USE: "bring it back, with all that it lists",
    Kind.REPOSITORY_STATE: "bring it back, with these tags, unless its purge has begun",
    Kind.TASK_MISSING: "queue it for the collector",
    Kind.INTENT_STALE: "take it back",
    Kind.OBJECT_UNKNOWN: "give it a tombstone",
    Kind.TOMBSTONE_STUCK: "delete its object again",
    Kind.SNAPSHOT_DRIFT: "write the snapshot again",
    Kind.LAYOUT_DRIFT: "write the layout again",
}
ADVICE: Final = {
    Kind.FOREIGN_KEY: "left: no transaction of regmeta does this; look at the database, or restore a backup",
    Kind.ROW_INVALID: "left: regmeta never writes this; look at who else writes to the database",
    Kind.DATABASE_CORRUPT: "left: restore a backup, or rebuild the rows from the store",
}


@dataclass(frozen=True, slots=True)
class Action:
    """One finding, and what is to be done about it."""

    finding: Finding
    what: str
    is_possible: bool


def plan(findings: Iterable[Finding], kinds: Collection[Kind] = ()) -> list[Action]:
    """Return what is to be done about findings, of some *kinds* only or of all, in the order of doing."""
    chosen = [finding for finding in findings if not kinds or finding.kind in kinds]
    order = [*ADVICE, *ACTIONS]
    return [
        Action(finding, ACTIONS.get(finding.kind) or ADVICE[finding.kind], finding.kind in ACTIONS)
        for finding in sorted(chosen, key=lambda item: order.index(item.kind))
    ]
