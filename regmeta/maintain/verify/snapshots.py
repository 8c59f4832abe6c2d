"""The store's own copies of tags, and the OCI layouts that repositories are shown as."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, Final

import sqlalchemy as sa

from regmeta.db import Database
from regmeta.ingest.snapshots import Snapshot, objects_of, take_snapshot, version_of
from regmeta.maintain.verify.findings import Finding, Kind
from regmeta.maintain.verify.pages import pages, reading
from regmeta.maintain.verify.rows import is_repository
from regmeta.models import LayoutOutbox, Repository
from regmeta.oci.digest import Digest
from regmeta.store import BlobStore
from regmeta.store.paths import is_key

SETTLING_S: Final = 1.0  # [s] for each thousand repositories in which anything differs
LOOKS: Final = 5

# What a rebuild puts back from a snapshot; times are a convenience that older ones lack.
_COMPARED: Final = ("manifests", "io.regmeta.repository", "io.regmeta.state", "io.regmeta.locks")

_REPOSITORIES: Final = sa.select(Repository.id, Repository.name).where(
    ~sa.exists().where(LayoutOutbox.repository_id == Repository.id)
)
_VERSION: Final = sa.select(Repository.revision).where(Repository.id == sa.bindparam("of"))
_IS_BEHIND: Final = sa.select(LayoutOutbox.revision).where(LayoutOutbox.repository_id == sa.bindparam("of"))


def check_snapshots(
    database: Database, store: BlobStore, advanced: Any, *, layouts: bool
) -> Iterator[Finding]:
    """Compare each repository that is not queued with its newest snapshot, and with its layout.

    What differs is looked at again a second later before anything is said: a writer whose revision was
    overtaken may still be on its way to the layout.
    """
    for rows in pages(database, _REPOSITORIES, Repository.id):
        suspects = [row for row in rows if is_repository(row.name) and _look(database, store, row, layouts)]
        if suspects:
            time.sleep(SETTLING_S)
        for row in suspects:
            for kind, detail in _look(database, store, row, layouts):
                yield Finding(kind, row.name, detail, row.id)
        advanced(len(rows))


def _look(database: Database, store: BlobStore, row: Any, layouts: bool) -> list[tuple[Kind, str]]:
    """Return the differences of one repository; none of one that keeps changing while it is looked at."""
    for _ in range(LOOKS):
        with reading(database) as connection:
            if connection.execute(_IS_BEHIND, {"of": row.id}).first() is not None:
                return []
            expected = take_snapshot(connection, row.id)
            objects = objects_of(connection, row.id) if layouts else []
            damaged = objects_of(connection, row.id, "damaged") if layouts else []
        found = list(_differences(store, row, expected, objects, damaged, layouts))
        with reading(database) as connection:
            version = connection.execute(_VERSION, {"of": row.id}).scalar_one_or_none()
        if not found or version == expected.version[1]:
            return found
    return []


def _differences(
    store: BlobStore,
    row: Any,
    expected: Snapshot,
    objects: list[tuple[Digest, str]],
    damaged: list[tuple[Digest, str]],
    layouts: bool,
) -> Iterator[tuple[Kind, str]]:
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
        sound = [(digest, key) for digest, key in objects if is_key(str(key))]
        unsound = [digest for digest, _ in damaged]
        wrong = list(store.layouts.check(row.name, expected.content, sound, unsound))
        if wrong:
            yield Kind.LAYOUT_DRIFT, wrong[0] + (f", and {len(wrong) - 1} more" if wrong[1:] else "")


def _parts(content: bytes) -> list[Any]:
    try:
        document = json.loads(content)
        annotations = document.get("annotations", {})
        return [document.get(name, annotations.get(name)) for name in _COMPARED]
    except (ValueError, AttributeError):
        return []


def _text(snapshot: Snapshot) -> str:
    return "-".join(map(str, snapshot.version))
