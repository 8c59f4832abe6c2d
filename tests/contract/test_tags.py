"""Tags are chains of intervals: nothing that was said is lost, and no interval ends before it starts."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from regmeta import db, errors
from regmeta.app import Writing
from regmeta.ingest.tags import remove_tag, set_tag
from regmeta.oci.digest import Digest
from tests.builders import Json, LayoutBuilder, digest_of
from tests.support.registry import (
    change,
    commit_one,
    counts,
    dump,
    rows,
    scalar,
    tags,
)

INTERVALS = (
    "SELECT t.manifest_digest, t.started_at, t.ended_at, t.started_by, t.ended_by FROM tags t"
    " WHERE t.name = :name ORDER BY t.started_at"
)


@pytest.fixture
def images(writing: Writing, builder: LayoutBuilder, layout: Path) -> list[Json]:
    """Three images; the first is tagged v1, the others a and b."""
    made = [builder.image() for _ in range(3)]
    for image, tag in zip(made, ["v1", "a", "b"], strict=True):
        commit_one(writing, builder, image, layout, tag=tag)
    return made


def intervals(writing: Writing, name: str = "v1") -> list[tuple[Digest, int, int | None]]:
    found = rows(writing.database, INTERVALS, name=name)
    return [(Digest.from_bytes(bytes(row[0])), row[1], row[2]) for row in found]


def set_clock(monkeypatch: pytest.MonkeyPatch, offset: timedelta) -> None:
    """Let the database's clock go on at another time."""
    original = db.stamp

    def stamp(connection: sa.Connection) -> db.Stamp:
        found = original(connection)
        return db.Stamp(found.now + offset, found.transaction_id)

    monkeypatch.setattr(db, "stamp", stamp)


def test_moved_tag_keeps_both_intervals_and_the_old_digest(
    writing: Writing, builder: LayoutBuilder, layout: Path, images: list[Json]
) -> None:
    new = builder.image()
    result = commit_one(writing, builder, new, layout, tag="v1")
    assert [(c.tag, c.digest, c.previous) for c in result.tags_changed] == [
        ("v1", digest_of(new), digest_of(images[0]))
    ]
    old, now = intervals(writing)
    assert (old[0], now[0]) == (digest_of(images[0]), digest_of(new))
    assert old[2] == now[1]
    assert now[2] is None
    assert counts(writing.database, "manifests") == {"manifests": 4}


def test_displaced_manifest_is_queued_for_the_collector(writing: Writing, images: list[Json]) -> None:
    set_tag(writing.writer, "app", "v1", digest_of(images[1]))
    old = scalar(
        writing.database, "SELECT id FROM manifests WHERE digest = :of", of=digest_of(images[0]).to_bytes()
    )
    assert rows(writing.database, "SELECT kind, target_id, reason FROM gc_tasks") == [
        ("manifest", old, "untagged")
    ]


def test_queued_manifest_is_put_off_and_not_forgotten_when_it_is_displaced_again(
    writing: Writing, images: list[Json]
) -> None:
    """An upsert that did nothing would forget the task that a collector has in its hands."""
    set_tag(writing.writer, "app", "v1", digest_of(images[1]))
    change(writing.database, "UPDATE gc_tasks SET not_before = 1, attempts = 3")
    set_tag(writing.writer, "app", "v1", digest_of(images[0]))
    set_tag(writing.writer, "app", "v1", digest_of(images[2]))
    found = rows(writing.database, "SELECT not_before > 1, attempts FROM gc_tasks ORDER BY id")
    assert next((bool(row[0]), row[1]) for row in found) == (True, 0)


def test_tag_that_points_there_already_is_left_as_it_is(writing: Writing, images: list[Json]) -> None:
    before = dump(writing.database)
    result = set_tag(writing.writer, "app", "v1", digest_of(images[0]))
    assert result.tags_changed == ()
    after = dump(writing.database)
    assert (after["tags"], after["events"], after["gc_tasks"]) == (
        before["tags"],
        before["events"],
        before["gc_tasks"],
    )


