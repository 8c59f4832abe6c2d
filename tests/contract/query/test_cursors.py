"""What no page can be asked for: limits and cursors, those that others made up as well."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from regmeta import errors
from regmeta.app import Writing
from regmeta.ingest.favorites import set_favorite
from regmeta.oci.names import Reference
from regmeta.query import blobs, cursors, feed
from regmeta.query.graph import lineage, members, prefixes, referrers, sharing
from regmeta.query.lists.blobs import blobs as list_blobs
from regmeta.query.lists.manifests import manifests
from regmeta.query.lists.repositories import repositories
from regmeta.query.lists.tags import tags
from regmeta.query.statistics import favorites, pulls, usage
from tests.builders import LayoutBuilder, digest_of
from tests.support.registry import change, commit_one, rows

Ask = Callable[..., Any]


@pytest.fixture
def asks(writing: Writing, builder: LayoutBuilder, layout: Path) -> dict[str, Ask]:
    """Everything that takes a limit, and the mark of its cursors."""
    database = writing.database
    children = [builder.image(), builder.image()]
    index = builder.index(children)
    for name in ("app", "team/x"):
        commit_one(writing, builder, index, layout, name, "v1")
    set_favorite(database, "ann", "star", "app")
    whole, child, at = digest_of(index), digest_of(children[0]), Reference.parse("app:v1")
    return {
        f"children app@{whole}": lambda **more: members.children(database, at, **more),
        f"parents app@{child}": lambda **more: members.parents(database, "app", child, **more),
        f"referrers app {whole} ()": lambda **more: referrers.referrers(database, "app", whole, **more),
        f"repositories of blob {child}": lambda **more: blobs.blob_repositories(database, child, **more),
        f"users of blob {child}": lambda **more: blobs.blob_users(database, child, **more),
        f"bases None app@{whole}": lambda **more: lineage.bases(database, at, **more),
        f"derived None app@{whole}": lambda **more: lineage.derived(database, at, **more),
        f"same layers None app@{whole}": lambda **more: lineage.same_layers(database, at, **more),
        "favorites ann None": lambda **more: favorites.favorites(database, "ann", **more),
        "usage None": lambda **more: usage.sampled_usage(database, **more),
        "repositories name up []": lambda **more: repositories(database, **more),
        "repositories created up []": lambda **more: repositories(database, sort="created", **more),
        "tree": lambda **more: referrers.referrer_tree(database, "app", whole, **more),
        "digests": lambda **more: prefixes.digests(database, str(whole)[:9], **more),
        "top repositories": lambda **more: pulls.top_repositories(database, **more),
        "top images": lambda **more: pulls.top_images(database, **more),
        "pushers": lambda **more: pulls.pushers(database, "app", **more),
        "dedup": lambda **more: sharing.dedup(database, **more),
        "feed": lambda **more: feed.events(database, **more),
    }


KEYS = {"users": 2, "bases": 3, "derived": 3, "same": 3, "favorites": 2, "usage": 3}


def test_limit_below_one_or_too_great_is_refused_by_everything_that_takes_one(asks: dict[str, Ask]) -> None:
    for name, ask in asks.items():
        for limit in (0, -1, 1_000_001, 2**63, 10**30):
            with pytest.raises(errors.UsageError, match=f"limit {limit}"):
                pytest.fail(f"{name}: {ask(limit=limit)}")
        ask(limit=1), ask(limit=1_000_000)


def made_up(question: str, keys: list[Any]) -> str:
    """Make a cursor as somebody could who knows how it is made."""
    content = cursors._mark(question) + json.dumps(keys).encode()
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


@pytest.mark.parametrize("key", [None, 2**63, -(2**63) - 1, 2**200, 1.5, True, [], "a\0b", "\ud800", 7, "x"])
def test_cursor_with_what_no_row_has_is_refused_or_followed(asks: dict[str, Ask], key: object) -> None:
    for question, ask in asks.items():
        if " " not in question or question.startswith("top"):
            continue
        keys = [key] * KEYS.get(question.split()[0], 2 if "created" in question else 1)
        is_text = question.startswith(("favorites", "repositories name"))
        if (type(key) is int and abs(key) < 2**63 and not is_text) or (key == "x" and is_text):
            ask(after=made_up(question, keys))
            continue
        with pytest.raises(errors.UsageError, match="no cursor"):
            pytest.fail(f"{question}: {ask(after=made_up(question, keys))}")


def test_tree_of_referrers_has_a_bounded_depth(asks: dict[str, Ask]) -> None:
    for depth in (0, -1, 101):
        with pytest.raises(errors.UsageError, match=f"depth {depth}"):
            asks["tree"](depth=depth)
    assert asks["tree"](depth=100).referrers == ()


@pytest.mark.parametrize("bad", ["no time", b"\xff\x00"])
def test_page_that_ends_with_a_damaged_key_says_so_and_other_pages_go_on(
    writing: Writing, asks: dict[str, Ask], bad: object
) -> None:
    """A row that another program wrote is shown, but no list can go on behind it."""
    database = writing.database
    if not database.is_sqlite:
        pytest.skip("a column takes its type only")
    change(database, "UPDATE repositories SET created_at = :bad WHERE name = 'app'", bad=bad)
    change(database, "UPDATE tags SET started_at = :bad WHERE repository_id = 1", bad=bad)
    change(database, "UPDATE manifests SET pushed_at = :bad WHERE id = 1", bad=bad)
    change(database, "UPDATE blobs SET created_at = :bad WHERE id = 1", bad=bad)
    lists: list[Ask] = [
        lambda **more: repositories(database, sort="created", **more),
        lambda **more: tags(database, sort="tagged", **more),
        lambda **more: manifests(database, sort="pushed", **more),
        lambda **more: list_blobs(database, sort="created", **more),
    ]
    for ask in lists:
        with pytest.raises(errors.IntegrityError, match="regmeta verify"):
            ask(descending=True, limit=1)
        first = ask(descending=True, limit=2) if ask not in lists[:2] else ask(limit=1)
        rest = ask(descending=ask not in lists[:2], after=first.next) if first.next else None
        assert len(first.items) + len(rest.items if rest else ()) == len(ask().items) > 1


@pytest.mark.inconsistent
def test_name_that_another_program_wrote_ends_a_page_as_any(writing: Writing, asks: dict[str, Ask]) -> None:
    change(writing.database, "UPDATE repositories SET name = 'é' WHERE name = 'app'")
    change(writing.database, "UPDATE repositories SET name = 'ü' WHERE name = 'team/x'")
    first = repositories(writing.database, limit=1)
    rest = repositories(writing.database, after=first.next)
    assert [each.name for each in (*first.items, *rest.items)] == ["é", "ü"]
    assert len(rows(writing.database, "SELECT id FROM repositories")) == 2
