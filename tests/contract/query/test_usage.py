"""How much room repositories take: now, in samples, and day by day."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from regmeta import errors
from regmeta.app import Writing
from regmeta.db import Database
from regmeta.maintain.delete.repository import delete_repository
from regmeta.maintain.usage import record_usage
from regmeta.query.lists.repositories import repositories
from regmeta.query.statistics.growth import growth
from regmeta.query.statistics.usage import Usage, _sampled, sampled_usage, usage
from regmeta.query.visibility import UnderPrefixes
from tests.builders import LayoutBuilder
from tests.support.clock import let_pass
from tests.support.registry import change, commit_one, rows, scalar

NAMES = ("lib", "team", "team/a", "team/b", "team0", "teams/c")


class Quiet:
    """Is told how a run gets on, and remembers."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def began(self, what: str, total: int | None) -> None:
        self.steps.append(-(total or 0))

    def advanced(self, steps: int) -> None:
        self.steps.append(steps)


@pytest.fixture
def filled(writing: Writing, builder: LayoutBuilder, layout: Path) -> Writing:
    """Repositories that share a base layer; those of one team another one, and each has one of its own."""
    base, common = builder.layer(b"base" * 100), builder.layer(b"common" * 100)
    for number, name in enumerate(NAMES):
        own = builder.layer(name.encode() * 50 * (number + 1))
        layers = [base, common, own] if name.startswith("team/") else [base, own]
        image = builder.image(layers)
        commit_one(writing, builder, image, layout, name, "v1")
        if name == "team/a":
            commit_one(writing, builder, image, layout, name, "v2")
            commit_one(writing, builder, builder.image([base, own]), layout, name, "v3")
    return writing


def links(database: Database, *names: str) -> dict[int, tuple[int, set[str]]]:
    """Return the blobs of repositories: id → size, and who holds them."""
    found: dict[int, tuple[int, set[str]]] = {}
    for blob, size, name in rows(
        database,
        "SELECT b.id, b.size_bytes, r.name FROM repository_blobs l JOIN blobs b ON b.id = l.blob_id"
        " JOIN repositories r ON r.id = l.repository_id",
    ):
        found.setdefault(blob, (size, set()))[1].add(name)
    return {blob: item for blob, item in found.items() if item[1] & set(names)}


def expected(database: Database, *names: str) -> tuple[int, int, int]:
    """Return blobs, unique bytes and exclusive bytes of some repositories, the slow way."""
    held = links(database, *names)
    return (
        len(held),
        sum(size for size, _ in held.values()),
        sum(size for size, owners in held.values() if owners <= set(names)),
    )


def test_each_repository_is_what_its_links_say_and_what_the_view_says(filled: Writing) -> None:
    found = usage(filled.database)
    assert {each.name for each in found} == set(NAMES)
    for each in found:
        assert (each.blobs, each.unique_bytes, each.exclusive_bytes) == expected(filled.database, each.name)
        assert each.shared_bytes == each.unique_bytes - each.exclusive_bytes > 0
    assert [each.unique_bytes for each in found] == sorted((e.unique_bytes for e in found), reverse=True)
    view = rows(
        filled.database,
        "SELECT repository, tags, manifests, blobs, logical_bytes, unique_bytes, exclusive_bytes"
        " FROM v_usage",
    )
    assert sorted((name, *map(int, numbers)) for name, *numbers in view) == sorted(
        (e.name, e.tags, e.manifests, e.blobs, e.logical_bytes, e.unique_bytes, e.exclusive_bytes)
        for e in found
    )
    [of_a] = [each for each in found if each.name == "team/a"]
    assert (of_a.tags, of_a.manifests) == (3, 2)
    assert of_a.logical_bytes > of_a.unique_bytes


def test_prefix_is_a_repository_and_what_is_below_it_not_what_begins_like_it(filled: Writing) -> None:
    assert {each.name for each in usage(filled.database, "team")} == {"team", "team/a", "team/b"}
    assert [each.name for each in usage(filled.database, "team/a")] == ["team/a"]
    with pytest.raises(errors.NotFound, match="tea: no such repository"):
        usage(filled.database, "tea")


