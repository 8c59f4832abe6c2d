"""What the upstream has no more goes here too, if that is wanted, and never by mistake (I8)."""

from __future__ import annotations

import re

import pytest

from regmeta.app import Writing
from regmeta.ingest.tag_locks import lock_tags, unlock_tags
from regmeta.ingest.tags import set_tag
from regmeta.sync.items import ALL_TAGS
from regmeta.sync.policy import ContentRule
from tests.builders import LayoutBuilder, digest_of
from tests.support.mirroring import bring, noted, outcome_of, sync
from tests.support.registries.bad_registry import BadRegistry
from tests.support.registries.rules import Cut, Rule, Status
from tests.support.registry import tags

DELETE = {"upstream_deletes": "delete"}


@pytest.fixture
def remote(bad_registry: BadRegistry, builder: LayoutBuilder) -> BadRegistry:
    """A registry with v0 to v29."""
    for number in range(30):
        builder.tag(builder.image([b"%d" % number]), f"v{number}")
    bad_registry.push(builder, "app")
    return bad_registry


def remove(remote: BadRegistry, *names: str) -> None:
    for name in names:
        del remote.tags["app"][name]


def test_tag_stays_where_deletes_are_not_followed(writing: Writing, remote: BadRegistry) -> None:
    sync(remote, writing)
    remove(remote, "v1")
    assert sync(remote, writing).counts.removed == 0
    assert "v1" in tags(writing.database)


def test_tag_goes_where_deletes_are_followed(writing: Writing, remote: BadRegistry) -> None:
    sync(remote, writing, **DELETE)
    remove(remote, "v1", "v2")
    report = sync(remote, writing, **DELETE)
    assert report.counts.removed == 2
    assert tags(writing.database).keys() == remote.tags["app"].keys()
    assert noted(writing)["v1"] == ("removed", None, 0)
    assert sync(remote, writing, **DELETE).counts.removed == 0


def test_tag_of_others_stays(writing: Writing, remote: BadRegistry) -> None:
    sync(remote, writing, **DELETE)
    set_tag(writing.writer, "app", "own", tags(writing.database)["v1"])
    remove(remote, "v1")
    sync(remote, writing, **DELETE)
    assert "own" in tags(writing.database)


def test_tag_that_somebody_moved_here_stays(writing: Writing, remote: BadRegistry) -> None:
    sync(remote, writing, **DELETE)
    set_tag(writing.writer, "app", "v1", tags(writing.database)["v2"])
    remove(remote, "v1")
    report = sync(remote, writing, **DELETE)
    assert tags(writing.database)["v1"] == tags(writing.database)["v2"]
    assert "was moved" in str(outcome_of(report, "v1").reason)


def test_tag_that_is_not_wanted_any_more_stays(writing: Writing, remote: BadRegistry) -> None:
    """It is there still."""
    sync(remote, writing, **DELETE)
    narrow = (ContentRule("app", exclude=(re.compile("v1"),)),)
    assert sync(remote, writing, content=narrow, **DELETE).counts.removed == 0
    assert "v1" in tags(writing.database)


@pytest.mark.parametrize(
    "rule",
    [
        Status(200, {"Content-Type": "application/json"}, b'{"name": "app", "tags": []}'),
        Status(200, {"Content-Type": "application/json"}, b'{"name": "app", "tags": null}'),
        Status(200, {"Content-Type": "application/json"}, b"{}"),
        Status(404),
        Status(500),
        Status(401),
        Cut(after_bytes=20),
    ],
    ids=["empty", "null", "nothing", "404", "500", "401", "cut"],
)
@pytest.mark.slow
def test_error_or_empty_list_removes_nothing(writing: Writing, remote: BadRegistry, rule: Rule) -> None:
    sync(remote, writing, **DELETE)
    before = tags(writing.database)
    remote.misbehave("/tags/list", rule)
    report = sync(remote, writing, believe_deletes=True, **DELETE)
    assert report.counts.removed == 0
    assert tags(writing.database) == before
    assert len(before) == 30


