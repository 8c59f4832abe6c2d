"""Taking over objects that are in the store already and that no row names: what ``rebuild`` writes rows with.

An adopted key has no intent: ``recover`` would turn it into a tombstone after a crash, and what is to be
saved would die. So that no collector gives up the same object at the same moment, who adopts and who sweeps
both lock the one row of ``store_identity`` first (:func:`lock_adoption`), and only then look whether a key
is in a table.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.errors import LostReservation
from regmeta.ingest.immutable import Lock, add_locks
from regmeta.ingest.plan import CommitResult
from regmeta.ingest.reserve import chunks
from regmeta.ingest.statements import Change, queue_manifests
from regmeta.ingest.store_moves import require_store
from regmeta.models import (
    Blob,
    IndexMember,
    Ingest,
    Intent,
    LayoutOutbox,
    Manifest,
    Repository,
    StoreIdentity,
    Tag,
    Tombstone,
)
from regmeta.models.base import UtcTime
from regmeta.oci.digest import Digest

_LOCK: Final = (
    sa.select(StoreIdentity.hold_reason, StoreIdentity.store_id)
    .where(StoreIdentity.id == 1)
    .with_for_update()
)
# One statement, so of one moment: a key that goes from an intent to a blob meanwhile is seen in one of them.
_NAMED: Final = sa.union_all(
    *(
        sa.select(model.key).where(model.key.in_(sa.bindparam("keys", expanding=True)))
        for model in (Intent, Blob, Tombstone)
    )
)
_REVISION: Final = sa.select(Repository.revision).where(Repository.id == sa.bindparam("of"))
_SET_REPOSITORY: Final = (
    sa.update(Repository)
    .where(Repository.id == sa.bindparam("of"))
    .values(
        state=sa.bindparam("new_state"),
        deleted_at=sa.bindparam("deleted", type_=UtcTime()),
        revision=sa.bindparam("new_revision"),
        created_at=sa.func.coalesce(sa.bindparam("created", type_=UtcTime()), Repository.created_at),
        updated_at=sa.func.coalesce(sa.bindparam("updated", type_=UtcTime()), Repository.updated_at),
    )
)
_SET_OUTBOX: Final = (
    sa.update(LayoutOutbox)
    .where(LayoutOutbox.repository_id == sa.bindparam("of"))
    .values(revision=sa.bindparam("new_revision"))
)
_UNREACHED: Final = sa.select(Manifest.id).where(
    Manifest.repository_id == sa.bindparam("of"),
    ~sa.exists().where(Tag.manifest_id == Manifest.id, Tag.ended_at.is_(None)),
    ~sa.exists().where(IndexMember.child_id == Manifest.id),
)


@dataclass(frozen=True, slots=True)
class RepositoryRow:
    """What a repository's row is to say; a time that is None stays as it is."""

    state: str
    revision: int
    created_at: datetime | None = None
    updated_at: datetime | None = None
    deleted_at: datetime | None = None  # always as it is given
    locks: Sequence[Lock] = ()  # those to add


def lock_adoption(connection: Connection, store_id: UUID | None = None) -> str | None:
    """Lock what decides whether an unnamed object is adopted or given up; return the hold on collection.

    *store_id* is that of the store in which objects to be adopted are.

    Take it before any other lock of the transaction. Released by its end. On SQLite the transaction itself
    is that lock.

    Raises:
        IdentityMismatch, Locked: see :func:`regmeta.ingest.store_moves.require_store`.
    """
    row = connection.execute(_LOCK).one_or_none()
    if row is None:
        return None
    require_store(store_id, row.store_id, row.hold_reason)
    hold: str | None = row.hold_reason
    return hold


def named_keys(connection: Connection, keys: Collection[str]) -> set[str]:
    """Return those of *keys* that a blob, an intent or a tombstone names."""
    found: set[str] = set()
    for some in chunks(sorted(keys)):
        found.update(connection.execute(_NAMED, {"keys": some}).scalars())
    return found


def check_unnamed(connection: Connection, adopted: Mapping[Digest, str]) -> None:
    """Refuse to adopt what a row names already: it is used, being written, or dead.

    The caller holds :func:`lock_adoption`.

    Raises:
        LostReservation: names the digests; nothing has happened.
    """
    named = named_keys(connection, adopted.values())
    if named:
        raise LostReservation(frozenset(digest for digest, key in adopted.items() if key in named))


def revision_of(connection: Connection, repository_id: int) -> int:
    """Return the revision that a repository is at, inside the transaction that holds its lock."""
    return connection.execute(_REVISION, {"of": repository_id}).scalar_one()


def put_back_repository(connection: Connection, repository_id: int, row: RepositoryRow) -> None:
    """Give a repository, whose lock is held, the state, revision and times that the store knows of it."""
    connection.execute(
        _SET_REPOSITORY,
        {
            "of": repository_id,
            "new_state": row.state,
            "deleted": row.deleted_at,
            "new_revision": row.revision,
            "created": row.created_at,
            "updated": row.updated_at,
        },
    )
    connection.execute(_SET_OUTBOX, {"of": repository_id, "new_revision": row.revision})
    add_locks(connection, repository_id, row.locks)


def note_problems(
    connection: Connection, ingest_id: UUID, result: CommitResult, problems: Sequence[Sequence[str]]
) -> None:
    """Keep with an ingest what could not be put back, so that a run which goes on says it again."""
    answer = {**result.to_json(), "problems": [list(problem) for problem in problems]}
    connection.execute(sa.update(Ingest).where(Ingest.id == ingest_id).values(result=answer))


def noted_problems(connection: Connection, ingest_id: UUID) -> list[list[str]] | None:
    """Return what :func:`note_problems` kept, None if there was no such ingest."""
    found = connection.execute(sa.select(Ingest.result).where(Ingest.id == ingest_id)).scalar()
    if found is None:
        return None
    problems: Any = found.get("problems", [])
    return [[str(part) for part in problem] for problem in problems]


def queue_unreached(connection: Connection, change: Change, repository_id: int, delay: timedelta) -> None:
    """Let the collector look at what no tag and no index names: the tasks of a lost database are lost."""
    found = connection.execute(_UNREACHED, {"of": repository_id}).scalars().all()
    queue_manifests(connection, change, repository_id, found, "untagged when rebuilt", delay)
