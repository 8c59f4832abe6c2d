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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import sqlalchemy as sa

import regmeta
from regmeta.settings import Settings
from tests.crash.harness import images
from tests.support.postgres import Postgres
from tests.support.registry import settings_of

MEMORY: Final = "/dev/shm"
BACKENDS: Final = ("sqlite", "postgresql")


@dataclass(frozen=True, slots=True)
class Place:
    """Where one registry is, and where the layouts are that it imports."""

    backend: str
    folder: Path
    sources: Path
    settings: Settings
    database: str = ""  # PostgreSQL's name of it

    @property
    def store(self) -> Path:
        """The store's folder."""
        return Path(self.settings.store)


@dataclass
class Arena:
    """All places of one run. Made by :func:`arena`."""

    folder: Path
    socket_folder: str | None
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
        return self._place(of.backend, folder, of.database)

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
        if backend == "postgresql":
            database = self.postgres().create(migrated=False, copy_of=copy_of)
        return place_in(backend, folder, self.sources, database, self)


def place_in(
    backend: str, folder: Path, sources: Path, database: str = "", arena: Arena | None = None
) -> Place:
    """Return the place of a registry that lies in one folder."""
    if backend == "sqlite":
        url = f"sqlite:///{folder / 'home' / 'regmeta.db'}"
    else:
        assert arena is not None
        url = arena.postgres().url(database)
    return Place(backend, folder, sources, settings_of(folder / "home", url), database)


@contextmanager
def arena(postgres: Postgres | None) -> Iterator[Arena]:
    """Lend a place for places; everything in it is removed afterwards."""
    _import_everything()
    memory = MEMORY if os.access(MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="regmeta-crash-", dir=memory) as folder:
        found = Arena(Path(folder), None if postgres is None else postgres.socket_folder)
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
