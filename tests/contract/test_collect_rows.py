"""Rows that cannot be read or deleted keep no other from being collected, and are told of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from regmeta.app import Writing, open_for_writing
from regmeta.ingest.tags import remove_tag
from regmeta.maintain.collect.again import retry_now
from regmeta.maintain.collect.run import collect
from regmeta.maintain.collect.tasks import CHUNK_TASKS
from regmeta.query.collection import collection_status
from regmeta.settings import Settings
from tests.builders import LayoutBuilder, digest_of
from tests.support.registry import AT_ONCE, change, commit_one, counts, import_all, scalar


@pytest.fixture
def impatient(settings: Settings) -> Iterator[Writing]:
    """A registry whose leases and windows are over as soon as they begin."""
    with open_for_writing(settings, lifetimes=AT_ONCE) as found:
        yield found


@pytest.mark.inconsistent
def test_manifest_whose_digest_cannot_be_read_costs_only_itself_and_is_told_of(
    impatient: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    images = [builder.image([b"layer %d" % number]) for number in range(3)]
    for number, image in enumerate(images):
        commit_one(impatient, builder, image, layout / str(number), tag=f"v{number}")
        remove_tag(impatient.writer, "app", f"v{number}")
    of = digest_of(images[1]).to_bytes()
    number = scalar(impatient.database, "SELECT id FROM manifests WHERE digest = :of", of=of)
    change(impatient.database, "UPDATE manifests SET digest = :bad WHERE id = :of", bad=b"\x09bad", of=number)
    report = collect(impatient.writer, impatient.store)
    assert (report.tasks, report.manifests, report.objects.deleted) == (3, 2, 6)
    [told] = report.failures
    assert told.startswith(f"app, manifest {number}: not a stored digest")
    [failure] = collection_status(impatient.database).failures
    assert failure.target == f"app, manifest {number}"
    assert failure.last_error == "not a stored digest: 09626164"


@pytest.mark.slow
def test_one_run_goes_past_more_failures_than_fit_one_transaction(
    impatient: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    database = impatient.database
    for number in range(CHUNK_TASKS + 3):
        builder.tag(builder.image([b"layer %d" % number]), f"v{number}")
    import_all(impatient, builder.write(layout))
    for number in range(CHUNK_TASKS + 3):
        remove_tag(impatient.writer, "app", f"v{number}")
    # Another program refers to all but the last.
    change(database, "CREATE TABLE pins (id BIGINT NOT NULL REFERENCES manifests (id))")
    change(
        database,
        f"INSERT INTO pins SELECT target_id FROM gc_tasks ORDER BY id LIMIT {CHUNK_TASKS}",
    )
    report = collect(impatient.writer, impatient.store)
    assert report.manifests == 3
    assert len(report.failures) >= CHUNK_TASKS
    change(database, "DROP TABLE pins")
    retry_now(database)
    assert collect(impatient.writer, impatient.store).manifests == CHUNK_TASKS
    assert set(counts(database, "gc_tasks", "blobs").values()) == {0}
