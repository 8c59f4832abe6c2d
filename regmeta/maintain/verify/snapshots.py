"""The store's own copies of tags, and the OCI layouts that repositories are shown as."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import sqlalchemy as sa

from regmeta.db import Database
from regmeta.ingest.snapshots import Snapshot, objects_of, take_snapshot, version_of
from regmeta.maintain.verify.findings import Finding, Kind
from regmeta.maintain.verify.pages import pages, reading
from regmeta.models import LayoutOutbox, Repository
from regmeta.store import BlobStore

# What a rebuild puts back from a snapshot; times are a convenience that older ones lack.
_COMPARED: Final = ("manifests", "io.regmeta.repository", "io.regmeta.state")

_REPOSITORIES: Final = sa.select(Repository.id, Repository.name).where(
    ~sa.exists().where(LayoutOutbox.repository_id == Repository.id)
)
_IS_BEHIND: Final = sa.select(LayoutOutbox.revision).where(LayoutOutbox.repository_id == sa.bindparam("of"))


def check_snapshots(
    database: Database, store: BlobStore, advanced: Any, *, layouts: bool
) -> Iterator[Finding]:
    """Compare each repository that is not queued with its newest snapshot, and with its layout.

    Looked at twice before anything is said, since a writer may be between its commit and its snapshot.
    """
    for rows in pages(database, _REPOSITORIES, Repository.id):
        for row in rows:
            if any(True for _ in _differences(database, store, row, layouts)):
                for kind, detail in _differences(database, store, row, layouts):
                    yield Finding(kind, row.name, detail, row.id)
        advanced(len(rows))


def _differences(database: Database, store: BlobStore, row: Any, layouts: bool) -> Iterator[tuple[Kind, str]]:
    with reading(database) as connection:
        if connection.execute(_IS_BEHIND, {"of": row.id}).first() is not None:
            return
        expected = take_snapshot(connection, row.id)
        objects = objects_of(connection, row.id) if layouts else []
        damaged = objects_of(connection, row.id, "damaged") if layouts else []
    if expected.version[1] == 0:
        return  # made a moment ago, by a transaction that has not counted it up
    newest = max(
        (
            (version, name)
            for name in store.list_records(f"layouts/{row.name}")
            if (version := version_of(name)) is not None
        ),
        default=None,
    )
    if newest is None:
        yield Kind.SNAPSHOT_DRIFT, "the store has no snapshot of it"
    elif newest[0] < expected.version:
        yield Kind.SNAPSHOT_DRIFT, f"the newest snapshot is {newest[1]}, the rows are at {_text(expected)}"
    elif newest[0] == expected.version:
        content = store.read_record(newest[1])
        if content is not None and _parts(content) != _parts(expected.content):
            yield Kind.SNAPSHOT_DRIFT, f"{newest[1]} says something else than the rows"
    else:
        yield Kind.SNAPSHOT_DRIFT, f"{newest[1]} is newer than the rows, which are at {_text(expected)}"
    if layouts and store.layouts is not None:
        for detail in store.layouts.check(
            row.name, expected.content, objects, [digest for digest, _ in damaged]
        ):
            yield Kind.LAYOUT_DRIFT, detail


def _parts(content: bytes) -> list[Any]:
    try:
        document = json.loads(content)
        annotations = document.get("annotations", {})
        return [document.get(name, annotations.get(name)) for name in _COMPARED]
    except (ValueError, AttributeError):
        return []


def _text(snapshot: Snapshot) -> str:
    return "-".join(map(str, snapshot.version))
