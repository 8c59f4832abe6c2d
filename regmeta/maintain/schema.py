"""The schema of a database, through Alembic. Imported by ``regmeta db`` and ``regmeta init`` only."""

from __future__ import annotations

import re
from typing import Any, Final

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from regmeta.db import Database
from regmeta.errors import SchemaMismatch, UsageError

_FULL_TEXT: Final = re.compile("_fts(_data|_idx|_docsize|_config)?$")
HEAD: Final = "head"
BASE: Final = "base"


def upgrade(database: Database, migrations: str, revision: str = HEAD) -> None:
    """Run the revisions of *migrations* (a folder) up to *revision*, each in one transaction.

    Another process that does the same waits, and then finds nothing to do.

    Raises:
        UsageError: there is no such revision.
        SchemaMismatch: the database is at one that this release does not know.
    """
    if revision != HEAD:
        _check_revision(migrations, revision)
    _run(database, migrations, lambda config: command.upgrade(config, revision))


def downgrade(database: Database, migrations: str, revision: str) -> None:
    """Run revisions backwards, down to *revision*; what only newer revisions can hold is lost.

    Down to ``base`` nothing is left.

    Raises:
        UsageError: there is no such revision.
        SchemaMismatch: the database is at one that this release does not know.
    """
    if revision != BASE:
        _check_revision(migrations, revision)
    _run(database, migrations, lambda config: command.downgrade(config, revision))


def current(database: Database) -> str | None:
    """Return the revision that a database is at, None if it has no schema."""
    with database.read() as connection:
        return database.schema_revision(connection)


def history(migrations: str) -> list[tuple[str, str]]:
    """Return the revisions and what each is, newest first."""
    scripts = ScriptDirectory.from_config(_config(migrations))
    return [(script.revision, script.doc or "") for script in scripts.walk_revisions()]


def differences(database: Database) -> list[str]:
    """Return what Alembic finds different between a database and the models, in words."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from regmeta.models import Base

    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"include_object": _is_described})
        return [str(difference) for difference in compare_metadata(context, Base.metadata)]


def _is_described(_: object, name: str | None, kind: str, reflected: bool, __: object) -> bool:
    """Leave out full-text indexes: tables on SQLite, and indexes of PostgreSQL alone."""
    if kind == "table" and reflected:
        return _FULL_TEXT.search(name or "") is None
    return kind != "index" or not (name or "").endswith("_trigrams")


def _check_revision(migrations: str, revision: str) -> None:
    known = [name for name, _ in history(migrations)]
    if revision not in known:
        raise UsageError(f"{revision}: no such revision; there are {', '.join(known)}")


def _run(database: Database, migrations: str, run: Any) -> None:
    from alembic.util.exc import CommandError

    config = _config(migrations)
    with database.schema_connection() as connection:
        config.attributes["connection"] = connection
        try:
            run(config)
        except CommandError as error:
            raise SchemaMismatch(f"{database.location}: {error}") from error


def _config(migrations: str) -> Config:
    config = Config()
    config.set_main_option("script_location", migrations.replace("%", "%%"))
    return config