def test_what_a_group_shares_within_counts_once_and_is_its_own(filled: Writing) -> None:
    found = {each.name: each for each in usage(filled.database, depth=1)}
    assert set(found) == {"lib", "team", "team0", "teams"}
    members = {"lib": ["lib"], "team": ["team", "team/a", "team/b"], "team0": ["team0"], "teams": ["teams/c"]}
    for name, group in members.items():
        each = found[name]
        assert (each.blobs, each.unique_bytes, each.exclusive_bytes) == expected(filled.database, *group)
    assert found["team"].repositories == 3
    [of_all] = usage(filled.database, depth=0)
    assert (of_all.name, of_all.repositories) == ("(all)", 6)
    assert (
        of_all.unique_bytes
        == of_all.exclusive_bytes
        == scalar(filled.database, "SELECT sum(size_bytes) FROM blobs")
    )
    [of_team] = usage(filled.database, "team", depth=0)
    assert (of_team.unique_bytes, of_team.exclusive_bytes) == (
        found["team"].unique_bytes,
        found["team"].exclusive_bytes,
    )
    with pytest.raises(errors.UsageError):
        usage(filled.database, depth=-1)


def test_who_sees_some_repositories_is_told_of_those_only(filled: Writing) -> None:
    record_usage(filled.database, Quiet())
    visible = UnderPrefixes(["team/a", "lib"])
    assert {each.name for each in usage(filled.database, visible=visible)} == {"team/a", "lib"}
    assert [each.repositories for each in usage(filled.database, depth=0, visible=visible)] == [2]
    assert {each.name for each in sampled_usage(filled.database, visible=visible).items} == {"team/a", "lib"}
    assert [point.repositories for point in growth(filled.database, visible=visible)] == [2]
    with pytest.raises(errors.NotFound, match="team/b"):
        usage(filled.database, "team/b", visible=visible)


def test_samples_say_what_was_measured_and_come_in_pages(filled: Writing) -> None:
    progress = Quiet()
    report = record_usage(filled.database, progress, batch=4)
    assert (report.measured, report.left, progress.steps) == (6, 0, [-6, 4, 2])
    live = {each.name: each for each in usage(filled.database)}
    found, cursor = list[Usage](), None
    while True:
        page = sampled_usage(filled.database, after=cursor, limit=2)
        found += page.items
        cursor = page.next
        if cursor is None:
            break
    assert [each.unique_bytes for each in found] == [each.unique_bytes for each in live.values()]
    for each in found:
        assert each.sampled_at is not None
        assert each.logical_bytes == live[each.name].logical_bytes
        assert each.exclusive_bytes == live[each.name].exclusive_bytes
    below = sampled_usage(filled.database, "team").items
    assert {each.name for each in below} == {"team", "team/a", "team/b"}


def test_later_sample_of_a_day_stands_and_a_resumed_run_measures_the_rest(filled: Writing) -> None:
    record_usage(filled.database, Quiet())
    change(filled.database, "UPDATE usage_samples SET tags = 77")
    change(filled.database, "DELETE FROM usage_samples WHERE repository_id = 3")
    report = record_usage(filled.database, Quiet(), resume=True, batch=2)
    assert (report.measured, report.left) == (1, 5)
    assert scalar(filled.database, "SELECT count(*) FROM usage_samples WHERE tags = 77") == 5
    record_usage(filled.database, Quiet())
    assert scalar(filled.database, "SELECT count(*) FROM usage_samples WHERE tags = 77") == 0
    assert scalar(filled.database, "SELECT count(*) FROM usage_samples") == 6


def test_day_that_is_not_whole_is_not_shown(filled: Writing) -> None:
    database = filled.database
    assert sampled_usage(database).items == ()
    record_usage(database, Quiet())
    change(database, "UPDATE usage_samples SET day = day - 1, tags = 9")
    record_usage(database, Quiet())
    change(
        database,
        "DELETE FROM usage_samples WHERE tags <> 9 AND repository_id > 2",
    )
    assert {each.tags for each in sampled_usage(database).items} == {9}
    record_usage(database, Quiet(), resume=True)
    assert 9 not in {each.tags for each in sampled_usage(database).items}


class Interrupted(Exception):
    pass


class Interrupting(Quiet):
    def advanced(self, steps: int) -> None:
        raise Interrupted


