"""Rows: tables and constraints, nothing else. What a row means is written beside its columns.

``content``    repositories, blobs, manifests and indexes, and the edges between them
``tags``       tags as intervals, labels, the feed of events
``statistics`` pulls, stars and bookmarks, and the room that repositories took
``search``     each text that is searched once, and its trigrams
``views``      what analysts query: stable names over the tables
``machinery``  what keeps rows and objects in step: intents, tombstones, outbox, queue, identity
``sync``       what is brought from other registries: runs, and the state of each image
``adoption``   what is taken over from the storage of other registries, and what was wrong with it

Invariants are constraints where a constraint can say them. References to content are foreign keys that
restrict: a collector that is wrong is refused by the database (design, section 3).
"""

from regmeta.models.adoption import Adoption, AdoptionDefect, AdoptionRepository
from regmeta.models.base import Base, DatabaseClock
from regmeta.models.content import (
    Blob,
    ImageManifest,
    IndexManifest,
    IndexMember,
    Manifest,
    ManifestBlob,
    Repository,
    RepositoryBlob,
)
from regmeta.models.machinery import (
    GcTask,
    Ingest,
    Intent,
    LayoutOutbox,
    StoreIdentity,
    Tombstone,
)
from regmeta.models.search import LabelText, TagName
from regmeta.models.statistics import Favorite, PullStatistic, UsageSample
from regmeta.models.sync import SyncItem, SyncRun
from regmeta.models.tags import Event, Label, Tag, TagLock
from regmeta.models.views import VIEWS

__all__ = [
    "VIEWS",
    "Adoption",
    "AdoptionDefect",
    "AdoptionRepository",
    "Base",
    "Blob",
    "DatabaseClock",
    "Event",
    "Favorite",
    "GcTask",
    "ImageManifest",
    "IndexManifest",
    "IndexMember",
    "Ingest",
    "Intent",
    "Label",
    "LabelText",
    "LayoutOutbox",
    "Manifest",
    "ManifestBlob",
    "PullStatistic",
    "Repository",
    "RepositoryBlob",
    "StoreIdentity",
    "SyncItem",
    "SyncRun",
    "Tag",
    "TagLock",
    "TagName",
    "Tombstone",
    "UsageSample",
]
