"""Rows against objects, both ways, and sizes. Nothing is hashed here.

Asked twice before anything is called missing or unknown: writers and collectors are at work meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

import sqlalchemy as sa

from regmeta.db import Database
from regmeta.ingest.adopt import named_keys
from regmeta.maintain.verify.findings import Finding, Kind
from regmeta.maintain.verify.pages import PAGE_ROWS, pages, raw, reading, shown
from regmeta.maintain.verify.users import users_of
from regmeta.models import Blob
from regmeta.store import BlobStore, ObjectInfo
from regmeta.store.paths import is_key

_BLOBS: Final = sa.select(Blob.key, Blob.id, raw(Blob.digest), Blob.size_bytes, Blob.state)
_AGAIN: Final = sa.select(Blob.key, Blob.state).where(Blob.id == sa.bindparam("of"))


def still_live(database: Database, blob_id: int | None, key: str | None) -> bool:
    """Tell whether a row still stands and still names this object: it was neither healed nor collected."""
    with reading(database) as connection:
        row = connection.execute(_AGAIN, {"of": blob_id}).first()
    return row is not None and row.key == key and row.state == "live"


def check_blobs(database: Database, store: BlobStore, advanced: Any) -> Iterator[Finding]:
    """Look for the object of each live blob, and at its size.

    Raises:
        StoreUnavailable: the store could not tell; that is never taken for "missing" (I8).
    """
    for rows in pages(database, _BLOBS, Blob.key):
        for row in rows:
            if row.state == "damaged":
                yield Finding(
                    Kind.BLOB_DAMAGED,
                    shown(row.digest),
                    "known to be damaged; importing its image again, or 'regmeta repair', heals it",
                    row.id,
                    users_of(database, row.id),
                    row.key,
                )
            elif is_key(str(row.key)):  # any other was found when the rows were looked at
                yield from _check_blob(database, store, row)
        advanced(len(rows))


def _check_blob(database: Database, store: BlobStore, row: Any) -> Iterator[Finding]:
    info = store.stat(row.key)
    if info is not None and info.size_bytes == row.size_bytes:
        return
    if not still_live(database, row.id, row.key):
        return
    info = store.stat(row.key)
    if info is None:
        kind, detail = Kind.OBJECT_MISSING, f"its object {row.key} is not there"
    elif info.size_bytes != row.size_bytes:
        kind, detail = Kind.OBJECT_SIZE, f"its object has {info.size_bytes} bytes, not {row.size_bytes}"
    else:
        return
    yield Finding(kind, shown(row.digest), detail, row.id, users_of(database, row.id), row.key)


def check_objects(database: Database, store: BlobStore, advanced: Any) -> Iterator[Finding]:
    """Look for the row of each object: a blob, an intent or a tombstone (I2).

    Raises:
        StoreUnavailable: the listing failed.
    """
    listing = store.walk()
    while some := list(islice(listing, PAGE_ROWS)):
        # The listing first, the rows after it: an object has an intent before it is there.
        for info in _unknown(database, some):
            if store.stat(info.key) is not None and _unknown(database, [info]):
                yield Finding(
                    Kind.OBJECT_UNKNOWN, info.key, f"no row knows this object of {info.size_bytes} bytes"
                )
        advanced(len(some))


def _unknown(database: Database, some: list[ObjectInfo]) -> list[ObjectInfo]:
    with reading(database) as connection:
        named = named_keys(connection, [info.key for info in some])
    return [info for info in some if info.key not in named]
