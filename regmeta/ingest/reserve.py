"""Rows of the phases before the commit: intents for keys to be written, leases on what is here already.

=========  ===============================================  =====================  ==============
step       durable effect                                   a crash leaves         repaired by
=========  ===============================================  =====================  ==============
reserve    intents, and leases that last long enough        intents, no objects    ``recover``
renew      intents that expire later, or say how many       the same               ``recover``
           bytes were received
give back  no intents; tombstones for what was published    tombstones             the collector
=========  ===============================================  =====================  ==============
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import db
from regmeta.db import Database
from regmeta.ingest.inserting import many
from regmeta.ingest.plan import Lifetimes
from regmeta.ingest.store_moves import STORE_NOW, require_store
from regmeta.models import Blob, Intent, Tombstone
from regmeta.oci.digest import Digest
from regmeta.store import new_key

_CLOCK: Final = db.CLOCK.add_columns(*STORE_NOW)
CHUNK: Final = 500  # parameters of one IN list; both databases take thirty times as many
WATCHED_BYTES: Final = 1024 * 1024  # [bytes] of blobs from here on others are told how far they have come
_T = TypeVar("_T")

_BLOBS_BY_DIGEST: Final = sa.select(
    Blob.id, Blob.digest, Blob.size_bytes, Blob.key, Blob.state, Blob.lease_until
).where(Blob.digest.in_(sa.bindparam("digests", expanding=True)))
_LOCK_BLOBS: Final = (
    sa.select(Blob.id)
    .where(Blob.id.in_(sa.bindparam("ids", expanding=True)))
    .order_by(Blob.id)
    .with_for_update(key_share=True)
)
_RENEW_LEASES: Final = (
    sa.update(Blob)
    .where(Blob.id.in_(sa.bindparam("ids", expanding=True)))
    .values(lease_until=sa.bindparam("until"))
)
_RENEW_INTENTS: Final = (
    sa.update(Intent)
    .where(Intent.owner == sa.bindparam("of"), Intent.created_at > sa.bindparam("not_older_than"))
    .values(expires_at=sa.bindparam("until"))
)
_NOTE_RECEIVED: Final = (
    sa.update(Intent)
    .where(Intent.key == sa.bindparam("of_key"), Intent.owner == sa.bindparam("of"))
    .values(received_bytes=sa.bindparam("received"))
)
_LIVE: Final = sa.select(Blob.digest).where(
    Blob.digest.in_(sa.bindparam("digests", expanding=True)), Blob.state == "live"
)
_TAKE_BACK: Final = (
    sa.delete(Intent)
    .where(Intent.owner == sa.bindparam("of"), Intent.key.in_(sa.bindparam("keys", expanding=True)))
    .returning(Intent.key)
)


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A live row that an ingest relies on."""

    key: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a reserve found and what it promised to write."""

    stored: Mapping[Digest, StoredBlob]
    keys: Mapping[Digest, str]


def reserve(
    database: Database,
    wanted: Collection[Digest],
    owner: UUID,
    host: str,
    lifetimes: Lifetimes,
    store_id: UUID | None = None,
) -> Reservation:
    """Lease what is live of *wanted*, and make intents for the rest. One transaction.

    A damaged blob is reserved like a missing one: the new object heals its row. *store_id* is that of the
    store in which the rest is to be.

    Raises:
        IdentityMismatch, Locked: see :func:`regmeta.ingest.store_moves.require_store`.
    """
    stored: dict[Digest, StoredBlob] = {}
    with database.transaction("reserve", quiet=True) as connection:
        asked = [(_BLOBS_BY_DIGEST, {"digests": some}) for some in chunks(sorted(wanted))]
        clock, *found = db.together(connection, (_CLOCK, None), *asked)
        first: Any = clock.one()
        now, store_now, hold = first
        require_store(store_id, store_now, hold)
        for some in found:
            stored.update(_lease(connection, some.all(), now, lifetimes.lease))
        keys = {digest: new_key(digest) for digest in sorted(wanted) if digest not in stored}
        if keys:
            expires_at = now + lifetimes.intent
            rows = [
                {
                    "key": key,
                    "digest": digest,
                    "owner": owner,
                    "host": host,
                    "created_at": now,
                    "expires_at": expires_at,
                }
                for digest, key in keys.items()
            ]
            _insert_intents(connection, rows)
    return Reservation(stored, keys)


def live(database: Database, digests: Collection[Digest]) -> set[Digest]:
    """Return which blobs are here now. It leases nothing, so it only says what is worth a reservation."""
    found: set[Digest] = set()
    with database.read() as connection:
        for some in chunks(sorted(digests)):
            found.update(connection.execute(_LIVE, {"digests": some}).scalars())
    return found


def renew(
    database: Database,
    owner: UUID,
    lifetimes: Lifetimes,
    *,
    expire_later: bool = True,
    received: Mapping[str, int] | None = None,
) -> None:
    """Say that this process is still at work: its intents *expire later*, and some have *received* bytes.

    *received* are totals [bytes] by key. Other processes wait for what they see growing.
    """
    with database.transaction("renew", quiet=True) as connection:
        if expire_later:
            now = db.clock(connection)
            connection.execute(
                _RENEW_INTENTS,
                {
                    "of": owner,
                    "not_older_than": now - lifetimes.max_upload,
                    "until": now + lifetimes.intent,
                },
            )
        if received:
            # In the order of all who lock several intents.
            rows = [{"of": owner, "of_key": key, "received": received[key]} for key in sorted(received)]
            connection.execute(_NOTE_RECEIVED, rows)


def give_back(
    database: Database,
    owner: UUID,
    *,
    unused: Collection[str],
    published: Collection[str],
    lifetimes: Lifetimes,
) -> None:
    """Drop the intents of keys that are not wanted any more.

    Those that this process began to publish become tombstones: their objects may be there. *unused* are
    keys that it never began to publish, and only it could have: there is no object to be deleted.
    """
    with database.transaction("give_back", quiet=True) as connection:
        for some in chunks(sorted(unused)):
            connection.execute(_TAKE_BACK, {"of": owner, "keys": some})
        taken: list[str] = []
        for some in chunks(sorted(published)):
            taken += connection.execute(_TAKE_BACK, {"of": owner, "keys": some}).scalars()
        bury(connection, taken, "aborted", db.clock(connection), lifetimes.tombstone)


def bury(connection: Connection, keys: Iterable[str], reason: str, now: datetime, delay: timedelta) -> None:
    """Insert tombstones: these objects are dead, and are deleted after *delay*."""
    bury_sized(connection, dict.fromkeys(keys), reason, now, delay)


def bury_sized(
    connection: Connection, sizes: Mapping[str, int | None], reason: str, now: datetime, delay: timedelta
) -> None:
    """Do the same for keys whose objects' sizes [bytes] are known."""
    rows = [
        {
            "key": key,
            "size_bytes": size_bytes,
            "reason": reason,
            "created_at": now,
            "not_before": now + delay,
        }
        for key, size_bytes in sizes.items()
    ]
    if rows:
        connection.execute(*many(connection, Tombstone, rows))


