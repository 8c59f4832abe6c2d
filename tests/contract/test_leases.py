"""Leases and intents last long enough, and are not written more often than that needs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from regmeta.app import Writing
from regmeta.ingest.plan import Lifetimes
from regmeta.models.base import UtcTime
from tests.builders import LayoutBuilder
from tests.support.registry import (
    Ingest,
    change,
    commit_one,
    ingest_of,
    request,
    rows,
    scalar,
    source_of,
)


@pytest.mark.parametrize("table", ["blobs", "manifests"])
@pytest.mark.parametrize(("left_h", "renewed"), [(23, False), (13, False), (11, True), (-1, True)])
def test_lease_is_renewed_only_when_less_than_half_is_left(
    writing: Writing, builder: LayoutBuilder, layout: Path, table: str, left_h: int, renewed: bool
) -> None:
    image = builder.image()
    commit_one(writing, builder, image, layout)
    until = datetime.now(UTC) + timedelta(hours=left_h)
    bound = UtcTime().process_bind_param(until, writing.database.engine.dialect)
    change(writing.database, f"UPDATE {table} SET lease_until = :until", until=bound)
    commit_one(writing, builder, image, layout)
    found = {row[0] for row in rows(writing.database, f"SELECT lease_until FROM {table}")}
    if renewed:
        assert bound is not None
        assert min(found) > bound
        # By the database's clock, which counts milliseconds on SQLite.
        lease = Lifetimes().lease - timedelta(hours=left_h, milliseconds=2)
        assert min(found) >= bound + lease // timedelta(microseconds=1)
    else:
        assert found == {bound}


def test_intents_of_a_long_upload_are_renewed(writing: Writing, builder: LayoutBuilder, layout: Path) -> None:
    clock_s = 0.0
    with source_of(builder, layout) as source:
        image = builder.image()
        builder.write(layout)
        ingest: Ingest = ingest_of(writing, request(source, image))
        ingest.unit._clock_s = lambda: clock_s
        ingest.unit._renewed_s = 0.0
        ingest.unit.reserve(ingest.image.blobs)
        change(writing.database, "UPDATE intents SET expires_at = 1")
        clock_s = 1700.0
        ingest.unit.keep_alive()
        assert scalar(writing.database, "SELECT max(expires_at) FROM intents") == 1
        clock_s = 1900.0
        ingest.unit.keep_alive()
        assert scalar(writing.database, "SELECT min(expires_at) FROM intents") > 1
        ingest.unit.abort()
