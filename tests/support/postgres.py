"""Databases on the one PostgreSQL of a test run, made from a template that is migrated once."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg

from regmeta.app import migrations_folder
from regmeta.db import Database
from regmeta.maintain import schema

TEMPLATE = "regmeta_template"
START_TIMEOUT_S = 90


class Postgres:
    """Makes and drops databases."""

    def __init__(self, socket_folder: str) -> None:
        self.socket_folder = socket_folder
        self._admin = psycopg.connect(f"host={socket_folder} user=postgres dbname=postgres", autocommit=True)

    def url(self, name: str) -> str:
        """Return the URL of a database as the settings take it."""
        return f"postgresql://postgres@/{name}?host={self.socket_folder}"

    def create(self, *, migrated: bool = True, copy_of: str | None = None) -> str:
        """Make a database, with the schema or empty, or like another that nobody uses; return its name."""
        name = f"t_{uuid4().hex}"
        template = copy_of or (TEMPLATE if migrated else "template0")
        self._run(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        return name

    def drop(self, name: str) -> None:
        """Remove a database, whoever is still connected to it."""
        self._run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def make_template(self) -> None:
        """Migrate the template, unless it is there."""
        found = self._admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", [TEMPLATE])
        if found.fetchone() is None:
            self._run(f"CREATE DATABASE {TEMPLATE}_new TEMPLATE template0 STRATEGY FILE_COPY")
            database = Database(self.url(f"{TEMPLATE}_new"))
            schema.upgrade(database, migrations_folder())
            database.close()
            self._run(f"ALTER DATABASE {TEMPLATE}_new RENAME TO {TEMPLATE}")

    def close(self) -> None:
        """Let go of the server; it ends with its last user."""
        self._admin.close()

    def _run(self, statement: Any) -> None:
        self._admin.execute(statement)


@contextmanager
def shared_postgres(folder: Path) -> Iterator[Postgres]:
    """Use the server of *folder*, which all processes of a test run name; the first one starts it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "users", "a") as users, open(folder / "start.lock", "a") as start_lock:
        # Waits while a server that nobody used any more is stopped.
        fcntl.flock(users, fcntl.LOCK_SH)
        fcntl.flock(start_lock, fcntl.LOCK_EX)
        state = folder / "server.json"
        if not state.exists():
            _start(folder, state)
        found = json.loads(state.read_text())
        if "error" in found:
            raise RuntimeError(f"no PostgreSQL for the tests: {found['error']}")
        postgres = Postgres(found["socket_folder"])
        postgres.make_template()
        fcntl.flock(start_lock, fcntl.LOCK_UN)
        try:
            yield postgres
        finally:
            postgres.close()


def _start(folder: Path, state: Path) -> None:
    script = Path(__file__).with_name("postgres_server.py")
    with open(folder / "server.log", "ab") as log:
        starter = subprocess.Popen(
            [sys.executable, str(script), str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_TIMEOUT_S
    while not state.exists():
        if starter.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"no PostgreSQL for the tests: {(folder / 'server.log').read_text()}")
        time.sleep(0.02)
    # It outlives this process on purpose, and is nobody's to wait for.
    starter.returncode = 0
