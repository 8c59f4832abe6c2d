"""A process that stands still inside a transaction holds up nobody who has other work (PostgreSQL)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from regmeta.ingest.tags import remove_tag
from regmeta.maintain.recover import recover
from tests.builders import LayoutBuilder
from tests.support.aside import Freeze, Opened, assert_only_live_objects, run_collect
from tests.support.registry import AT_ONCE, commit_one, counts, import_all

EXPIRED = replace(AT_ONCE, intent=-timedelta(hours=1))
pytestmark = pytest.mark.parametrize("backend", ["postgresql"])


def test_commit_that_stands_still_holds_up_no_recovery(
    opened: Opened, aside: Freeze, builder: LayoutBuilder, layout: Path
) -> None:
    slow, other = opened(EXPIRED), opened()
    builder.tag(builder.image(), "v1")
    writer = aside(lambda: import_all(slow, builder.write(layout)), "ingest.committing")
    recovering = aside(lambda: recover(other.writer, other.store), None)
    recovering.assert_ends()
    assert recovering.go_on().intents_taken_back == 0  # they are just being committed
    writer.go_on()
    assert counts(other.database, "intents", "tombstones") == {"intents": 0, "tombstones": 0}


def test_commit_that_stands_still_holds_up_no_snapshot_of_what_was_committed_before(
    opened: Opened, aside: Freeze, builder: LayoutBuilder, layout: Path
) -> None:
    slow, other = opened(), opened()
    commit_one(other, builder, builder.image(), layout)
    builder.entries = []
    builder.tag(builder.image(), "v2")
    writer = aside(lambda: import_all(slow, builder.write(layout)), "outbox.committing")
    flushing = aside(lambda: other.writer.snapshots.flush(1, now=True), None)
    flushing.assert_ends()
    flushing.go_on()
    writer.go_on()
    assert counts(other.database, "layout_outbox")["layout_outbox"] == 0


@pytest.mark.parametrize("freeze_at", ["objects_deleted.committing", "tombstones_dropped.committing"])
def test_collector_that_stands_still_while_it_notes_what_it_deleted_holds_up_no_other(
    opened: Opened, aside: Freeze, builder: LayoutBuilder, layout: Path, freeze_at: str
) -> None:
    slow, other = opened(), opened()
    commit_one(other, builder, builder.image(), layout)
    remove_tag(other.writer, "app", "v1")
    first = aside(lambda: run_collect(slow), freeze_at)
    second = aside(lambda: run_collect(other), None)
    second.assert_ends()
    reports = [first.go_on(), second.go_on()]
    assert sum(report.objects.deleted for report in reports) == 4
    assert_only_live_objects(other)
