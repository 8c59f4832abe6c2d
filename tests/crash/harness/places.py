"""Registries that are made once and copied for each point: a file or a database on a server, and a store.

They lie in memory where the machine has ``/dev/shm``: what a process wrote survives its death there as well
as on a disk, and a flush costs nothing. (Power cuts are another harness, on file systems of their own.)
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import sqlalchemy as sa

import regmeta
from regmeta.settings import Settings
from tests.crash.harness import images
from tests.support.bucket_files import BucketFiles, is_bucket
from tests.support.postgres import Postgres
from tests.support.registry import settings_of
from tests.support.seaweed import Buckets

MEMORY: Final = "/dev/shm"
BACKENDS: Final = ("sqlite", "postgresql")
IN_BUCKET: Final = "-s3"
"""What the name of a backend ends with whose store is in a bucket."""


def database_of(backend: str) -> str:
    """Return which database a backend has."""
    return backend.removesuffix(IN_BUCKET)


@dataclass(frozen=True, slots=True)
class Place:
    """Where one registry is, and where the layouts are that it imports."""

    backend: str
    folder: Path
    sources: Path
    settings: Settings
    database: str = ""  # PostgreSQL's name of it

    @property
    def is_in_bucket(self) -> bool:
        """Whether its objects are in a bucket."""
        return is_bucket(self.settings.store)

    @property
    def store(self) -> Path:
        """The store's folder."""
        assert not self.is_in_bucket
        return Path(self.settings.store)

    @property
    def files(self) -> BucketFiles:
        """The store's bucket."""
        return BucketFiles(self.settings.store)

    def read_object(self, key: str) -> bytes | None:
        """Return the bytes of an object, None if there is none."""
        if self.is_in_bucket:
            return self.files.read_if_there(f"blobs/{key}")
        path = self.store / "blobs" / key
        return path.read_bytes() if path.is_file() else None

    def spoil(self, name: str, change: Callable[[bytes], bytes]) -> None:
        """Change a document or an object of the store behind its back."""
        if self.is_in_bucket:
            self.files.write(name, change(self.files.read(name)))
            return
        path = self.store / name
        mode = path.stat().st_mode
        path.chmod(0o644)
        path.write_bytes(change(path.read_bytes()))
        path.chmod(mode)

    def names(self, folder: str) -> list[str]:
        """Return the names of all that lies in a folder of the store, or below it."""
        if self.is_in_bucket:
            return sorted(self.files.sizes(f"{folder}/"))
        below = (self.store / folder).rglob("*")
        return sorted(str(path.relative_to(self.store)) for path in below if path.is_file())

    @property
    def stagings(self) -> Path:
        """Where the staging folders of its processes are."""
        return Path(self.settings.home, "scratch", "staging") if self.is_in_bucket else self.store / "staging"


@dataclass
class Arena:
    """All places of one run. Made by :func:`arena`."""

    folder: Path
    socket_folder: str | None
    buckets: Buckets | None = None
    sources: Path = field(init=False)
    bases: dict[tuple[str, str], Place] = field(default_factory=dict)
    recordings: dict[tuple[str, str], Any] = field(default_factory=dict)  # see there
    _postgres: dict[int, Postgres] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sources = self.folder / "sources"
        images.write(self.sources)

    @property
    def backends(self) -> list[str]:
        """The databases that there are."""
        return ["sqlite", *(["postgresql"] if self.socket_folder is not None else [])]

    @property
    def bucket_backends(self) -> list[str]:
        """The databases that there are, with a store in a bucket."""
        return [f"{name}{IN_BUCKET}" for name in self.backends] if self.buckets is not None else []

    def empty(self, backend: str) -> Place:
        """Make a place with nothing in it."""
        folder = self.folder / uuid4().hex
        folder.mkdir()
        return self._place(backend, folder, None)

    def keep(self, of: Place) -> Place:
        """Copy a registry that nobody uses."""
        folder = self.folder / uuid4().hex
        # Keeps links between objects and layouts, which copies of Python's do not.
        subprocess.run(["cp", "-a", of.folder, folder], check=True)
        place = self._place(of.backend, folder, of.database)
        if place.is_in_bucket:
            of.files.copy_to(place.files)
        return place

    @contextmanager
    def copy(self, of: Place) -> Iterator[Place]:
        """Lend a copy of a registry that nobody uses."""
        place = self.keep(of)
        try:
            yield place
        finally:
            self.remove(place)

    def remove(self, place: Place) -> None:
        """Remove a registry."""
        shutil.rmtree(place.folder, ignore_errors=True)
        if place.is_in_bucket:
            place.files.clear()
        if place.database:
            self.postgres().drop(place.database)

    def postgres(self) -> Postgres:
        """Return this process's own connection to the server."""
        assert self.socket_folder is not None
        pid = os.getpid()
        if pid not in self._postgres:
            self._postgres[pid] = Postgres(self.socket_folder)
        return self._postgres[pid]

    def close(self) -> None:
        """Remove everything."""
        for place in self.bases.values():
            self.remove(place)
        for server in [server for pid, server in self._postgres.items() if pid == os.getpid()]:
            server.close()

    def _place(self, backend: str, folder: Path, copy_of: str | None) -> Place:
        database = ""
        if database_of(backend) == "postgresql":
            database = self.postgres().create(migrated=False, copy_of=copy_of)
        return place_in(backend, folder, self.sources, database, self)


def place_in(
    backend: str, folder: Path, sources: Path, database: str = "", arena: Arena | None = None
) -> Place:
    """Return the place of a registry that lies in one folder."""
    if database_of(backend) == "sqlite":
        url = f"sqlite:///{folder / 'home' / 'regmeta.db'}"
    else:
        assert arena is not None
        url = arena.postgres().url(database)
    if not backend.endswith(IN_BUCKET):
        return Place(backend, folder, sources, settings_of(folder / "home", url), database)
    assert arena is not None
    assert arena.buckets is not None
    settings = settings_of(folder / "home", url, store=arena.buckets.url())
    return Place(backend, folder, sources, settings, database)


@contextmanager
def arena(postgres: Postgres | None, buckets: Buckets | None = None) -> Iterator[Arena]:
    """Lend a place for places; everything in it is removed afterwards."""
    _import_everything()
    memory = MEMORY if os.access(MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="regmeta-crash-", dir=memory) as folder:
        found = Arena(Path(folder), None if postgres is None else postgres.socket_folder, buckets)
        try:
            yield found
        finally:
            found.close()


def _import_everything() -> None:
    # Else each child would import, again and again, what commands import when they are called; and an error
    # of the disk would meet the interpreter instead of regmeta.
    for module in pkgutil.walk_packages(regmeta.__path__, "regmeta."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    sa.create_engine("sqlite://").dispose()
    importlib.import_module("sqlalchemy.dialects.postgresql.psycopg")
    importlib.import_module("alembic.command")
