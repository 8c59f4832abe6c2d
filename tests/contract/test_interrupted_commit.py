"""An interrupt just before COMMIT is said: nothing is committed, then or by who comes next."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from regmeta import db
from regmeta.db import Database
from regmeta.models import Repository
from tests.support.registry import scalar

INSERT = sa.insert(Repository).values(
    name=sa.bindparam("called"), created_at=db.CLOCK.scalar_subquery(),
    updated_at=db.CLOCK.scalar_subquery(),
)  # fmt: skip


def insert(database: Database, name: str) -> None:
    with database.transaction("test", quiet=True) as connection:
        connection.execute(INSERT, {"called": name})


def test_transaction_that_was_interrupted_before_its_commit_is_in_no_other(database: Database) -> None:
    def interrupt(_: sa.Connection) -> None:
        raise KeyboardInterrupt

    event.listen(database.engine, "commit", interrupt)
    with pytest.raises(KeyboardInterrupt):
        insert(database, "interrupted")
    event.remove(database.engine, "commit", interrupt)
    insert(database, "next")
    assert scalar(database, "SELECT count(*) FROM repositories") == 1
