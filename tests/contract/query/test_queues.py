"""The ages of the queues: what is due, for how long, by the database's clock."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from regmeta import db, models
from regmeta.app import Writing
from regmeta.db import SCHEMA_HEAD, Database
from regmeta.errors import SchemaMismatch
from regmeta.oci.digest import Digest
from regmeta.query.queues import QueueAge, Queues, queues
from tests.builders import LayoutBuilder
from tests.support.registry import commit_one
from tests.support.statements import counted

HOUR = timedelta(hours=1)
OWNER = UUID(int=7)


def now_of(database: Database) -> datetime:
    with database.read() as connection:
        return db.clock(connection)


def write(database: Database, statement: sa.Insert | sa.Update | sa.Delete) -> None:
    with database.transaction("test") as connection:
        connection.execute(statement)


def named(found: Queues, name: str) -> QueueAge:
    return next(each for each in found.queues if each.name == name)


def age_of(found: Queues, name: str) -> float:
    age_s = named(found, name).age_s
    assert age_s is not None
    return age_s


def add_task(database: Database, target: int, due_at: datetime, attempts: int = 0) -> None:
    write(
        database,
        sa.insert(models.GcTask).values(
            kind="blob",
            target_id=target,
            reason="test",
            created_at=due_at,
            not_before=due_at,
            attempts=attempts,
        ),
    )


def add_tombstone(
    database: Database, due_at: datetime, gone_until: datetime | None = None, attempts: int = 0
) -> None:
    write(
        database,
        sa.insert(models.Tombstone).values(
            key=f"sha256/00/{uuid4().hex * 2}.{uuid4().hex}",
            size_bytes=1,
            reason="test",
            created_at=due_at,
            not_before=due_at,
            deleted_at=due_at if gone_until else None,
            drop_after=gone_until,
            attempts=attempts,
        ),
    )


def test_an_idle_registry_has_no_ages(writing: Writing) -> None:
    found = queues(writing.database)

    assert [each for each in found.queues if each.age_s is not None] == []
    assert [each.due or 0 for each in found.queues] == [0] * len(found.queues)
    assert (found.schema, found.epoch, found.is_held, found.is_paused) == (SCHEMA_HEAD, 1, False, False)
    assert (found.last_commit_age_s, found.last_event_id, found.replica) == (None, None, None)
    assert found.late(0) == ()


def test_the_oldest_that_is_due_is_the_age(writing: Writing) -> None:
    now = now_of(writing.database)
    add_task(writing.database, 1, now - HOUR)
    add_task(writing.database, 2, now - 2 * HOUR)
    add_task(writing.database, 3, now + HOUR)
    add_tombstone(writing.database, now - 3 * HOUR)
    add_tombstone(writing.database, now - 5 * HOUR, gone_until=now - 4 * HOUR)
    found = queues(writing.database)

    assert 7200 <= age_of(found, "tasks") < 7300
    assert (named(found, "tasks").due, named(found, "tasks").queued) == (2, 3)
    assert 10800 <= age_of(found, "objects") < 10900
    assert 14400 <= age_of(found, "forgetting") < 14500
    assert [each.name for each in found.late(2.5 * 3600)] == ["objects", "forgetting"]


def test_what_is_not_due_yet_has_no_age(writing: Writing) -> None:
    now = now_of(writing.database)
    add_task(writing.database, 1, now + HOUR)
    add_tombstone(writing.database, now + HOUR)
    add_tombstone(writing.database, now - HOUR, gone_until=now + HOUR)
    found = queues(writing.database)

    assert [each for each in found.queues if each.age_s is not None] == []
    assert [named(found, name).queued for name in ("tasks", "objects", "forgetting")] == [1, 1, 1]


def test_dead_letters_are_counted_and_make_no_age(writing: Writing) -> None:
    now = now_of(writing.database)
    add_task(writing.database, 1, now - HOUR, attempts=10)
    add_tombstone(writing.database, now - HOUR, attempts=10)
    found = queues(writing.database)

    assert (named(found, "tasks").dead_letters, named(found, "objects").dead_letters) == (1, 1)
    assert found.late(0) == ()


def test_keys_of_processes_that_have_ended_are_told_from_those_at_work(writing: Writing) -> None:
    now = now_of(writing.database)
    for number, expires_at in enumerate((now - HOUR, now + HOUR)):
        write(
            writing.database,
            sa.insert(models.Intent).values(
                key=f"sha256/00/{number:064x}.{uuid4().hex}",
                digest=Digest.parse(f"sha256:{number:064x}"),
                owner=OWNER,
                host="elsewhere",
                created_at=now - 2 * HOUR,
                expires_at=expires_at,
            ),
        )
    found = queues(writing.database)
    write(writing.database, sa.delete(models.Intent))

    assert 3600 <= age_of(found, "abandoned") < 3700
    assert (named(found, "abandoned").due, named(found, "reserved").queued) == (1, 2)
    assert 7200 <= age_of(found, "reserved") < 7300
    assert [each.name for each in found.late(1)] == ["abandoned"]


def test_a_snapshot_that_is_behind_ages(writing: Writing, builder: LayoutBuilder, layout: Path) -> None:
    commit_one(writing, builder, builder.image(), layout, "app", "v1")
    at = now_of(writing.database) - HOUR
    write(
        writing.database,
        sa.insert(models.LayoutOutbox).from_select(
            ["repository_id", "revision", "queued_at"],
            sa.select(models.Repository.id, 1, sa.literal(at, models.base.UtcTime())),
        ),
    )
    found = queues(writing.database)

    assert 3600 <= age_of(found, "snapshots") < 3700
    assert named(found, "snapshots").due == 1
    assert found.last_commit_age_s is not None
    assert found.last_event_id


def test_hold_and_pause_are_told(writing: Writing) -> None:
    now = now_of(writing.database)
    write(
        writing.database,
        sa.update(models.StoreIdentity).values(hold_reason="restored", paused_until=now + HOUR),
    )
    found = queues(writing.database)
    assert (found.is_held, found.is_paused) == (True, True)
    write(writing.database, sa.update(models.StoreIdentity).values(hold_reason=None, paused_until=now - HOUR))
    found = queues(writing.database)
    assert (found.is_held, found.is_paused) == (False, False)


@pytest.mark.parametrize("counts", [True, False])
def test_one_statement_tells_all(writing: Writing, counts: bool) -> None:
    queues(writing.database, counts=counts)
    with counted(writing.database.engine) as statements:
        found = queues(writing.database, counts=counts)

    assert len(statements) == 1
    assert (named(found, "tasks").due is None) is not counts


def test_a_time_that_is_none_fails_nothing(writing: Writing) -> None:
    if not writing.database.is_sqlite:
        pytest.skip("PostgreSQL takes numbers only")
    now = now_of(writing.database)
    add_task(writing.database, 1, now - HOUR)
    with writing.database.transaction("test") as connection:
        connection.exec_driver_sql("UPDATE gc_tasks SET not_before = 'soon'")

    assert named(queues(writing.database), "tasks").age_s is None


def test_a_database_without_a_store_answers(database: Database) -> None:
    found = queues(database)

    assert (found.store_id, found.database_id, found.epoch) == (None, None, None)


def test_a_database_without_a_schema_is_told_from_one_that_is_away(empty: Database) -> None:
    with pytest.raises(SchemaMismatch, match="holds no regmeta schema"):
        queues(empty)