def test_removed_tag_ends_and_its_manifest_stays(writing: Writing, images: list[Json]) -> None:
    remove_tag(writing.writer, "app", "v1")
    assert "v1" not in tags(writing.database)
    [(digest, started, ended)] = intervals(writing)
    assert digest == digest_of(images[0])
    assert ended is not None
    assert ended > started
    assert counts(writing.database, "manifests", "gc_tasks") == {"manifests": 3, "gc_tasks": 1}
    with pytest.raises(errors.NotFound, match="app:v1"):
        remove_tag(writing.writer, "app", "v1")
    set_tag(writing.writer, "app", "v1", digest_of(images[1]))
    assert tags(writing.database)["v1"] == digest_of(images[1])
    assert len(intervals(writing)) == 2


def test_tag_of_what_is_not_there_is_refused(writing: Writing, images: list[Json]) -> None:
    before = dump(writing.database)
    for repository, digest in (("app", Digest.of(b"other")), ("none", digest_of(images[0]))):
        with pytest.raises(errors.NotFound, match=repository) as caught:
            set_tag(writing.writer, repository, "v9", digest)
        assert caught.value.exit_code == 3
    with pytest.raises(errors.NotFound):
        remove_tag(writing.writer, "none", "v1")
    with pytest.raises(errors.InvalidName):
        set_tag(writing.writer, "app", "-", digest_of(images[0]))
    assert dump(writing.database) == before


def test_tag_of_a_purging_repository_is_refused(writing: Writing, images: list[Json]) -> None:
    change(writing.database, "UPDATE repositories SET state = 'purging'")
    before = dump(writing.database)
    with pytest.raises(errors.RepositoryNotActive):
        set_tag(writing.writer, "app", "v1", digest_of(images[1]))
    with pytest.raises(errors.RepositoryNotActive):
        remove_tag(writing.writer, "app", "v1")
    assert dump(writing.database) == before
    change(writing.database, "UPDATE repositories SET state = 'active'")


@pytest.mark.parametrize("offset", [timedelta(0), timedelta(hours=-2), timedelta(days=-9000)])
def test_clock_that_goes_back_makes_no_interval_that_ends_before_it_starts(
    writing: Writing, images: list[Json], monkeypatch: pytest.MonkeyPatch, offset: timedelta
) -> None:
    set_clock(monkeypatch, offset)
    for image in (images[1], images[2], images[0]):
        set_tag(writing.writer, "app", "v1", digest_of(image))
    remove_tag(writing.writer, "app", "v1")
    set_tag(writing.writer, "app", "v1", digest_of(images[1]))
    found = intervals(writing)
    assert [item[0] for item in found] == [digest_of(images[i]) for i in (0, 1, 2, 0, 1)]
    for (_, started, ended), following in zip(found, [*found[1:], None], strict=True):
        if following is None:
            assert ended is None
        else:
            assert ended is not None
            assert started < ended <= following[1]


def test_two_moves_in_one_tick_make_two_intervals(
    writing: Writing, images: list[Json], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = db.Stamp(datetime(2030, 1, 1, tzinfo=UTC), None)
    monkeypatch.setattr(db, "stamped", lambda _result: now)
    for image in (images[1], images[2]):
        set_tag(writing.writer, "app", "v1", digest_of(image))
    found = intervals(writing)
    assert len(found) == 3
    assert found[1][2] == found[1][1] + 1 == found[2][1]


def test_push_on_a_clock_that_goes_back_keeps_the_order(
    writing: Writing,
    builder: LayoutBuilder,
    layout: Path,
    images: list[Json],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_clock(monkeypatch, timedelta(days=-1))
    new = builder.image()
    commit_one(writing, builder, new, layout, tag="v1")
    assert [item[0] for item in intervals(writing)] == [digest_of(images[0]), digest_of(new)]


def test_moves_at_once_are_all_in_the_history(writing: Writing, images: list[Json]) -> None:
    """Four threads move one tag: one after the other, none lost, none refused."""
    failed: list[BaseException] = []
    targets = [digest_of(image) for image in images]

    def move(number: int) -> None:
        try:
            for turn in range(3):
                set_tag(writing.writer, "app", "v1", targets[(number + turn) % 3])
        except Exception as error:  # noqa: BLE001
            failed.append(error)

    threads = [threading.Thread(target=move, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    moved = scalar(writing.database, "SELECT count(*) FROM events WHERE tag = 'v1' AND kind = 'tag.moved'")
    assert len(intervals(writing)) == moved + 1
    assert scalar(writing.database, "SELECT revision FROM repositories") == 3 + 12
