"""What queries answer: frozen values. Sizes are in bytes, times are in UTC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Literal, TypeVar
from uuid import UUID

from regmeta.oci.digest import Digest

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list. ``next`` is the cursor of the page behind it, None at the end.

    ``total`` is how many there are on all pages at the moment of this one, None if nobody asked.
    """

    items: tuple[T, ...]
    next: str | None
    total: int | None = None


@dataclass(frozen=True, slots=True)
class RepositoryDetails:
    """One repository; its size counts each blob once, however many images use it."""

    name: str
    state: str
    revision: int
    tags: int
    manifests: int
    untagged_manifests: int
    blobs: int
    size_bytes: int
    created_at: datetime
    updated_at: datetime
    snapshot_is_behind: bool
    deleted_at: datetime | None  # it can be brought back while it is *deleted*


@dataclass(frozen=True, slots=True)
class TagInterval:
    """From when to when a tag pointed at what; ``ended_at`` is None now."""

    digest: Digest
    started_at: datetime
    started_by: str
    ended_at: datetime | None
    ended_by: str | None
    is_here: bool


@dataclass(frozen=True, slots=True)
class TagDetails:
    """One tag, now and before, the newest interval first."""

    repository: str
    name: str
    digest: Digest | None
    history: tuple[TagInterval, ...]


@dataclass(frozen=True, slots=True)
class TagValue:
    """One interval of a tag, and what has become of its image: it is *here*, *deleted* or *collected*.

    What is not used is kept until ``kept_until`` at least, by the history window and leases; None if a live
    tag or an index names the image, or if it has gone. ``key`` is where a next page starts.
    """

    key: str
    digest: Digest
    started_at: datetime
    started_by: str
    ended_at: datetime | None
    ended_by: str | None
    image: Literal["here", "deleted", "collected"]
    kept_until: datetime | None


@dataclass(frozen=True, slots=True)
class TagChange:
    """One change of a tag: to a digest, from a digest; one that was removed has none."""

    key: str
    at: datetime
    tag: str
    change: Literal["created", "moved", "removed"]
    digest: Digest | None
    previous: Digest | None
    by: str | None


@dataclass(frozen=True, slots=True)
class TagLock:
    """Why some tags of a repository are immutable: a lock of its own, or a rule of the settings."""

    pattern: str
    source: Literal["lock", "settings"]
    created_at: datetime | None
    created_by: str | None


@dataclass(frozen=True, slots=True)
class Layer:
    """A blob that a manifest names, from its descriptor; an absent one is not stored here."""

    media_type: str
    digest: Digest
    size_bytes: int
    is_absent: bool


@dataclass(frozen=True, slots=True)
class Node:
    """One manifest of a tree, or one that is absent, and then ``absence`` says why."""

    digest: Digest
    kind: str
    media_type: str
    artifact_type: str | None
    platform: str | None
    manifest_bytes: int
    total_bytes: int
    created_at: datetime | None
    subject: Digest | None
    annotations: Mapping[str, str]
    config: Layer | None
    layers: tuple[Layer, ...]
    children: tuple[Node, ...]
    absence: str | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """A whole image as a tree. ``unique_bytes`` counts each blob once, manifests included."""

    repository: str
    digest: Digest
    tags: tuple[str, ...]
    pushed_at: datetime
    pushed_by: str
    unique_bytes: int
    labels: Mapping[str, str]
    tree: Node


@dataclass(frozen=True, slots=True)
class BlobUse:
    """That a repository may read a blob, and how many of its manifests name it."""

    repository: str
    manifests: int


@dataclass(frozen=True, slots=True)
class Blob:
    """One stored blob."""

    digest: Digest
    size_bytes: int
    state: str
    key: str
    created_at: datetime
    lease_until: datetime
    uses: tuple[BlobUse, ...]


@dataclass(frozen=True, slots=True)
class OpenIngest:
    """A process that has reserved keys and not committed them."""

    owner: UUID
    host: str
    keys: int
    since: datetime
    expires_at: datetime
    is_expired: bool


@dataclass(frozen=True, slots=True)
class Status:
    """What is stored, what is under way, and what is not flushed or not collected yet."""

    database: str
    store: str
    schema: str
    store_id: UUID
    database_id: UUID
    epoch: int
    repositories: int
    tags: int
    manifests: int
    blobs: int
    blob_bytes: int
    damaged_blobs: int
    absent_children: int
    open_ingests: tuple[OpenIngest, ...]
    snapshots_behind: tuple[str, ...]
    tombstones: int
    gc_tasks: int
    collection_hold: str | None
    events: int
    last_commit_at: datetime | None
