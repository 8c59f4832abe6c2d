"""What two stores say of themselves while objects go from one to the other, and afterwards."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Final
from uuid import uuid4

from regmeta.errors import IdentityMismatch, Refused
from regmeta.maintain.setup import MOVED_FORMAT, RECORD, Identity, StoreMoved, read_record
from regmeta.store import BlobStore, Staging

_FOLDERS: Final = ("blobs", "layouts", "repositories")
_MARKER: Final = "blobs/_store"  # made by ``create`` in a bucket, and nothing else


def start(source: BlobStore, target: BlobStore, staging: Staging, identity: Identity) -> Identity:
    """Make an empty store one that is being filled, or find that an earlier run did; return what it will be.

    *identity* is what the rows say now, and what *source* says.

    Raises:
        Refused: *target* is *source*, another registry's, or has objects of nobody knows whom.
    """
    record = read_record(target)
    if record is None:
        _require_empty(target)
        record = replace(identity, store_id=uuid4(), filled_from=identity.store_id)
        target.create()
        staging.write_record(RECORD, record.to_record(), exclusive=True)
        return record
    if record.store_id == identity.store_id:
        raise Refused(f"{target.location} is the store itself ({source.location}): name another one")
    if record.filled_from != identity.store_id:
        raise Refused(
            f"{target.location} is another store already ({record.store_id}): name an empty folder or prefix"
        )
    wanted = replace(identity, store_id=record.store_id, filled_from=identity.store_id)
    if wanted != record:  # the database was moved or restored since
        staging.write_record(RECORD, wanted.to_record())
    return wanted


def complete(target: BlobStore, staging: Staging, identity: Identity) -> None:
    """Let the new store say that it is whole; finds it done.

    Raises:
        IdentityMismatch: it is not what the rows say.
    """
    record = read_record(target)
    if record is None or record != identity:
        raise IdentityMismatch(f"{target.location}: its {RECORD} has changed meanwhile")
    if record.filled_from is not None:
        staging.write_record(RECORD, replace(record, filled_from=None).to_record())


def close(source: BlobStore, staging: Staging, before: Identity, location: str) -> None:
    """Let the old store say where its objects are now; finds it done."""
    if is_closed(source):
        return
    document = {
        "format": MOVED_FORMAT,
        "store_id": str(before.store_id),
        "database_id": str(before.database_id),
        "epoch": before.epoch,
        "moved_to": location,
    }
    staging.write_record(RECORD, json.dumps(document, indent=1).encode() + b"\n")


def is_closed(source: BlobStore) -> bool:
    """Tell whether a store says that its objects were moved."""
    try:
        read_record(source)
    except StoreMoved:
        return True
    return False


def _require_empty(target: BlobStore) -> None:
    for folder in _FOLDERS:
        for name in target.walk_records(folder):
            if name != _MARKER:
                raise Refused(
                    f"{target.location} holds no {RECORD}, but {name}: name an empty folder or prefix"
                )
