"""Registries for tests: what a test does to one, and what it looks at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from regmeta.app import Writing
from regmeta.app.stores import open_store
from regmeta.db import Database
from regmeta.ingest.local_registry import LocalRegistry
from regmeta.ingest.plan import CommitResult, ImageOutcome, ImageRequest, Lifetimes, PlannedImage
from regmeta.ingest.unit_of_work import UnitOfWork
from regmeta.models import Base
from regmeta.oci import names
from regmeta.oci.digest import Digest
from regmeta.settings import Settings
from regmeta.settings.postgresql import server_of
from regmeta.sources import Source
from regmeta.sources.open import open_source
from regmeta.store import BlobStore
from regmeta.store.locks import FileLock
from tests.builders import Json, LayoutBuilder, parsed
from tests.support.bucket_files import BucketFiles, is_bucket

ACTOR = "tester"
NOW = timedelta()
AT_ONCE = Lifetimes(lease=NOW, garbage=NOW, tombstone=NOW, history=NOW, max_upload=NOW)
"""Garbage is collected, deleted and forgotten as soon as there is some."""


def settings_of(home: Path, database_url: str, **others: Any) -> Settings:
    """Return settings as ``load_settings`` makes them."""
    values = {"store": str(home / "store"), "actor": ACTOR, **others}
    return Settings(home=str(home), database=database_url, **values)


def open_parts(settings: Settings) -> tuple[Database, BlobStore]:
    """Open a registry without a check and without clearing up."""
    lock = None
    if settings.database.startswith("sqlite:///"):
        lock = FileLock(settings.database.removeprefix("sqlite:///") + ".lock", 30)
    server = server_of(settings.postgresql)
    return Database(settings.database, file_lock=lock, server=server), open_store(settings)


# --- images -----------------------------------------------------------------------------------


@contextmanager
def source_of(builder: LayoutBuilder, path: Path) -> Iterator[Source]:
    """Write a layout and open it."""
    with closing(open_source(str(builder.write(path)))) as source:
        yield source


def request(
    source: Source, descriptor: Json, repository: str = "app", tag: str | None = "v1"
) -> ImageRequest:
    """Return the request for one image of a source."""
    return ImageRequest(source, parsed(descriptor), repository, tag)


def requests(source: Source, repository: str = "app") -> list[ImageRequest]:
    """Return requests for all that a source lists, under its own names."""
    found = []
    for entry in source.entries():
        assert entry.descriptor is not None
        tag = entry.ref_name if entry.ref_name and names.is_tag(entry.ref_name) else None
        found.append(ImageRequest(source, entry.descriptor, repository, tag))
    return found


def import_layout(
    writing: Writing, path: Path, repository: str = "app", **options: Any
) -> list[ImageOutcome]:
    """Import all images of a layout."""
    with closing(open_source(str(path))) as source:
        return list(writing.registry.import_images(requests(source, repository), **options))


def import_all(writing: Writing, path: Path, repository: str = "app", **options: Any) -> None:
    """Import all images of a layout, each of which must go in."""
    for outcome in import_layout(writing, path, repository, **options):
        if outcome.error is not None:
            raise outcome.error
        assert outcome.status == "imported"


def commit_one(
    writing: Writing,
    builder: LayoutBuilder,
    descriptor: Json,
    path: Path,
    repository: str = "app",
    tag: str | None = "v1",
    **options: Any,
) -> CommitResult:
    """Commit one image of a layout, whatever is here already."""
    with source_of(builder, path) as source:
        image = writing.registry.copy_manifest(request(source, descriptor, repository, tag), **options)
        batch = writing.registry._ingest([image], _Silent(), atomic=True)
        assert batch.result is not None
        return batch.result


class _Silent:
    def planned(self, images: int, size_bytes: int) -> None: ...

    def advanced(self, size_bytes: int) -> None: ...

    def finished(self, outcomes: Iterable[ImageOutcome]) -> None: ...


@dataclass
class Ingest:
    """One image that is brought in phase by phase, so that others can come in between."""

    unit: UnitOfWork
    image: PlannedImage

    def stage(self, only: Iterable[Digest] | None = None) -> None:
        """Copy what is missing."""
        wanted = self.unit.missing if only is None else list(only)
        for digest in wanted:
            with self.image.request.source.open(digest) as stream:
                self.unit.stage(digest, self.image.blobs[digest], stream)

    def prepare(self) -> None:
        """Reserve, stage and publish."""
        self.unit.reserve(self.image.blobs)
        self.stage()
        self.unit.publish()

    def again(self, digests: Iterable[Any]) -> None:
        """Go back for what was lost."""
        self.unit.reserve({digest: self.image.blobs[digest] for digest in digests})
        self.stage()
        self.unit.publish()

    def commit(self) -> CommitResult:
        """Commit the image."""
        return self.unit.commit([self.image])

    def run(self) -> CommitResult:
        """Do all phases."""
        self.prepare()
        result = self.commit()
        self.unit.finish()
        return result


def ingest_of(writing: Writing, made: ImageRequest, *, sparse: bool = False) -> Ingest:
    """Plan one image; nothing is written yet."""
    image = writing.registry.copy_manifest(made, sparse=sparse)
    return Ingest(UnitOfWork(writing.writer, made.source.location), image)


def still_registry(writing: Writing) -> LocalRegistry:
    """Return a registry whose clock stands still: batches are cut by count and size only."""
    return LocalRegistry(writing.writer, writing.store, clock_s=lambda: 0.0)


# --- looking ----------------------------------------------------------------------------------


def rows(database: Database, statement: str, **values: Any) -> list[tuple[Any, ...]]:
    """Return what a statement selects."""
    with database.read() as connection:
        return [tuple(row) for row in connection.execute(sa.text(statement), values)]


def scalar(database: Database, statement: str, **values: Any) -> Any:
    """Return the one value that a statement selects."""
    [(value,)] = rows(database, statement, **values)
    return value


def change(database: Database, statement: str, **values: Any) -> None:
    """Change rows behind the registry's back."""
    with database.transaction("test") as connection:
        connection.execute(sa.text(statement), values)


