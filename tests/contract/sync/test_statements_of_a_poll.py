"""A poll of many unchanged tags: a HEAD for each, and SQL that does not grow with their number."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from regmeta.app import open_for_writing
from regmeta.settings import Settings
from regmeta.sync.run import run_policy
from tests.builders import AMD64, ARM64, LayoutBuilder
from tests.support.mirroring import fetched, mirror_of, policy_of, sync
from tests.support.registries.bad_registry import BadRegistry
from tests.support.registries.rules import Slow
from tests.support.registry import scalar
from tests.support.statements import Statements, counted

REPOSITORIES = [f"team/app{number}" for number in range(6)]


def fill(registry: BadRegistry, tags_each: int, *, indexed: bool) -> None:
    """Push a few images under so many tags to each repository."""
    for repository in REPOSITORIES:
        builder = LayoutBuilder()
        images = [builder.image([repository.encode()], platform=each) for each in (AMD64, ARM64)]
        named = builder.index(images) if indexed else images[0]
        for number in range(tags_each):
            builder.tag(named, f"v{number}")
        registry.push(builder, repository)


def polled(settings: Settings, remote: BadRegistry, *prefixes: str, **options: Any) -> tuple[int, Statements]:
    """Open the registry here, run the policy, and return the unchanged images and the statements."""
    policy = policy_of(*prefixes, **options)
    with (
        open_for_writing(settings) as writing,
        counted(writing.database.engine) as statements,
        mirror_of(remote, writing, policy) as mirror,
    ):
        report = run_policy(mirror, "schedule")
    return report.counts.unchanged, statements


@pytest.mark.parametrize("platforms", [(), ("linux/amd64",)], ids=["all", "filtered"])
@pytest.mark.slow
def test_poll_asks_once_for_each_tag_and_the_statements_stay_few(
    settings: Settings, bad_registry: BadRegistry, platforms: tuple[str, ...]
) -> None:
    sizes = {}
    for tags_each in (5, 50):
        fill(bad_registry, tags_each, indexed=bool(platforms))
        with open_for_writing(settings) as writing:
            assert (
                sync(bad_registry, writing, "team/*", platforms=platforms, referrers=False).counts.failed == 0
            )
        bad_registry.requests.clear()
        unchanged, statements = polled(settings, bad_registry, "team/*", platforms=platforms, referrers=False)
        assert unchanged == 6 * tags_each
        assert bad_registry.count("HEAD", "/manifests/") == 6 * tags_each
        assert fetched(bad_registry) == 0
        assert bad_registry.count() == 6 * tags_each + 6 + 1  # the lists of tags, and the catalog
        sizes[tags_each] = statements
    assert len(sizes[50]) == len(sizes[5]), f"{sizes[50]}\n\n{sizes[5]}"
    assert len(sizes[50]) <= 12, str(sizes[50])


def test_poll_without_the_referrers_api_asks_for_nothing_more(
    settings: Settings, bad_registry: BadRegistry
) -> None:
    fill(bad_registry, 50, indexed=False)
    bad_registry.referrers_api = False
    with open_for_writing(settings) as writing:
        sync(bad_registry, writing, *REPOSITORIES)
    bad_registry.requests.clear()
    bad_registry.misbehave("/referrers/", Slow(0.3))  # all threads want to know it meanwhile
    unchanged, statements = polled(settings, bad_registry, *REPOSITORIES)
    assert unchanged == 300
    assert bad_registry.count() == 300 + 6 + 2  # it was found out once that there is no API
    assert len(statements) <= 12, str(statements)


@pytest.mark.soak_on_postgresql
@pytest.mark.slow
def test_two_thousand_unchanged_tags_need_twenty_statements_with_the_opening(
    settings: Settings, bad_registry: BadRegistry
) -> None:
    fill(bad_registry, 333, indexed=True)
    bad_registry.tags[REPOSITORIES[0]].update(
        dict.fromkeys(("x", "y"), bad_registry.tags[REPOSITORIES[0]]["v0"])
    )
    bad_registry.referrers_api = False
    with open_for_writing(settings) as writing:
        sync(bad_registry, writing, *REPOSITORIES)
        assert scalar(writing.database, "SELECT count(*) FROM tags") == 2000
    before = len(_opening(settings))
    unchanged, statements = polled(settings, bad_registry, *REPOSITORIES)
    assert unchanged == 2000
    assert before + len(statements) <= 20, f"{before} to open\n{statements}"


def _opening(settings: Settings) -> Statements:
    """Return the statements that opening a registry for writing sends."""
    found = Statements()

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith("BEGIN"):
            found.texts.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        with open_for_writing(settings):
            pass
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
    return found
