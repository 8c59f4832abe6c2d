"""A collection without an end: it waits, it outlives what goes wrong, and it never spins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import pytest

from regmeta import app
from regmeta.app import Writing, collecting
from regmeta.app.stores import open_store
from regmeta.errors import SchemaMismatch
from regmeta.ingest.tags import remove_tag
from regmeta.maintain.collect import dead_objects
from regmeta.maintain.collect.run import CollectReport
from regmeta.settings import Settings
from tests.builders import LayoutBuilder
from tests.support.fault_store import Fault, FaultStore, Kind, Plan
from tests.support.registry import AT_ONCE, change, commit_one, objects, scalar


@dataclass
class Script:
    """Does something else at each wait, and ends the collection after the last."""

    steps: list[Callable[[], object]]
    waits_s: list[float] = field(default_factory=list)
    reports: list[CollectReport] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def is_set(self) -> bool:
        return len(self.waits_s) > len(self.steps)

    def wait(self, timeout_s: float) -> None:
        if len(self.waits_s) < len(self.steps):
            self.steps[len(self.waits_s)]()
        self.waits_s.append(timeout_s)

    def run(self, settings: Settings) -> None:
        # The first wait is before anything else.
        collecting.watch(
            settings,
            self,
            collected=self.reports.append,
            changed=self.told.append,
            lifetimes=AT_ONCE,
            chance=lambda: 0.5,
        )


def nothing() -> None: ...


def test_watch_collects_what_became_garbage_while_it_waited(
    settings: Settings, writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    with app.open_for_writing(settings, lifetimes=AT_ONCE) as impatient:
        commit_one(impatient, builder, builder.image(), layout)
        script = Script([nothing, lambda: remove_tag(impatient.writer, "app", "v1"), nothing])
        script.run(settings)
    assert [report.manifests for report in script.reports] == [0, 1, 0]
    assert [report.objects.deleted for report in script.reports] == [0, 4, 0]
    assert objects(writing.store) == {}
    assert script.told == []


def test_watch_waits_longer_after_each_round_in_vain_and_less_when_something_will_be_due(
    settings: Settings, writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    with app.open_for_writing(settings, lifetimes=replace(AT_ONCE, lease=timedelta(hours=1))) as patient:
        commit_one(patient, builder, builder.image(), layout)
        remove_tag(patient.writer, "app", "v1")
    script = Script([nothing] * 9)
    # The manifest is leased: its task is put off for an hour.
    script.run(settings)
    start_s, *waits_s = script.waits_s
    assert start_s == 1.0
    assert waits_s == [30.0] * 9
    change(writing.database, "UPDATE gc_tasks SET not_before = not_before - 3590000000")
    script = Script([nothing] * 2)
    script.run(settings)
    assert all(1.0 <= wait_s <= 10.0 for wait_s in script.waits_s)


def test_watch_that_is_hindered_says_so_once_waits_and_goes_on(
    settings: Settings, writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    with app.open_for_writing(settings, lifetimes=AT_ONCE) as impatient:
        commit_one(impatient, builder, builder.image(), layout)
        remove_tag(impatient.writer, "app", "v1")
    hold = "UPDATE store_identity SET hold_reason = "
    script = Script(
        [
            lambda: change(writing.database, f"{hold}'restored'"),
            nothing,
            nothing,
            nothing,
            lambda: change(writing.database, f"{hold}NULL"),
            nothing,
        ]
    )
    script.run(settings)
    first, last = script.told
    assert "on hold: restored" in first
    assert last == "collecting again"
    assert [report.manifests for report in script.reports] == [1, 0]
    # What is due is not looked at again and again: each wait is longer.
    assert script.waits_s[1:5] == [2.0, 4.0, 8.0, 16.0]


def test_watch_outlives_a_store_that_is_away_and_asks_it_less_and_less(
    settings: Settings,
    writing: Writing,
    builder: LayoutBuilder,
    layout: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dead_objects, "MANY_FAILURES", 2)
    plan = Plan(Fault("delete", Kind.RAISE, for_good=True))
    is_broken = True
    monkeypatch.setattr(
        "regmeta.app.open_store", lambda of: FaultStore(open_store(of), plan) if is_broken else open_store(of)
    )
    with app.open_for_writing(settings, lifetimes=AT_ONCE) as impatient:
        commit_one(impatient, builder, builder.image(), layout)
        remove_tag(impatient.writer, "app", "v1")

    def mend() -> None:
        plan._faults = ()
        change(writing.database, "UPDATE store_identity SET paused_until = 0")
        change(writing.database, "UPDATE tombstones SET not_before = 0")

    script = Script([nothing, nothing, nothing, mend, nothing])
    script.run(settings)
    first, last = script.told
    assert "errors in a row" in first
    assert last == "collecting again"
    assert plan._counts["delete"] == 1 + 2 + 2, "one batch, two alone; then deleted, and once more to forget"
    assert script.reports[0].objects.deleted == 4
    assert scalar(writing.database, "SELECT pauses FROM store_identity") == 0
    assert all(wait_s >= 1.0 for wait_s in script.waits_s)


def test_watch_outlives_a_registry_that_cannot_be_opened(
    settings: Settings, writing: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(Fault("read_record", Kind.RAISE), Fault("read_record", Kind.RAISE, number=2))
    monkeypatch.setattr("regmeta.app.open_store", lambda of: FaultStore(open_store(of), plan))
    script = Script([nothing] * 4)
    script.run(settings)
    assert [told.partition(":")[0] for told in script.told] == ["read_record", "collecting again"]
    assert script.waits_s[1:3] == [2.0, 4.0]
    assert len(script.reports) == 2


@pytest.mark.inconsistent
def test_watch_ends_where_the_registry_is_another_one(settings: Settings, writing: Writing) -> None:
    change(writing.database, "UPDATE alembic_version SET version_num = '0001'")
    script = Script([nothing] * 4)
    with pytest.raises(SchemaMismatch):
        script.run(settings)
    assert script.waits_s == [1.0]
    change(writing.database, "UPDATE alembic_version SET version_num = '0003'")
