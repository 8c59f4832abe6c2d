"""Constraints refuse what they must, and types keep what they are given, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa

from regmeta import errors
from regmeta.db import Database
from regmeta.models import (
    Base,
    Blob,
    ImageManifest,
    IndexManifest,
    Manifest,
    Repository,
    RepositoryBlob,
    Tag,
)
from regmeta.oci.digest import Digest
from tests.support import seed as seeds
from tests.support.registry import change, dump, rows, scalar

OTHER = Digest.of(b"other")


@pytest.fixture
def seeded(database: Database) -> Database:
    """A database with rows in every table."""
    with database.transaction("test") as connection:
        seeds.seed(connection)
        if not database.is_sqlite:
            for table in Base.metadata.sorted_tables:
                if "id" in table.c and isinstance(table.c.id.type, sa.BigInteger):
                    name = sa.text("SELECT pg_get_serial_sequence(:of, 'id')")
                    sequence = connection.execute(name, {"of": table.name}).scalar()
                    if sequence:
                        connection.execute(sa.text(f"SELECT setval('{sequence}', 100)"))
    return database


def insert(database: Database, table: str, **values: Any) -> None:
    with database.transaction("test") as connection:
        connection.execute(sa.insert(Base.metadata.tables[table]), values)


def example(table: str, number: int = 0, /, **others: Any) -> dict[str, Any]:
    """Return a row that would be taken, without its id."""
    row = {**seeds.rows()[table][number], **others}
    row.pop("id", None)
    return row


REFUSED: list[tuple[str, str, dict[str, Any]]] = [
    ("two live tags of a name", "tags", example("tags", 1, started_at=seeds.LATER + timedelta(hours=1))),
    ("a tag that ends before it starts", "tags", example("tags", 0, ended_at=seeds.NOW - timedelta(1))),
    ("a tag that ends as it starts", "tags", example("tags", 0, ended_at=seeds.NOW)),
    ("a live tag without a manifest", "tags", example("tags", 1, name="x", manifest_id=None)),
    ("a tag of no repository", "tags", example("tags", 1, name="x", repository_id=9)),
    ("a tag of a manifest that is not there", "tags", example("tags", 1, name="x", manifest_id=9)),
    ("a second blob of a digest", "blobs", example("blobs", 0)),
    ("a second blob of a key", "blobs", example("blobs", 0, digest=OTHER, key="KEY OF BLOB 1")),
    ("a blob in an unknown state", "blobs", example("blobs", 0, digest=OTHER, state="x")),
    ("a blob of negative size", "blobs", example("blobs", 0, digest=OTHER, size_bytes=-1)),
    ("a second repository of a name", "repositories", example("repositories", 0)),
    ("a repository in an unknown state", "repositories", example("repositories", 0, name="x", state="x")),
    ("a repository of negative revision", "repositories", example("repositories", 0, name="x", revision=-1)),
    ("a second manifest of a digest", "manifests", example("manifests", 0)),
    ("a manifest without a blob", "manifests", example("manifests", 0, digest=OTHER, blob_id=9)),
    ("a manifest of an unknown kind", "manifests", example("manifests", 0, digest=OTHER, kind="x")),
    ("an edge to nothing", "manifest_blobs", example("manifest_blobs", 0, position=9, blob_id=None)),
    ("an edge to two", "manifest_blobs", example("manifest_blobs", 0, position=9, absent_digest=OTHER)),
    ("an edge of an unknown role", "manifest_blobs", example("manifest_blobs", 0, position=9, role="x")),
    ("an edge to no blob", "manifest_blobs", example("manifest_blobs", 0, position=9, blob_id=9)),
    ("a second edge in a place", "manifest_blobs", example("manifest_blobs", 0)),
    ("a child that is nothing", "index_manifests", example("index_manifests", 0, position=9, child_id=None)),
    (
        "a child that is absent and here",
        "index_manifests",
        example("index_manifests", 0, position=9, absence="sparse"),
    ),
    ("a child that is two things", "index_manifests", example("index_manifests", 0, position=9, blob_id=1)),
    ("an index in itself", "index_manifests", example("index_manifests", 0, position=9, child_id=2)),
    (
        "an unknown reason of absence",
        "index_manifests",
        example("index_manifests", 2, position=9, absence="x"),
    ),
    ("a label of unknown origin", "labels", example("labels", 0, origin="x")),
    ("a label twice", "labels", example("labels", 0)),
    ("an intent of a key that is taken", "intents", example("intents", 0, key="KEY OF INTENT 1")),
    ("a second task for one thing", "gc_tasks", example("gc_tasks", 0)),
    ("a task of an unknown kind", "gc_tasks", example("gc_tasks", 0, kind="x")),
    ("an ingest twice", "ingests", {**seeds.rows()["ingests"][0]}),
    ("a second identity", "store_identity", {**seeds.rows()["store_identity"][0], "id": 2}),
    ("no pulls", "pull_stats", example("pull_stats", 0, tag="x", pulls=0)),
    ("an event of no repository", "events", example("events", 0, repository_id=9)),
    ("an outbox row of no repository", "layout_outbox", example("layout_outbox", 0, repository_id=9)),
]


@pytest.mark.parametrize(("table", "values"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_row_is_refused(seeded: Database, table: str, values: dict[str, Any]) -> None:
    if str(values.get("key", "")).startswith("KEY OF"):
        values = {**values, "key": scalar(seeded, f"SELECT min(key) FROM {table}")}
    before = scalar(seeded, f"SELECT count(*) FROM {table}")
    with pytest.raises(errors.ConstraintViolated):
        insert(seeded, table, **values)
    assert scalar(seeded, f"SELECT count(*) FROM {table}") == before


def test_second_interval_of_an_ended_tag_is_taken(seeded: Database) -> None:
    insert(seeded, "tags", **example("tags", 1, name="gone", started_at=seeds.LATER))
    insert(seeded, "tags", **example("tags", 1, name="V1"))
    insert(seeded, "tags", **example("tags", 0, repository_id=2))
    assert scalar(seeded, "SELECT count(*) FROM tags WHERE ended_at IS NULL") == 3


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM blobs WHERE id = 1",
        "DELETE FROM blobs WHERE id = 2",
        "DELETE FROM blobs WHERE id = 3",
        "DELETE FROM manifests WHERE id = 1",
        "DELETE FROM manifests WHERE id = 2",
        "DELETE FROM repositories WHERE id = 1",
    ],
)
def test_delete_of_what_is_referred_to_is_refused(seeded: Database, statement: str) -> None:
    """A collector that is wrong is stopped by the database (I4)."""
    if "blobs" in statement:  # nothing but the edges of manifests is left
        change(seeded, "DELETE FROM repository_blobs")
    before = dump(seeded)
    with pytest.raises(errors.ConstraintViolated):
        change(seeded, statement)
    assert dump(seeded) == before


def test_every_foreign_key_restricts(database: Database) -> None:
    with database.read() as connection:
        inspector = sa.inspect(connection)
        for table in Base.metadata.tables:
            for key in inspector.get_foreign_keys(table):
                assert key["options"].get("ondelete", "NO ACTION") == "NO ACTION", (table, key)


def test_every_constraint_has_a_name(database: Database) -> None:
    with database.read() as connection:
        inspector = sa.inspect(connection)
        for table in Base.metadata.tables:
            found: list[Any] = [
                *inspector.get_foreign_keys(table),
                *inspector.get_unique_constraints(table),
                *inspector.get_check_constraints(table),
            ]
            if not database.is_sqlite:  # AUTOINCREMENT stands in the column there
                found.append(inspector.get_pk_constraint(table))
            assert all(item["name"] for item in found), (table, found)


# --- types ------------------------------------------------------------------------------------


@pytest.mark.parametrize("digest", [Digest.of(b"x"), Digest.of(b"x", "sha512")], ids=str)
def test_digest_comes_back_as_it_went_in(database: Database, digest: Digest) -> None:
    with database.transaction("test") as connection:
        connection.execute(sa.insert(Blob), seeds.blob(1, digest))
    with database.read() as connection:
        assert connection.execute(sa.select(Blob.digest).where(Blob.digest == digest)).scalar_one() == digest
    stored = bytes(scalar(database, "SELECT digest FROM blobs"))
    assert stored == bytes([1 if digest.algorithm == "sha256" else 2]) + bytes.fromhex(digest.hex)


@pytest.mark.parametrize(
    "moment",
    [
        datetime(1969, 12, 31, 23, 59, 59, 999999, UTC),
        datetime(2024, 1, 2, 3, 4, 5, 678901, timezone(timedelta(hours=5, minutes=30))),
        datetime(9999, 12, 31, 23, 59, 59, 999999, UTC),
        datetime(1, 1, 1, tzinfo=UTC),
    ],
    ids=str,
)
def test_time_comes_back_to_the_microsecond(database: Database, moment: datetime) -> None:
    with database.transaction("test") as connection:
        connection.execute(sa.insert(Blob), {**seeds.blob(1, OTHER), "lease_until": moment})
        found = connection.execute(sa.select(Blob.lease_until)).scalar_one()
    assert found == moment
    assert found.utcoffset() == timedelta(0)


def test_time_without_a_zone_is_refused(database: Database) -> None:
    naive = datetime(2024, 1, 1)
    with (
        pytest.raises(sa.exc.StatementError, match="without a time zone"),
        database.transaction("test") as connection,
    ):
        connection.execute(sa.insert(Blob), {**seeds.blob(1, OTHER), "lease_until": naive})
    with pytest.raises(sa.exc.StatementError, match="without a time zone"), database.read() as connection:
        connection.execute(sa.select(Blob.id).where(Blob.lease_until < naive))


def test_bytes_and_json_come_back_as_they_went_in(seeded: Database) -> None:
    assert bytes(scalar(seeded, "SELECT content FROM manifests WHERE id = 1")) == b"\0\xffimage"
    with seeded.read() as connection:
        ingests = Base.metadata.tables["ingests"]
        assert connection.execute(sa.select(ingests.c.result)).scalar_one() == {"a": [1]}


def test_names_sort_by_their_bytes(database: Database) -> None:
    names = ["b", "a", "_x", "B", "1", "A", "a-b", "a.b", "a/b", "aa", "\u00e4"]
    with database.transaction("test") as connection:
        for number, name in enumerate(names, 1):
            connection.execute(sa.insert(Repository), seeds.repository(number, name))
    with database.read() as connection:
        found = connection.execute(sa.select(Repository.name).order_by(Repository.name)).scalars().all()
        above = connection.execute(
            sa.select(Repository.name).where(Repository.name > "_x").order_by(Repository.name)
        )
        assert list(above.scalars()) == sorted(name for name in names if name.encode() > b"_x")
    assert found == sorted(names, key=str.encode)
    assert [name for name in found if name in ("_x", "1", "A", "B", "a")] == ["1", "A", "B", "_x", "a"]


@pytest.mark.parametrize("model", [Blob, Repository, Manifest, Tag])
def test_id_of_a_deleted_row_never_comes_back(database: Database, model: type[Base]) -> None:
    table: Any = model.__table__
    row = example(table.name, 0)
    with database.transaction("test") as connection:
        for parent in ("repositories", "blobs", "manifests"):
            if parent == table.name:
                break
            rows_of: Any = [{k: v for k, v in r.items() if k != "id"} for r in seeds.rows()[parent]]
            for values in rows_of:
                connection.execute(sa.insert(Base.metadata.tables[parent]), values)
        first = connection.execute(sa.insert(table).values(row).returning(table.c.id)).scalar_one()
        connection.execute(sa.delete(table).where(table.c.id == first))
        second = connection.execute(sa.insert(table).values(row).returning(table.c.id)).scalar_one()
    assert second > first


# --- the object mapper ------------------------------------------------------------------------


def test_manifests_are_loaded_as_what_they_are(seeded: Database) -> None:
    with seeded.session() as session:
        image, index = session.scalars(sa.select(Manifest).order_by(Manifest.id))
        assert isinstance(image, ImageManifest)
        assert isinstance(index, IndexManifest)
        assert [(blob.position, blob.role) for blob in image.blobs] == [
            (0, "config"),
            (1, "layer"),
            (2, "layer"),
        ]
        assert [member.child for member in index.members] == [image, None, None]
        assert image.repository.name == "app"
        assert image.image_created_at == seeds.NOW
        assert session.scalars(sa.select(IndexManifest)).all() == [index]
        live = session.scalars(sa.select(Tag).where(Tag.ended_at.is_(None))).one()
        assert (live.manifest, live.repository.name) == (image, "app")
        assert sa.inspect(image).unloaded >= {"content"}


def test_what_is_changed_in_a_reading_session_is_dropped(seeded: Database) -> None:
    before = rows(seeded, "SELECT state FROM blobs ORDER BY id")
    with seeded.session() as session:
        for blob in session.scalars(sa.select(Blob)):
            blob.state = "damaged"
    assert rows(seeded, "SELECT state FROM blobs ORDER BY id") == before
    with seeded.session() as session:
        assert len(session.scalars(sa.select(RepositoryBlob)).all()) == 4
