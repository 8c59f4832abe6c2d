"""Lists of much: what a page costs, how a whole list is streamed, and what others change meanwhile."""

from __future__ import annotations

import multiprocessing
import random
import sqlite3
import tracemalloc
from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Final

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from regmeta.db import Database
from regmeta.errors import UsageError
from regmeta.models import Base
from regmeta.oci import globs
from regmeta.oci.digest import Digest
from regmeta.query.lists import every, filters
from regmeta.query.lists.blobs import blobs
from regmeta.query.lists.manifests import manifests
from regmeta.query.lists.repositories import repositories
from regmeta.query.lists.tags import TagFilter, TagSort, tags
from tests.support.plans import plans, scans
from tests.support.seed import NOW, blob, manifest, repository, tag
from tests.support.statements import counted

MANY: Final = 20_000
IMAGE: Final = Digest.of(b"image")


def fill(database: Database, count: int, images: int = 50) -> None:
    """Make a repository with so many tags of a few images, and some small ones beside it."""
    tables = Base.metadata.tables
    digests = [Digest.of(b"%d" % number) for number in range(images)]
    with database.transaction("test") as connection:
        names = ["app", *(f"team/r{number}" for number in range(9))]
        connection.execute(
            sa.insert(tables["repositories"]), [repository(i, name) for i, name in enumerate(names, 1)]
        )
        connection.execute(sa.insert(tables["blobs"]), [blob(i, d) for i, d in enumerate(digests, 1)])
        connection.execute(
            sa.insert(tables["manifests"]),
            [manifest(i, d, "image", blob_id=i) for i, d in enumerate(digests, 1)],
        )
        connection.execute(sa.insert(tables["tags"]), list(_tags(count, digests)))


def _tags(count: int, digests: list[Digest]) -> Iterable[dict[str, Any]]:
    for number in range(1, count + 1):
        of = number % len(digests)
        yield tag(
            number,
            f"v{number:07}",
            manifest_id=of + 1,
            manifest_digest=digests[of],
            started_at=NOW + timedelta(seconds=number % 1000),
        )


def test_first_page_of_20000_tags_is_two_statements_that_read_its_rows(database: Database) -> None:
    fill(database, MANY)
    after = None
    for _ in range(2):
        with counted(database.engine) as sent:
            page = tags(database, "app", after=after)
        assert (len(page.items), len(sent)) == (100, 2), str(sent)
        for plan in plans(database, lambda after=after: tags(database, "app", after=after)):  # type: ignore[misc]
            assert scans(plan) == []
            assert "TEMP B-TREE" not in plan
        after = page.next
    assert tags(database, "app", total=True).total == MANY


def test_orders_that_have_an_index_sort_nothing(database: Database) -> None:
    fill(database, 500)
    for read, statements in (
        (lambda: tags(database, "app", sort="tagged", descending=True), 2),
        (lambda: tags(database), 1),
        (lambda: repositories(database), 1),
        (lambda: repositories(database, sort="updated"), 1),
        (lambda: manifests(database, "app"), 3),
        (lambda: manifests(database, sort="id"), 2),
        (lambda: blobs(database, sort="size", descending=True), 1),
    ):
        found = plans(database, read)
        assert len(found) == statements
        if database.is_sqlite:
            # The tags of a page's manifests are sorted by name, and they are few.
            assert not [plan for plan in found if "TEMP B-TREE" in plan and "ix_tags_manifest_id" not in plan]


def test_pattern_that_fits_few_of_many_names_is_found_across_batches(database: Database) -> None:
    fill(database, 5000)
    where = TagFilter(name="v*[05]99?")
    wanted = [f"v{n:07}" for n in range(1, 5001) if globs.matches(["v*[05]99?"], f"v{n:07}")]
    found = every(lambda after: tags(database, "app", where, after=after, limit=3))
    assert [t.name for t in found] == wanted
    assert tags(database, "app", where, total=True).total == len(wanted) == 10