def dump(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows of all tables."""
    with database.read() as connection:
        return {
            table.name: sorted(
                (tuple(row) for row in connection.execute(sa.text(f"SELECT * FROM {table.name}"))), key=repr
            )
            for table in Base.metadata.sorted_tables
        }


def objects(store: Any) -> dict[str, int]:
    """Return the keys of all objects that lie in a store, with their sizes."""
    if is_bucket(store.location):
        found = BucketFiles(store.location).sizes("blobs/sha")
        return {name.removeprefix("blobs/"): size for name, size in found.items()}
    root = Path(store.location) / "blobs"
    return {str(path.relative_to(root)): path.stat().st_size for path in root.rglob("*") if path.is_file()}


def key_of(database: Database, digest: Digest) -> str:
    """Return where the row of a blob says that it lies."""
    return str(scalar(database, "SELECT key FROM blobs WHERE digest = :of", of=digest.to_bytes()))


def tags(database: Database, repository: str = "app") -> dict[str, Digest]:
    """Return the live tags of a repository."""
    found = rows(
        database,
        "SELECT t.name, t.manifest_digest FROM tags t JOIN repositories r ON r.id = t.repository_id"
        " WHERE r.name = :of AND t.ended_at IS NULL",
        of=repository,
    )
    return {name: Digest.from_bytes(bytes(digest)) for name, digest in found}


def counts(database: Database, *tables: str) -> Mapping[str, int]:
    """Return how many rows tables have."""
    return {name: scalar(database, f"SELECT count(*) FROM {name}") for name in tables}


def keys_in(database: Database, table: str) -> set[str]:
    """Return the keys that a table names."""
    return {key for (key,) in rows(database, f"SELECT key FROM {table}")}


def remove_content(database: Database) -> None:
    """Delete all content as a collector would that heeds no lease: rows first, tombstones for the objects."""
    with database.transaction("test") as connection:
        for table in ("tags", "labels", "manifest_blobs", "index_manifests", "manifests", "repository_blobs"):
            connection.execute(sa.text(f"DELETE FROM {table}"))
        connection.execute(
            sa.text(
                "INSERT INTO tombstones (key, reason, created_at, not_before)"
                " SELECT key, 'collected', created_at, lease_until FROM blobs"
            )
        )
        connection.execute(sa.text("DELETE FROM blobs"))
        connection.execute(sa.text("UPDATE repositories SET revision = revision + 1"))
        connection.execute(
            sa.text(
                "INSERT INTO layout_outbox (repository_id, revision, queued_at)"
                " SELECT id, revision, updated_at FROM repositories"
            )
        )
