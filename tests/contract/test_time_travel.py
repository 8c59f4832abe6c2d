"""Reads of the past: what a reference meant then, as far as its image is still here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from regmeta import db, errors
from regmeta.app import Writing
from regmeta.content.export import export
from regmeta.ingest.tags import remove_tag, set_tag
from regmeta.maintain.collect.run import collect
from regmeta.maintain.delete.manifest import delete_manifest
from regmeta.maintain.delete.repository import delete_repository
from regmeta.oci.digest import Digest
from regmeta.oci.names import Reference
from regmeta.query import catalog, moments, tree
from regmeta.query.lists.manifests import manifests
from regmeta.query.lists.tags import tags
from regmeta.store.exports import open_export
from tests.builders import Json, LayoutBuilder, digest_of
from tests.support.clock import let_pass
from tests.support.registry import commit_one, dump

TICK = timedelta(microseconds=1)


@dataclass
class Past:
    """A tag v1 that was the first image, then the second, then removed, and when each of that was."""

    writing: Writing
    images: list[Json]
    times: dict[str, datetime]

    @property
    def digests(self) -> list[Digest]:
        return [digest_of(image) for image in self.images]

    def ago(self, length: timedelta) -> None:
        """Let time pass, for the rows and for what the test remembers."""
        let_pass(self.writing.database, length)
        self.times = {name: at - length for name, at in self.times.items()}


@pytest.fixture
def past(writing: Writing, builder: LayoutBuilder, layout: Path) -> Past:
    images = [builder.image(), builder.image()]
    commit_one(writing, builder, images[0], layout)
    commit_one(writing, builder, images[1], layout, tag="other")
    set_tag(writing.writer, "app", "v1", digest_of(images[1]))
    remove_tag(writing.writer, "app", "v1")
    first, second = sorted(catalog.tag(writing.database, "app", "v1").history, key=lambda i: i.started_at)
    assert second.ended_at is not None
    times = {"made": first.started_at, "moved": second.started_at, "removed": second.ended_at}
    return Past(writing, images, times)


def resolve(past: Past, reference: str, at: datetime) -> Digest:
    return catalog.resolve(past.writing.database, Reference.parse(reference), at)


# --- what a reference meant -------------------------------------------------------------------


def test_tag_is_what_its_interval_says_from_its_start_to_just_before_its_end(past: Past) -> None:
    first, second = past.digests
    made, moved, removed = past.times.values()
    assert resolve(past, "app:v1", made) == resolve(past, "app:v1", moved - TICK) == first
    assert resolve(past, "app:v1", moved) == resolve(past, "app:v1", removed - TICK) == second
    for at in (made - TICK, removed, removed + timedelta(days=1)):
        with pytest.raises(errors.NotFound, match="app:v1: no such tag at 20"):
            resolve(past, "app:v1", at)


def test_every_read_tells_the_same_past(past: Past, layout: Path) -> None:
    database, moved = past.writing.database, past.times["moved"]
    second = past.digests[1]
    listed = tags(database, "app", at=moved).items
    assert [(tag.name, tag.digest, tag.is_here) for tag in listed] == [
        ("other", second, True),
        ("v1", second, True),
    ]
    first_page = tags(database, "app", at=moved, limit=1)
    assert [tag.name for tag in tags(database, "app", at=moved, after=first_page.next).items] == ["v1"]
    image = tree.image(database, Reference.parse("app:v1"), moved)
    assert (image.digest, image.tags) == (second, ("other", "v1"))
    content = tree.content(database, Reference.parse("app:v1"), moved)
    assert Digest.of(content) == second
    then = {item.digest: item.tags for item in manifests(database, "app", at=moved).items}
    assert then == {past.digests[0]: (), second: ("other", "v1")}
    assert manifests(database, "app", at=past.times["made"]).items[0].tags == ("v1",)
    shown = catalog.tag(database, "app", "v1", past.times["made"])
    assert shown.digest == past.digests[0]
    assert [(item.digest, item.ended_at, item.ended_by) for item in shown.history] == [
        (past.digests[0], None, None)
    ]


def test_now_is_not_changed_by_the_past(past: Past) -> None:
    before = dump(past.writing.database)
    resolve(past, "app:v1", past.times["made"])
    assert dump(past.writing.database) == before
    assert [tag.name for tag in tags(past.writing.database, "app").items] == ["other"]


def test_manifest_that_was_deleted_by_digest_is_there_until_then(past: Past) -> None:
    first, second = past.digests
    delete_manifest(past.writing.writer, "app", first)
    database = past.writing.database
    with past.writing.database.read() as connection:
        now = db.clock(connection)
    assert resolve(past, f"app@{first}", past.times["removed"]) == first
    assert resolve(past, "app:v1", past.times["made"]) == first
    with pytest.raises(errors.NotFound, match=f"app@{first}: no such manifest at"):
        resolve(past, f"app@{first}", now + timedelta(hours=1))
    with pytest.raises(errors.NotFound, match=f"app@{first}: no such manifest at"):
        resolve(past, f"app@{first}", past.times["made"] - timedelta(days=1))
    assert {item.digest for item in manifests(database, "app", at=past.times["removed"]).items} == {
        first,
        second,
    }
    assert [item.digest for item in manifests(database, "app", at=now + timedelta(hours=1)).items] == [second]


def test_deleted_repository_is_readable_before_its_deletion(past: Past) -> None:
    past.ago(timedelta(hours=1))
    delete_repository(past.writing.writer, "app")
    database = past.writing.database
    with pytest.raises(errors.NotFound):
        tags(database, "app")
    assert [tag.name for tag in tags(database, "app", at=past.times["removed"]).items] == ["other"]
    assert resolve(past, "app:v1", past.times["made"]) == past.digests[0]
    for at in (past.times["made"] - timedelta(days=1), past.times["removed"] + timedelta(days=1)):
        with pytest.raises(errors.NotFound, match="app: no such repository at 20"):
            tags(database, "app", at=at)
        with pytest.raises(errors.NotFound):
            resolve(past, "app:other", at)


# --- what was collected since -----------------------------------------------------------------


@pytest.fixture
def collected(past: Past) -> Past:
    """The first image is gone, the second is here: a tag names it."""
    past.ago(timedelta(days=8))
    assert collect(past.writing.writer, past.writing.store).manifests == 1
    return past


Read = Callable[[Past, Reference, datetime, Path], Any]

READS: dict[str, Read] = {
    "resolve": lambda past, of, at, _: catalog.resolve(past.writing.database, of, at),
    "show": lambda past, of, at, _: tree.image(past.writing.database, of, at),
    "raw": lambda past, of, at, _: tree.content(past.writing.database, of, at),
    "export": lambda past, of, at, path: export(
        past.writing.database, past.writing.store, of, open_export(str(path)), at=at
    ),
}


@pytest.mark.parametrize("read", READS)
def test_image_that_was_collected_since_is_named_by_its_digest(
    collected: Past, layout: Path, read: str
) -> None:
    expected = rf"app:v1: was {collected.digests[0]} at 20.*; the image was collected since"
    target = layout.parent / "target"
    with pytest.raises(errors.NotFound, match=expected) as caught:
        READS[read](collected, Reference.parse("app:v1"), collected.times["made"], target)
    assert caught.value.exit_code == 3
    assert not target.exists()


def test_list_of_the_past_shows_what_was_collected_as_such(collected: Past) -> None:
    database = collected.writing.database
    [tag] = tags(database, "app", at=collected.times["made"]).items
    assert (tag.name, tag.digest, tag.kind, tag.is_here) == ("v1", collected.digests[0], None, False)
    found = manifests(database, "app", at=collected.times["moved"]).items
    assert [item.digest for item in found] == [collected.digests[1]]


def test_export_of_a_repository_is_all_that_it_was_or_nothing(collected: Past, layout: Path) -> None:
    database, store = collected.writing.database, collected.writing.store
    whole, half = layout.parent / "whole", layout.parent / "half"
    of = Reference.parse("app")
    done = export(database, store, of, open_export(str(whole)), at=collected.times["moved"])
    assert done.images == 2
    with pytest.raises(errors.NotFound, match=r"app:v1: was .* collected since"):
        export(database, store, of, open_export(str(half)), at=collected.times["made"])
    assert not half.exists()


def test_image_that_came_again_is_read_at_the_old_time(
    collected: Past, builder: LayoutBuilder, layout: Path
) -> None:
    commit_one(collected.writing, builder, collected.images[0], layout, tag="again")
    at = collected.times["made"]
    assert resolve(collected, "app:v1", at) == collected.digests[0]
    assert tags(collected.writing.database, "app", at=at).items[0].is_here


# --- times ------------------------------------------------------------------------------------


def test_length_of_time_ago_counts_by_the_clock_of_the_database(
    past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = datetime(2030, 1, 2, tzinfo=UTC)
    monkeypatch.setattr(db, "clock", lambda _connection: moment)
    found = moments.moment(past.writing.database, timedelta(hours=2))
    assert found == datetime(2030, 1, 1, 22, tzinfo=UTC)
    assert moments.moment(past.writing.database, moment) == moment