@pytest.mark.soak
def test_whole_list_is_streamed_in_bounded_memory(database: Database) -> None:
    fill(database, MANY)
    peaks = []
    for end in (2000, MANY):
        tracemalloc.start()
        count = 0
        for _ in every(lambda after: tags(database, "app", after=after, limit=500)):
            count += 1
            if count == end:
                break
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert count == end
    assert peaks[1] < peaks[0] + 500_000


# --- others write meanwhile -------------------------------------------------------------------


def _disturb(url: str, seed: int, go_on: Any) -> None:
    """Insert and delete tags that are not stable, and move some, until told to stop."""
    chance, database = random.Random(seed), Database(url)
    number = 10_000_000
    while go_on.is_set():
        with database.transaction("test") as connection:
            for _ in range(50):
                number += 1
                values = {"id": number, "name": f"v{chance.randrange(100_000):07}-{number}"}
                connection.execute(
                    sa.text(
                        "INSERT INTO tags"
                        " (id, repository_id, name, manifest_digest, manifest_id, started_at, started_by)"
                        " SELECT :id, 1, :name, digest, id, pushed_at + :id % 1000000000, 'x'"
                        " FROM manifests WHERE id = 1"
                    ),
                    values,
                )
            low = chance.randrange(100_000)
            connection.execute(
                sa.text("DELETE FROM tags WHERE id BETWEEN :low AND :high AND id % 10 = 0"),
                {"low": low, "high": low + 500},
            )
            connection.execute(sa.text("DELETE FROM tags WHERE id > 10000000 AND id % 3 = 0"))
    database.close()


@pytest.mark.soak
@pytest.mark.parametrize("sort", ["name", "tagged"])
@pytest.mark.parametrize("descending", [False, True])
def test_paging_through_100000_tags_while_another_process_inserts_and_deletes(
    database: Database, database_url: str, sort: TagSort, descending: bool
) -> None:
    fill(database, 100_000)
    context = multiprocessing.get_context("spawn")
    go_on = context.Event()
    go_on.set()
    other = context.Process(target=_disturb, args=(database_url, 1, go_on))
    other.start()
    try:
        names = Counter(
            t.name
            for t in every(
                lambda after: tags(database, "app", sort=sort, descending=descending, after=after, limit=1000)
            )
        )
    finally:
        go_on.clear()
        other.join(60)
    assert other.exitcode == 0
    stable = {f"v{number:07}" for number in range(1, 100_001) if number % 10}
    assert {name: names[name] for name in stable if names[name] != 1} == {}
    assert len(names) > len(stable)


# --- patterns ---------------------------------------------------------------------------------

_piece = st.sampled_from(
    ["a", "b", "ab", ".", "_", "-", "/", "*", "**", "?", "[ab]", "[!a]", "{a,b}", "{a,/b*}", "{1..3}"]
)
_names = st.from_regex(r"[ab][ab._-]{0,3}(?:/[ab1-3][ab_]{0,2}){0,2}", fullmatch=True)


_patterns = st.lists(_piece, min_size=1, max_size=6).map("".join)


@given(_patterns, st.lists(_names, min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_what_a_pattern_matches_is_never_left_out_by_the_statement(pattern: str, names: list[str]) -> None:
    check_pattern(pattern, names)


@pytest.mark.soak
@given(_patterns, st.lists(_names, min_size=1, max_size=8))
@settings(max_examples=1000, deadline=None)
def test_what_many_patterns_match_is_never_left_out(pattern: str, names: list[str]) -> None:
    check_pattern(pattern, names)


def check_pattern(pattern: str, names: list[str]) -> None:
    try:
        globs.check(pattern)
    except UsageError:
        return
    form, values = filters._glob(pattern)
    with sqlite3.connect(":memory:") as connection:
        for name in names:
            if not globs.matches([pattern], name):
                continue
            if form == "is":
                assert values["name_is"] == name
                continue
            sql = "SELECT :name LIKE :name_like ESCAPE '!'"
            assert connection.execute(sql, {"name": name, **values}).fetchone()[0], values
            assert values.get("name_from", "") <= name < values.get("name_until", "\U0010ffff")
