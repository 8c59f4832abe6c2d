"""The synthetic registry of the benchmarks is what a registry could be."""

from __future__ import annotations

from itertools import chain

import pytest
import sqlalchemy as sa

from benchmarks.synthetic.load import load
from benchmarks.synthetic.registry import COLUMNS, Batch, Registry
from benchmarks.synthetic.shape import Shape
from regmeta import models
from regmeta.db import Database
from regmeta.maintain.progress import NoProgress
from regmeta.maintain.search import check_search
from regmeta.oci import manifest as oci_manifest
from regmeta.oci.digest import Digest

SHAPE = Shape(manifests=1_000, seed=3, today=20_000)


@pytest.fixture
def filled(empty_database_url: str) -> Database:
    """A database with a synthetic registry."""
    load(empty_database_url, SHAPE)
    return Database(empty_database_url)


def _rows(shape: Shape) -> Batch:
    batches = list(Registry(shape).batches())
    return {table: list(chain.from_iterable(batch[table] for batch in batches)) for table in COLUMNS}


def test_the_same_shape_gives_the_same_rows_and_another_seed_others() -> None:
    assert _rows(SHAPE) == _rows(SHAPE)
    assert _rows(SHAPE) != _rows(Shape(SHAPE.manifests, 4, SHAPE.today))


@pytest.mark.slow
def test_there_are_about_as_many_manifests_as_asked_for_and_a_fifth_are_indexes() -> None:
    kinds = [row[3] for row in _rows(Shape(20_000, 3, SHAPE.today))["manifests"]]
    assert 0.85 < len(kinds) / 20_000 < 1.15
    assert 0.13 < kinds.count("index") / len(kinds) < 0.27


def test_every_manifest_is_the_document_that_its_row_tells_of(filled: Database) -> None:
    with filled.read() as connection:
        for row in connection.execute(sa.select(models.Manifest.__table__)):
            document = oci_manifest.parse(row.content, row.digest)
            assert (document.kind, document.media_type) == (row.kind, row.media_type)
            assert document.effective_artifact_type == row.artifact_type
            assert (document.subject.digest if document.subject else None) == row.subject_digest
            assert len(row.content) == row.size_bytes
            if isinstance(document, oci_manifest.Manifest):
                assert document.config.media_type == row.config_media_type
                assert sum(blob.size_bytes for blob in document.blobs) == row.total_size_bytes
                assert _chain(document) == row.chain_digest
                assert _edges(connection, row.id) == [blob.digest for blob in document.blobs]
    filled.close()


def _chain(document: oci_manifest.Manifest) -> Digest | None:
    found: Digest | None = None
    for layer in document.layers:
        found = Digest.of(f"{found} {layer.digest}".encode()) if found else layer.digest
    return found


def _edges(connection: sa.Connection, manifest_id: int) -> list[Digest]:
    edges = (
        sa.select(models.Blob.digest)
        .join(models.ManifestBlob, models.ManifestBlob.blob_id == models.Blob.id)
        .where(models.ManifestBlob.manifest_id == manifest_id)
        .order_by(models.ManifestBlob.position)
    )
    return list(connection.execute(edges).scalars())


def test_what_it_loads_is_found_by_search_and_refers_to_rows_that_are_there(filled: Database) -> None:
    assert not list(check_search(filled, NoProgress()))
    if filled.is_sqlite:
        with filled.read() as connection:
            assert not connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    filled.close()


def test_what_it_loads_can_be_written_to_afterwards(filled: Database) -> None:
    # Numbers of new rows go on behind those that were loaded.
    with filled.transaction("test") as connection:
        name = sa.insert(models.TagName).values(name="new", folded="new").returning(models.TagName.id)
        highest = sa.select(sa.func.max(models.TagName.id))
        before = connection.execute(highest).scalar_one()
        assert connection.execute(name).scalar_one() > before
    filled.close()
