"""Pulls: added up in batches, by tag, digest and day."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from regmeta import db, errors
from regmeta.app import Writing
from regmeta.db import Database
from regmeta.errors import UsageError
from regmeta.ingest import pulls as counting
from regmeta.ingest.pulls import Pull, PullCounter, record_pulls
from regmeta.maintain.delete.repository import delete_repository
from regmeta.maintain.delete.undelete import undelete_repository
from regmeta.oci.digest import Digest
from regmeta.oci.names import Reference
from regmeta.query.statistics import pulls as statistics
from regmeta.query.visibility import UnderPrefixes
from tests.builders import LayoutBuilder, digest_of
from tests.support.registry import change, commit_one, dump, rows, scalar

DAY = timedelta(days=1)


@pytest.fixture
def digests(writing: Writing, builder: LayoutBuilder, layout: Path) -> list[Digest]:
    """Two images of app, one of them with two tags, and one of team/lib."""
    images = [builder.image(), builder.image()]
    commit_one(writing, builder, images[0], layout, "app", "v1")
    commit_one(writing, builder, images[0], layout, "app", "latest")
    commit_one(writing, builder, images[1], layout, "app", "v2")
    commit_one(writing, builder, images[1], layout, "team/lib", "v2")
    return [digest_of(image) for image in images]


@pytest.fixture
def now(writing: Writing) -> datetime:
    with writing.database.read() as connection:
        return db.clock(connection)


def of(writing: Writing, reference: str, days: int = 30) -> statistics.Pulls:
    return statistics.pulls(writing.database, Reference.parse(reference), days=days)


def test_pulls_are_counted_by_tag_digest_and_day(
    writing: Writing, digests: list[Digest], now: datetime
) -> None:
    first, second = digests
    report = record_pulls(
        writing.database,
        [
            Pull("app", first, "v1", now),
            Pull("app", first, "v1", now - timedelta(seconds=1), count=2),
            Pull("app", first, "latest", now - DAY),
            Pull("app", first, None, now - DAY * 2),
            Pull("app", second, "v2", now - DAY * 40),
        ],
    )
    assert (report.recorded, report.ignored) == (6, ())
    assert (of(writing, f"app@{first}").pulls, of(writing, f"app@{first}").last_pulled_at) == (5, now)
    assert (of(writing, "app:v1").pulls, of(writing, "app:latest").pulls) == (3, 1)
    whole = of(writing, "app", 3)
    assert [each.pulls for each in whole.days] == [1, 1, 3]
    assert (whole.pulls, whole.days[-1].day) == (5, now.date())
    old = of(writing, "app:v2")
    assert (old.pulls, old.last_pulled_at) == (0, now - DAY * 40)
    never = of(writing, "team/lib")
    assert (never.pulls, never.last_pulled_at) == (0, None)


def test_batches_add_up_and_the_latest_time_stands(
    writing: Writing, digests: list[Digest], now: datetime
) -> None:
    middle = now.replace(hour=12)
    for hour in (0, 2, 1):
        record_pulls(writing.database, [Pull("app", digests[0], "v1", middle + timedelta(hours=hour))])
    [(pulls, tag)] = rows(writing.database, "SELECT pulls, tag FROM pull_stats")
    assert (pulls, tag) == (3, "v1")
    assert of(writing, "app").last_pulled_at == middle + timedelta(hours=2)


def test_pulls_of_what_was_never_here_are_ignored_and_reported(
    writing: Writing, digests: list[Digest], now: datetime
) -> None:
    strange = Digest.parse("sha256:" + "0" * 64)
    bad = [
        Pull("nobody", digests[0], "v1", now),
        Pull("app", strange, None, now),
        Pull("team/lib", digests[0], "v1", now),
    ]
    report = record_pulls(writing.database, [*bad, Pull("app", digests[0], "v1", now)])
    assert report.recorded == 1
    assert set(report.ignored) == set(bad)
    assert record_pulls(writing.database, []).recorded == 0


def test_pull_that_cannot_be_is_a_usage_error(writing: Writing, digests: list[Digest], now: datetime) -> None:
    for bad in (
        Pull("app", digests[0], None, now, 0),
        Pull("app", digests[0], None, now.replace(tzinfo=None)),
    ):
        with pytest.raises(errors.UsageError):
            record_pulls(writing.database, [bad])


def test_counting_changes_no_other_row(writing: Writing, digests: list[Digest], now: datetime) -> None:
    before = dump(writing.database)
    record_pulls(writing.database, [Pull("app", digests[0], "v1", now)])
    after = dump(writing.database)
    assert {name for name in after if after[name] != before[name]} == {"pull_stats"}


def test_top_is_what_was_pulled_most_in_the_days_asked_for(
    writing: Writing, digests: list[Digest], now: datetime
) -> None:
    first, second = digests
    record_pulls(
        writing.database,
        [
            Pull("app", first, "v1", now, 3),
            Pull("app", first, "latest", now, 3),
            Pull("app", second, "v2", now, 1),
            Pull("team/lib", second, "v2", now - DAY * 3, 100),
        ],
    )
    database = writing.database
    assert [(t.repository, t.pulls) for t in statistics.top_repositories(database)] == [
        ("team/lib", 100),
        ("app", 7),
    ]
    assert [(t.repository, t.pulls) for t in statistics.top_repositories(database, days=2)] == [("app", 7)]
    assert [(t.digest, t.pulls) for t in statistics.top_images(database, days=2)] == [(first, 6), (second, 1)]
    assert len(statistics.top_images(database, limit=1)) == 1
    visible = UnderPrefixes(["team"])
    assert [t.repository for t in statistics.top_repositories(database, visible=visible)] == ["team/lib"]
    assert [t.repository for t in statistics.top_images(database, visible=visible)] == ["team/lib"]
    with pytest.raises(errors.NotFound):
        statistics.pulls(database, Reference.parse("app"), visible=visible)


def test_deleted_repository_has_no_statistics_until_it_comes_back(
    writing: Writing, digests: list[Digest], now: datetime
) -> None:
    record_pulls(writing.database, [Pull("app", digests[0], "v1", now)])
    delete_repository(writing.writer, "app")
    assert statistics.top_repositories(writing.database) == ()
    with pytest.raises(errors.NotFound):
        of(writing, "app")
    undelete_repository(writing.writer, "app")
    assert of(writing, "app").pulls == 1


def test_pushers_are_those_of_what_is_here(writing: Writing, digests: list[Digest]) -> None:
    [found] = statistics.pushers(writing.database, "app")
    assert (found.actor, found.manifests) == ("tester", 2)
    with pytest.raises(errors.NotFound):
        statistics.pushers(writing.database, "nobody")


def test_one_damaged_time_hides_no_pusher_and_no_pulls(
    writing: Writing, digests: list[Digest], now: datetime
) -> None:
    record_pulls(writing.database, [Pull("app", digests[0], "v1", now)])
    bad = "no time" if writing.database.is_sqlite else 9 * 10**18
    change(writing.database, "UPDATE manifests SET pushed_by = 'bad', pushed_at = :bad WHERE id = 1", bad=bad)
    change(writing.database, "UPDATE pull_stats SET last_pulled_at = :bad", bad=bad)
    found = {each.actor: each for each in statistics.pushers(writing.database, "app")}
    assert found["bad"].last_pushed_at is None
    assert found["tester"].last_pushed_at is not None
    [top] = statistics.top_repositories(writing.database)
    [image] = statistics.top_images(writing.database)
    all_of = of(writing, "app")
    assert [(each.pulls, each.last_pulled_at) for each in (top, image, all_of)] == [(1, None)] * 3


@pytest.mark.parametrize("days", [0, -1, 10**6])
def test_days_out_of_range_are_a_usage_error(writing: Writing, digests: list[Digest], days: int) -> None:
    with pytest.raises(errors.UsageError):
        of(writing, "app", days)


# --- the counter ------------------------------------------------------------------------------


def test_counter_adds_up_what_many_threads_count(writing: Writing, digests: list[Digest]) -> None:
    counter = PullCounter(writing.database, max_age_s=0.01, max_sums=3)
    start = threading.Barrier(6)

    def count(number: int) -> None:
        start.wait()
        for turn in range(50):
            counter.count("app", digests[(number + turn) % 2], ("v1", "v2", None)[turn % 3])

    threads = [threading.Thread(target=count, args=[number]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counter.close()
    assert scalar(writing.database, "SELECT sum(pulls) FROM pull_stats") == 300
    assert counter.dropped == 0
    with pytest.raises(errors.UsageError, match="closed"):
        counter.count("app", digests[0])


def test_counter_flushes_by_itself_after_a_while(writing: Writing, digests: list[Digest]) -> None:
    counter = PullCounter(writing.database, max_age_s=0.02)
    try:
        for turn in (1, 2):
            counter.count("app", digests[0])
            until_s = time.monotonic() + 30
            while scalar(writing.database, "SELECT coalesce(sum(pulls), 0) FROM pull_stats") != turn:
                assert time.monotonic() < until_s
                time.sleep(0.01)
    finally:
        counter.close()


def test_sums_of_a_flush_that_failed_are_kept(
    writing: Writing, digests: list[Digest], monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = PullCounter(writing.database, max_age_s=1000)
    counter.count("app", digests[0], "v1")

    def fail(*_: object) -> None:
        raise errors.DatabaseUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(counting, "record_pulls", fail)
        with pytest.raises(errors.DatabaseUnavailable):
            counter.flush()
    counter.add(Pull("app", digests[0], "v1", datetime.now(UTC)))
    counter.close()
    assert of(writing, "app:v1").pulls == 2


def test_sums_that_do_not_fit_are_dropped_and_counted(
    writing: Writing, digests: list[Digest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "MAX_HELD", 1)
    counter = PullCounter(writing.database, max_age_s=1000)
    counter.count("app", digests[0])
    counter.count("app", digests[0])
    counter.count("app", digests[1])
    counter.close()
    assert (of(writing, "app").pulls, counter.dropped) == (2, 1)


def test_names_that_cannot_be_here_are_ignored_and_poison_nothing(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    digest = digest_of(image := builder.image())
    commit_one(writing, builder, image, layout)
    at = datetime.now(UTC)
    odd = [Pull(name, digest, None, at) for name in ("a\0b", "\ud800", "UPPER")]
    odd += [Pull("app", digest, tag, at) for tag in ("\0", "\ud800", "a b")]
    report = record_pulls(writing.database, [*odd, Pull("app", digest, "v1", at)])
    assert report.recorded == 1
    assert set(report.ignored) == set(odd)


@pytest.mark.parametrize("count", [0, -1, 1.5, True, 2**63])
def test_count_that_is_none_is_refused(database: Database, count: Any) -> None:
    with pytest.raises(UsageError, match="pulls: give 1 to"):
        record_pulls(database, [Pull("app", Digest.of(b""), None, datetime.now(UTC), count)])


def test_time_at_which_nothing_was_pulled_is_refused(database: Database) -> None:
    for at in (datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5))), datetime(9999, 12, 31, tzinfo=UTC)):
        with pytest.raises(UsageError, match="no time at which"):
            record_pulls(database, [Pull("app", Digest.of(b""), None, at)])
