"""An immutable tag is made once: nothing that goes on beside it moves it or ends it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path

import pytest

from regmeta import errors, failpoints
from regmeta.app import Writing, open_for_writing, rebuilding
from regmeta.ingest.immutable import ImmutableTags, immutable_tags
from regmeta.ingest.tag_locks import lock_tags, unlock_tags
from regmeta.ingest.tag_restore import Wanted, restore_tag
from regmeta.ingest.tags import remove_tag, set_tag
from regmeta.maintain.delete.manifest import delete_manifest
from regmeta.maintain.delete.repository import delete_repository
from regmeta.maintain.rebuild.report import NoProgress
from regmeta.query import history
from regmeta.settings import Immutable, Settings
from tests.builders import Json, LayoutBuilder, digest_of
from tests.contract.test_rebuild_lost import lose_database
from tests.support.registry import (
    ACTOR,
    change,
    commit_one,
    dump,
    import_layout,
    requests,
    rows,
    scalar,
    settings_of,
    source_of,
    still_registry,
    tags,
)

Other = Callable[[], Writing]


@pytest.fixture
def images(writing: Writing, builder: LayoutBuilder, layout: Path) -> list[Json]:
    """Two images; the first is tagged v1, the other latest."""
    made = [builder.image() for _ in range(2)]
    for image, tag in zip(made, ["v1", "latest"], strict=True):
        commit_one(writing, builder, image, layout, tag=tag)
    return made


def assert_refused(writing: Writing, run: Callable[[], object], tag: str = "v1") -> errors.ImmutableTag:
    before = dump(writing.database)
    with pytest.raises(errors.ImmutableTag, match=f"app:{tag}: the tag is immutable by") as caught:
        run()
    assert caught.value.exit_code == 6
    assert dump(writing.database) == before
    return caught.value


# --- what is refused, and what is not ---------------------------------------------------------


def test_locked_tag_is_neither_moved_nor_removed_until_it_is_unlocked(
    writing: Writing, images: list[Json]
) -> None:
    other = digest_of(images[1])
    lock_tags(writing.writer, "app", "v*")
    error = assert_refused(writing, lambda: set_tag(writing.writer, "app", "v1", other))
    assert str(error) == "app:v1: the tag is immutable by the lock v*"
    assert_refused(writing, lambda: remove_tag(writing.writer, "app", "v1"))
    unlock_tags(writing.writer, "app", "v*")
    set_tag(writing.writer, "app", "v1", other)
    assert tags(writing.database)["v1"] == other


def test_tags_that_do_not_match_are_moved_as_ever(writing: Writing, images: list[Json]) -> None:
    lock_tags(writing.writer, "app", "v*")
    set_tag(writing.writer, "app", "latest", digest_of(images[0]))
    remove_tag(writing.writer, "app", "latest")
    assert tags(writing.database) == {"v1": digest_of(images[0])}


def test_new_tag_can_be_made_and_is_immutable_then(
    writing: Writing, builder: LayoutBuilder, layout: Path, images: list[Json]
) -> None:
    lock_tags(writing.writer, "app", "v*")
    new = builder.image()
    commit_one(writing, builder, new, layout, tag="v2")
    assert_refused(writing, lambda: set_tag(writing.writer, "app", "v2", digest_of(images[0])), "v2")


def test_push_of_what_the_tag_is_already_is_fine(
    writing: Writing, builder: LayoutBuilder, layout: Path, images: list[Json]
) -> None:
    lock_tags(writing.writer, "app", "*")
    assert commit_one(writing, builder, images[0], layout, tag="v1").tags_changed == ()
    assert set_tag(writing.writer, "app", "v1", digest_of(images[0])).tags_changed == ()


def test_removed_tag_is_made_again(writing: Writing, images: list[Json]) -> None:
    """Immutable is what is there; a name that nobody has is free."""
    remove_tag(writing.writer, "app", "v1")
    lock_tags(writing.writer, "app", "v1")
    set_tag(writing.writer, "app", "v1", digest_of(images[1]))
    assert tags(writing.database)["v1"] == digest_of(images[1])


def test_push_of_another_image_is_refused(
    writing: Writing, builder: LayoutBuilder, layout: Path, images: list[Json]
) -> None:
    lock_tags(writing.writer, "app", "v1")
    new = builder.image()
    with pytest.raises(errors.ImmutableTag):
        commit_one(writing, builder, new, layout, tag="v1")
    assert tags(writing.database)["v1"] == digest_of(images[0])
    found = scalar(
        writing.database, "SELECT count(*) FROM blobs WHERE digest = :of", of=digest_of(new).to_bytes()
    )
    assert found == 0


def test_one_refused_image_does_not_keep_the_others_of_its_batch_out(
    writing: Writing, builder: LayoutBuilder, layout: Path, images: list[Json]
) -> None:
    lock_tags(writing.writer, "app", "v*")
    new = {tag: builder.image() for tag in ("a", "v1", "b", "latest")}
    for tag, image in new.items():
        builder.tag(image, tag)
    with source_of(builder, layout.parent / "batch") as source, closing(still_registry(writing)) as registry:
        outcomes = {outcome.image: outcome for outcome in registry.import_images(requests(source))}
    assert scalar(writing.database, "SELECT count(*) FROM ingests WHERE source LIKE '%/batch'") == 1
    assert {image: outcome.status for image, outcome in outcomes.items()} == {
        "app:a": "imported",
        "app:v1": "failed",
        "app:b": "imported",
        "app:latest": "imported",
    }
    error = outcomes["app:v1"].error
    assert isinstance(error, errors.ImmutableTag)
    assert str(error) == "app:v1: the tag is immutable by the lock v*"
    expected = {tag: digest_of(image) for tag, image in new.items()} | {"v1": digest_of(images[0])}
    assert tags(writing.database) == expected


def test_atomic_import_with_a_refused_image_takes_nothing_in(
    writing: Writing, builder: LayoutBuilder, layout: Path, images: list[Json]
) -> None:
    lock_tags(writing.writer, "app", "v*")
    for tag in ("a", "v1"):
        builder.tag(builder.image(), tag)
    before = tags(writing.database)
    with pytest.raises(errors.ImmutableTag, match="app:v1"):
        import_layout(writing, builder.write(layout.parent / "batch"), atomic=True)
    assert tags(writing.database) == before


def test_image_of_an_immutable_tag_is_not_deleted_by_its_digest(writing: Writing, images: list[Json]) -> None:
    lock_tags(writing.writer, "app", "v1")
    assert_refused(writing, lambda: delete_manifest(writing.writer, "app", digest_of(images[0])))
    delete_manifest(writing.writer, "app", digest_of(images[1]))
    assert tags(writing.database) == {"v1": digest_of(images[0])}


def test_repository_with_an_immutable_tag_is_not_deleted(writing: Writing, images: list[Json]) -> None:
    lock_tags(writing.writer, "app", "v1")
    assert_refused(writing, lambda: delete_repository(writing.writer, "app"))
    unlock_tags(writing.writer, "app", "v1")
    delete_repository(writing.writer, "app")
    assert tags(writing.database) == {}


def test_restore_moves_no_immutable_tag_and_brings_a_removed_one_back(
    writing: Writing, images: list[Json]
) -> None:
    set_tag(writing.writer, "app", "v1", digest_of(images[1]))
    lock_tags(writing.writer, "app", "v1")
    assert_refused(writing, lambda: restore_tag(writing.writer, "app", "v1", Wanted()))
    same = Wanted(to=digest_of(images[1]))
    assert restore_tag(writing.writer, "app", "v1", same).tags_changed == ()
    unlock_tags(writing.writer, "app", "v1")
    remove_tag(writing.writer, "app", "v1")
    lock_tags(writing.writer, "app", "v1")
    restore_tag(writing.writer, "app", "v1", Wanted())
    assert tags(writing.database)["v1"] == digest_of(images[1])


# --- locks ------------------------------------------------------------------------------------


def test_locks_are_listed_with_who_and_when_and_are_in_the_feed(writing: Writing, images: list[Json]) -> None:
    for pattern in ("v*", "1.0", "v*"):
        lock_tags(writing.writer, "app", pattern)
    found = history.locks(writing.database, "app")
    assert [(each.pattern, each.source, each.created_by) for each in found] == [
        ("1.0", "lock", ACTOR),
        ("v*", "lock", ACTOR),
    ]
    unlock_tags(writing.writer, "app", "1.0")
    feed = rows(writing.database, "SELECT kind, tag FROM events WHERE kind LIKE 'tags.%' ORDER BY id")
    assert feed == [("tags.locked", "v*"), ("tags.locked", "1.0"), ("tags.unlocked", "1.0")]


def test_locks_of_nothing_and_patterns_of_nothing_are_refused(writing: Writing, images: list[Json]) -> None:
    before = dump(writing.database)
    with pytest.raises(errors.NotFound, match="none: no such repository"):
        lock_tags(writing.writer, "none", "v*")
    with pytest.raises(errors.NotFound, match=r"app: no lock v\*"):
        unlock_tags(writing.writer, "app", "v*")
    for pattern in ("", "[", "a/b", "{1..9999}"):
        with pytest.raises(errors.UsageError):
            lock_tags(writing.writer, "app", pattern)
    assert dump(writing.database) == before


def test_lock_brings_no_deleted_repository_back(writing: Writing, images: list[Json]) -> None:
    delete_repository(writing.writer, "app")
    before = dump(writing.database)
    with pytest.raises(errors.NotFound):
        lock_tags(writing.writer, "app", "v*")
    with pytest.raises(errors.NotFound):
        restore_tag(writing.writer, "app", "v1", Wanted())
    assert dump(writing.database) == before


@pytest.mark.inconsistent  # the tombstones of dead objects are lost with the database
def test_locks_outlive_the_database(settings: Settings, builder: LayoutBuilder, layout: Path) -> None:
    with open_for_writing(settings) as writing:
        image, other = builder.image(), builder.image()
        commit_one(writing, builder, image, layout, tag="v1")
        commit_one(writing, builder, other, layout, tag="other")
        commit_one(writing, builder, other, layout, repository="free", tag="v1")
        lock_tags(writing.writer, "app", "v*")
        lock_tags(writing.writer, "app", "1.0")
        unlock_tags(writing.writer, "app", "1.0")
        before = history.locks(writing.database, "app")
    lose_database(settings)
    assert rebuilding.rebuild_lost_database(settings, lambda: nullcontext(NoProgress())).problems == []
    with open_for_writing(settings) as writing:
        assert history.locks(writing.database, "app") == before != []
        assert history.locks(writing.database, "free") == []
        with pytest.raises(errors.ImmutableTag):
            set_tag(writing.writer, "app", "v1", digest_of(other))


# --- rules of the settings --------------------------------------------------------------------


def test_rule_holds_for_the_repositories_and_tags_that_it_names(
    registry_home: Path, settings: Settings, builder: LayoutBuilder, layout: Path
) -> None:
    rule = Immutable(repositories=("prod/**",), tags=("v*", "{1,2}.*"))
    ruled = settings_of(registry_home, settings.database, immutable=(rule,))
    with open_for_writing(ruled) as writing:
        image, other = builder.image(), builder.image()
        for repository in ("prod/a/b", "test"):
            for tag in ("v1", "1.0", "latest"):
                commit_one(writing, builder, image, layout, repository, tag)
            commit_one(writing, builder, other, layout, repository, "other")
            set_tag(writing.writer, repository, "latest", digest_of(other))
        for tag in ("v1", "1.0"):
            set_tag(writing.writer, "test", tag, digest_of(other))
            with pytest.raises(errors.ImmutableTag) as caught:
                set_tag(writing.writer, "prod/a/b", tag, digest_of(other))
            expected = f"prod/a/b:{tag}: the tag is immutable by the rule prod/** : v*, {{1,2}}.*"
            assert str(caught.value) == expected
            with pytest.raises(errors.ImmutableTag):
                commit_one(writing, builder, other, layout, "prod/a/b", tag)


def test_rules_and_locks_are_told_apart_in_one_answer(writing: Writing, images: list[Json]) -> None:
    lock_tags(writing.writer, "app", "v*")
    lock_tags(writing.writer, "app", "x")
    rule = ImmutableTags(("app",), ("v1", "y"))
    of = (scalar(writing.database, "SELECT id FROM repositories"), "app")
    with writing.database.read() as connection:
        found = immutable_tags(connection, of, ["v1", "v2", "x", "y", "z"], [rule])
    assert found == {"v1": str(rule), "y": str(rule), "v2": "the lock v*", "x": "the lock x"}


# --- both at once (T38) -----------------------------------------------------------------------


class Entrance:
    """Lets the transaction that comes first wait, with its locks, until a second thread is on its way."""

    def __init__(self) -> None:
        self.first_is_inside = threading.Event()
        self.second_is_coming = threading.Event()
        self._mine = threading.Lock()

    def __call__(self, point: str) -> None:
        if point == "tags.committing" and self._mine.acquire(blocking=False):
            self.first_is_inside.set()
            assert self.second_is_coming.wait(30)


def one_after_the_other(first: Callable[[], object], second: Callable[[], object]) -> list[object]:
    """Start *second* while *first* holds its locks; return what they raised."""
    entrance, raised = Entrance(), list[object]([None, None])

    def run(number: int, what: Callable[[], object]) -> None:
        try:
            what()
        except errors.Error as error:
            raised[number] = error

    with failpoints.armed(entrance):
        threads = [
            threading.Thread(target=run, args=(0, first)),
            threading.Thread(target=run, args=(1, second)),
        ]
        threads[0].start()
        assert entrance.first_is_inside.wait(30)
        threads[1].start()
        entrance.second_is_coming.set()
        for thread in threads:
            thread.join()
    return raised


def test_retarget_that_comes_while_a_lock_is_written_is_refused(
    writing: Writing, other_writer: Other, images: list[Json]
) -> None:
    other = other_writer()
    raised = one_after_the_other(
        lambda: lock_tags(writing.writer, "app", "v1"),
        lambda: set_tag(other.writer, "app", "v1", digest_of(images[1])),
    )
    assert raised[0] is None
    assert isinstance(raised[1], errors.ImmutableTag)
    assert tags(writing.database)["v1"] == digest_of(images[0])


def test_lock_that_comes_while_a_tag_is_moved_holds_from_then_on(
    writing: Writing, other_writer: Other, images: list[Json]
) -> None:
    other = other_writer()
    raised = one_after_the_other(
        lambda: set_tag(other.writer, "app", "v1", digest_of(images[1])),
        lambda: lock_tags(writing.writer, "app", "v1"),
    )
    assert raised == [None, None]
    assert tags(writing.database)["v1"] == digest_of(images[1])
    assert_refused(writing, lambda: set_tag(writing.writer, "app", "v1", digest_of(images[0])))


def test_no_tag_is_ever_moved_after_it_was_locked(
    writing: Writing, other_writer: Other, images: list[Json]
) -> None:
    """Three threads that start at once: the feed has no change of a tag behind its lock."""
    other, third = other_writer(), other_writer()
    unexpected: list[Exception] = []
    for number in range(12):
        tag, barrier = f"t{number}", threading.Barrier(3)
        set_tag(writing.writer, "app", tag, digest_of(images[0]))

        def run(what: Callable[[], object], barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            try:
                what()
            except errors.ImmutableTag:
                pass
            except Exception as error:  # noqa: BLE001
                unexpected.append(error)

        jobs: list[Callable[[], object]] = [
            lambda tag=tag: lock_tags(writing.writer, "app", tag),  # type: ignore[misc]
            lambda tag=tag: set_tag(other.writer, "app", tag, digest_of(images[1])),  # type: ignore[misc]
            lambda tag=tag: remove_tag(third.writer, "app", tag),  # type: ignore[misc]
        ]
        threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert unexpected == []
    late = rows(
        writing.database,
        "SELECT e.tag, e.kind FROM events e JOIN events l ON l.tag = e.tag AND l.kind = 'tags.locked'"
        " WHERE e.id > l.id AND e.kind IN ('tag.moved', 'tag.removed')",
    )
    assert late == []
    assert scalar(writing.database, "SELECT count(*) FROM tag_locks") == 12
    change(writing.database, "DELETE FROM tag_locks")
