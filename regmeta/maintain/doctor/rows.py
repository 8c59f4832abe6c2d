"""What the machinery's rows tell. Each look is a short read of its own."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import db
from regmeta.db import SCHEMA_HEAD, Database
from regmeta.maintain.doctor.check import Check, ok, problem, warning
from regmeta.maintain.setup import RECORD, read_identity, read_record
from regmeta.models import (
    Adoption,
    Blob,
    GcTask,
    Ingest,
    Intent,
    LayoutOutbox,
    Repository,
    StoreIdentity,
    Tombstone,
)
from regmeta.models.base import UtcTime
from regmeta.store import BlobStore

OVERDUE: Final = timedelta(days=1)
LEFT_OPEN: Final = timedelta(days=30)
MANY_ATTEMPTS: Final = 5
NAMED: Final = 5  # how many are named before it says "and more"

RECOVER: Final = "run 'regmeta recover'"
COLLECT: Final = "run the collector: 'regmeta gc run'"


def check_schema(database: Database) -> Iterator[Check]:
    """Look whether this release understands the schema."""
    with database.read() as connection:
        found = database.schema_revision(connection)
    if found is None:
        yield problem("schema", f"{database.location} holds none", "run 'regmeta init'")
    elif found != SCHEMA_HEAD:
        older = found < SCHEMA_HEAD
        advice = "'regmeta backup', then 'regmeta db upgrade'" if older else "use the release that made it"
        yield problem("schema", f"revision {found}, this release needs {SCHEMA_HEAD}", advice)
    else:
        yield ok("schema", f"revision {found}")


def check_identity(database: Database, store: BlobStore) -> Iterator[Check]:
    """Look whether database and store belong together."""
    record = read_record(store)
    with database.read() as connection:
        identity = read_identity(connection)
    if identity is None:
        yield problem("identity", "the database belongs to no store yet", "run 'regmeta init'")
    elif record is None:
        yield problem(
            "identity",
            f"{store.location} holds no {RECORD}: it is no store, or is not mounted",
            "mount it, or correct 'store' in the settings",
        )
    elif identity == record:
        yield ok("identity", f"store {identity.store_id}, epoch {identity.epoch}")
    elif identity.store_id != record.store_id:
        yield problem(
            "identity",
            f"the database is of the store {identity.store_id}, {store.location} is {record.store_id}",
            "correct 'database' or 'store' in the settings",
        )
    else:
        yield problem(
            "identity",
            f"the store names the database {record.database_id} of epoch {record.epoch}, this is"
            f" {identity.database_id} of epoch {identity.epoch}",
            "use the database that the store names; to put this one in its place: 'regmeta restore'",
        )


def check_hold(database: Database) -> Iterator[Check]:
    """Look whether collection is held."""
    with database.read() as connection:
        reason = connection.execute(sa.select(StoreIdentity.hold_reason)).scalar()
    if reason is None:
        yield ok("collection", "not on hold")
    else:
        yield warning("collection", f"on hold: {reason}", "run 'regmeta verify --mark'; when clean it ends")


def check_adoptions(database: Database) -> Iterator[Check]:
    """Look for an adoption that nobody has finalized: nothing that it brought is collected."""
    statement = sa.select(Adoption.location, Adoption.completed_at).where(Adoption.finalized_at.is_(None))
    with database.read() as connection:
        now = db.clock(connection)
        still_open = connection.execute(statement.order_by(Adoption.id)).all()
    for location, completed_at in still_open:
        if completed_at is None:
            yield ok("adoption", f"of {location} has not come to its end yet")
            continue
        found = f"of {location} is not finalized: nothing that it brought is collected"
        if completed_at < now - LEFT_OPEN:
            yield warning(
                "adoption", found, f"when clients use this registry: 'regmeta adopt finalize {location}'"
            )
        else:
            yield ok("adoption", found)


def check_ingests(database: Database) -> Iterator[Check]:
    """Look at what is reserved and not committed."""
    owners = sa.func.count(Intent.owner.distinct())
    with database.read() as connection:
        now = db.clock(connection)
        expired = connection.execute(
            sa.select(sa.func.count(Intent.id)).where(Intent.expires_at < now)
        ).scalar_one()
        keys, processes = connection.execute(sa.select(sa.func.count(Intent.id), owners)).one()
    found = f"{keys} keys reserved by {processes} processes"
    if expired:
        yield warning("ingests", f"{found}, {expired} of them expired", RECOVER)
    else:
        yield ok("ingests", found)


def check_snapshots(database: Database) -> Iterator[Check]:
    """Look at what a rebuild from the store alone would miss."""
    with database.read() as connection:
        behind = connection.execute(
            sa.select(Repository.name, LayoutOutbox.queued_at)
            .join(LayoutOutbox, LayoutOutbox.repository_id == Repository.id)
            .order_by(LayoutOutbox.queued_at, Repository.name)
        ).all()
    if not behind:
        yield ok("snapshots", "every commit is in the store's snapshots")
        return
    names = ", ".join(name for name, _ in behind[:NAMED]) + (" and more" if len(behind) > NAMED else "")
    since = behind[0].queued_at.strftime("%Y-%m-%d %H:%M:%SZ")
    found = f"{len(behind)} behind since {since}: {names}; a lost database would lose these changes"
    yield warning("snapshots", found, RECOVER)


def check_overdue(database: Database) -> Iterator[Check]:
    """Look at what a collector should have done."""
    with database.read() as connection:
        late = db.clock(connection) - OVERDUE
        dead = (Tombstone.not_before < late, Tombstone.deleted_at.is_(None))
        yield _overdue(connection, "dead objects", sa.select(sa.func.count(Tombstone.id)).where(*dead))
        tasks = sa.select(sa.func.count(GcTask.id)).where(GcTask.not_before < late)
        yield _overdue(connection, "collector's tasks", tasks)


def check_attempts(database: Database) -> Iterator[Check]:
    """Look at what a collector tries again and again."""
    with database.read() as connection:
        for name, model in (("dead objects that stay", Tombstone), ("tasks that fail", GcTask)):
            often = model.attempts >= MANY_ATTEMPTS
            count = connection.execute(sa.select(sa.func.count(model.id)).where(often)).scalar_one()
            if not count:
                yield ok(name, "none")
                continue
            last = connection.execute(
                sa.select(model.last_error).where(often).order_by(model.attempts.desc()).limit(1)
            ).scalar()
            found = f"{count} after {MANY_ATTEMPTS} or more attempts: {last or 'no reason noted'}"
            yield warning(name, found, "correct what the reason says; 'regmeta verify' shows what is wrong")


def check_damaged(database: Database) -> Iterator[Check]:
    """Look at what is known to be damaged."""
    with database.read() as connection:
        damaged = Blob.state == "damaged"
        count = connection.execute(sa.select(sa.func.count(Blob.id)).where(damaged)).scalar_one()
        some = (
            connection.execute(sa.select(Blob.digest).where(damaged).order_by(Blob.id).limit(NAMED))
            .scalars()
            .all()
        )
    if count:
        names = ", ".join(map(str, some)) + (" and more" if count > NAMED else "")
        advice = "import the images again, or 'regmeta repair --from SOURCE'"
        yield problem("damaged blobs", f"{count}: {names}", advice)
    else:
        yield ok("damaged blobs", "none known")


def check_last_commit(database: Database) -> Iterator[Check]:
    """Look whether time went back."""
    with database.read() as connection:
        now = db.clock(connection)
        last = connection.execute(sa.select(sa.func.max(Ingest.committed_at, type_=UtcTime()))).scalar()
    if last is not None and last > now + timedelta(seconds=60):
        found = f"{last:%Y-%m-%d %H:%M:%SZ} is in the future: the database's clock went back"
        yield warning("last commit", found, "set the clock of the database's host")
    else:
        yield ok("last commit", "none" if last is None else f"{last:%Y-%m-%d %H:%M:%SZ}")


def _overdue(connection: Connection, name: str, statement: sa.Select[int]) -> Check:
    count = connection.execute(statement).scalar_one()
    if count:
        return warning(name, f"{count} overdue by more than a day", COLLECT)
    return ok(name, "none overdue")
