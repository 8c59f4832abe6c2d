"""Statements that several transactions share, for both databases: the repository lock comes first."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from regmeta import db, metrics
from regmeta.errors import NotFound, RepositoryNotActive
from regmeta.ingest import searchable
from regmeta.ingest.inserting import Conflict, insert_ignoring, inserting, many, upserted
from regmeta.ingest.plan import CommitResult
from regmeta.ingest.reserve import chunks
from regmeta.models import DatabaseClock, Event, GcTask, Ingest, LayoutOutbox, Repository
from regmeta.models.base import UtcTime
from regmeta.oci.digest import Digest

_NOW: Final = sa.type_coerce(DatabaseClock(), UtcTime())
_REPOSITORY_IDS: Final = sa.select(Repository.name, Repository.id).where(
    Repository.name.in_(sa.bindparam("names", expanding=True))
)
_STATE: Final = (Repository.state, Repository.revision, Repository.deleted_at)
_COUNT_UP: Final = (
    sa.update(Repository)
    .where(Repository.id == sa.bindparam("of"))
    .values(revision=Repository.revision + 1, updated_at=_NOW)
    .returning(Repository.id, *_STATE)
)
_COUNT_UP_NAMED: Final = (
    sa.update(Repository)
    .where(Repository.name == sa.bindparam("called"))
    .values(revision=Repository.revision + 1, updated_at=_NOW)
    .returning(Repository.id, *_STATE)
)
_SET_STATE: Final = (
    sa.update(Repository)
    .where(Repository.id == sa.bindparam("of"))
    .values(state=sa.bindparam("to"), deleted_at=sa.bindparam("at", type_=UtcTime()))
)
_ONE_EFFECT: Final = {
    name: dialect.insert(Ingest).on_conflict_do_nothing(index_elements=["id"]).returning(Ingest.id)
    for name, dialect in (("sqlite", sqlite), ("postgresql", postgresql))
}
_RESULT: Final = sa.select(Ingest.result).where(Ingest.id == sa.bindparam("of"))
_TASK_AGAIN: Final = Conflict(("kind", "target_id"), taken=("reason", "not_before"), fixed=(("attempts", 0),))
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


@dataclass(frozen=True, slots=True)
class LockedForPush:
    """Repositories as they are under their locks."""

    ids: Mapping[str, int]
    revived: frozenset[int]  # those that were deleted, and are back
    stamp: db.Stamp  # of the moment when the last lock was there


def lock_repositories(connection: Connection, names: Collection[str]) -> LockedForPush:
    """Lock repositories for a push, in id order, count their revisions up and queue their snapshots.

    One that does not exist is made; one that was deleted comes back, without its tags; one that is being
    purged refuses.

    Raises:
        RepositoryNotActive: names the repository.
    """
    if len(names) == 1:
        locked, stamp = _lock_or_make(connection, *names)
    else:
        locked, stamp = _lock_each(connection, _made(connection, names))
    outbox = []
    revived: set[int] = set()
    for name, row in locked.items():
        if row.state == "deleted":
            set_repository_state(connection, row.id, "active", None)
            revived.add(row.id)
        elif row.state != "active":
            raise RepositoryNotActive(f"{name}: the repository is being removed", repository=name)
        outbox.append({"repository_id": row.id, "revision": row.revision})
    _queue_snapshots(connection, outbox)
    return LockedForPush({name: row.id for name, row in locked.items()}, frozenset(revived), stamp)


def _lock_or_make(connection: Connection, name: str) -> tuple[dict[str, Any], db.Stamp]:
    """Lock one repository. Nobody can see one that is new, so to make it is to lock it."""
    locked, stamp = _lock_named(connection, name)
    if stamp is None:
        new = insert_ignoring(connection, Repository, "name").values(
            created_at=_NOW, updated_at=_NOW, revision=1
        )
        insert = new.returning(Repository.id, *_STATE)
        made, stamped = db.together(connection, (insert, _named(name)), db.ask_stamp(connection))
        row, stamp = made.first(), db.stamped(stamped)
        if row is None:  # another transaction made it first, and was waited for
            locked, stamp = _lock_each(connection, _ids(connection, [name]))
        else:
            searchable.add_repositories(connection, {row.id: name})
            locked = {name: row}
    return locked, stamp


def _lock_named(connection: Connection, name: str) -> tuple[dict[str, Any], db.Stamp | None]:
    """Lock a repository by its name, which is enough for one that is alone. No stamp: there is none."""
    asked = [(_COUNT_UP_NAMED, {"called": name})]
    if db.is_pipelined(connection):
        asked.append(db.ask_stamp(connection))
    with metrics.timed(metrics.LOCK_WAIT_SECONDS, "repository"):
        locked, *stamp = db.together(connection, *asked)
    row = locked.first()
    if row is None:
        return {}, None
    return {name: row}, db.stamped(stamp[0]) if stamp else db.stamp(connection)


def _named(name: str) -> dict[str, str]:
    return {"name": name, "leaf": name.rpartition("/")[2]}


def _lock_each(connection: Connection, ids: Mapping[str, int]) -> tuple[dict[str, Any], db.Stamp]:
    """Lock repositories in the order of their ids."""
    ordered = sorted(ids.items(), key=lambda item: item[1])
    with metrics.timed(metrics.LOCK_WAIT_SECONDS, "repository"):
        *locked, stamp = db.together(
            connection, *((_COUNT_UP, {"of": number}) for _, number in ordered), db.ask_stamp(connection)
        )
    rows = {name: result.one() for (name, _), result in zip(ordered, locked, strict=True)}
    return rows, db.stamped(stamp)


def _made(connection: Connection, names: Collection[str]) -> dict[str, int]:
    """Return the ids of repositories; those that there are not are made."""
    ids = _ids(connection, names)
    missing = sorted(set(names) - ids.keys())
    if missing:
        insert = insert_ignoring(connection, Repository, "name").values(created_at=_NOW, updated_at=_NOW)
        made: Any = connection.execute(
            insert.returning(Repository.id, Repository.name),
            [_named(name) for name in missing],
        )
        new = dict(made.all())
        searchable.add_repositories(connection, new)
        ids.update({name: number for number, name in new.items()})
        # Another transaction made them first, and was waited for.
        ids.update(_ids(connection, set(missing) - ids.keys()))
    return ids


def _ids(connection: Connection, names: Collection[str]) -> dict[str, int]:
    asked = [(_REPOSITORY_IDS, {"names": some}) for some in chunks(sorted(names))]
    return {row.name: row.id for found in db.together(connection, *asked) for row in found}


def lock_repository(connection: Connection, name: str) -> LockedRepository:
    """Lock one repository as it is, count its revision up and queue its snapshot.

    Raises:
        NotFound: there is none of this name.
        RepositoryNotActive: it is being purged.
    """
    with metrics.timed(metrics.LOCK_WAIT_SECONDS, "repository"):
        row = connection.execute(_COUNT_UP_NAMED, {"called": name}).first()
    return _locked(connection, name, row)


def lock_repository_at(connection: Connection, name: str) -> tuple[LockedRepository, db.Stamp]:
    """Do the same, and return the stamp of the moment when the lock was there.

    Raises:
        NotFound: there is none of this name.
        RepositoryNotActive: it is being purged.
    """
    locked, stamp = _lock_named(connection, name)
    found = _locked(connection, name, locked.get(name))
    assert stamp is not None  # it is there
    return found, stamp


def _locked(connection: Connection, name: str, row: Any) -> LockedRepository:
    if row is None:
        raise NotFound(f"{name}: no such repository")
    if row.state == "purging":
        raise RepositoryNotActive(f"{name}: the repository is being removed", repository=name)
    _queue_snapshots(connection, [{"repository_id": row.id, "revision": row.revision}])
    return LockedRepository(row.id, name, row.state, row.deleted_at)


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


_NEWER_SNAPSHOT: Final = Conflict(("repository_id",), taken=("revision",))


def _queue_snapshots(connection: Connection, outbox: list[dict[str, Any]]) -> None:
    if outbox:
        insert = inserting(connection, LayoutOutbox).values(queued_at=_NOW)
        connection.execute(upserted(insert, _NEWER_SNAPSHOT), outbox)


def one_effect(connection: Connection, change: Change, source: str) -> None:
    """Note that this ingest takes effect, so that no later try of it does.

    Raises:
        AlreadyCommitted: an earlier try took effect; nothing has happened now.
    """
    check_one_effect(connection, change, connection.execute(*ask_one_effect(connection, change, source)))


def ask_one_effect(connection: Connection, change: Change, source: str) -> db.Asked:
    """Return the statement that notes it, to be sent together with others; its answer must be checked."""
    values = {
        "id": change.ingest_id,
        "committed_at": change.stamp.now,
        "actor": change.actor,
        "source": source,
        "result": {},
    }
    return _ONE_EFFECT[connection.dialect.name], values


def check_one_effect(connection: Connection, change: Change, answer: sa.CursorResult[Any]) -> None:
    """Look at the answer of :func:`ask_one_effect`, before anything that was sent behind it is believed.

    Raises:
        AlreadyCommitted: an earlier try took effect; the transaction must end without one.
    """
    if answer.first() is None:
        found = connection.execute(_RESULT, {"of": change.ingest_id})
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
    insert = inserting(connection, GcTask).from_select(list(columns), rows)
    connection.execute(upserted(insert, _TASK_AGAIN), parameters)


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
        connection.execute(*many(connection, GcTask, values, conflict=_TASK_AGAIN))


def record_events(connection: Connection, events: list[dict[str, Any]]) -> None:
    """Add to the feed of changes."""
    if events:
        connection.execute(*many(connection, Event, events))
