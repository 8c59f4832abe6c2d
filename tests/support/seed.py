"""Rows in every table, that keep every constraint."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.models import Base
from regmeta.oci.digest import Digest
from regmeta.oci.folding import text_key
from regmeta.store import new_key

NOW = datetime(2024, 5, 6, 7, 8, 9, 123456, UTC)
LATER = NOW + timedelta(hours=1)
LAYER, CONFIG = Digest.of(b"layer"), Digest.of(b"config")
IMAGE, INDEX = Digest.of(b"image"), Digest.of(b"index", "sha512")
ABSENT = Digest.of(b"absent")
TEXT = "\u00e4"
BYTES = {LAYER: 5, CONFIG: 6, IMAGE: 5, INDEX: 5}

Row = dict[str, Any]


def blob(number: int, digest: Digest) -> Row:
    """Return a row of ``blobs``."""
    return {
        "id": number,
        "digest": digest,
        "size_bytes": BYTES.get(digest, 1),
        "key": new_key(digest),
        "lease_until": LATER,
        "created_at": NOW,
    }


def manifest(number: int, digest: Digest, kind: str, **others: Any) -> Row:
    """Return a row of ``manifests``."""
    return {
        "id": number,
        "repository_id": 1,
        "digest": digest,
        "kind": kind,
        "media_type": "application/vnd.example+json",
        "size_bytes": 5,
        "content": b"\0\xff" + kind.encode(),
        "blob_id": 3 if kind == "image" else 4,
        "pushed_at": NOW,
        "pushed_by": "seed",
        "lease_until": LATER,
        **others,
    }


def tag(number: int, name: str, **others: Any) -> Row:
    """Return a row of ``tags``, live unless said otherwise."""
    return {
        "id": number,
        "repository_id": 1,
        "name": name,
        "manifest_digest": IMAGE,
        "manifest_id": 1,
        "started_at": NOW,
        "started_by": "seed",
        "ended_at": None,
        "ended_by": None,
        **others,
    }


def repository(number: int, name: str) -> Row:
    """Return a row of ``repositories``."""
    return {
        "id": number,
        "name": name,
        "leaf": name.rpartition("/")[2],
        "created_at": NOW,
        "updated_at": NOW,
    }


def rows() -> dict[str, list[Row]]:
    """Return rows for every table."""
    member = {
        "index_id": 2,
        "child_digest": IMAGE,
        "media_type": "application/vnd.example+json",
        "size_bytes": 5,
        "child_id": None,
        "blob_id": None,
        "absence": None,
    }
    edge = {"manifest_id": 1, "blob_id": None, "absent_digest": None, "chain_digest": None}
    item = {
        "policy": "hub",
        "source": "library/app",
        "destination": "app",
        "terms": "",
        "upstream_digest": INDEX,
        "checked_at": LATER,
    }
    return {
        "repositories": [
            repository(1, "app"),
            repository(2, "team/app"),
            {**repository(3, "gone"), "state": "deleted", "deleted_at": LATER},
        ],
        "blobs": [blob(i, d) for i, d in enumerate([LAYER, CONFIG, IMAGE, INDEX], 1)],
        "repository_blobs": [
            {"repository_id": 1, "blob_id": number, "linked_at": NOW} for number in (1, 2, 3, 4)
        ],
        "manifests": [
            manifest(
                1,
                IMAGE,
                "image",
                subject_digest=ABSENT,
                os="linux",
                image_created_at=NOW,
                layer_count=2,
                chain_digest=ABSENT,
            ),
            manifest(2, INDEX, "index"),
        ],
        "manifest_blobs": [
            {**edge, "position": 0, "role": "config", "blob_id": 2},
            {**edge, "position": 1, "role": "layer", "blob_id": 1, "chain_digest": LAYER},
            {**edge, "position": 2, "role": "layer", "absent_digest": ABSENT, "chain_digest": ABSENT},
        ],
        "index_manifests": [
            {**member, "position": 0, "child_id": 1},
            {**member, "position": 1, "child_digest": LAYER, "blob_id": 1},
            {**member, "position": 2, "child_digest": ABSENT, "absence": "sparse"},
        ],
        "tags": [
            tag(1, "v1", ended_at=LATER, ended_by="seed"),
            tag(2, "v1", started_at=LATER),
            tag(3, "gone", manifest_id=None, ended_at=LATER, ended_by="seed"),
        ],
        "labels": [
            {
                "manifest_id": 1,
                "origin": origin,
                "name": "team",
                "value": "\u00c4",
                "text_key": text_key(TEXT),
            }
            for origin in ("annotation", "config")
        ],
        "label_texts": [{"id": text_key(TEXT), "folded": TEXT}],
        "tag_names": [{"name": name, "folded": name.lower()} for name in ("v1", "gone")],
        "favorites": [
            {"user_name": "seed", "kind": kind, "repository_id": 1, "created_at": NOW}
            for kind in ("star", "bookmark")
        ],
        "usage_samples": [
            {
                "day": 19849,
                "repository_id": 1,
                "sampled_at": NOW,
                "tags": 1,
                "manifests": 2,
                "blobs": 4,
                "logical_bytes": 21,
                "unique_bytes": 21,
                "exclusive_bytes": 21,
            }
        ],
        "tag_locks": [{"repository_id": 1, "pattern": "v1", "created_at": NOW, "created_by": "seed"}],
        "intents": [
            {
                "key": new_key(ABSENT),
                "digest": ABSENT,
                "owner": uuid4(),
                "host": "here",
                "created_at": NOW,
                "expires_at": LATER,
            }
        ],
        "sync_runs": [
            {
                "id": 1,
                "policy": "hub",
                "cause": "schedule",
                "actor": "seed",
                "host": "here",
                "owner": UUID(int=4),
                "started_at": NOW,
                "ended_at": LATER,
                "outcome": "done",
            },
            {
                "id": 2,
                "policy": "hub",
                "cause": "command",
                "actor": "seed",
                "host": "here",
                "owner": UUID(int=4),
                "started_at": LATER,
                "ended_at": None,
                "outcome": None,
            },
        ],
        "sync_items": [
            {**item, "reference": "v1", "outcome": "copied", "run_id": 1, "digest": IMAGE, "copied_at": NOW},
            {
                **item,
                "reference": "v2",
                "outcome": "failed",
                "error_class": "RemoteUnavailable",
                "attempts": 2,
                "next_try_at": LATER,
            },
        ],
        "adoptions": [
            {
                "id": 1,
                "location": "/srv/old",
                "kind": "docker",
                "prefix": "old",
                "actor": "seed",
                "started_at": NOW,
                "completed_at": LATER,
                "finalized_at": None,
            }
        ],
        "adoption_repositories": [
            {
                "id": 1,
                "adoption_id": 1,
                "source": "app",
                "destination": "old/app",
                "fingerprint": "f",
                "cursor": "v1",
                "state": "partial",
                "tags": 1,
                "manifests": 2,
                "checked_at": NOW,
            }
        ],
        "adoption_defects": [
            {
                "repository_id": 1,
                "kind": "missing-blob",
                "subject": str(ABSENT),
                "image": "v2",
                "detail": "seed",
                "outcome": "left out",
                "seen_in": 1,
                "found_at": NOW,
            }
        ],
        "tombstones": [{"key": new_key(ABSENT), "reason": "seed", "created_at": NOW, "not_before": LATER}],
        "gc_tasks": [
            {
                "kind": "manifest",
                "target_id": 1,
                "repository_id": 1,
                "reason": "seed",
                "created_at": NOW,
                "not_before": LATER,
            }
        ],
        "ingests": [
            {"id": UUID(int=1), "committed_at": NOW, "actor": "seed", "source": "seed", "result": {"a": [1]}}
        ],
        "layout_outbox": [{"repository_id": 1, "revision": 0, "queued_at": NOW}],
        "store_identity": [
            {"id": 1, "store_id": UUID(int=2), "database_id": UUID(int=3), "epoch": 1, "created_at": NOW}
        ],
        "events": [
            {
                "transaction_id": 7,
                "occurred_at": NOW,
                "kind": "tag.created",
                "repository_id": 1,
                "tag": "v1",
                "digest": IMAGE,
                "actor": "seed",
                "ingest_id": UUID(int=1),
            }
        ],
        "pull_stats": [
            {
                "repository_id": 1,
                "digest": IMAGE,
                "tag": "",
                "day": 19849,
                "pulls": 3,
                "last_pulled_at": NOW,
            }
        ],
    }


def seed(connection: Connection) -> None:
    """Put rows in every table of the schema that the models describe."""
    wanted = rows()
    for table in Base.metadata.sorted_tables:
        # A table that is new gets its rows here, or its migration is not tested.
        for row in wanted[table.name]:
            connection.execute(sa.insert(table), row)
