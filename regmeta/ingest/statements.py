"""Statements that several transactions share, for both databases: the repository lock comes first."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import db
from regmeta.errors import NotFound, RepositoryNotActive
from regmeta.ingest import searchable
from regmeta.ingest.inserting import insert_ignoring, inserting
from regmeta.ingest.plan import CommitResult
from regmeta.ingest.reserve import chunks
from regmeta.models import DatabaseClock, Event, GcTask, Ingest, LayoutOutbox, Repository
from regmeta.models.base import UtcTime
from regmeta.oci.digest import Digest

_NOW: Final = sa.type_coerce(DatabaseClock(), UtcTime())
_REPOSITORY_IDS: Final = sa.select(Repository.name, Repository.id).where(
    Repository.name.in_(sa.bindparam("names", expanding=True))
)
_COUNT_UP: Final = (
    sa.update(Repository)
    .where(Repository.id == sa.bindparam("of"))
    .values(revision=Repository.revision + 1, updated_at=_NOW)
    .returning(Repository.state, Repository.revision, Repository.deleted_at)
)
_SET_STATE: Final = (
    sa.update(Repository)
    .where(Repository.id == sa.bindparam("of"))
    .values(state=sa.bindparam("to"), deleted_at=sa.bindparam("at", type_=UtcTime()))
)
_RECORD_RESULT: Final = (
    sa.update(Ingest).where(Ingest.id == sa.bindparam("of")).values(result=sa.bindparam("answer"))
)


class AlreadyCommitted(Exception):
    """The ingest took effect before; carries what it answered then."""

    def __init__(self, result: CommitResult) -> None:
        super().__init__("committed before")
        self.result = result


@dataclass(frozen=True, slots=True)
class LockedRepository:
    """A repository as it is under its lock: *active*, or *deleted* since a time."""

    id: int
    name: str
    state: str
    deleted_at: datetime | None

    def require_active(self) -> None:
        """Refuse to go on with one that was deleted.

        Raises:
            NotFound: it was.
        """
        if self.state != "active":
            raise NotFound(
                f"{self.name}: no such repository; it was deleted: undelete it first"
                " (see 'regmeta repo undelete')"
            )


@dataclass(frozen=True, slots=True)
class Change:
    """What a transaction says of itself in every row that it writes."""

    stamp: db.Stamp
    actor: str
    ingest_id: UUID

    def event(
        self,
        kind: str,
        repository_id: int,
        *,
        tag: str | None = None,
        digest: Digest | None = None,
        previous: Digest | None = None,
    ) -> dict[str, Any]:
        """Return the row of one event."""
        return {
            "transaction_id": self.stamp.transaction_id,
            "occurred_at": self.stamp.now,
            "kind": kind,
            "repository_id": repository_id,
            "tag": tag,
            "digest": digest,
            "previous_digest": previous,
            "actor": self.actor,
            "ingest_id": self.ingest_id,
        }


def lock_repositories(connection: Connection, names: Collection[str]) -> tuple[dict[str, int], set[int]]:
    """Lock repositories for a push, in id order, count their revisions up and queue their snapshots.

    One that does not exist is made; one that was deleted comes back, without its tags; one that is being
    purged refuses. Returns the ids by name, and which of them came back.

    Raises:
        RepositoryNotActive: names the repository.
    """
    if names:
        insert = insert_ignoring(connection, Repository, "name").values(created_at=_NOW, updated_at=_NOW)
        made: Any = connection.execute(
            insert.returning(Repository.id, Repository.name),
            [{"name": name, "leaf": name.rpartition("/")[2]} for name in sorted(names)],
        )
        searchable.add_repositories(connection, dict(made.all()))
    ids: dict[str, int] = {}
    for some in chunks(sorted(names)):
        ids.update(connection.execute(_REPOSITORY_IDS, {"names": some}).all())
    outbox = []
    revived: set[int] = set()
    for name, repository_id in sorted(ids.items(), key=lambda item: item[1]):
        state, revision, _ = connection.execute(_COUNT_UP, {"of": repository_id}).one()
        if state == "deleted":
            set_repository_state(connection, repository_id, "active", None)
            revived.add(repository_id)
        elif state != "active":
            raise RepositoryNotActive(f"{name}: the repository is being removed", repository=name)
        outbox.append({"repository_id": repository_id, "revision": revision})
    _queue_snapshots(connection, outbox)
    return ids, revived


def lock_repository(connection: Connection, name: str) -> LockedRepository:
    """Lock one repository as it is, count its revision up and queue its snapshot.

    Raises:
        NotFound: there is none of this name.
        RepositoryNotActive: it is being purged.
    """
    found = connection.execute(_REPOSITORY_IDS, {"names": [name]}).first()
    if found is None:
        raise NotFound(f"{name}: no such repository")
    state, revision, deleted_at = connection.execute(_COUNT_UP, {"of": found.id}).one()
    if state == "purging":
        raise RepositoryNotActive(f"{name}: the repository is being removed", repository=name)
    _queue_snapshots(connection, [{"repository_id": found.id, "revision": revision}])
    return LockedRepository(found.id, name, state, deleted_at)


def lock_active_repository(connection: Connection, name: str) -> int:
    """Do the same for one that can be read; returns its id.

    Raises:
        NotFound: there is none of this name, or it was deleted.
        RepositoryNotActive: it is being purged.
    """
    found = lock_repository(connection, name)
    found.require_active()
    return found.id


def set_repository_state(
    connection: Connection, repository_id: int, state: str, deleted_at: datetime | None
) -> None:
    """Give a repository, whose lock is held, another state."""
    connection.execute(_SET_STATE, {"of": repository_id, "to": state, "at": deleted_at})


def queue_snapshot(connection: Connection, repository_id: int) -> None:
    """Count the revision of a repository, whose lock is held, up, and queue its snapshot."""
    revision = connection.execute(_COUNT_UP, {"of": repository_id}).one().revision
    _queue_snapshots(connection, [{"repository_id": repository_id, "revision": revision}])


def _queue_snapshots(connection: Connection, outbox: list[dict[str, Any]]) -> None:
    if outbox:
        insert = inserting(connection, LayoutOutbox).values(queued_at=_NOW)
        connection.execute(
            insert.on_conflict_do_update(
                index_elements=["repository_id"], set_={"revision": insert.excluded.revision}
            ),
            outbox,
        )


def one_effect(connection: Connection, change: Change, source: str) -> None:
    """Note that this ingest takes effect, so that no later try of it does.

    Raises:
        AlreadyCommitted: an earlier try took effect; nothing has happened now.
    """
    values = {
        "id": change.ingest_id,
        "committed_at": change.stamp.now,
        "actor": change.actor,
        "source": source,
        "result": {},
    }
    insert = insert_ignoring(connection, Ingest, "id").returning(Ingest.id)
    if connection.execute(insert, values).first() is None:
        found = connection.execute(sa.select(Ingest.result).where(Ingest.id == change.ingest_id))
        raise AlreadyCommitted(CommitResult.from_json(found.scalar_one()))


def record_result(connection: Connection, change: Change, result: CommitResult) -> None:
    """Keep what this ingest answers, for a retry after an unclear answer."""
    connection.execute(_RECORD_RESULT, {"of": change.ingest_id, "answer": result.to_json()})


def queue_manifests(
    connection: Connection,
    change: Change,
    repository_id: int,
    manifest_ids: Iterable[int],
    reason: str,
    delay: timedelta,
) -> None:
    """Ask the collector to look at manifests after *delay*; asking again puts it off, never forgets it."""
    times = dict.fromkeys(manifest_ids, change.stamp.now + delay)
    _queue(connection, change, "manifest", repository_id, times, reason)


def queue_manifests_of(
    connection: Connection,
    change: Change,
    repository_id: int,
    chosen: sa.Select[Any],
    parameters: Mapping[str, Any],
    reason: str,
    not_before: datetime,
) -> None:
    """Do the same for the ids that a statement selects, however many, not before a time."""
    targets = chosen.subquery()
    columns = {
        "kind": sa.literal("manifest"),
        "target_id": targets.c[0],
        "repository_id": sa.literal(repository_id),
        "reason": sa.literal(reason),
        "created_at": sa.literal(change.stamp.now, UtcTime()),
        "not_before": sa.literal(not_before, UtcTime()),
    }
    # SQLite reads ON CONFLICT as part of a join where no WHERE stands before it.
    rows = sa.select(*columns.values()).select_from(targets).where(sa.true())
    connection.execute(_upserted(inserting(connection, GcTask).from_select(list(columns), rows)), parameters)


def queue_repository(
    connection: Connection, change: Change, repository_id: int, not_before: datetime
) -> None:
    """Ask the collector to empty a repository that was deleted, not before a time."""
    _queue(connection, change, "repository", repository_id, {repository_id: not_before}, "deleted")


def queue_blobs(connection: Connection, change: Change, times: Mapping[int, datetime], reason: str) -> None:
    """Ask the collector to look at blobs (by id) not before the time that each has."""
    _queue(connection, change, "blob", None, times, reason)


def _queue(
    connection: Connection,
    change: Change,
    kind: str,
    repository_id: int | None,
    times: Mapping[int, datetime],
    reason: str,
) -> None:
    values = [
        {
            "kind": kind,
            "target_id": target_id,
            "repository_id": repository_id,
            "reason": reason,
            "created_at": change.stamp.now,
            "not_before": not_before,
        }
        for target_id, not_before in sorted(times.items())
    ]
    if values:
        connection.execute(_upserted(inserting(connection, GcTask)), values)


def _upserted(insert: Any) -> Any:
    return insert.on_conflict_do_update(
        index_elements=["kind", "target_id"],
        set_={
            "reason": insert.excluded.reason,
            "not_before": insert.excluded.not_before,
            "attempts": 0,
        },
    )


def record_events(connection: Connection, events: list[dict[str, Any]]) -> None:
    """Add to the feed of changes."""
    if events:
        connection.execute(sa.insert(Event), events)
