"""One repair: the actions of a plan, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from regmeta.errors import Error, InvalidDigest, Locked, Refused, StoreUnavailable, Unavailable
from regmeta.ingest.adopt import named_keys
from regmeta.ingest.damage import mark_damaged
from regmeta.ingest.heal import heal
from regmeta.ingest.unit_of_work import Writer
from regmeta.maintain.collect.again import retry_now
from regmeta.maintain.collect.dead_objects import delete_dead_objects
from regmeta.maintain.collect.sweep import sweep
from regmeta.maintain.recover import recover
from regmeta.maintain.repair.copies import Copies
from regmeta.maintain.repair.plan import Action
from regmeta.maintain.repair.rows import RowRepair
from regmeta.maintain.verify.findings import Finding, Kind
from regmeta.maintain.verify.plausible import check_plausible
from regmeta.maintain.verify.run import OF_OBJECTS
from regmeta.oci.digest import Digest
from regmeta.query.blobs import blob
from regmeta.sources import Source
from regmeta.store import BlobStore

OF_BLOBS: Final = OF_OBJECTS | {Kind.OBJECT_UNREADABLE, Kind.BLOB_DAMAGED}
OF_MANIFESTS: Final = frozenset(
    {Kind.MANIFEST_CONTENT, Kind.MANIFEST_DRIFT, Kind.EDGE_DRIFT, Kind.LINK_MISSING}
)
OF_REPOSITORIES: Final = OF_MANIFESTS | {Kind.TAG_DRIFT, Kind.DELETED_IN_USE}
OF_SNAPSHOTS: Final = frozenset({Kind.SNAPSHOT_DRIFT, Kind.LAYOUT_DRIFT})
ANYWHERE: Final = frozenset({Kind.FOREIGN_KEY, Kind.ROW_INVALID, Kind.DATABASE_CORRUPT})


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
    check_plausible(writer.database, [action.finding for action in actions])
    wanted = []
    for action in actions:
        if action.finding.kind in OF_BLOBS:
            with suppress(InvalidDigest):  # one that is none is left when its turn comes
                wanted.append(Digest.parse(action.finding.subject))
    run = _Repair(writer, store, Copies(writer.database, store, source, wanted))
    outcomes: list[Outcome] = []
    for action in actions:
        if action.finding.kind in OF_SNAPSHOTS and _is_in_doubt(action.finding.subject, outcomes):
            detail = "left: rows of this repository are wrong still, and the store may know better"
            outcomes.append(Outcome(action.finding, False, detail))
        else:
            outcomes.append(run.one(action))
    run.rows.finish()
    return outcomes


def _is_in_doubt(repository: str, outcomes: Sequence[Outcome]) -> bool:
    """Tell whether rows that a snapshot is written from could not be put right."""
    return any(
        not outcome.is_repaired
        and (
            outcome.finding.kind in ANYWHERE
            or (
                outcome.finding.kind in OF_REPOSITORIES
                and outcome.finding.subject.startswith((f"{repository}@", f"{repository}:"))
            )
        )
        for outcome in outcomes
    )


class _Repair:
    def __init__(self, writer: Writer, store: BlobStore, copies: Copies) -> None:
        self._writer = writer
        self._store = store
        self._copies = copies
        self.rows = RowRepair(writer, store)
        self._derived: dict[int, str] = {}
        self._written: dict[int, str | None] = {}
        self._done: dict[str, Error | None] = {}

    def one(self, action: Action) -> Outcome:
        """Do one action; what goes wrong with it leaves the others alone."""
        if not action.is_possible:
            return Outcome(action.finding, False, action.what)
        try:
            done = self._do(action.finding)
        except (Unavailable, Locked):
            if action.finding.kind is not Kind.TOMBSTONE_STUCK:
                raise
            return Outcome(action.finding, False, "left: its object cannot be deleted")
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
            self._once("recover", lambda: recover(self._writer, self._store))
            return "taken back"
        if kind is Kind.OBJECT_UNKNOWN:
            database = self._writer.database
            self._once("sweep", lambda: sweep(database, self._store, self._writer.lifetimes))
            with database.read() as connection:
                if named_keys(connection, [finding.subject]):
                    return "has a tombstone"
            raise Refused("it is young, or may heal a damaged blob")
        if kind is Kind.TOMBSTONE_STUCK:
            self._once("delete", self._delete_dead_objects)
            return "deleted"
        assert row_id is not None
        if kind in OF_MANIFESTS:
            if row_id not in self._derived:
                self._derived[row_id] = self.rows.manifest(row_id)
            return self._derived[row_id]
        if kind is Kind.TAG_DRIFT:
            return self.rows.tag(row_id)
        if kind is Kind.TASK_MISSING:
            return self.rows.queue(row_id, finding.subject)
        if kind is Kind.DELETED_IN_USE:
            return self.rows.revive(row_id)
        if kind is Kind.REPOSITORY_STATE:
            return self.rows.reactivate(row_id)
        if row_id not in self._written:  # the snapshot and the layout are one piece of work
            self._written[row_id] = self.rows.snapshot(row_id)
        return self._written[row_id]

    def _once(self, what: str, run: Callable[[], object]) -> None:
        """Do what serves all findings of a kind for the first of them; what it raised, for each."""
        if what not in self._done:
            try:
                run()
                self._done[what] = None
            except Error as error:
                self._done[what] = error
        failure = self._done[what]
        if failure is not None:
            raise failure

    def _delete_dead_objects(self) -> None:
        """Try again what has failed, whatever it would wait for."""
        retry_now(self._writer.database)
        found = delete_dead_objects(self._writer.database, self._store, self._writer.lifetimes)
        if found.failures:
            raise StoreUnavailable(found.failures[0])

    def _heal(self, finding: Finding) -> str:
        digest = Digest.parse(finding.subject)
        if finding.row_id is not None and finding.key is not None:
            mark_damaged(self._writer.database, [(finding.row_id, finding.key)], self._writer.store_id)
        size_bytes = blob(self._writer.database, digest).size_bytes
        healed_by = heal(self._writer, digest, size_bytes, self._copies.of(digest, finding.key))
        return "healed meanwhile" if healed_by is None else f"healed from {healed_by}"
