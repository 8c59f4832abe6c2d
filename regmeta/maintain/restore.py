"""A copy of the database in the place of the one that was. Every process must have ended.

=================  =====================================  ==================================================
step               durable effect                         a crash right after leaves
=================  =====================================  ==================================================
prepare            on SQLite a copy beside the database,  the old database, as it was (SQLite); or rows whose
                   on PostgreSQL the loaded rows: the     identity the store does not name, so that nobody
                   next epoch, a hold on collection, no   can open them
                   intents, events of no transaction,
                   every snapshot to be written
place              (SQLite) the old file is aside, the    no database, or one that the store does not name
                   copy has its name
reconcile          manifests and tags that newer          the same; some of them
                   snapshots of the store name
complete           the hold says that rows are complete   the same
switch             the store's record names the database  the restored registry, snapshots to be written
write snapshots    one of the new epoch per repository    some of them; the next writer does the rest
=================  =====================================  ==================================================

Run again, it begins from the copy and ends the same. Snapshots of the new epoch hide older ones, so none is
written of a repository before what its newest one names is in the rows.

Intents of the copy go without a tombstone: their owners have ended, and what they wrote may have been
committed after the copy was made. Such an object is adopted if a snapshot names it, and found by the sweep if
not. Keys that the copy has tombstones for stay dead.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import db
from regmeta.db import Database
from regmeta.errors import IdentityMismatch, Locked, StoreUnavailable
from regmeta.ingest.adopt import lock_adoption
from regmeta.ingest.unit_of_work import Writer
from regmeta.maintain.backup import Copy, check_restorable, own_copy
from regmeta.maintain.feed import forget_transactions
from regmeta.maintain.rebuild import identity as switching
from regmeta.maintain.rebuild.listing import SNAPSHOTS, SnapshotList
from regmeta.maintain.rebuild.reconcile import reconcile
from regmeta.maintain.rebuild.report import Progress, Report
from regmeta.maintain.setup import RECORD, Identity, check_filled, read_identity, read_record
from regmeta.models import Blob, Intent, LayoutOutbox, Repository, StoreIdentity
from regmeta.store import BlobStore

HOLD: Final = "restored from a copy: nothing is collected until 'regmeta verify --mark' has found it whole"
_UNFINISHED: Final = "being restored from a copy of epoch {}: run 'regmeta restore' again"
_UNFINISHED_RE: Final = re.compile(re.escape(_UNFINISHED).replace(r"\{\}", "([0-9]+)"))

_SESSIONS: Final = sa.text(
    "SELECT pid, coalesce(application_name, ''), coalesce(host(client_addr), 'this host')"
    " FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    # Of other users' sessions the type is not shown; those of the server itself have no user.
    " AND usesysid IS NOT NULL AND coalesce(backend_type, 'client backend') = 'client backend' ORDER BY pid"
)
_NOT_BEHIND: Final = sa.select(sa.func.count()).where(
    Repository.id.not_in(sa.select(LayoutOutbox.repository_id)), Repository.revision > 0
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Rows that say whose they are to be."""

    identity: Identity
    rows_epoch: int  # that of the copy


def require_record(store: BlobStore) -> Identity:
    """Return what the store says of itself.

    Raises:
        IdentityMismatch: it says nothing.
    """
    record = read_record(store)
    if record is None:
        raise IdentityMismatch(f"{store.location} holds no {RECORD}: it is no store, or is not mounted")
    check_filled(store, record)
    return record


def check_loaded(database: Database, store: BlobStore) -> None:
    """Refuse rows on a server that are not a copy of this store's, or that somebody is connected to.

    Raises:
        SchemaMismatch, IdentityMismatch: they are not to be restored here.
        Locked: there are other sessions.
    """
    database.check_schema()
    copy: Copy = own_copy(database)
    check_restorable(copy, require_record(store), database.location, upgrade="run 'regmeta db upgrade'")
    with database.read() as connection:
        others = connection.execute(_SESSIONS).all()
    if others:
        pid, application, host = others[0]
        what = f" ({application})" if application else ""
        raise Locked(
            f"{database.location}: {len(others)} other session(s), such as process {pid}{what} from {host}:"
            " end every process that uses it first"
        )


def prepare(database: Database, store: BlobStore, listed: SnapshotList) -> Prepared:
    """Give the rows of a copy the identity that they are to have, in one transaction.

    Raises:
        StoreUnavailable: the store shows nothing of what the copy says that it has.
    """
    record = require_record(store)
    has_objects = next(iter(store.walk()), None) is not None
    with database.transaction("restore") as connection:
        hold = lock_adoption(connection)
        found = read_identity(connection)
        if found is None or found.store_id != record.store_id:
            raise IdentityMismatch(f"{database.location} is not of the store {record.store_id}")
        _require_something(connection, store, listed, has_objects)
        unfinished = _UNFINISHED_RE.fullmatch(hold or "")
        rows_epoch = int(unfinished[1]) if unfinished else found.epoch
        epoch = max(record.epoch, listed.greatest_epoch, found.epoch) + 1
        identity = Identity(record.store_id, uuid4(), epoch)
        connection.execute(
            sa.update(StoreIdentity).values(
                database_id=identity.database_id, epoch=epoch, hold_reason=_UNFINISHED.format(rows_epoch)
            )
        )
        connection.execute(sa.delete(Intent))
        forget_transactions(connection)
        _queue_all_snapshots(connection)
    return Prepared(identity, rows_epoch)


def finish(writer: Writer, store: BlobStore, prepared: Prepared, progress: Progress) -> Report:
    """Put back what newer snapshots name, and let the store name this database.

    Raises:
        Unavailable: the store or the database did not do it; run the restore again.
    """
    report = reconcile(writer, store, progress, rows_epoch=prepared.rows_epoch)
    with writer.database.transaction("restore_complete") as connection:
        lock_adoption(connection)
        connection.execute(sa.update(StoreIdentity).values(hold_reason=HOLD))
    switching.switch(store, writer.staging, prepared.identity)
    writer.snapshots.flush_outbox()
    return report


def _require_something(
    connection: Connection, store: BlobStore, listed: SnapshotList, has_objects: bool
) -> None:
    """An empty listing is not "there is nothing", where rows say that there was something (I8)."""
    repositories = connection.execute(_NOT_BEHIND).scalar_one()
    if repositories and not listed.versions:
        raise StoreUnavailable(
            f"{store.location}/{SNAPSHOTS} lists no snapshot, the copy has {repositories} repositories:"
            " is it mounted?"
        )
    if not has_objects and connection.execute(sa.select(Blob.id).limit(1)).first() is not None:
        raise StoreUnavailable(f"{store.location} lists no object, the copy names some: is it mounted?")


def _queue_all_snapshots(connection: Connection) -> None:
    now = db.clock(connection)
    connection.execute(sa.delete(LayoutOutbox))
    connection.execute(
        sa.insert(LayoutOutbox).from_select(
            ["repository_id", "revision", "queued_at"],
            sa.select(Repository.id, Repository.revision, sa.literal(now, LayoutOutbox.queued_at.type)),
        )
    )
