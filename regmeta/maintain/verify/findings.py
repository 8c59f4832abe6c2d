"""What verification finds: one value for each thing that is not as it should be."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """The classes of damage; ``repair`` works on one class at a time."""

    OBJECT_MISSING = "object-missing"  # a live blob's object is not there (asked twice)
    OBJECT_SIZE = "object-size"  # it is shorter or longer than its row says
    OBJECT_UNREADABLE = "object-unreadable"  # the store says that it is there, and cannot read it
    OBJECT_CORRUPT = "object-corrupt"  # its bytes have another digest
    BLOB_DAMAGED = "blob-damaged"  # the row says so already, and nothing has healed it yet
    OBJECT_UNKNOWN = "object-unknown"  # an object that no blob, intent or tombstone names
    INTENT_STALE = "intent-stale"  # its owner has ended, or its time is over
    TOMBSTONE_STUCK = "tombstone-stuck"  # deleting the object has failed, or is long overdue
    MANIFEST_CONTENT = "manifest-content"  # the bytes in the row have another digest, or do not parse
    MANIFEST_DRIFT = "manifest-drift"  # a column is not what the bytes say
    EDGE_DRIFT = "edge-drift"  # manifest_blobs, index_manifests or labels are not what the bytes say
    LINK_MISSING = "link-missing"  # a repository may not read a blob that its manifest names
    TAG_DRIFT = "tag-drift"  # a live tag's digest is not its manifest's, or its intervals overlap
    DELETED_IN_USE = "deleted-in-use"  # a live tag or an index that is here leads to a deleted manifest
    REPOSITORY_STATE = "repository-state"  # a repository that was deleted has live tags
    FOREIGN_KEY = "foreign-key"  # a row refers to one that is not there
    ROW_INVALID = "row-invalid"  # a value that regmeta never writes: a bad name, digest, key or number
    DATABASE_CORRUPT = "database-corrupt"  # the database's own check finds something
    TASK_MISSING = "task-missing"  # garbage that no task will collect
    SNAPSHOT_DRIFT = "snapshot-drift"  # the newest snapshot is not what the rows say, and nothing is queued
    LAYOUT_DRIFT = "layout-drift"  # a repository's OCI layout in the store lacks or misstates something


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be.

    *subject* is the digest, the key or the reference that it is about, and *detail* says what is wrong in
    words. *row_id* is the id of the row in the table that the kind is about (blobs, manifests, tags,
    intents, tombstones, repositories), where there is one, and *key* the object that was looked at. *used_by*
    are references of images that need it.
    """

    kind: Kind
    subject: str
    detail: str
    row_id: int | None = None
    used_by: tuple[str, ...] = ()
    key: str | None = None
