"""Databases on the one PostgreSQL of a test run, made from a template that is migrated once.

To make and drop one costs much more than to empty one. So tests that change rows only share theirs, one after
the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import psycopg

from regmeta.app import migrations_folder
from regmeta.db import Database
from regmeta.maintain import schema
from tests.support.shared_server import shared_server

TEMPLATE = "regmeta_template"
Connection = psycopg.Connection[tuple[Any, ...]]

GROWN_BYTES = 4 << 20
"""A lent database whose tables have grown by more is not lent again: deleted rows slow it down."""

# Any change of the schema, of its rights or statistics: rows of the catalogue are new, or fewer.
_CATALOGUES = (
    *("pg_class", "pg_attribute", "pg_attrdef", "pg_constraint", "pg_index", "pg_trigger", "pg_proc"),
    *("pg_type", "pg_rewrite", "pg_namespace", "pg_statistic", "pg_statistic_ext", "pg_db_role_setting"),
    *("pg_default_acl", "pg_extension", "pg_largeobject_metadata"),
)
_SCHEMA = (
    "SELECT "
    + ", ".join(f"(SELECT (count(*), max(xmin::text::bigint))::text FROM {name})" for name in _CATALOGUES)
    + ", (SELECT string_agg(version_num, ' ') FROM alembic_version)"
)
_TABLES = (
    "SELECT relname, pg_total_relation_size(oid) FROM pg_class"
    " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
)
_OTHERS = (
    "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


class Postgres:
    """Makes and drops databases."""

    def __init__(self, socket_folder: str) -> None:
        self.socket_folder = socket_folder
        self._admin = self._connect("postgres")
        self._free: list[_Lent] = []
        self._lent: dict[str, _Lent] = {}

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

    def lend(self) -> str:
        """Return the name of a database that has the schema and no rows; it may have been used before."""
        if self._free:
            found = self._free.pop()
        else:
            name = self.create()
            with self._connect(name) as connection:
                found = _Lent(name, _schema(connection), _size_bytes(connection))
        self._lent[found.name] = found
        return found.name

    def give_back(self, name: str) -> None:
        """Empty a database that was lent, to be lent again; drop it where more than its rows changed."""
        found = self._lent.pop(name)
        with suppress(psycopg.Error), self._connect(name) as connection:
            connection.execute(_OTHERS)
            if _schema(connection) == found.schema:
                _empty(connection)
                if _size_bytes(connection) - found.size_bytes < GROWN_BYTES:
                    self._free.append(found)
        if found not in self._free:
            self.drop(name)

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

    def _connect(self, name: str) -> Connection:
        return psycopg.connect(f"host={self.socket_folder} user=postgres dbname={name}", autocommit=True)

    def _run(self, statement: Any) -> None:
        self._admin.execute(statement)


@dataclass(frozen=True)
class _Lent:
    """A database as it was before it was first used."""

    name: str
    schema: Any
    size_bytes: int


def _schema(connection: Connection) -> Any:
    return connection.execute(_SCHEMA).fetchone()


def _size_bytes(connection: Connection) -> int:
    return sum(size for _, size in connection.execute(_TABLES))


def _empty(connection: Connection) -> None:
    """Delete all rows, whoever refers to them, and count from one again."""
    tables = [name for name, _ in connection.execute(_TABLES) if name != "alembic_version"]
    statements: list[Any] = [f'DELETE FROM "{name}"' for name in tables]
    connection.execute(cast("Any", "; ".join(["SET session_replication_role = replica", *statements])))
    connection.execute("SELECT setval(seqrelid, seqstart, false) FROM pg_sequence")


@contextmanager
def shared_postgres(folder: Path) -> Iterator[Postgres]:
    """Use the server of *folder*, which all processes of a test run name; the first one starts it."""
    script = Path(__file__).with_name("postgres_server.py")
    with shared_server(folder, script, _make_template) as found:
        postgres = Postgres(found["socket_folder"])
        try:
            yield postgres
        finally:
            postgres.close()


def _make_template(found: dict[str, Any]) -> None:
    with closing(Postgres(found["socket_folder"])) as postgres:
        postgres.make_template()