def test_repository_that_vanished_from_the_catalog_stays(writing: Writing, remote: BadRegistry) -> None:
    sync(remote, writing, "*", **DELETE)
    del remote.tags["app"]
    remote.tags["other"] = {}
    sync(remote, writing, "*", **DELETE)
    assert len(tags(writing.database)) == 30


def test_implausible_share_of_deletes_is_refused_until_it_is_believed(
    writing: Writing, remote: BadRegistry
) -> None:
    sync(remote, writing, **DELETE)
    remove(remote, *[f"v{number}" for number in range(20)])
    for attempt in (1, 2):
        report = sync(remote, writing, **DELETE)
        assert (report.counts.removed, report.counts.failed) == (0, 1)
        assert len(tags(writing.database)) == 30
        assert noted(writing)[ALL_TAGS] == ("failed", "ImplausibleDeletes", attempt)
    assert sync(remote, writing, only_due=True, **DELETE).counts.removed == 0
    assert sync(remote, writing, believe_deletes=True, **DELETE).counts.removed == 20
    assert tags(writing.database).keys() == remote.tags["app"].keys()
    assert noted(writing)[ALL_TAGS][0] == "removed"


def test_half_of_the_tags_may_go(writing: Writing, remote: BadRegistry) -> None:
    sync(remote, writing, **DELETE)
    remove(remote, *[f"v{number}" for number in range(15)])
    assert sync(remote, writing, **DELETE).counts.removed == 15


def test_immutable_tag_stays_and_is_removed_when_it_may_be(writing: Writing, remote: BadRegistry) -> None:
    sync(remote, writing, **DELETE)
    lock_tags(writing.writer, "app", "v1")
    remove(remote, "v1", "v2")
    for attempt in (1, 2):
        report = sync(remote, writing, **DELETE)
        assert outcome_of(report, "v1").error_class == "ImmutableTag"
        assert noted(writing)["v1"] == ("failed", "ImmutableTag", attempt)
        assert "v1" in tags(writing.database)
    assert "v2" not in tags(writing.database)
    unlock_tags(writing.writer, "app", "v1")
    assert sync(remote, writing, **DELETE).counts.removed == 1
    assert "v1" not in tags(writing.database)


def test_tag_goes_though_its_last_update_failed(
    writing: Writing, remote: BadRegistry, builder: LayoutBuilder
) -> None:
    sync(remote, writing, **DELETE)
    builder.tag(builder.image([b"moved"]), "v1")
    remote.push(builder, "app")
    remote.misbehave("/manifests/v1$", Status(500))
    assert sync(remote, writing, **DELETE).counts.failed == 1
    remote.behave()
    remove(remote, "v1")
    sync(remote, writing, **DELETE)
    assert "v1" not in tags(writing.database)
    assert noted(writing)["v1"][0] == "removed"


def test_image_that_was_asked_for_by_digest_is_no_tag_to_remove(
    writing: Writing, remote: BadRegistry, builder: LayoutBuilder
) -> None:
    sync(remote, writing, **DELETE)
    bring(remote, writing, str(digest_of(builder.entries[0])))
    report = sync(remote, writing, **DELETE)
    assert (report.counts.removed, report.counts.failed) == (0, 0)


def test_tag_stays_that_another_repository_brings_as_well(
    writing: Writing, remote: BadRegistry, builder: LayoutBuilder
) -> None:
    """What the first one loses is the other's from then on, though it is the same image."""
    remote.tags = {"a/app": dict(remote.tags["app"]), "b/app": {"v1": remote.tags["app"]["v1"]}}
    rules = (ContentRule("a/**", strip_prefix=True), ContentRule("b/**", strip_prefix=True))
    both = {**DELETE, "content": rules}
    assert sync(remote, writing, **both).counts.failed == 1  # two for one tag
    for name in ("v1", "v2"):
        del remote.tags["a/app"][name]
    sync(remote, writing, **both)
    assert "v1" in tags(writing.database)
    assert "v2" not in tags(writing.database)
    del remote.tags["b/app"]["v1"]
    remote.tags["b/app"]["other"] = remote.tags["a/app"]["v3"]
    sync(remote, writing, **both)
    assert "v1" not in tags(writing.database)
