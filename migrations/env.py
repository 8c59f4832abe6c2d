"""How revisions run: one transaction each, with foreign keys off on SQLite.

A batch rebuild of a table that others refer to deletes their rows when foreign keys are on, and
``PRAGMA foreign_keys`` has no effect inside a transaction: so it is switched before BEGIN, and the keys are
checked before COMMIT.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from alembic import context
from alembic.runtime.migration import MigrationContext, MigrationInfo
from sqlalchemy.engine import Connection

from regmeta.failpoints import reach
from regmeta.models import Base


def _check_foreign_keys(
    ctx: MigrationContext, step: MigrationInfo, heads: Collection[Any], run_args: Mapping[str, Any]
) -> None:
    """Run inside the transaction of each revision, just before it is committed."""
    connection = ctx.connection
    assert connection is not None
    if connection.dialect.name == "sqlite":
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
        if broken:
            raise RuntimeError(f"the revision breaks {len(broken)} foreign keys, first {broken[0]}")
    reach("migrate.committing")


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        transaction_per_migration=True,
        render_as_batch=connection.dialect.name == "sqlite",
        on_version_apply=_check_foreign_keys,
    )
    with _one_migrator(connection), context.begin_transaction():
        context.run_migrations()


@contextmanager
def _one_migrator(connection: Connection) -> Iterator[None]:
    """Let a second migrator wait for the first, and then find nothing to do.

    On SQLite each revision's BEGIN IMMEDIATE does it.
    """
    if connection.dialect.name != "postgresql":
        yield
        return
    connection.execute(sa.text("SELECT pg_advisory_lock(hashtext('regmeta migrations'))"))
    connection.commit()
    try:
        yield
    finally:
        connection.rollback()
        connection.execute(sa.text("SELECT pg_advisory_unlock(hashtext('regmeta migrations'))"))
        connection.commit()


def _main() -> None:
    given = context.config.attributes.get("connection")
    if given is not None:
        _run(given)
        return
    url = context.get_x_argument(as_dictionary=True).get("url")
    if url is None:
        raise SystemExit("say which database: alembic -x url=sqlite:///regmeta.db upgrade head")
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        _run(connection)
    engine.dispose()


_main()