def chunks(items: Sequence[_T], size: int = CHUNK) -> Iterator[Sequence[_T]]:
    """Cut a sequence into pieces that fit one IN list."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _insert_intents(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    connection.execute(*many(connection, Intent, rows))


def _lease(
    connection: Connection,
    rows: Sequence[Any],
    now: datetime,
    lease: timedelta,
) -> dict[Digest, StoredBlob]:
    live = [row for row in rows if row.state == "live"]
    # Leases are rewritten only when less than half is left, so that a popular layer is not written
    # with every image that uses it.
    short = [row.id for row in live if row.lease_until < now + lease / 2]
    gone: set[int] = set()
    if short:
        # Locked in id order; a row that a collector has just removed is not among them.
        locked = connection.execute(_LOCK_BLOBS, {"ids": short}).scalars().all()
        connection.execute(_RENEW_LEASES, {"ids": locked, "until": now + lease})
        gone = set(short).difference(locked)
    return {row.digest: StoredBlob(row.key, row.size_bytes) for row in live if row.id not in gone}


def give_back_all(database: Database, owner: UUID, lifetimes: Lifetimes) -> None:
    """Turn every intent of a process that ends into a tombstone. As a rule there is none left."""
    with database.read() as connection:
        if connection.execute(sa.select(Intent.id).where(Intent.owner == owner).limit(1)).first() is None:
            return
    with database.transaction("release", quiet=True) as connection:
        taken = connection.execute(
            sa.delete(Intent).where(Intent.owner == owner).returning(Intent.key)
        ).scalars()
        bury(connection, taken.all(), "aborted", db.clock(connection), lifetimes.tombstone)
