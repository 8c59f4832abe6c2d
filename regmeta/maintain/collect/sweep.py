"""The backstop: objects that no row knows get a tombstone, and uploads that nobody will finish are given up.

Every object has an intent before it exists, so one that is in a listing and, afterwards, in no table belongs
to nobody (I2). The listing comes first, the rows are read after it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Final

import sqlalchemy as sa

from regmeta import db
from regmeta.db import Database
from regmeta.errors import StoreUnavailable
from regmeta.ingest.adopt import lock_adoption, named_keys
from regmeta.ingest.plan import Lifetimes
from regmeta.ingest.reserve import bury_sized
from regmeta.ingest.retry import retried
from regmeta.maintain.collect.hold import check_may_delete
from regmeta.maintain.collect.older import check_not_older
from regmeta.maintain.collect.plausible import check_loss, check_share
from regmeta.models import Blob
from regmeta.store import BlobStore, ObjectInfo, digest_of_key

CHUNK_OBJECTS: Final = 500

_LIVE: Final = sa.select(sa.func.count()).select_from(Blob).where(Blob.state == "live")
_DAMAGED: Final = sa.select(Blob.digest).where(
    Blob.digest.in_(sa.bindparam("digests", expanding=True)), Blob.state == "damaged"
)


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What was found."""

    objects: int  # in the listing
    unknown: int  # in no table
    too_young: int  # of these, left alone for now
    kept: int  # of these, left alone since they may heal a damaged blob
    buried: int
    aborted_uploads: int = 0  # begun in a bucket longer ago than any upload takes


def sweep(database: Database, store: BlobStore, lifetimes: Lifetimes, *, force: bool = False) -> SweepReport:
    """Give a tombstone to each object that no row knows and that is older than any upload.

    In a bucket, uploads that old are given up as well: they are no objects, and take room.

    The store's clock decides only when. Safe beside writers, collectors and a rebuild.

    Raises:
        ImplausibleShare: more than a fifth of more than 1,000 objects are unknown, and not *force*;
            nothing has happened.
        ImplausibleLoss: the listing shows less than half of the objects that are to be there.
        DatabaseIsOlder: the store knows later revisions than the rows; nothing has happened.
        IdentityMismatch, CollectionHeld: nothing may be deleted now.
        StoreUnavailable: the listing failed, or it is empty and cannot be; nothing has happened.
    """
    check_may_delete(database, store)
    check_not_older(database, store)
    with database.read() as connection:
        live = connection.execute(_LIVE).scalar_one()
    before_s = time.time() - lifetimes.max_upload.total_seconds()
    objects, unknown = 0, []
    for some in _chunks(store.walk()):
        objects += len(some)
        with database.read() as connection:
            named = named_keys(connection, [info.key for info in some])
        unknown += [info for info in some if info.key not in named]
    old = [info for info in unknown if info.modified_s <= before_s]
    if live and not objects:
        raise StoreUnavailable(
            f"{store.location} lists no object, the rows name {live}: is all of it mounted?"
        )
    check_loss(live - (objects - len(unknown)), live, "Nothing is given up.")
    if not force:
        message = f"objects of {store.location} are in no table of {database.location}; is it the right one?"
        check_share(len(old), objects, message)
    buried = kept = 0
    for some in _chunks(iter(old)):
        gone, left = retried(partial(_bury, database, some, lifetimes))
        buried, kept = buried + gone, kept + left
    # Last: it takes rights of its own, and what can be buried is by now.
    aborted = store.abort_uploads(lifetimes.max_upload.total_seconds())
    return SweepReport(objects, len(unknown), len(unknown) - len(old), kept, buried, aborted)


def _bury(database: Database, some: Sequence[ObjectInfo], lifetimes: Lifetimes) -> tuple[int, int]:
    with database.transaction("sweep") as connection:
        lock_adoption(connection)
        named = named_keys(connection, [info.key for info in some])
        digests = {info.key: digest_of_key(info.key) for info in some if info.key not in named}
        damaged = set(connection.execute(_DAMAGED, {"digests": list(set(digests.values()))}).scalars())
        sizes = {info.key: info.size_bytes for info in some if digests.get(info.key) not in {None, *damaged}}
        bury_sized(connection, sizes, "unknown", db.clock(connection), lifetimes.tombstone)
        return len(sizes), len(digests) - len(sizes)


def _chunks(found: Iterator[ObjectInfo]) -> Iterator[list[ObjectInfo]]:
    while some := list(islice(found, CHUNK_OBJECTS)):
        yield some
