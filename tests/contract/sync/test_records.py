"""What is remembered of runs and images, on both databases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from regmeta import db
from regmeta.db import Database
from regmeta.errors import ConstraintViolated
from regmeta.ingest import retry
from regmeta.oci.digest import Digest
from regmeta.query import mirrored
from regmeta.sync import records
from regmeta.sync.policy import Backoff
from regmeta.sync.records import (
    Cause,
    ItemKey,
    ItemOutcome,
    KnownItem,
    RunCounts,
    begin_run,
    due_retries,
    failing_items,
    finish_run,
    known_items,
    last_run,
    next_retry_at,
    note_items,
    prune_runs,
)
from tests.support.registry import change, rows, scalar
from tests.support.statements import counted

BACKOFF = Backoff(timedelta(minutes=1), timedelta(minutes=10))
OWNER = uuid4()
ONE, TWO, THREE = (Digest.of(text) for text in (b"1", b"2", b"3"))
KEY = ItemKey("team/app", "v1", "mirror/app")
COPIED = ItemOutcome(*KEY, "copied", "terms", upstream_digest=ONE, digest=TWO, copied_bytes=100)
FAILED = ItemOutcome(*KEY, "failed", "other terms", reason="cut", error_class="RemoteUnavailable")


def begin(database: Database, policy: str = "hub", *, cause: Cause = "schedule", **others: Any) -> int:
    said: dict[str, Any] = {"actor": "ada", "host": "here", "owner": OWNER, **others}
    return begin_run(database, policy, cause, **said)


def note(database: Database, *items: ItemOutcome, backoff: Backoff = BACKOFF, policy: str = "hub") -> int:
    run_id = begin(database, policy)
    note_items(database, run_id, items, backoff)
    finish_run(database, run_id, "done", RunCounts())
    return run_id


def known(database: Database, key: ItemKey = KEY, policy: str = "hub") -> KnownItem:
    return known_items(database, policy, [key])[key]


def now(database: Database) -> datetime:
    with database.read() as connection:
        return db.clock(connection)


def wait_of(item: KnownItem) -> timedelta:
    assert item.next_try_at is not None
    return item.next_try_at - item.checked_at


# --- runs ---------------------------------------------------------------------------------------


def test_run_goes_on_until_it_is_finished(database: Database) -> None:
    before = now(database)
    run_id = begin(database)

    running = last_run(database, "hub")
    assert running is not None
    assert (running.id, running.cause, running.host, running.owner) == (run_id, "schedule", "here", OWNER)
    assert running.started_at >= before
    assert (running.ended_at, running.outcome) == (None, None)

    counts = RunCounts(copied=1, unchanged=2, left_out=3, failed=4, removed=5, copied_bytes=2**40, requests=7)
    finish_run(database, run_id, "failed", counts, error="the catalog: cut")

    ended = last_run(database, "hub")
    assert ended is not None
    assert ended.outcome == "failed"
    assert ended.ended_at is not None
    assert ended.ended_at >= running.started_at
    (shown,) = mirrored.history(database)
    assert (shown.copied, shown.unchanged, shown.left_out, shown.failed) == (1, 2, 3, 4)
    assert (shown.removed, shown.copied_bytes, shown.requests) == (5, 2**40, 7)
    assert (shown.error, shown.actor, shown.cause) == ("the catalog: cut", "ada", "schedule")


def test_run_ends_once(database: Database) -> None:
    run_id = begin(database)
    finish_run(database, run_id, "done", RunCounts(copied=1))
    finish_run(database, run_id, "failed", RunCounts(), error="late")

    (shown,) = mirrored.history(database)
    assert (shown.outcome, shown.copied, shown.error) == ("done", 1, None)


def test_policy_that_never_ran_has_no_last_run(database: Database) -> None:
    begin(database, "other")

    assert last_run(database, "hub") is None


def test_last_run_of_some_causes_is_found_behind_others_and_outlives_them(database: Database) -> None:
    scheduled = begin(database)
    finish_run(database, scheduled, "done", RunCounts())
    for _ in range(3):
        finish_run(database, begin(database, cause="demand"), "done", RunCounts())

    assert prune_runs(database, keep=1) == 2
    found = last_run(database, "hub", ["schedule", "command"])

    assert found is not None
    assert (found.id, found.cause) == (scheduled, "schedule")
    assert last_run(database, "hub", ["retry"]) is None


def test_runs_of_processes_that_have_gone_are_interrupted_and_no_others(database: Database) -> None:
    gone, alive = uuid4(), uuid4()
    dead_run, live_run = begin(database, owner=gone), begin(database, owner=alive, host="elsewhere")
    other_policy = begin(database, "other", owner=gone)
    asked: list[tuple[str, UUID]] = []

    def has_ended(host: str, owner: UUID) -> bool:
        asked.append((host, owner))
        return owner == gone

    new = begin(database, has_ended=has_ended)

    outcomes = dict(rows(database, "SELECT id, outcome FROM sync_runs"))
    assert outcomes == {dead_run: "interrupted", live_run: None, other_policy: None, new: None}
    assert sorted(asked) == sorted([("here", gone), ("elsewhere", alive)])
    begin(database, has_ended=lambda _host, _owner: True)
    assert scalar(database, "SELECT count(*) FROM sync_runs WHERE ended_at IS NULL") == 2


def test_old_runs_go_and_their_images_stay(database: Database) -> None:
    first = note(database, COPIED)
    lonely = note(database, replace(COPIED, source="x"), policy="lonely")
    others = [note(database, policy="busy") for _ in range(4)]
    killed = begin(database, "busy")
    newest = [note(database, policy="busy") for _ in range(2)]

    removed = prune_runs(database, keep=2)

    # The last run of each policy stays, and what has no end.
    assert removed == len(others)
    kept = [row[0] for row in rows(database, "SELECT id FROM sync_runs ORDER BY id")]
    assert kept == [first, lonely, killed, *newest]
    note(database)
    assert prune_runs(database, keep=1) == 2  # the first of hub, and one of busy
    assert known(database).outcome == "copied"
    assert scalar(database, "SELECT run_id FROM sync_items WHERE policy = 'hub'") is None
    assert prune_runs(database, keep=1000) == 0


# --- images -------------------------------------------------------------------------------------


def test_image_that_was_copied_is_known(database: Database) -> None:
    run_id = note(database, COPIED)

    found = known(database)

    assert (found.upstream_digest, found.digest, found.terms) == (ONE, TWO, "terms")
    assert (found.outcome, found.attempts, found.next_try_at, found.reason) == ("copied", 0, None, None)
    ((run, size, copied_at),) = rows(database, "SELECT run_id, copied_bytes, copied_at FROM sync_items")
    assert (run, size) == (run_id, 100)
    assert copied_at is not None


def test_failures_in_a_row_wait_twice_as_long_each_time(database: Database) -> None:
    waits, attempts = [], []
    for _ in range(6):
        note(database, FAILED)
        waits.append(wait_of(known(database)) // timedelta(minutes=1))
        attempts.append(known(database).attempts)

    assert waits == [1, 2, 4, 8, 10, 10]
    assert waits == [BACKOFF.after(each) // timedelta(minutes=1) for each in attempts]
    assert attempts == [1, 2, 3, 4, 5, 6]


def test_success_sets_the_attempts_back(database: Database) -> None:
    note(database, FAILED)
    note(database, FAILED)
    note(database, COPIED)
    assert (known(database).attempts, known(database).next_try_at) == (0, None)

    note(database, FAILED)
    assert known(database).attempts == 1
    assert wait_of(known(database)) == timedelta(minutes=1)


@pytest.mark.parametrize(
    ("asked_s", "expected"),
    [
        (5.0, timedelta(minutes=2)),  # never sooner than the back-off says
        (3600.0, timedelta(hours=1)),
        (1e12, timedelta(days=1)),  # never longer than a day
        (float("inf"), timedelta(days=1)),
        (float("nan"), timedelta(minutes=2)),
    ],
)
def test_upstream_is_left_alone_for_as_long_as_it_asks(
    database: Database, asked_s: float, expected: timedelta
) -> None:
    note(database, FAILED)
    note(database, replace(FAILED, retry_after_s=asked_s))

    assert wait_of(known(database)) == expected


@pytest.mark.parametrize("first", ["insert", "update"])
def test_longest_rest_holds_from_the_first_failure_on(database: Database, first: str) -> None:
    backoff = Backoff(timedelta(hours=1), timedelta(hours=1))
    if first == "update":
        note(database, COPIED)
    note(database, FAILED, backoff=backoff)

    assert wait_of(known(database)) == timedelta(hours=1)


def test_failure_keeps_what_the_last_success_knew(database: Database) -> None:
    note(database, COPIED)
    copied_at = scalar(database, "SELECT copied_at FROM sync_items")
    note(database, replace(FAILED, upstream_digest=THREE))

    found = known(database)

    assert (found.upstream_digest, found.digest, found.terms) == (ONE, TWO, "terms")
    assert (found.outcome, found.reason) == ("failed", "cut")
    assert rows(database, "SELECT copied_bytes, copied_at, error_class FROM sync_items") == [
        (100, copied_at, "RemoteUnavailable")
    ]


def test_failure_without_a_success_before_says_what_it_knows(database: Database) -> None:
    note(database, FAILED)
    note(database, replace(FAILED, upstream_digest=THREE, terms="new terms"))

    found = known(database)

    assert (found.upstream_digest, found.digest, found.terms) == (THREE, None, "new terms")


@pytest.mark.parametrize(
    "later",
    [
        ItemOutcome(*KEY, "unchanged", "t", upstream_digest=THREE, digest=THREE),
        ItemOutcome(*KEY, "left out", "t", upstream_digest=THREE, reason="not signed"),
        ItemOutcome(*KEY, "removed", "t"),
    ],
)
def test_other_outcomes_take_the_place_of_the_last_one(database: Database, later: ItemOutcome) -> None:
    note(database, COPIED)
    note(database, FAILED)
    copied_at = scalar(database, "SELECT copied_at FROM sync_items")
    note(database, later)

    found = known(database)

    assert (found.upstream_digest, found.digest, found.terms) == (later.upstream_digest, later.digest, "t")
    assert (found.outcome, found.reason, found.attempts) == (later.outcome, later.reason, 0)
    assert found.next_try_at is None
    assert rows(database, "SELECT copied_bytes, copied_at, error_class FROM sync_items") == [
        (100, copied_at, None)
    ]


def test_policies_remember_the_same_image_apart(database: Database) -> None:
    note(database, COPIED)
    note(database, FAILED, policy="other")

    assert known(database).outcome == "copied"
    assert known(database, policy="other").outcome == "failed"


def test_items_are_found_by_key_by_source_or_all(database: Database) -> None:
    keys = [ItemKey("a", "v1", "m/a"), ItemKey("a", "v2", "m/a"), ItemKey("b", "v1", "m/b")]
    note(database, *(ItemOutcome(*key, "unchanged", "t") for key in keys))
    note(database, ItemOutcome(*keys[0], "unchanged", "t"), policy="other")

    assert known_items(database, "hub").keys() == set(keys)
    assert known_items(database, "hub", source="a").keys() == set(keys[:2])
    assert known_items(database, "hub", [keys[0], ItemKey("a", "v1", "elsewhere")]).keys() == {keys[0]}
    assert known_items(database, "hub", []) == {}


def test_thousands_of_images_are_noted_and_found_in_a_few_statements(database: Database) -> None:
    items = [ItemOutcome(f"team/{n % 7}", f"v{n}", "m", "unchanged", "t", ONE, ONE) for n in range(4_500)]
    run_id = begin(database)

    with counted(database.engine) as noted:
        note_items(database, run_id, items, BACKOFF)
    with counted(database.engine) as asked:
        found = known_items(database, "hub", [ItemKey(*(i.source, i.reference, "m")) for i in items])

    assert len(found) == len(items)
    assert len(noted) == 2, noted  # the clock and the upsert
    assert len(asked) == 3, asked


def test_nothing_is_sent_where_nothing_is_to_be_noted(database: Database) -> None:
    run_id = begin(database)
    with counted(database.engine) as statements:
        note_items(database, run_id, [], BACKOFF)

    assert len(statements) == 0


@pytest.mark.parametrize("text", ["x" * 1000, "a\x00b\x1b[31m\n\u202e", "\udcff", "\x00" * 500])
def test_any_text_of_an_error_can_be_kept_and_is_short(database: Database, text: str) -> None:
    note(database, replace(FAILED, reason=text))
    run_id = begin(database)
    finish_run(database, run_id, "failed", RunCounts(), error=text)

    kept = known(database).reason

    assert kept is not None
    assert len(kept) <= records.LONGEST_TEXT
    assert kept[:1] in (text[:1], "\\")
    (shown,) = mirrored.history(database, limit=1)
    assert shown.error == kept


def test_outcomes_belong_to_a_run(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "ATTEMPTS", 1)

    with pytest.raises(ConstraintViolated):
        note_items(database, 12345, [COPIED], BACKOFF)


def test_images_are_due_in_the_order_of_their_next_try(database: Database) -> None:
    note(
        database,
        *(replace(FAILED, reference=tag) for tag in ("late", "soon", "future")),
        replace(COPIED, reference="fine"),
    )
    moment = now(database)
    for tag, ago in (("late", 20), ("soon", 10), ("future", -1000)):
        due(database, tag, moment - timedelta(seconds=ago))
    note(database, FAILED, policy="other")

    assert [key.reference for key in due_retries(database, "hub")] == ["late", "soon"]
    assert next_retry_at(database, "hub") == moment - timedelta(seconds=20)
    assert next_retry_at(database, "nothing") is None
    assert {key.reference for key in failing_items(database, "hub")} == {"late", "soon", "future"}


def due(database: Database, tag: str, at: datetime) -> None:
    since_epoch = at - datetime.fromisoformat("1970-01-01T00:00:00+00:00")
    change(
        database,
        "UPDATE sync_items SET next_try_at = :at WHERE reference = :tag",
        at=since_epoch // timedelta(microseconds=1),
        tag=tag,
    )


# --- what is shown ------------------------------------------------------------------------------


def test_status_tells_of_each_policy_what_ran_and_what_fails(database: Database) -> None:
    note(database, COPIED, *failures(3))
    note(database, failures(1)[0])
    running = begin(database)
    note(database, COPIED, policy="fine")

    fine, hub, new = mirrored.status(database, ["new"])

    assert (fine.policy, hub.policy, new.policy) == ("fine", "hub", "new")
    assert (new.last_run, new.images, new.failing) == (None, {}, ())
    assert hub.last_run is not None
    assert hub.last_run.id == running
    assert hub.is_running
    assert [run.id for run in hub.running] == [running]
    assert not fine.is_running
    assert (hub.images, fine.images) == ({"copied": 1, "failed": 3}, {"copied": 1})
    assert [(each.reference, each.attempts) for each in hub.failing] == [("t0", 2), ("t1", 1), ("t2", 1)]
    assert (hub.failing[0].error_class, hub.failing[0].reason) == ("RemoteUnavailable", "cut")
    assert hub.next_try_at == min(each.next_try_at for each in hub.failing if each.next_try_at)
    assert (fine.failing, fine.next_try_at) == ((), None)


def test_status_shows_so_many_failures_of_each_policy(database: Database) -> None:
    note(database, *failures(mirrored.SHOWN + 1))
    note(database, *failures(2), policy="other")

    hub, other = mirrored.status(database)

    assert (len(hub.failing), hub.images) == (mirrored.SHOWN, {"failed": mirrored.SHOWN + 1})
    assert len(other.failing) == 2


def failures(count: int) -> Sequence[ItemOutcome]:
    return [replace(FAILED, reference=f"t{number}") for number in range(count)]


def test_history_is_paged_from_the_newest_run_back(database: Database) -> None:
    runs = [note(database) for _ in range(3)]
    other = note(database, policy="other")

    assert [run.id for run in mirrored.history(database)] == [other, *reversed(runs)]
    assert [run.id for run in mirrored.history(database, policy="hub", limit=2)] == [runs[2], runs[1]]
    assert [run.id for run in mirrored.history(database, policy="hub", before=runs[1])] == [runs[0]]
