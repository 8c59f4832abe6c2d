"""Statistics of a zot that is taken over: kept once, for what is here, and never as pulls of a day."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from regmeta import db
from regmeta.app import Writing
from regmeta.ingest import adopted_statistics
from regmeta.ingest.adopted_statistics import StatisticsProblem, StatisticsReport, take_statistics
from regmeta.ingest.pulls import Pull, record_pulls
from regmeta.maintain.delete.repository import delete_repository
from regmeta.maintain.retention.plan import make_plan
from regmeta.maintain.retention.policy import Policy, Rule, Untagged
from regmeta.maintain.retention.untagged import keeper_of_untagged
from regmeta.oci.digest import Digest
from regmeta.oci.names import Reference
from regmeta.query.images.summary import summary
from regmeta.query.lists.tags import TagFilter, tags
from regmeta.query.statistics import pulls as statistics
from regmeta.query.statistics.favorites import favorite_counts, favorites
from regmeta.sources.zot import ImageStatistics, RepositoryStatistics
from tests.builders import LayoutBuilder, digest_of
from tests.support.registry import change, commit_one, dump, rows, scalar

LAST = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
PUSHED = datetime(2023, 1, 2, tzinfo=UTC)
ABSENT = Digest.of(b"not here")
DAY = timedelta(days=1)


@pytest.fixture
def images(writing: Writing, builder: LayoutBuilder, layout: Path) -> list[Digest]:
    """Two images that were taken over, one of them with two tags, and one that was pushed here."""
    made = [builder.image() for _ in range(3)]
    for tag, image in (("v1", made[0]), ("latest", made[0]), ("v2", made[1]), ("v3", made[2])):
        commit_one(writing, builder, image, layout, "app", tag)
    found = [digest_of(image) for image in made]
    for digest in found[:2]:
        change(
            writing.database,
            "UPDATE manifests SET pushed_by = 'adopt:kim' WHERE digest = :of",
            of=digest.to_bytes(),
        )
    return found


def said(images: list[Digest]) -> RepositoryStatistics:
    return RepositoryStatistics(
        "app",
        (
            ImageStatistics(images[0], 12, LAST, PUSHED, "ann"),
            ImageStatistics(images[1], 0, None, PUSHED),
            ImageStatistics(images[2], 3, LAST - DAY, PUSHED, "ann"),
            ImageStatistics(ABSENT, 99, LAST, PUSHED, "ann"),
        ),
        stars=3,
        starred_by=("ann", "bob"),
        bookmarked_by=("bob",),
    )


def take(writing: Writing, *found: RepositoryStatistics) -> StatisticsReport:
    return take_statistics(writing.database, found)


def pushes(writing: Writing) -> list[tuple[datetime | None, str]]:
    found = rows(writing.database, "SELECT pushed_at, pushed_by FROM manifests ORDER BY id")
    return [(datetime.fromtimestamp(at / 1e6, UTC), by) for at, by in found]


def test_totals_count_for_the_image_and_on_no_day(writing: Writing, images: list[Digest]) -> None:
    report = take(writing, said(images))
    assert report == StatisticsReport(
        repositories=1, manifests=3, pulls=15, changed=7, absent=1, unnamed_stars=1
    )
    image = summary(writing.database, Reference.parse("app:v1"))
    assert (image.pulls, image.last_pulled_at) == (12, LAST)
    assert summary(writing.database, Reference.parse("app:v2")).last_pulled_at is None
    whole = statistics.pulls(writing.database, Reference.parse("app"), days=3660)
    assert (whole.pulls, whole.last_pulled_at) == (0, LAST)
    assert {each.pulls for each in whole.days} == {0}
    assert statistics.top_repositories(writing.database, days=3660) == ()


def test_taking_the_same_again_changes_nothing(writing: Writing, images: list[Digest]) -> None:
    take(writing, said(images))
    before = dump(writing.database)
    report = take(writing, said(images))
    assert (report.changed, report.pulls) == (0, 15)
    assert dump(writing.database) == before


def test_old_registry_that_went_on_counting_adds_only_what_is_new(
    writing: Writing, images: list[Digest]
) -> None:
    take(writing, said(images))
    record_pulls(writing.database, [Pull("app", images[0], "v1", datetime.now(UTC), 5)])
    later = ImageStatistics(images[0], 20, LAST + DAY, PUSHED, "ann")
    lost = ImageStatistics(images[2], 1, LAST - DAY * 9, PUSHED)  # its database was made again
    assert take(writing, RepositoryStatistics("app", (later, lost))).changed == 1
    assert summary(writing.database, Reference.parse("app:v1")).pulls == 25
    assert summary(writing.database, Reference.parse("app:v3")).pulls == 3
    tagged = statistics.pulls(writing.database, Reference.parse(f"app@{images[0]}"))
    assert tagged.pulls == 5


def test_every_tag_of_an_image_may_be_the_one_that_was_pulled(writing: Writing, images: list[Digest]) -> None:
    take(writing, said(images))
    found = tags(writing.database, "app", TagFilter(pulled=True)).items
    assert {item.name: item.pulled_at for item in found} == {"latest": LAST, "v1": LAST, "v3": LAST - DAY}
    assert statistics.pulls(writing.database, Reference.parse("app:v1")).last_pulled_at is None


def test_retention_knows_of_the_pulls_and_takes_no_silence_for_knowledge(
    writing: Writing, images: list[Digest]
) -> None:
    with writing.database.read() as connection:
        now = db.clock(connection)
    first = ImageStatistics(images[0], 5, now - DAY * 2, None)
    second = ImageStatistics(images[1], 5, now - DAY * 9, None)
    take(writing, RepositoryStatistics("app", (first, second)))
    policies = [
        Policy(
            "used", ("**",), (Rule("used", pulled_within=DAY * 3),), untagged=Untagged(pulled_within=DAY * 3)
        )
    ]
    keeper = keeper_of_untagged(policies)
    assert keeper is not None

    def dropped() -> set[str]:
        plan = make_plan(writing.database, policies, writing.writer.immutable)
        return {decision.tag for decision in plan.decisions if decision.decision == "drop"}

    def kept() -> int:
        of = scalar(writing.database, "SELECT id FROM repositories")
        ids = [number for (number,) in rows(writing.database, "SELECT id FROM manifests")]
        with writing.database.read() as connection:
            return len(keeper(connection, of, "app", ids, now))

    assert (dropped(), kept()) == (set(), 3)
    record_pulls(writing.database, [Pull("app", images[1], "v9", now - DAY * 8)])
    assert (dropped(), kept()) == ({"v2", "v3"}, 1)


def test_pushes_are_said_of_what_was_taken_over_only(writing: Writing, images: list[Digest]) -> None:
    before = pushes(writing)
    take(writing, said(images))
    assert pushes(writing) == [(PUSHED, "zot:ann"), (PUSHED, "adopt:kim"), before[2]]
    later = ImageStatistics(images[0], 12, LAST, PUSHED + DAY, "ann")
    assert take(writing, RepositoryStatistics("app", (later,))).changed == 0


def test_times_that_cannot_be_are_none(writing: Writing, images: list[Digest]) -> None:
    before = pushes(writing)
    with writing.database.read() as connection:
        now = db.clock(connection)
    ahead = ImageStatistics(images[0], 5, now + DAY * 2, now + DAY * 2)
    soon = ImageStatistics(images[1], 6, now + DAY / 2, now + DAY / 2)
    undated = ImageStatistics(images[2], 7, None, None)
    report = take(writing, RepositoryStatistics("app", (ahead, soon, undated)))
    assert (report.pulls, report.undated, report.changed) == (6, 2, 1)
    assert pushes(writing) == before
    last = statistics.pulls(writing.database, Reference.parse("app")).last_pulled_at
    assert last is not None
    assert now <= last < now + DAY / 4
    assert summary(writing.database, Reference.parse("app:v1")).last_pulled_at is None


def test_favourites_are_those_of_users_who_are_named(writing: Writing, images: list[Digest]) -> None:
    one = replace(said(images), starred_by=("ann", " x", "bob"))
    report = take(writing, one)
    assert report.problems == (
        StatisticsProblem("app", "user ' x': give 1 to 255 printable characters, no blanks around them"),
    )
    counts = favorite_counts(writing.database, "app")
    assert (counts.stars, counts.bookmarks) == (2, 1)
    assert [each.kind for each in favorites(writing.database, "bob").items] == ["bookmark", "star"]
    assert take(writing, RepositoryStatistics("app", stars=9)).unnamed_stars == 9
    assert favorite_counts(writing.database, "app").stars == 2


def test_repositories_that_are_not_here_make_no_rows(writing: Writing, images: list[Digest]) -> None:
    delete_repository(writing.writer, "app")
    before = dump(writing.database)
    gone = said(images)
    bad = RepositoryStatistics("../x", problems=("not a repository name",))
    report = take(
        writing, gone, replace(gone, repository="other"), bad, RepositoryStatistics("", problems=("u",))
    )
    assert report == StatisticsReport(
        absent_repositories=2,
        problems=(StatisticsProblem("../x", "not a repository name"), StatisticsProblem("", "u")),
    )
    assert dump(writing.database) == before


def test_repositories_can_have_another_name_here(writing: Writing, images: list[Digest]) -> None:
    one = replace(said(images), repository="old/app")
    report = take_statistics(writing.database, [one], name_here=lambda name: name.removeprefix("old/"))
    assert (report.repositories, report.pulls) == (1, 15)


def test_only_some_problems_are_told(
    writing: Writing, images: list[Digest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adopted_statistics, "MAX_PROBLEMS", 3)
    one = RepositoryStatistics("app", problems=("a", "b"))
    assert len(take(writing, one, one, one).problems) == 3


def test_error_on_the_way_keeps_what_came_before(writing: Writing, images: list[Digest]) -> None:
    def found() -> Iterator[RepositoryStatistics]:
        yield said(images)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        take_statistics(writing.database, found())
    assert summary(writing.database, Reference.parse("app:v1")).pulls == 12