def test_list_of_repositories_shows_the_day_before_while_a_run_is_not_whole(filled: Writing) -> None:
    database = filled.database
    record_usage(database, Quiet())
    change(database, "UPDATE usage_samples SET day = day - 1, unique_bytes = 1000 + repository_id")
    with pytest.raises(Interrupted):
        record_usage(database, Interrupting(), batch=2)
    sizes = {name: 1000 + number for number, name in rows(database, "SELECT id, name FROM repositories")}
    for sort in ("size", "tags", "manifests", "name", "updated", "stars", "pulls"):
        found = repositories(database, sort=sort).items
        assert {each.name: each.size_bytes for each in found} == sizes, sort
    first = repositories(database, sort="size", limit=2)
    record_usage(database, Quiet(), resume=True)
    rest = repositories(database, sort="size", after=first.next)
    assert {each.name: each.size_bytes for each in (*first.items, *rest.items)} == sizes
    assert {each.name: each.size_bytes for each in repositories(database).items} == {
        each.name: each.unique_bytes for each in usage(database)
    }


def test_size_of_a_repository_that_came_since_is_not_of_another_day(
    filled: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    database = filled.database
    record_usage(database, Quiet())
    change(database, "UPDATE usage_samples SET day = day - 1")
    first = repositories(database, sort="size", limit=5)
    commit_one(filled, builder, builder.image(), layout, "zoo", "v1")
    record_usage(database, Quiet())
    rest = repositories(database, sort="size", after=first.next).items
    assert [(each.name, each.size_bytes is None) for each in rest][1:] == [("zoo", True)]


def test_newest_repository_that_is_deleted_does_not_hold_the_day_back(filled: Writing) -> None:
    database = filled.database
    record_usage(database, Quiet())
    change(database, "UPDATE usage_samples SET day = day - 1, tags = 9")
    delete_repository(filled.writer, NAMES[-1])
    record_usage(database, Quiet())
    found = sampled_usage(database).items
    assert (len(found), 9 in {each.tags for each in found}) == (5, False)


def test_two_days_that_are_not_whole_are_both_not_shown(filled: Writing) -> None:
    database = filled.database
    record_usage(database, Quiet())
    for tags in (9, 8):
        change(database, "UPDATE usage_samples SET day = day - 1")
        change(database, f"UPDATE usage_samples SET tags = {tags} WHERE tags NOT IN (8, 9)")
        with pytest.raises(Interrupted):
            record_usage(database, Interrupting(), batch=2)
    assert [each.tags for each in sampled_usage(database).items] == [9] * 6


def test_growth_is_a_point_for_each_day_that_has_samples(
    filled: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    database = filled.database
    record_usage(database, Quiet())
    change(database, "UPDATE usage_samples SET day = day - 3")
    let_pass(database, timedelta(days=3))
    commit_one(filled, builder, builder.image(), layout, "team/a", "new")
    record_usage(database, Quiet())
    before, now = growth(database, "team/a")
    assert (now.day - before.day, before.repositories) == (timedelta(days=3), 1)
    assert (before.manifests, now.manifests) == (2, 3)
    assert now.unique_bytes > before.unique_bytes
    assert [point.repositories for point in growth(database)] == [6, 6]
    assert [point.repositories for point in growth(database, days=2)] == [6]
    assert growth(database, "nothing") == ()
    for days in (0, 100_000):
        with pytest.raises(errors.UsageError):
            growth(database, days=days)


def test_deleted_repository_takes_no_room_that_is_shown(filled: Writing) -> None:
    record_usage(filled.database, Quiet())
    delete_repository(filled.writer, "lib")
    assert "lib" not in {each.name for each in usage(filled.database)}
    assert "lib" not in {each.name for each in sampled_usage(filled.database).items}
    assert record_usage(filled.database, Quiet()).measured == 5


def test_list_of_samples_is_read_from_its_index(filled: Writing) -> None:
    if not filled.database.is_sqlite:
        pytest.skip("a small table is scanned there")
    record_usage(filled.database, Quiet())
    with filled.database.read() as connection:
        for is_next in (False, True):
            compiled = _sampled(False, is_next).compile(connection)
            values = compiled.construct_params({"day": 1, "page": 3, "bytes": 5, "id": 5})
            given = tuple(values[name] for name in compiled.positiontup)
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}", given)
            text = " ".join(str(row[3]) for row in plan)
            assert "ix_usage_samples_day_unique_bytes_repository_id" in text, text
            assert "TEMP B-TREE" not in text, text
