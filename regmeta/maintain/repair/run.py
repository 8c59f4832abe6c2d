"""One repair: the actions of a plan, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from regmeta.errors import Error, Locked, Unavailable
from regmeta.ingest.damage import mark_damaged
from regmeta.ingest.heal import heal
from regmeta.ingest.unit_of_work import Writer
from regmeta.maintain.collect.dead_objects import delete_dead_objects
from regmeta.maintain.collect.sweep import sweep
from regmeta.maintain.recover import recover
from regmeta.maintain.repair.copies import Copies
from regmeta.maintain.repair.plan import Action
from regmeta.maintain.repair.rows import RowRepair
from regmeta.maintain.verify.findings import Finding, Kind
from regmeta.oci.digest import Digest
from regmeta.query.blobs import blob
from regmeta.sources import Source
from regmeta.store import BlobStore

OF_BLOBS: Final = frozenset(
    {
        *(Kind.OBJECT_MISSING, Kind.OBJECT_SIZE, Kind.OBJECT_UNREADABLE, Kind.OBJECT_CORRUPT),
        Kind.BLOB_DAMAGED,
    }
)
OF_MANIFESTS: Final = frozenset(
    {Kind.MANIFEST_CONTENT, Kind.MANIFEST_DRIFT, Kind.EDGE_DRIFT, Kind.LINK_MISSING}
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one finding."""

    finding: Finding
    is_repaired: bool
    detail: str


def repair(
    writer: Writer, store: BlobStore, actions: Sequence[Action], source: Source | None = None
) -> list[Outcome]:
    """Do what a plan says. Deletes nothing; beside writers.

    *source* may hold good bytes of what is damaged.

    Raises:
        Unavailable, Locked: the store or the database did not do it; what was done is done.
    """
    wanted = [Digest.parse(a.finding.subject) for a in actions if a.finding.kind in OF_BLOBS]
    run = _Repair(writer, store, Copies(writer.database, store, source, wanted))
    outcomes = []
    for action in actions:
        outcomes.append(run.one(action))
    run.rows.finish()
    return outcomes


class _Repair:
    def __init__(self, writer: Writer, store: BlobStore, copies: Copies) -> None:
        self._writer = writer
        self._store = store
        self._copies = copies
        self.rows = RowRepair(writer, store)
        self._derived: dict[int, str] = {}

    def one(self, action: Action) -> Outcome:
        """Do one action; what goes wrong with it leaves the others alone."""
        if not action.is_possible:
            return Outcome(action.finding, False, action.what)
        try:
            done = self._do(action.finding)
        except (Unavailable, Locked):
            raise
        except Error as error:
            return Outcome(action.finding, False, f"left: {error}")
        if done is None:
            return Outcome(action.finding, False, "left: nothing to repair it from")
        return Outcome(action.finding, True, done)

    def _do(self, finding: Finding) -> str | None:
        kind, row_id = finding.kind, finding.row_id
        if kind in OF_BLOBS:
            return self._heal(finding)
        if kind is Kind.INTENT_STALE:
            recover(self._writer, self._store)
            return "taken back"
        if kind is Kind.OBJECT_UNKNOWN:
            found = sweep(self._writer.database, self._store, self._writer.lifetimes)
            return None if found.too_young and not found.buried else "has a tombstone"
        if kind is Kind.TOMBSTONE_STUCK:
            delete_dead_objects(self._writer.database, self._store, self._writer.lifetimes)
            return "deleted"
        assert row_id is not None
        if kind in OF_MANIFESTS:
            if row_id not in self._derived:
                self._derived[row_id] = self.rows.manifest(row_id)
            return self._derived[row_id]
        if kind is Kind.TAG_DRIFT:
            return self.rows.tag(row_id)
        if kind is Kind.TASK_MISSING:
            return self.rows.queue(row_id, is_manifest="@" in finding.subject)
        if self.rows.snapshot(row_id) is None:
            return None
        return "written again"

    def _heal(self, finding: Finding) -> str:
        digest = Digest.parse(finding.subject)
        if finding.row_id is not None and finding.key is not None:
            mark_damaged(self._writer.database, [(finding.row_id, finding.key)])
        size_bytes = blob(self._writer.database, digest).size_bytes
        healed_by = heal(self._writer, digest, size_bytes, self._copies.of(digest, finding.key))
        return "healed meanwhile" if healed_by is None else f"healed from {healed_by}"
