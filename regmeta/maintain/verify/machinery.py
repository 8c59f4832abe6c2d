"""The machinery: intents of ended processes, objects that are not deleted, garbage without a task."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Final

import sqlalchemy as sa

from regmeta import db
from regmeta.db import Database
from regmeta.ingest.reserve import chunks
from regmeta.maintain.collect.reachable import (
    BLOB_IS_FORGOTTEN,
    MANIFEST_IS_FORGOTTEN,
    REPOSITORY_IS_FORGOTTEN,
)
from regmeta.maintain.verify.findings import Finding, Kind
from regmeta.maintain.verify.pages import pages, raw, reading, shown
from regmeta.models import (
    Blob,
    Intent,
    Manifest,
    Repository,
    Tombstone,
)
from regmeta.store import BlobStore

OVERDUE: Final = timedelta(hours=24)  # a collector should have run by then
AT_MOST: Final = 1000  # of each kind; the first ones tell what is wrong

_INTENTS: Final = sa.select(Intent.id, Intent.key, Intent.owner, Intent.host, Intent.expires_at)
_STUCK: Final = (
    sa.select(Tombstone.id, Tombstone.key, Tombstone.attempts, Tombstone.last_error, Tombstone.not_before)
    .where(
        Tombstone.deleted_at.is_(None),
        sa.or_(
            sa.and_(Tombstone.attempts > 0, Tombstone.last_error.is_not(None)),
            Tombstone.not_before < sa.bindparam("overdue"),
        ),
    )
    .order_by(Tombstone.id)
    .limit(AT_MOST)
)
_NO_MANIFEST_TASK: Final = (
    sa.select(Manifest.id, Repository.name.label("repository"), raw(Manifest.digest))
    .join(Repository, Repository.id == Manifest.repository_id)
    .where(MANIFEST_IS_FORGOTTEN)
    .order_by(Manifest.id)
    .limit(AT_MOST)
)
_NO_BLOB_TASK: Final = (
    sa.select(Blob.id, raw(Blob.digest)).where(BLOB_IS_FORGOTTEN).order_by(Blob.id).limit(AT_MOST)
)
_NO_REPOSITORY_TASK: Final = (
    sa.select(Repository.id, Repository.name, Repository.state)
    .where(REPOSITORY_IS_FORGOTTEN)
    .order_by(Repository.id)
    .limit(AT_MOST)
)


def check_machinery(database: Database, store: BlobStore, host: str) -> Iterator[Finding]:
    """Look for what ended processes left, for deletions that do not happen, and for forgotten garbage."""
    with reading(database) as connection:
        now = db.clock(connection)
        stuck = connection.execute(_STUCK, {"overdue": now - OVERDUE}).all()
        manifests: Any = connection.execute(_NO_MANIFEST_TASK, {"now": now}).all()
        blobs: Any = connection.execute(_NO_BLOB_TASK, {"now": now}).all()
        repositories = connection.execute(_NO_REPOSITORY_TASK).all()
    yield from _check_intents(database, store, host)
    for row in stuck:
        why = f"could not be deleted: {row.last_error}" if row.last_error else "overdue: run 'regmeta gc run'"
        yield Finding(Kind.TOMBSTONE_STUCK, row.key, why, row.id)
    for row in manifests:
        yield Finding(
            Kind.TASK_MISSING,
            f"{row.repository}@{shown(row.digest)}",
            "nothing keeps this manifest, and no task will collect it",
            row.id,
        )
    for row in blobs:
        detail = "nothing names this blob, and no task will collect it"
        yield Finding(Kind.TASK_MISSING, shown(row.digest), detail, row.id)
    for of in repositories:
        detail = f"the repository is {of.state}, and no task will remove what it held"
        yield Finding(Kind.TASK_MISSING, of.name, detail, of.id)


def _check_intents(database: Database, store: BlobStore, host: str) -> Iterator[Finding]:
    for intents in pages(database, _INTENTS, Intent.id):
        here = {intent.owner for intent in intents if intent.host == host}
        ended = {owner for owner in here if not store.staging_exists(owner)}
        with reading(database) as connection:
            now = db.clock(connection)
            # Its process may have committed it, given it back or renewed it since the page was read.
            of = [intent.id for intent in intents if intent.expires_at < now or intent.owner in ended]
            stale: list[Any] = []
            for ids in chunks(of):
                stale += connection.execute(_INTENTS.where(Intent.id.in_(ids)).order_by(Intent.id))
        for intent in stale:
            if intent.expires_at < now:
                why = "its time is over"
            elif intent.owner in ended:
                why = "its process has ended"
            else:
                continue
            detail = f"{why}; any command that writes clears it up, or 'regmeta recover'"
            yield Finding(Kind.INTENT_STALE, intent.key, detail, intent.id)
