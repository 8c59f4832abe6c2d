"""Which image of a repository is the newest, and repositories at a glance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from regmeta import errors
from regmeta.app import Writing
from regmeta.ingest.tags import remove_tag, set_tag
from regmeta.maintain.delete.manifest import delete_manifest
from regmeta.maintain.delete.repository import delete_repository
from regmeta.models import Base
from regmeta.query.images.newest import newest_image, repository_summaries, repository_summary
from regmeta.query.images.results import ImageSummary, RepositorySummary, Unreadable
from regmeta.query.visibility import UnderPrefixes
from tests.builders import AMD64, ARM64, Json, LayoutBuilder, digest_of
from tests.support.plans import plans, scans
from tests.support.registry import change, commit_one, import_all
from tests.support.statements import counted

VENDOR = "org.opencontainers.image.vendor"


@pytest.fixture
def put(writing: Writing, builder: LayoutBuilder, layout: Path) -> Any:
    def commit(image: Json, tag: str | None = "v1", repository: str = "app") -> Json:
        commit_one(writing, builder, image, layout, repository, tag)
        return image

    return commit


def made(builder: LayoutBuilder, year: int) -> Json:
    layers = [builder.layer()]
    config = builder.config(layers)
    content = builder.blobs[config["digest"]].replace(b"2024", str(year).encode())
    return builder.image(layers, builder.blob(content, config["mediaType"]))


def newest(writing: Writing) -> str | None:
    found = newest_image(writing.database, "app")
    if found is None:
        return None
    assert isinstance(found[1], ImageSummary)
    assert found[0] in found[1].tags
    return found[0]


# --- the newest image -------------------------------------------------------------------------


def test_newest_image_is_what_a_tag_was_set_to_last(
    writing: Writing, builder: LayoutBuilder, put: Any
) -> None:
    first = put(made(builder, 2024), "v1")
    put(made(builder, 2001), "v2")
    assert newest(writing) == "v2"
    set_tag(writing.writer, "app", "stable", digest_of(first))
    assert newest(writing) == "stable"
    remove_tag(writing.writer, "app", "stable")
    assert newest(writing) == "v2"


@pytest.mark.inconsistent
def test_of_tags_of_one_moment_the_image_that_was_created_last_is_the_newest(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    for tag, year in (("z", 2001), ("m", 2024), ("a", 2010)):
        builder.tag(made(builder, year), tag)
    import_all(writing, builder.write(layout))
    change(writing.database, "UPDATE tags SET started_at = (SELECT min(started_at) FROM tags)")
    assert newest(writing) == "m"
    change(writing.database, "UPDATE manifests SET image_created_at = NULL")
    assert newest(writing) == "z"


def test_companions_of_images_are_no_newest_image(writing: Writing, builder: LayoutBuilder, put: Any) -> None:
    image = put(builder.image(), "v1")
    stem = f"sha256-{digest_of(image).hex}"
    for number, tag in enumerate((f"{stem}.sig", f"{stem}.att", stem)):
        put(builder.artifact(str(number).encode(), "application/vnd.example.simple"), tag)
    put(builder.artifact(b"sbom", "application/sbom", image), "sbom")
    assert newest(writing) == "v1"
    put(builder.image(), "sha256-short")
    assert newest(writing) == "sha256-short"


def test_repository_of_which_no_image_has_a_tag_has_no_newest(
    writing: Writing, builder: LayoutBuilder, put: Any
) -> None:
    put(builder.image(), None)
    assert newest(writing) is None
    with pytest.raises(errors.NotFound, match="other: no such repository"):
        newest_image(writing.database, "other")


# --- at a glance ------------------------------------------------------------------------------


def test_repository_is_summed_up(writing: Writing, builder: LayoutBuilder, put: Any) -> None:
    base = builder.layer()
    images = [
        builder.image([base, builder.layer()], annotations={VENDOR: "one"}, platform=AMD64),
        builder.image([base, builder.layer()], annotations={VENDOR: " two "}, platform=ARM64),
        builder.image(
            [base], annotations={VENDOR: ""}, platform={"os": "unknown", "architecture": "unknown"}
        ),
    ]
    index = put(builder.index(images), "v1")
    put(index, "v2")
    found = repository_summary(writing.database, "app", user="me")
    assert (found.name, found.newest_tag, found.tags, found.manifests) == ("app", "v2", 2, 4)
    assert found.platforms == ("linux/amd64", "linux/arm64/v8")
    assert found.vendors == ("one", "two")
    assert isinstance(found.newest, ImageSummary)
    assert found.newest.digest == digest_of(index)
    assert found.size_bytes == sum(map(len, builder.blobs.values()))
    assert (found.pulls, found.last_pulled_at, found.stars) == (0, None, 0)
    assert (found.is_starred, found.is_bookmarked) == (False, False)
    assert found.pushed_at is not None
    assert found.tagged_at is not None
    assert found.created_at <= found.pushed_at < found.tagged_at


def test_pulls_stars_and_bookmarks_are_counted(writing: Writing, builder: LayoutBuilder, put: Any) -> None:
    image = put(builder.image(), "v1")
    put(image, "v2")
    for tag, day in (("v1", 20000), ("v2", 20001), ("", 20001)):
        change(
            writing.database,
            "INSERT INTO pull_stats (repository_id, digest, tag, day, pulls, last_pulled_at)"
            " SELECT id, :digest, :tag, :day, 2, :at FROM repositories",
            digest=digest_of(image).to_bytes(),
            tag=tag,
            day=day,
            at=day * 86_400_000_000,
        )
    for user, kind in (("me", "star"), ("you", "star"), ("you", "bookmark")):
        change(
            writing.database,
            "INSERT INTO favorites (user_name, kind, repository_id, created_at)"
            " SELECT :user, :kind, id, 1 FROM repositories",
            user=user,
            kind=kind,
        )
    mine = repository_summary(writing.database, "app", user="me")
    assert (mine.pulls, mine.stars, mine.is_starred, mine.is_bookmarked) == (6, 2, True, False)
    assert mine.last_pulled_at is not None
    assert mine.last_pulled_at.isoformat() == "2024-10-05T00:00:00+00:00"
    yours = repository_summary(writing.database, "app", user="you")
    assert (yours.is_starred, yours.is_bookmarked) == (True, True)
    nobodys = repository_summary(writing.database, "app")
    assert (nobodys.stars, nobodys.is_starred, nobodys.is_bookmarked) == (2, False, False)


def test_empty_repository_is_shown(writing: Writing, builder: LayoutBuilder, put: Any) -> None:
    image = put(builder.image())
    delete_manifest(writing.writer, "app", digest_of(image))
    found = repository_summary(writing.database, "app")
    assert (found.tags, found.manifests, found.newest, found.platforms) == (0, 0, None, ())
    assert (found.pushed_at, found.tagged_at) == (None, None)


def test_page_says_in_its_place_what_is_not_here_or_not_seen(
    writing: Writing, builder: LayoutBuilder, put: Any
) -> None:
    for name in ("app", "team/app", "gone"):
        put(builder.image(), "v1", name)
    delete_repository(writing.writer, "gone")
    names = ["gone", "team/app", "none", "app"]
    found = repository_summaries(writing.database, names)
    assert [item.name for item in found if isinstance(item, RepositorySummary)] == ["team/app", "app"]
    assert found[0] == Unreadable("gone", "no such repository")
    seen = repository_summaries(writing.database, names, visible=UnderPrefixes(["team"]))
    assert seen[1] == found[1]
    assert [seen[0], seen[2], seen[3]] == [
        Unreadable(name, "no such repository") for name in ("gone", "none", "app")
    ]
    with pytest.raises(errors.NotFound, match="app: no such repository"):
        repository_summary(writing.database, "app", visible=UnderPrefixes(["team"]))
    assert repository_summaries(writing.database, []) == ()


@pytest.mark.inconsistent
def test_damaged_repository_or_image_does_not_fail_the_page(
    writing: Writing, builder: LayoutBuilder, put: Any
) -> None:
    """PostgreSQL's types let less in."""
    put(builder.image(), "v1", "app")
    put(builder.image(), "v1", "other")
    change(
        writing.database,
        "UPDATE manifests SET digest = :bad WHERE repository_id = (SELECT min(id) FROM repositories)",
        bad=b"\x09",
    )
    change(writing.database, f"UPDATE repositories SET updated_at = {2**62} WHERE name = 'other'")
    app, other = repository_summaries(writing.database, ["app", "other"])
    assert isinstance(app, RepositorySummary)
    assert isinstance(app.newest, Unreadable)
    assert other == Unreadable("other", "its row is damaged")


@pytest.mark.soak_on_postgresql
def test_page_of_twenty_sends_as_many_statements_as_one_of_one(
    writing: Writing, builder: LayoutBuilder, put: Any
) -> None:
    for number in range(20):
        put(builder.image(), "v1", f"app{number}")
    with counted(writing.database.engine) as one:
        repository_summaries(writing.database, ["app1"])
    with counted(writing.database.engine) as many:
        repository_summaries(writing.database, [f"app{number}" for number in range(20)])
    assert len(many) == len(one), f"{one}\n--\n{many}"


def test_no_statement_reads_a_whole_table(writing: Writing, builder: LayoutBuilder, put: Any) -> None:
    for name in ("app", "other"):
        put(builder.image(), "v1", name)
    tables = Base.metadata.tables
    for plan in plans(writing.database, lambda: repository_summaries(writing.database, ["app", "other"])):
        assert scans(plan, *tables) == [], plan
